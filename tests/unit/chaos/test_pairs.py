"""Where copies may stand once pairs have changed, and what the operator makes of the file."""

import asyncio
from pathlib import Path

from tests.chaos.ledger import SAME, Ledger, Written
from tests.chaos.pairs import Pairs, PairsFile, sorted_out, value, with_value
from tests.chaos.reading import Said, Standing

FILE = """[matrix]
user_id = "@relay:example.org"
[[pairs]]
name = "p0"
discord_channel = 1
matrix_room = "!a:b"
[[pairs]]
name = "p1"
discord_channel = 2
matrix_room = "!c:d"
"""


def copy(number: int, *texts: str) -> Standing:
    return Standing(str(number), tuple(Said("Ada", text) for text in texts))


def test_what_was_said_before_the_rooms_were_swapped_stands_where_it_was_said_or_nowhere() -> None:
    before, after = Written("d1", "d1.0 a", led_to="p0", loose=True), Written("d2", "d2.0 b", led_to="p1")
    ledgers = {"p0": Ledger([before, after]), "p1": Ledger()}
    copies = [copy(1, "d1.0 a"), copy(2, "d1.0 a", "d2.0 b"), copy(3, "d2.0 b"), copy(4, SAME[0])]
    kept, strays = sorted_out(copies, ledgers, "p0")
    assert (kept, strays) == ([copy(2, "d2.0 b"), copy(3, "d2.0 b")], [])
    kept, strays = sorted_out(copies, ledgers, "p1")
    assert kept == [copy(2, "d2.0 b"), copy(3, "d2.0 b")]
    assert [line.partition(":")[0] for line in strays] == ["d1 in a room where it was not said"] * 2


def test_while_no_pair_has_changed_everything_has_to_be_right() -> None:
    ledgers = {"p0": Ledger([Written("d1", "d1.0 a", led_to="p0")])}
    copies = [copy(1, "d1.0 a"), copy(2, SAME[0])]
    assert sorted_out(copies, ledgers, "p1") == (copies, [])


def test_where_places_lead() -> None:
    pairs = Pairs(("p0", "p1", "p2"))
    pairs.swap("p0", "p1")
    pairs.swap("p1", "p2")
    assert [pairs.leads_to("d", place) for place in ("p0", "p1", "p2")] == ["p1", "p2", "p0"]
    assert [pairs.leads_to("m", place) for place in ("p0", "p1", "p2")] == ["p2", "p0", "p1"]
    assert pairs.around("p0") == {"p0", "p1"}


async def test_nobody_writes_where_the_pair_is_being_changed() -> None:
    pairs = Pairs(("p0", "p1"))
    done: list[str] = []

    async def write(place: str) -> None:
        async with pairs.inside(place):
            done.append(place)

    async with pairs.inside("p0"):
        closing = asyncio.create_task(_change(pairs, done))
        await asyncio.sleep(0)
        assert pairs.open(("p0", "p1")) == ["p1"]
        writing = asyncio.create_task(write("p0"))
        await write("p1")
        assert done == ["p1"]
    await asyncio.gather(closing, writing)
    assert done == ["p1", "changed", "p0"]


async def _change(pairs: Pairs, done: list[str]) -> None:
    async with pairs.closed({"p0"}):
        done.append("changed")


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(FILE)
    file = PairsFile(path)
    one, other = file.sections()
    assert (value(one, "discord_channel"), value(other, "matrix_room")) == ("1", "!c:d")
    file.write([with_value(other, "matrix_room", "!a:b"), one])
    assert path.read_text().startswith('[matrix]\nuser_id = "@relay:example.org"\n[[pairs]]\nname = "p1"\n')
    assert [value(section, "matrix_room") for section in file.sections()] == ["!a:b", "!a:b"]
    assert file.names() == {"p0", "p1"}
