"""A line per promise at the end of a run that was asked for them (`-m promise`, `make soak`).

Tests carry `@pytest.mark.promise("R1", ...)`; one that makes many tries says how many with
`record_property("tries", count)`.
"""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if marker := item.get_closest_marker("promise"):
            item.user_properties += [("promise", name) for name in marker.args]


def pytest_terminal_summary(terminalreporter, config):
    if "promise" not in config.option.markexpr:
        return
    tries, failures = {}, {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = report.user_properties
            count = sum(number for name, number in properties if name == "tries") or 1
            for promise in (value for name, value in properties if name == "promise"):
                tries[promise] = tries.get(promise, 0) + count
                failures[promise] = failures.get(promise, 0) + (outcome != "passed")
    terminalreporter.section("promises")
    for promise in sorted(tries, key=lambda name: int(name[1:])):
        line = f"{promise}: {tries[promise]} tries, {failures[promise]} failures"
        terminalreporter.line(line)
