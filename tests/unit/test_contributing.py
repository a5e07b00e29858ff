"""CONTRIBUTING names files that are there, and stays short enough to be read."""

import re
from pathlib import Path

import pytest

from tests.e2e.test_trace import BAR

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("relay", "tests", "migrations", "deploy")
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml))`", TEXT))))
def test_each_file_that_it_names_is_there(name: str) -> None:
    parts = name.split("/")
    assert (ROOT / name).exists() or any(
        file.split("/")[-1] == parts[-1] and set(parts) <= set(file.split("/")) for file in FILES
    )


def test_the_tour_is_read_in_one_go() -> None:
    tour, _, decisions = TEXT.partition("## Decisions")
    assert decisions
    assert len(tour.splitlines()) <= 150


def test_a_decision_is_five_lines_at_most() -> None:
    _, _, decisions = TEXT.partition("## Decisions")
    each = re.split(r"\n(?=- |\*\*|\n|\Z)", decisions)
    assert [one for one in each if len(one.strip("\n").splitlines()) > 5] == []


def test_it_says_how_many_files_a_line_of_chat_passes() -> None:
    to_matrix, to_discord = BAR["to_matrix"], BAR["to_discord"]
    assert f"A line of chat passes {to_matrix} files to Matrix and {to_discord} to Discord" in " ".join(TEXT.split())
