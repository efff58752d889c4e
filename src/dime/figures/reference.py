"""Reference curves to draw beside one's own: the shipped ones, or a CSV file."""

import csv
from collections import defaultdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dime.errors import DimeError
from dime.figures.curves import History, Series, series_of

SHIPPED = "shipped"
_SHIPPED_NAME = "DIME, published"
_SHIPPED_NOTE = (
    "the authors' published curves, 10 seeds, stochastic actions, 5 episodes per evaluation"
)

_SUMMARY_COLUMNS = {"environment", "metric", "env_step", "iqm", "ci_low", "ci_high"}
_SCORE_COLUMNS = {"environment", "metric", "seed", "env_step", "score"}
_TEXT_COLUMNS = {"environment", "metric", "seed"}

Key = tuple[str, str]
"""Environment and metric ("return" or "success_rate")."""


class Row(NamedTuple):
    """A line of the file: its texts and its numbers, by column."""

    texts: dict[str, str]
    numbers: dict[str, float]

    @property
    def key(self) -> Key:
        """What the row belongs to."""
        return self.texts["environment"], self.texts["metric"]


class Reference(NamedTuple):
    """Curves by environment and metric, what the legend calls them, and where they are from."""

    name: str
    note: str
    series: dict[Key, Series]

    def find(self, environment: str, metric: str) -> Series | None:
        """The curve for an environment; `Ant-v3-compatible` is compared with Ant-v3."""
        return self.series.get((environment.removesuffix("-compatible"), metric))


def read_reference(reference: str | Path | None) -> Reference | None:
    """Reads reference curves.

    Args:
        reference: "shipped" (the published curves of DIME), or a CSV file with the columns
            environment, metric, env_step, iqm, ci_low, ci_high; or environment, metric, seed,
            env_step, score, of which IQM and interval are computed. None for none.

    Raises:
        DimeError: no such file, other columns, a cell that is not a number, or no rows.

    >>> read_reference("shipped").find("Ant-v3-compatible", "return").env_step.max() / 1e6
    np.float64(0.984)
    """
    if reference is None:
        return None
    if reference == SHIPPED:
        file = resources.files("dime").joinpath("data", "dime_official_iqm.csv")
        return Reference(_SHIPPED_NAME, _SHIPPED_NOTE, _series(file))
    path = Path(reference)
    return Reference(path.stem, path.name, _series(path))


def _series(file: Traversable) -> dict[Key, Series]:
    columns, lines = _read(file)
    rows = [_row(file, number, dict(zip(columns, cells, strict=True))) for number, cells in lines]
    grouped: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.key].append(row)
    make = _of_summary if set(columns) == _SUMMARY_COLUMNS else _of_scores
    return {key: make(group) for key, group in grouped.items()}


def _read(file: Traversable) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns, and the cells of each line behind its number in the file."""
    try:
        reader = csv.reader(file.read_text(encoding="utf-8-sig").splitlines())
        columns = next(reader, [])
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DimeError(
            f"The reference {file} cannot be read ({error}). Give a CSV file, or the word "
            f'"{SHIPPED}" for the published curves of DIME.'
        ) from error
    if set(columns) not in (_SUMMARY_COLUMNS, _SCORE_COLUMNS):
        raise DimeError(
            f"The reference {file} has the columns {', '.join(columns) or '(none)'}. It must have "
            "environment, metric, env_step, iqm, ci_low, ci_high, or environment, metric, seed, "
            "env_step, score."
        )
    if not lines:
        raise DimeError(f"The reference {file} has no rows below its columns.")
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DimeError(
                f"The reference {file} has {len(cells)} cells in line {number}, and "
                f"{len(columns)} columns."
            )
    return columns, lines


def _row(file: Traversable, number: int, cells: dict[str, str]) -> Row:
    texts = {name: text for name, text in cells.items() if name in _TEXT_COLUMNS}
    try:
        numbers = {name: float(text) for name, text in cells.items() if name not in _TEXT_COLUMNS}
    except ValueError as error:
        raise DimeError(f"The reference {file}, line {number}: {error}.") from error
    return Row(texts, numbers)


def _of_summary(rows: list[Row]) -> Series:
    table = {row.numbers["env_step"]: row.numbers for row in rows}
    steps = sorted(table)
    iqm, low, high = (
        np.array([table[step][column] for step in steps]) for column in ("iqm", "ci_low", "ci_high")
    )
    return Series(np.array(steps), iqm[None], np.stack([low, high]), None)


def _of_scores(rows: list[Row]) -> Series:
    histories: dict[str, History] = defaultdict(dict)
    for row in rows:
        histories[row.texts["seed"]][int(row.numbers["env_step"])] = row.numbers["score"]
    return series_of(list(histories.values()), f"the reference for {rows[0].key[0]}")
