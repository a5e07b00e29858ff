"""What reconciliation, batches and dead letters ask of the store besides the ports; and how it finds things."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.sqlite import dialect

from relay.core.storage import Copy
from relay.domain.commands import DeleteMessage, Digest, DigestItem
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.store.repositories import message_map, outbox
from relay.store.sqlite.engine import connect
from relay.store.tables import Timestamp, packed, unpacked
from relay.store.unit_of_work import SqlStore
from tests.benchmarks.map_lookup import fill

DISCORD = ChannelRef(Platform.DISCORD, "1")
ROOM = ChannelRef(Platform.MATRIX, "!room")
ANN = UserRef(Platform.DISCORD, "7")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LANE = LaneKey(DISCORD, ROOM)


def there(number: int) -> MessageRef:
    """A message on Discord."""
    return MessageRef(DISCORD, str(number))


async def test_recent_originals_oldest_first(store: SqlStore) -> None:
    async with store.write() as unit:
        for number in range(6):
            await unit.messages.add(there(number), ANN, NOON + timedelta(minutes=number), None)
        await unit.messages.add(MessageRef(ROOM, "$x"), ANN, NOON + timedelta(minutes=9), None)
        gone = await unit.messages.find(there(4))
        assert gone is not None
        await unit.messages.mark_deleted(gone.id)
    async with store.read() as unit:
        everything = await unit.messages.recent(DISCORD, NOON + timedelta(minutes=2), 100)
        assert [original.ref for original in everything] == [there(2), there(3), there(5)]
        assert [original.ref for original in await unit.messages.recent(DISCORD, NOON, 2)] == [there(3), there(5)]
        assert await unit.messages.recent(DISCORD, NOON + timedelta(days=1), 100) == ()


async def test_who_shares_a_copy(store: SqlStore) -> None:
    batch = MessageRef(ROOM, "$batch")
    async with store.write() as unit:
        for number in (1, 2, 3):
            message_id = await unit.messages.add(there(number), ANN, NOON, None)
            assert message_id is not None
            await unit.messages.record_copy(Copy(message_id, 0, batch))
        assert [original.ref for original in await unit.messages.originals_of(batch)] == [there(1), there(2), there(3)]
        assert await unit.messages.originals_of(there(1)) == ()


async def test_what_stands_in_a_shared_copy_is_remembered(store: SqlStore) -> None:
    items = tuple(DigestItem(there(number), Author(ANN, "Ann"), Content(), NOON) for number in (1, 2))
    shared = MessageRef(ROOM, "$batch")
    async with store.write() as unit:
        assert await unit.digests.get(shared) is None
        await unit.digests.put(shared, Digest(items))
        assert await unit.digests.get(shared) == Digest(items)
        await unit.digests.put(shared, Digest(items[:1]))
        assert await unit.digests.get(shared) == Digest(items[:1])
        await unit.digests.forget(shared)
        assert await unit.digests.get(shared) is None


async def test_dead_letters_about_a_message_are_found_and_amended(store: SqlStore) -> None:
    async with store.write() as unit:
        entries = [await unit.outbox.append(LANE, DeleteMessage(there(number)), NOON) for number in (1, 2, 1)]
        for entry in entries[:2]:
            await unit.outbox.dead_letter(entry.id, "forbidden", NOON)
        assert [letter.entry for letter in await unit.outbox.dead_about(there(1))] == [entries[0]]
        await unit.outbox.amend(entries[0].id, DeleteMessage(there(9)))
        await unit.outbox.amend(entries[2].id, DeleteMessage(there(8)))
        assert [letter.entry.command for letter in await unit.outbox.dead()] == [
            DeleteMessage(there(9)),
            DeleteMessage(there(2)),
        ]
        assert [entry.command for entry in await unit.outbox.waiting(LANE, 9)] == [DeleteMessage(there(8))]


BY_REF = "(channel_id=? AND native_id=?)"
BY_MESSAGE = "(message_id=? AND channel_id=?)"
NUMBER = "channel (platform=? AND native_id=?)"
BY_CHANNELS = "lane (source_platform=? AND source_channel=? AND destination_platform=? AND destination_channel=?)"
PLANS = {
    "_FIND": [f"message {BY_REF}", NUMBER],
    "_IS_COPY": [f"message_copy {BY_REF}", NUMBER],
    "_COPIES": [f"message_copy {BY_MESSAGE}", NUMBER],
    "_COUNTERPART": [
        f"message {BY_REF}",
        NUMBER,
        f"message_copy {BY_MESSAGE}",
        NUMBER,
        f"message_copy {BY_REF}",
        NUMBER,
        "message (rowid=?)",
        NUMBER,
    ],
    "_LAST_IN_CHANNEL": [NUMBER],
    "_LAST_OF_LANE": [BY_CHANNELS],
    "_SHARING": [f"message_copy {BY_REF}", NUMBER, "message (rowid=?)", "channel (rowid=?)"],
    "_RECENT": ["message (channel_id=?)", NUMBER],
    "_FORGET": ["message_copy (channel_id=? AND native_id=? AND message_id=? AND part=?)", NUMBER],
    "_USE": ["message (rowid=?)", f"message {BY_REF}", NUMBER, f"message_copy {BY_REF}", NUMBER],
    "_WAITING": ["outbox (lane_id=? AND state=?)", BY_CHANNELS],
    "_DEAD_ABOUT": ["outbox (source_platform=? AND source_channel=? AND source_id=?)", "lane (rowid=?)"],
    "_LATE_FILES": ["outbox (source_platform=? AND source_channel=? AND source_id=?)", "lane (rowid=?)"],
    "_DONE": ["outbox (rowid=?)"],
    # `sqlite_sequence` has one row for each table like the outbox.
    "_APPEND": [
        BY_CHANNELS,
        "outbox_1 (lane_id=? AND state=?)",
        BY_CHANNELS,
        "sqlite_sequence",
        "outbox (rowid<?)",
    ],
}
ORDERED = ("_LAST_IN_CHANNEL", "_WAITING")


@pytest.mark.parametrize("name", PLANS)
def test_every_look_up_is_a_search_for_one_thing_in_an_index(store: SqlStore, name: str) -> None:
    statement = getattr(message_map, name, None)
    statement = getattr(outbox, name) if statement is None else statement
    compiled = statement.compile(dialect=dialect())
    connection = connect(store.path)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled}", [1] * len(compiled.positiontup)).fetchall()
    connection.close()
    steps = [row[3] for row in plan]
    searches = [re.sub(r" USING .*?(?= \(|$)", "", step).removeprefix("SEARCH ") for step in steps if "SEARCH" in step]
    assert searches == PLANS[name]
    assert not [
        step for step in steps if step.startswith("SCAN") and "anon_" not in step and step != "SCAN CONSTANT ROW"
    ]
    if name in ORDERED:  # what may be long comes out of its index in order
        assert not [step for step in steps if "B-TREE" in step]


IDS = {
    "1234567890123456789": int,
    "0": int,
    "007": str,
    "9223372036854775808": str,
    "٣": str,
    "$": str,
    "$abc:example.org": str,
    "$" + "A" * 43: bytes,
    "$" + "A" * 42 + "B": str,  # not how these 32 bytes are written
    "$" + "+" * 43: str,
    "\ud800": str,
}


@pytest.mark.parametrize("native_id", IDS)
def test_ids_come_back_as_they_were(native_id: str) -> None:
    assert type(packed(native_id)) is IDS[native_id]
    assert unpacked(packed(native_id)) == native_id


@given(st.text(max_size=50) | st.from_regex(r"\$[0-9A-Za-z_+/-]{43}", fullmatch=True) | st.integers().map(str))
def test_no_two_ids_are_packed_alike(native_id: str) -> None:
    assert unpacked(packed(native_id)) == native_id


def test_a_message_takes_little_room(url: str, tmp_path: Path) -> None:
    count = 20_000
    fill(tmp_path / "relay.db", count, at_once=50)
    assert (tmp_path / "relay.db").stat().st_size / count < 250


@pytest.mark.parametrize("name", ["_DEPTHS", "_LANES", "_NAME", "_PLACE", "_CLEAR", "_RETRY", "_BURY"])
def test_nothing_goes_through_the_whole_outbox(store: SqlStore, name: str) -> None:
    compiled = getattr(outbox, name).compile(dialect=dialect())
    connection = connect(store.path)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled}", [1] * len(compiled.positiontup)).fetchall()
    connection.close()
    assert not [step for *_, step in plan if step.startswith("SCAN outbox") or "B-TREE" in step]


def test_moments_are_exact_and_never_naive() -> None:
    moment = Timestamp()
    exact = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    stored = moment.process_bind_param(exact, dialect())
    assert moment.process_result_value(stored, dialect()) == exact
    with pytest.raises(ValueError, match="no time zone"):
        moment.process_bind_param(datetime(2026, 3, 1), dialect())  # noqa: DTZ001 - the point of the test
