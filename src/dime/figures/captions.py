"""What stands under a figure: how many runs, which statistic, which evaluation, what is missing."""

from collections import Counter
from collections.abc import Iterable

from dime.figures.curves import MIN_RUNS, Curve, Panel
from dime.figures.reference import Reference

_MAX_NAMES = 4  # in an enumeration; the rest is counted


def learning_caption(panels: list[Panel], reference: Reference | None) -> list[str]:
    """The sentences that a reader of learning curves needs, one paragraph per item."""
    curves = [(panel, curve) for panel in panels for curve in panel.curves]
    paragraphs = [_statistic(curves), _protocol(panels)]
    if reference is not None:
        paragraphs.append(_reference(panels, reference))
    notes = _notes(curves)
    return [*paragraphs, " ".join(notes)] if notes else paragraphs


def _statistic(curves: list[tuple[Panel, Curve]]) -> str:
    counts = Counter(curve.series.num_runs or 0 for _, curve in curves)
    text = f"Seeds per curve: {_by_count(curves, counts)}."
    if max(counts) >= MIN_RUNS:
        text += (
            " Line: interquartile mean over seeds; band: 95 % stratified bootstrap interval "
            "(2000 resamples)."
        )
    if min(counts) < MIN_RUNS:
        text += f" With fewer than {MIN_RUNS} seeds each is a thin line of its own, no interval."
    return text


def _by_count(curves: list[tuple[Panel, Curve]], counts: Counter[int]) -> str:
    """The most frequent number, and the curves that have another: "3; 2 in sac, stochastic"."""
    usual = counts.most_common(1)[0][0]
    text = f"{usual}"
    for count in sorted(set(counts) - {usual}):
        odd = [_named(curves, pair) for pair in curves if pair[1].series.num_runs == count]
        text += f"; {count} in {_enumerated(odd)}"
    return text


def _protocol(panels: list[Panel]) -> str:
    curves = [curve for panel in panels for curve in panel.curves]
    episodes = sorted(set().union(*(curve.num_episodes for curve in curves)))
    count = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    modes = " or ".join(dict.fromkeys(curve.mode.replace("_", " ") for curve in curves))
    metrics = {panel.metric for panel in panels}
    means = ["mean return"] * ("return" in metrics)
    means += ["share solved at the last step"] * ("success_rate" in metrics)
    plural = "" if episodes == [1] else "s"
    return (
        f"Score of a seed: {' or '.join(means)} of {count} whole episode{plural} per evaluation "
        f"with {modes} actions, on evaluation environments of their own; no smoothing."
    )


def _reference(panels: list[Panel], reference: Reference) -> str:
    missing = [
        panel.environment
        for panel in panels
        if reference.find(panel.environment, panel.metric) is None
    ]
    text = f"{reference.name}: {reference.note}; interquartile mean and 95 % interval."
    return f"{text} None for {_enumerated(missing)}." if missing else text


def _notes(curves: list[tuple[Panel, Curve]]) -> list[str]:
    """What of the runs is not drawn, and what should not have been pooled: a sentence each."""
    noted = [(pair, "; ".join(_remarks(pair[1]))) for pair in curves]
    return [f"{_named(curves, pair)}: {remarks}." for pair, remarks in noted if remarks]


def _remarks(curve: Curve) -> list[str]:
    remarks = []
    if count := curve.series.num_left_out:
        plural = "" if count == 1 else "s"
        remarks.append(f"{count} env step{plural} left out, not evaluated for all of its seeds")
    if count := curve.num_silent:
        remarks.append(f"{count} of its seeds left out, not evaluated at all")
    if count := curve.num_repeated:
        plural = "" if count == 1 else "s"
        remarks.append(f"{count} seed{plural} counted more than once, from several folders")
    if curve.differences:
        remarks.append(f"pooled runs differ in {_enumerated(curve.differences)}")
    return remarks


def _named(curves: list[tuple[Panel, Curve]], pair: tuple[Panel, Curve]) -> str:
    """The curve's label, with the environment where the figure has several."""
    panel, curve = pair
    several = len({other.environment for other, _ in curves}) > 1
    return f"{curve.label} on {panel.environment}" if several else curve.label


def _enumerated(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MAX_NAMES
    return ", ".join(listed[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
