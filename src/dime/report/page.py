"""The page as one HTML text: markup, style, scripts and data, and nothing from elsewhere."""

import base64
import hashlib
import importlib.util
import string
from importlib import resources
from pathlib import Path

import dime
from dime.errors import DimeError
from dime.report.content import Content
from dime.report.markup import Markup, embedded_json, escape, join

_LIBRARY = "package_data/plotly.min.js"


def chart_library() -> str:
    """The JavaScript of the installed plotly.

    Raises:
        DimeError: plotly is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, _LIBRARY)
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise DimeError("Charts in HTML need plotly: pip install 'dime-rl[report]'")


def page(
    content: Content, made: str, library: str, *, live: bool = False, version: str = ""
) -> bytes:
    """The whole page, in UTF-8.

    Args:
        content: what it shows.
        made: when, as text.
        library: of `chart_library`.
        live: whether it asks its server for news; otherwise it may not ask anyone for anything.
        version: of the content, which a live page names when it asks for news.
    """
    scripts = [_harmless(library), _harmless(_asset("report.js"))]
    data = {
        "live": live,
        "version": version,
        "charts": content.charts,
        "looks": content.looks,
    }
    template = string.Template(_asset("report.html"))
    places = {f"block_{name}": html for name, html in content.blocks.items() if " " not in name}
    text = template.substitute(
        places,
        title=escape(content.title),
        policy=escape(policy(scripts, live)),
        style=_asset("report.css"),
        figures=join(_filled(figure, content) for figure in content.figures.values()),
        library=scripts[0],
        script=scripts[1],
        data=embedded_json(data),
        made=escape(made),
        dime=escape(dime.__version__),
        live="live" if live else "",
    )
    return text.encode("utf-8", "replace")  # JSON may hold half a character


def policy(scripts: list[str], live: bool) -> str:
    """The Content-Security-Policy: these scripts alone run, and nothing is fetched.

    A handler or script that came in with a run's texts would not run even if it were not escaped.
    """
    own = " 'self'" if live else ""
    server = "'self'" if live else "'none'"
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        f"img-src data: blob:{own}; media-src data:{own}; font-src data:; "
        f"connect-src {server}; base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _harmless(script: str) -> str:
    r"""The script without what would end its element: `</` means `<\/` in a string."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n")


def _asset(name: str) -> str:
    return resources.files("dime.report").joinpath("assets", name).read_text("utf-8")


def _filled(figure: Markup, content: Content) -> Markup:
    """The figure with its table in it."""
    for name, html in content.blocks.items():
        if name.startswith("table "):
            empty = Markup(f'<div data-block="{escape(name)}"></div>')
            figure = Markup(figure.replace(empty, f'<div data-block="{escape(name)}">{html}</div>'))
    return figure
