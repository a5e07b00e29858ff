"""The conversion table: what each event of one platform is on the other, whole (`tests/payloads`)."""

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
