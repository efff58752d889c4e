"""The table of final scores: interquartile means, intervals and ranks."""

from collections.abc import Callable

from dime.report.looks import Look
from dime.report.markup import EMPTY, Markup, join, table, tag
from dime.report.results import (
    OFFICIAL,
    Aggregate,
    Final,
    Result,
    aggregates,
    mode_choices,
    ranks,
)
from dime.report.wording import counted, score_text, span_text, steps_text

_FEW_ENVIRONMENTS = 2  # as many or fewer become columns, and the algorithms rows


def mode_name(mode: str) -> str:
    """A mode as the page calls it."""
    return "each algorithm's own" if mode == OFFICIAL else mode.replace("_", " ")


def summary(results: list[Result], looks: list[Look]) -> Markup:
    """A table for every choice of modes; the page shows one of them."""
    shown = [result for result in results if result.outcomes]
    if not shown:
        return tag("p", "No run has an evaluation that can be summarised yet.", class_="note")
    choices = mode_choices(shown)
    tables = []
    for place, mode in enumerate(choices):
        groups = aggregates(shown, mode)
        parts = _table(shown, groups, looks, mode), _notes(shown, groups, mode)
        tables.append(tag("div", *parts, data_mode=mode, hidden=place > 0))
    return join(tables)


def _table(results: list[Result], groups: list[Aggregate], looks: list[Look], mode: str) -> Markup:
    finals = [
        {kind: outcome.final for kind, outcome in result.chosen(mode).items()} for result in results
    ]
    kinds = [look for look in looks if any(look.kind in one for one in finals)]
    rows = [
        (_environment_head(result, one), _cells(one, kinds, _metric(result)))
        for result, one in zip(results, finals, strict=True)
    ]
    rows += [(_aggregate_head(one), _cells(one.finals, kinds, "aggregate")) for one in groups]
    heads = [
        _kind_head(look, [one[look.kind] for one in finals if look.kind in one]) for look in kinds
    ]
    if len(results) <= _FEW_ENVIRONMENTS < len(kinds):
        columns = [[cells[place] for _, cells in rows] for place in range(len(kinds))]
        head, body = [head for head, _ in rows], zip(heads, columns, strict=True)
    else:
        head, body = heads, rows
    return table(
        ["", *head],
        ([first, *cells] for first, cells in body),
        label="Final scores",
        class_="scores",
    )


def _metric(result: Result) -> str:
    return result.panel.metric if result.panel else "return"


def _kind_head(look: Look, finals: list[Final]) -> Markup:
    modes = " or ".join(dict.fromkeys(final.mode.replace("_", " ") for final in finals))
    seeds = set().union(*(final.num_runs for final in finals))
    return join(
        [
            swatch(look),
            tag("span", look.kind, class_="kind"),
            tag("small", modes),
            tag("small", _seeds(seeds)),
        ]
    )


def _seeds(counts: set[int]) -> str:
    return counted(1, "seed") if counts == {1} else f"{span_text(counts)} seeds"


def _environment_head(result: Result, finals: dict[str, Final]) -> Markup:
    last = max((final.env_step or 0 for final in finals.values()), default=None)
    success = ", success rate" if _metric(result) == "success_rate" else ""
    at = "not in this mode" if last is None else f"at {steps_text(last)} env steps{success}"
    return join([tag("span", result.environment), tag("small", at)])


def _aggregate_head(aggregate: Aggregate) -> Markup:
    count = counted(len(aggregate.environments), "environment")
    return join([tag("span", f"All {count}"), tag("small", aggregate.title)])


def _cells(finals: dict[str, Final], kinds: list[Look], metric: str) -> list[Markup]:
    places = ranks(finals)
    last = max((final.env_step or 0 for final in finals.values()), default=0)
    text: Callable[[float], str] = (
        (lambda value: f"{value:.3f}")
        if metric == "aggregate"
        else lambda value: score_text(value, metric)
    )
    cells = []
    for look in kinds:
        final = finals.get(look.kind)
        if final is None:
            reason = "not on all of them" if metric == "aggregate" else "no runs"
            cells.append(tag("td", "–", tag("small", reason), class_="none"))
            continue
        rank = places.get(look.kind)
        early = final.env_step is not None and final.env_step < last
        at = f"only at {steps_text(final.env_step or 0)}" if early else ""
        cells.append(
            tag(
                "td",
                tag("span", text(final.value), class_="value"),
                tag("span", rank, class_="rank", title=f"rank {rank}") if rank else EMPTY,
                tag("small", _interval(final, text)),
                tag("small", at) if at else EMPTY,
                class_="best" if rank == 1 and len(places) > 1 else None,
            )
        )
    return cells


def _interval(final: Final, text: Callable[[float], str]) -> str:
    if final.interval is None:
        return f"{_seeds(final.num_runs)}, no interval"
    low, high = final.interval
    return f"[{text(low)}, {text(high)}]"


def _notes(results: list[Result], groups: list[Aggregate], mode: str) -> Markup:
    """What must be known to compare the numbers fairly."""
    finals = [[o.final for o in result.chosen(mode).values()] for result in results]
    notes = [
        "Interquartile mean over seeds at the last env step that all seeds of an algorithm share, "
        "with the 95 % stratified bootstrap interval in brackets. The number in the circle is "
        "the rank in its row's environment; the best is bold."
    ]
    if any(final.interval is None for group in finals for final in group):
        notes.append("With fewer than 3 seeds: their mean, no interval.")
    if any(len({final.env_step for final in group}) > 1 for group in finals):
        notes.append("Scores at different env steps stand in one row; their ranks mislead.")
    if len({count for group in finals for final in group for count in final.num_runs}) > 1:
        notes.append("Numbers of seeds differ; the text above the curves says where.")
    if any(len({final.mode for final in group}) > 1 for group in finals):
        notes.append("Algorithms are compared in different action modes.")
    for aggregate in groups:
        unequal = [kind for kind, final in aggregate.finals.items() if len(final.num_runs) > 1]
        if unequal:
            notes.append(
                f"{aggregate.title}: environments with more seeds weigh more in "
                f"{', '.join(unequal)}."
            )
    return tag("p", " ".join(notes), class_="note")


def swatch(look: Look) -> Markup:
    """A place that the page's script fills with the algorithm's line and marker."""
    return tag("span", class_="swatch", data_kind=look.kind, aria_hidden="true")
