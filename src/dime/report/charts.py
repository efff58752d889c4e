"""The learning curves: data for the charts that the browser draws, and the same as tables."""

from typing import Any

import numpy as np

from dime.figures.curves import Series
from dime.figures.figures import until
from dime.figures.reference import Reference
from dime.report.markup import EMPTY, Markup, fold, rounded, table, tag
from dime.report.results import Outcome, Result
from dime.report.wording import score_text, steps_text

_METRICS = {"return": "return", "success_rate": "success rate"}


def chart_data(result: Result, reference: Reference | None) -> dict[str, Any]:
    """What the page's script draws for one environment, as JSON values."""
    assert result.panel is not None
    metric = result.panel.metric
    official = {id(outcome.curve) for outcome in result.chosen("official").values()}
    data: dict[str, Any] = {
        "name": result.environment,
        "metric": _METRICS[metric],
        "curves": [
            {
                "kind": outcome.curve.kind,
                "mode": outcome.curve.mode,
                "official": id(outcome.curve) in official,
                **_series_data(outcome.curve.series),
                "tails": [
                    {"x": steps, "y": [rounded(value) for value in scores]}
                    for steps, scores in outcome.tails
                ],
            }
            for outcome in result.outcomes
        ],
        "reference": None,
    }
    published = reference and reference.find(result.environment, metric)
    if reference is not None and published is not None:
        last = max(step for outcome in result.outcomes for step in _ends(outcome))
        data["reference"] = {"kind": reference.name, **_series_data(until(published, last))}
    return data


def _ends(outcome: Outcome) -> list[int]:
    """The last env steps of the curve and of the runs that go on beyond it."""
    return [int(outcome.curve.series.env_step[-1]), *(steps[-1] for steps, _ in outcome.tails)]


def _series_data(series: Series) -> dict[str, Any]:
    band = series.band
    return {
        "x": [int(step) for step in series.env_step],
        "lines": [_numbers(line) for line in series.lines],
        "low": None if band is None else _numbers(band[0]),
        "high": None if band is None else _numbers(band[1]),
        "runs": series.num_runs,
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [rounded(float(value)) for value in values]


def figure(result: Result) -> Markup:
    """The frame of a chart with its title; the script draws into it."""
    environment = result.environment
    if result.panel is None:
        reason = tag("p", result.problem, class_="problem")
        return tag(
            "figure", tag("figcaption", environment), reason, class_="chart", data_name=environment
        )
    metric = _METRICS[result.panel.metric]
    label = f"Learning curves on {environment}: {metric} over env steps; the data stand below."
    return tag(
        "figure",
        tag("figcaption", tag("strong", environment), tag("span", metric)),
        tag("div", class_="plot", role="img", aria_label=label),
        tag("div", data_block=f"table {environment}"),
        class_="chart",
        data_name=environment,
    )


def data_table(result: Result) -> Markup:
    """The chart's numbers: a row per env step, a column per curve."""
    if result.panel is None:
        return EMPTY
    cells = [_cells(outcome, result.panel.metric) for outcome in result.outcomes]
    steps = sorted(set().union(*cells))
    head = ["env step", *(outcome.curve.label for outcome in result.outcomes)]
    rows = [[steps_text(step), *(column.get(step, "–") for column in cells)] for step in steps]
    return fold(
        "Data as a table",
        table(head, rows, label=f"Learning curves on {result.environment}"),
        key=f"table {result.environment}",
    )


def _cells(outcome: Outcome, metric: str) -> dict[int, str]:
    """The text of each point: IQM and interval, or the runs' scores where there is none."""
    series = outcome.curve.series
    cells = {}
    for place, step in enumerate(series.env_step):
        values = [score_text(float(value), metric) for value in series.lines[:, place]]
        cells[int(step)] = " / ".join(values)
        if series.band is not None:
            low, high = (score_text(float(end), metric) for end in series.band[:, place])
            cells[int(step)] += f" [{low}, {high}]"
    beyond: dict[int, list[str]] = {}
    for steps, scores in outcome.tails:
        for step, value in zip(steps[1:], scores[1:], strict=True):
            beyond.setdefault(step, []).append(score_text(value, metric))
    runs = series.num_runs
    return cells | {
        step: f"{' / '.join(values)} ({len(values)} of {runs} seeds)"
        for step, values in beyond.items()
    }
