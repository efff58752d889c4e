"""Studies from TOML and Python files, from the shipped ones, or from tables."""

import dataclasses
import runpy
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from dime.errors import DimeError, choose, require
from dime.sweeps.study import Study
from dime.training.config import replace_nested

SHIPPED_STUDIES = resources.files("dime").joinpath("sweeps", "studies")


def read_study(study: Study | Mapping[str, Any] | str | Path, variant: str | None = None) -> Study:
    """A study from a file, from the shipped ones by name, or from a table.

    Args:
        study: a .toml file; a .py file that defines STUDY, a `Study` or a table; the name of a
            shipped study (`dime list studies`); or the study itself.
        variant: "laptop" for the study's small variant.

    Raises:
        DimeError: no such study, an unknown field (with the nearest), an empty grid, ...
    """
    if isinstance(study, Study):
        content, name = dataclasses.asdict(study), study.name
    elif isinstance(study, Mapping):
        content, name = dict(study), "study"
    else:
        content, name = _read_file(Path(study)), Path(study).stem
    content = {**content, "name": content.get("name") or name or "study"}
    if variant is not None:
        choose("variant", variant, ["laptop"])
        small = content.get("laptop") or {}
        require(bool(small), f"The study {content['name']} has no variant 'laptop'.")
        require(isinstance(small, Mapping), f"laptop is {small!r}; it must be a table.")
        content |= {"name": f"{content['name']}-laptop", **small}
    return _of_table({**content, "laptop": {}} if variant else content)


def _of_table(content: dict[str, Any]) -> Study:
    if type(seeds := content.get("seeds")) is int:
        require(1 <= seeds <= 10_000, f"seeds is {seeds}; it must be 1 to 10000.")
        content = content | {"seeds": list(range(seeds))}
    # The defaults are no study: fields are replaced in one that is.
    empty = {"environments": [], "algorithms": []}
    return replace_nested(Study(environments=("",), algorithms=("",)), empty | content)


def _read_file(path: Path) -> dict[str, Any]:
    if path.suffix == ".py":
        source_of(path)
        try:
            found = runpy.run_path(str(path)).get("STUDY")
        except (Exception, SystemExit) as error:  # it is the user's own program
            raise DimeError(f"The study {path} cannot be run ({error!r}).") from error
        if isinstance(found, Study):
            return dataclasses.asdict(found)
        if not isinstance(found, Mapping):
            raise DimeError(f"{path} must define STUDY, a dime.Study or a table.")
        return {str(field): value for field, value in found.items()}
    try:
        return tomllib.loads(source_of(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DimeError(f"The study {path} is not TOML: {error}.") from error


def source_of(path: Path) -> str:
    """The text of a study's file, or of a shipped study."""
    if path.suffix in (".toml", ".py"):
        try:
            return path.read_text("utf-8-sig")
        except OSError as error:
            raise DimeError(f"The study {path} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise DimeError(
                f"The study {path} is not text in UTF-8 ({error}): save it as UTF-8."
            ) from error
    choose("shipped study", str(path), shipped_studies())
    return SHIPPED_STUDIES.joinpath(f"{path}.toml").read_text("utf-8")


def shipped_studies() -> list[str]:
    """Names of the studies that come with the package."""
    names = (file.name for file in SHIPPED_STUDIES.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
