"""No two algorithm files have ten equal lines in a row: what two share stands in a third place."""

import ast
import itertools
from pathlib import Path

import dime.algorithms

FILES = sorted(Path(dime.algorithms.__file__).parent.rglob("*.py"))
LIMIT = 10


def lines_of(file):
    """The lines of a file without imports, configs and empty ones."""
    text = file.read_text()
    left_out = set()
    for node in ast.parse(text).body:
        is_config = isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        if isinstance(node, ast.Import | ast.ImportFrom) or is_config:
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    numbered = enumerate(text.splitlines(), 1)
    return [line.strip() for number, line in numbered if number not in left_out and line.strip()]


def test_no_ten_equal_lines():
    runs = {}
    for file in FILES:
        lines = lines_of(file)
        runs[file] = {tuple(lines[i : i + LIMIT]) for i in range(len(lines) - LIMIT + 1)}
    assert len(runs) > 10
    for one, other in itertools.combinations(runs, 2):
        assert not runs[one] & runs[other], f"{one} and {other}"
