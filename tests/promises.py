"""A line per promise at the end of a run that was asked for them (`-m promise`, `make soak`).

Tests carry `@pytest.mark.promise("R1", ...)`; one that makes many tries says how many with
`record_property("tries", count)`.
"""

import pytest

# Files that take longest come first: at the end one process would wait for the other.
SLOW = ("tests/test_docs.py", "tests/faults/test_sweep.py", "tests/learning", "tests/test_gpu")
PROMISES = [f"R{number}" for number in range(1, 17)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW))
    for item in items:
        if marker := item.get_closest_marker("promise"):
            assert set(marker.args) <= set(PROMISES), item
            item.user_properties += [("promise", name) for name in marker.args]


def pytest_terminal_summary(terminalreporter, config):
    if "promise" not in config.option.markexpr:
        return
    counts = {name: {"passed": 0, "failed": 0, "skipped": 0} for name in PROMISES}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            tries, promises = _properties(report)
            for name in promises:
                counts[name][outcome.replace("error", "failed")] += tries
    terminalreporter.section("promises")
    for name, count in counts.items():
        tries = count["passed"] + count["failed"]
        skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
        line = f"{name}: {tries} tries, {count['failed']} failures{skipped}"
        terminalreporter.line(line if tries else f"{name}: NOT TRIED{skipped}")


def _properties(report):
    """How many tries a test made, and for which promises."""
    tries = [number for name, number in report.user_properties if name == "tries"]
    promises = [value for name, value in report.user_properties if name == "promise"]
    return (sum(tries) if tries else 1), promises
