"""The conversion table: what each event of one platform is on the other, whole (`tests/payloads`)."""

import re
from pathlib import Path

import pytest

from relay.domain.ids import Platform
from tests.support.payloads import Case, cases, play

DISCORD, MATRIX = cases(Platform.DISCORD), cases(Platform.MATRIX)


@pytest.mark.parametrize("case", DISCORD, ids=lambda case: case.name)
async def test_from_discord(case: Case) -> None:
    assert await play(case, Platform.DISCORD) == case.expected, case.title


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
async def test_from_matrix(case: Case) -> None:
    assert await play(case, Platform.MATRIX) == case.expected, case.title


def test_the_table_is_large_and_every_file_says_what_it_shows() -> None:
    table = [*DISCORD, *MATRIX]
    assert all(len({case.title for case in half}) == len(half) for half in (DISCORD, MATRIX))
    assert all(case.source.startswith("https://") for case in table)
    assert len(table) >= 150


def test_the_readme_names_every_payload_and_no_other() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## What crosses\n")[2].partition("\n\nEach line")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    named = [set(re.findall(r"`([^`]+)`", row.rstrip("| ").rpartition("|")[2])) for row in rows]
    files = {case.name for case in (*DISCORD, *MATRIX)}
    assert [row for row, names in zip(rows, named, strict=True) if not names] == []
    prefixes = set().union(*named)
    assert [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in files)] == []
    assert [name for name in files if not any(name.startswith(prefix) for prefix in prefixes)] == []
