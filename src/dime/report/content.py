"""The parts of the page, each renewed by itself when the runs go on."""

from typing import Any, NamedTuple

from dime.figures.captions import learning_caption
from dime.figures.reference import Reference
from dime.report.charts import chart_data, data_table, figure
from dime.report.looks import Look, looks_of
from dime.report.markup import EMPTY, Markup, join, tag
from dime.report.results import Analyst, Result, mode_choices
from dime.report.settings import (
    differing_settings,
    reproduction,
    versions,
    whole_configs,
)
from dime.report.sources import Sources
from dime.report.states import (
    count_troubles,
    run_table,
    throughput,
    trouble,
)
from dime.report.summary import mode_name, summary, swatch
from dime.report.wording import counted, steps_text

_TAILS = (
    "Thin dotted lines: single runs that go on beyond the last env step that all runs of their "
    "algorithm have; final scores are those at that step."
)


class Content(NamedTuple):
    """What a page shows.

    Attributes:
        title: plain text.
        blocks: HTML by the name of its place in the page.
        figures: the frame of each chart, by environment.
        charts: by environment, what the script draws into the frame.
        looks: colours, markers and dashes of the algorithms.
    """

    title: str
    blocks: dict[str, Markup]
    figures: dict[str, Markup]
    charts: dict[str, Any]
    looks: list[dict[str, str]]


def content_of(
    sources: Sources, analyst: Analyst, reference: Reference | None, films: Markup = EMPTY
) -> Content:
    """Everything but the frame of the page; `films` are the videos' HTML."""
    results = analyst.results(sources.runs)
    panels = [result.panel for result in results if result.panel is not None]
    looks = looks_of(panels)
    caption = learning_caption(panels, reference) if panels else ["No curves yet."]
    if any(outcome.tails for result in results for outcome in result.outcomes):
        caption.append(_TAILS)
    drawn = [result for result in results if result.panel is not None]
    blocks = {
        "title": tag("span", _title(sources)),
        "headline": _headline(sources, results),
        "controls": _controls(drawn, looks, reference),
        "summary": summary(results, looks),
        "caption": join(tag("p", paragraph, class_="note") for paragraph in caption),
        "trouble": trouble(sources),
        "throughput": throughput(sources.entries),
        "settings": differing_settings(sources.entries),
        "configs": whole_configs(sources.entries),
        "films": films,
        "runs": run_table(sources.entries),
        "reproduction": reproduction(sources),
        "versions": versions(sources.entries),
    }
    blocks |= {f"table {result.environment}": data_table(result) for result in drawn}
    return Content(
        _title(sources),
        blocks,
        {result.environment: figure(result) for result in results},
        {result.environment: chart_data(result, reference) for result in drawn},
        [look._asdict() for look in looks],
    )


def _title(sources: Sources) -> str:
    names = dict.fromkeys(study.name for study in sources.studies)
    if not names:
        return "Runs"
    return ", ".join(names) if len(names) <= 3 else counted(len(names), "study", "studies")


def _headline(sources: Sources, results: list[Result]) -> Markup:
    """The facts that tell how much there is, and a pointer to what went wrong."""
    progress = [entry.progress for entry in sources.entries]
    total = sum((one.env_step or 0) * len(one.seeds) for one in progress)
    seeds = sum(len(one.seeds) for one in progress)
    facts = {
        "runs": f"{len(sources.entries):,}",
        "seeds in all runs": f"{seeds:,}",
        "env steps in all": steps_text(total),
        "environments": f"{len(results):,}",
    }
    if when := _dates(sources):
        facts["trained"] = when
    listed = (
        tag("div", tag("dt", name), tag("dd", value, class_="long" if len(value) > 9 else None))
        for name, value in facts.items()
    )
    parts = [tag("dl", *listed, class_="facts")]
    if count := count_troubles(sources):
        text = f"{counted(count, 'run or trial', 'runs or trials')} failed, "
        text += "did not finish or cannot be read: "
        link = tag("a", "see why", href="#trouble")
        parts.append(tag("p", text, link, ".", class_="alert"))
    return join(parts)


def _dates(sources: Sources) -> str:
    times = sorted(
        str(start["time"])[:10]
        for entry in sources.entries
        for start in entry.starts
        if "time" in start
    )
    if not times:
        return ""
    return times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"


def _controls(results: list[Result], looks: list[Look], reference: Reference | None) -> Markup:
    """Which algorithms and which mode all charts show."""
    kinds = [
        tag("label", _checkbox(look.kind), swatch(look), tag("span", look.kind)) for look in looks
    ]
    if reference is not None:
        look = Look(reference.name, "", "", "dash")
        kinds.append(
            tag("label", _checkbox(reference.name), swatch(look), tag("span", reference.name))
        )
    buttons = [tag("button", text, type="button", data_all=text) for text in ("all", "none")]
    parts = [tag("fieldset", tag("legend", "Show"), tag("div", *kinds, *buttons, class_="kinds"))]
    choices = mode_choices(results)
    if len(choices) > 1:
        options = [tag("option", mode_name(mode), value=mode) for mode in choices]
        select = tag("select", *options, id="mode", autocomplete="off")
        parts.append(tag("label", tag("span", "Action mode"), select, class_="mode"))
    return join(parts) if looks else EMPTY


def _checkbox(kind: str) -> Markup:
    box = tag("input", type="checkbox", data_toggle=kind, checked=True, autocomplete="off")
    return Markup(box.removesuffix("</input>"))
