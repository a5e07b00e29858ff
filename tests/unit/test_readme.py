"""README's table of what crosses cannot promise more than is shown, nor leave out what is."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relay.domain.ids import Platform
from tests.support.payloads import cases

ROOT = Path(__file__).parents[2]
DIRECTIONS = {"to_matrix": Platform.DISCORD, "to_discord": Platform.MATRIX}
"""Each direction and the platform that it starts on, in the order of the table's columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `cells` by direction; `payloads` are the beginnings of names of files."""

    what: str
    cells: dict[str, str]
    payloads: frozenset[str]

    @property
    def directions(self) -> list[str]:
        """Those in which there is anything to tell."""
        return [direction for direction, cell in self.cells.items() if cell != "–"]


def table() -> list[Row]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("## What crosses\n")[2].partition("\n\nEach line")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    return [
        Row(what, dict(zip(DIRECTIONS, cells, strict=True)), frozenset(re.findall(r"`([^`]+)`", payloads)))
        for what, *cells, payloads in split
    ]


def promises() -> Iterator[tuple[str, str, str]]:
    """Each row and direction that a test through the real daemon says it shows, and that test."""
    for path in sorted((ROOT / "tests" / "e2e").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.crosses":
                    what, *directions = [str(ast.literal_eval(argument)) for argument in mark.args]
                    yield from ((what, direction, f"{path.name}::{node.name}") for direction in directions)


def test_each_row_is_shown_by_payloads_that_start_where_it_says() -> None:
    names = {direction: [case.name for case in cases(platform)] for direction, platform in DIRECTIONS.items()}
    missing = [
        (row.what, direction)
        for row in table()
        for direction in row.directions
        if not any(name.startswith(tuple(row.payloads)) for name in names[direction])
    ]
    assert missing == []


def test_the_table_names_every_payload_and_no_other() -> None:
    rows = table()
    prefixes = frozenset[str]().union(*(row.payloads for row in rows))
    files = {case.name for platform in DIRECTIONS.values() for case in cases(platform)}
    assert [row.what for row in rows if not row.payloads] == []
    assert [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in files)] == []
    assert [name for name in files if not name.startswith(tuple(prefixes))] == []


def test_each_row_is_shown_from_end_to_end_in_each_direction() -> None:
    shown = list(promises())
    missing = [
        (row.what, direction)
        for row in table()
        for direction in row.directions
        if not any(row.what.startswith(what) and direction == way for what, way, _ in shown)
    ]
    assert missing == []


def test_each_test_from_end_to_end_names_one_row_and_a_direction_of_it() -> None:
    rows = table()
    for what, direction, test in promises():
        found = [row for row in rows if row.what.startswith(what)]
        assert len(found) == 1, (test, what, [row.what for row in found])
        assert direction in found[0].directions, (test, what, direction)
