"""What is old is forgotten, in small steps; what is needed, or in use, is not."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from relay.core.people.storage import AvatarRecord, Ghost, LinkCode
from relay.core.storage import Copy
from relay.domain.commands import DeleteMessage, Digest, DigestItem
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.store.pruning import Pruner
from relay.store.sqlite.engine import connect
from relay.store.unit_of_work import SqlStore
from tests.support.patience import PATIENCE

DISCORD = ChannelRef(Platform.DISCORD, "1")
ROOM = ChannelRef(Platform.MATRIX, "!room")
LANE = LaneKey(DISCORD, ROOM)
ANN = UserRef(Platform.DISCORD, "7")
DAY = 86400.0
NOW = datetime.now(UTC)
TABLES = ("message", "message_copy", "message_edit", "batch", "outbox", "notice", "media_cache", "avatar")


class Clock:
    """So many days later; it runs only while somebody sleeps."""

    def __init__(self, days: float = 0.0) -> None:
        self.days = days
        self.passed = 0.0
        self.pauses: list[float] = []

    def now(self) -> datetime:
        """The time of day."""
        return datetime.now(UTC) + timedelta(days=self.days, seconds=self.passed)

    def monotonic(self) -> float:
        """Seconds."""
        return self.passed

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.pauses.append(seconds)
        self.passed += seconds
        await asyncio.sleep(0)


def there(number: int) -> MessageRef:
    """A message on Discord."""
    return MessageRef(DISCORD, str(number))


def here(number: int) -> MessageRef:
    """An event in the room."""
    return MessageRef(ROOM, f"${number}")


def pruner(store: SqlStore, clock: Clock) -> Pruner:
    """As by default."""
    return Pruner(store=store, clock=clock, messages=90 * DAY, dead_letters=30 * DAY)


async def fill(store: SqlStore, *numbers: int) -> dict[int, int]:
    """Messages with a copy and an edit each; their rows."""
    rows = {}
    async with store.write() as unit:
        for number in numbers:
            # What a server says about the time counts for nothing.
            told = datetime(1970 if number % 2 else 9000, 1, 1, tzinfo=UTC)
            row = await unit.messages.add(there(number), ANN, told, None)
            assert row is not None
            rows[number] = row
            await unit.messages.record_copy(Copy(row, 0, here(number)))
            await unit.messages.record_edit(there(number + 10_000), row)
    return rows


async def test_channels_that_no_pair_has_any_more_are_forgotten_with_all_that_is_kept_of_them(store: SqlStore) -> None:
    await fill(store, 1, 2)
    kept, gone = ChannelRef(Platform.MATRIX, "!kept"), ChannelRef(Platform.MATRIX, "!gone")
    async with store.write() as unit:
        for channel in (kept, gone, ROOM):
            await unit.messages.add(MessageRef(channel, "$x"), ANN, NOW, None)
            await unit.outbox.name(LaneKey(DISCORD, channel), "help")
            await unit.key_values.put(f"names matrix {channel.id}", "{}")
            await unit.ghosts.put(Ghost("@_discord_1:b"))
            await unit.ghosts.join("@_discord_1:b", channel, "digest")
        await unit.outbox.append(LANE, DeleteMessage(there(1)), NOW)
    forgotten: list[datetime] = []
    sweeper = Pruner(
        store=store,
        clock=Clock(days=200),
        messages=90 * DAY,
        dead_letters=None,
        declared=lambda: frozenset((DISCORD, kept)),
        forget_counters=forgotten.append,
    )

    async def left() -> list[list[str] | int]:
        async with store.read() as unit:
            *found, members = [
                [name for (name,) in await unit.transaction.all(text(sql), {})]
                for sql in (
                    "SELECT destination_channel FROM lane ORDER BY 1",
                    "SELECT native_id FROM channel ORDER BY 1",
                    "SELECT name FROM notebook ORDER BY 1",
                    "SELECT channel_id FROM ghost_member",
                )
            ]

            return [*found, len(members)]

    # What waits in a lane may be about any message: nothing of them is old yet.
    await sweeper.sweep()
    assert await left() == [
        ["!kept", "!room"],
        ["!gone", "!kept", "!room", "1"],
        ["names matrix !gone", "names matrix !kept", "names matrix !room"],
        3,
    ]
    async with store.write() as unit:
        await unit.outbox.clear(LANE, 10)
    await sweeper.sweep()
    assert await left() == [["!kept"], ["!kept", "1"], ["names matrix !kept"], 1]
    assert len(forgotten) == 2
    async with store.write() as unit:
        entry = await unit.outbox.append(LANE, DeleteMessage(there(1)), NOW)
    async with store.read() as unit:
        assert [it.id for it in await unit.outbox.waiting(LANE, 5)] == [entry.id]


def counts(store: SqlStore) -> Mapping[str, int]:
    """How many rows there are."""
    connection = connect(store.path)
    found = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
    connection.close()
    return {name: count for name, count in found.items() if count}


def age(store: SqlStore, days: float, table: str) -> None:
    """What is in the table is older now."""
    connection = connect(store.path)
    connection.execute(f"UPDATE {table} SET used = used - ?", (int(days * DAY),))
    connection.close()


async def test_everything_goes_with_what_it_belongs_to(store: SqlStore) -> None:
    await fill(store, *range(1, 121))
    items = tuple(DigestItem(there(number), Author(ANN, "Ann"), Content(), datetime.now(UTC)) for number in (1, 2))
    async with store.write() as unit:
        await unit.digests.put(here(1), Digest(items))
        await unit.once_keys.claim(ROOM, "thread 1")
        await unit.media.put(MediaRef(Platform.DISCORD, "a"), MediaRef(Platform.MATRIX, "b"))
        await unit.avatars.put(AvatarRecord(ANN, "a", "b", MediaRef(Platform.MATRIX, "c")))
    whole = dict.fromkeys(("message", "message_copy", "message_edit"), 120)
    whole |= dict.fromkeys(("batch", "notice", "media_cache", "avatar"), 1)
    await pruner(store, Clock(days=89)).sweep()
    assert counts(store) == whole
    await pruner(store, Clock(days=91)).sweep()
    assert counts(store) == {}
    async with store.read() as unit:  # what was posted last is still known: an earlier try is looked for after it
        assert await unit.outbox.last_copy(LaneKey.within(ROOM)) == here(120)


async def test_what_is_in_use_stays(store: SqlStore) -> None:
    rows = await fill(store, *range(1, 8))
    shared = Digest((DigestItem(there(1), Author(ANN, "Ann"), Content(), datetime.now(UTC)),))
    async with store.write() as unit:
        await unit.messages.record_copy(Copy(rows[2], 0, here(1)))  # 1 and 2 share a copy
        await unit.digests.put(here(1), shared)
    age(store, 91, "message")
    now = datetime.now(UTC)
    async with store.write() as unit:
        await unit.messages.mark_edited(rows[2], now)
        await unit.messages.add(there(50), ANN, now, there(3))
        await unit.messages.add(MessageRef(ROOM, "$51"), ANN, now, here(4))
        await unit.messages.mark_deleted(rows[5])
    await pruner(store, Clock()).sweep()
    async with store.read() as unit:
        left = [number for number in rows if await unit.messages.find(there(number)) is not None]
        assert left == [2, 3, 4, 5]
        assert await unit.digests.get(here(1)) is not None


async def test_what_a_command_may_be_about_stays(store: SqlStore) -> None:
    await fill(store, 1, 2)
    async with store.write() as unit:
        await unit.outbox.append(LANE, DeleteMessage(there(1)), datetime.now(UTC) - timedelta(seconds=5))
    await pruner(store, Clock(days=400)).sweep()
    assert counts(store)["message"] == 2


async def test_dead_letters_go_by_the_day_they_died(store: SqlStore) -> None:
    now = datetime.now(UTC)
    async with store.write() as unit:
        entries = [await unit.outbox.append(LANE, DeleteMessage(there(number)), now) for number in (1, 2, 3)]
        await unit.outbox.dead_letter(entries[0].id, "forbidden", now - timedelta(days=31))
        await unit.outbox.dead_letter(entries[1].id, "forbidden", now - timedelta(days=29))
    await pruner(store, Clock()).sweep()
    async with store.read() as unit:
        assert [letter.entry.id for letter in await unit.outbox.dead()] == [entries[1].id]
        depths = await unit.outbox.depths()
        assert (depths[LANE].waiting, depths[LANE].dead) == (1, 1)


async def test_a_thread_that_goes_on_is_told_of_once(store: SqlStore) -> None:
    async with store.write() as unit:
        assert await unit.once_keys.claim(ROOM, "thread 1")
    age(store, 80, "notice")
    async with store.write() as unit:
        assert not await unit.once_keys.claim(ROOM, "thread 1")
    await pruner(store, Clock(days=80)).sweep()
    async with store.write() as unit:
        assert not await unit.once_keys.claim(ROOM, "thread 1")


async def test_for_ever(store: SqlStore) -> None:
    await fill(store, 1)
    clock = Clock(days=4000)
    await Pruner(store=store, clock=clock, messages=None, dead_letters=None).sweep()
    await Pruner(store=store, clock=clock, messages=None, dead_letters=DAY).sweep()
    assert counts(store)["message"] == 1


async def test_codes_go_once_nobody_can_say_them(store: SqlStore) -> None:
    """Also where everything else is kept for ever."""
    now = datetime.now(UTC)
    async with store.write() as unit:
        for name, minutes in (("ann", -1), ("bob", 60 * 24)):
            asker, bound = UserRef(Platform.DISCORD, name), UserRef(Platform.MATRIX, "@eve:example.org")
            await unit.people.put_code(LinkCode(asker, name, bound, "digest", now + timedelta(minutes=minutes)))
    enough = asyncio.Event()

    class Passing(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.pauses) > 2:
                enough.set()

    running = asyncio.create_task(Pruner(store=store, clock=Passing(), messages=None, dead_letters=None).run())
    await enough.wait()
    running.cancel()
    await asyncio.wait((running,))
    async with store.read() as unit:
        assert [code.name for code in await unit.people.codes_for(UserRef(Platform.MATRIX, "@eve:example.org"), 9)] == [
            "bob"
        ]


async def test_a_clock_that_was_set_forgets_nothing(store: SqlStore) -> None:
    await fill(store, 1)

    enough = asyncio.Event()

    class Jumping(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            self.days += {1: 365, 2: -365}.get(len(self.pauses), 0)
            if len(self.pauses) == 4:
                enough.set()

    asked: list[datetime] = []

    async def discard_undeclared(before: datetime) -> int:
        asked.append(before)
        return 0

    made = Pruner(
        store=store,
        clock=Jumping(),
        messages=90 * DAY,
        dead_letters=30 * DAY,
        discard_undeclared=discard_undeclared,
    )
    running = asyncio.create_task(made.run())
    await enough.wait()
    running.cancel()
    await asyncio.wait((running,))
    assert counts(store)["message"] == 1
    assert asked
    assert max(asked) < datetime.now(UTC) - timedelta(days=29)


async def test_the_steps_are_small_and_let_others_in_between(store: SqlStore) -> None:
    await fill(store, *range(1, 1001))
    age(store, 91, "message")
    clock = Clock()
    waited: list[int] = []
    sweeping = asyncio.create_task(pruner(store, clock).sweep())
    while not sweeping.done():
        before = len(clock.pauses)
        async with store.write() as unit:
            await unit.key_values.put("a", "b")
        waited.append(len(clock.pauses) - before)
    await sweeping
    assert "message" not in counts(store)
    assert len(clock.pauses) >= 20
    # Others write after each step or two, and not when all is done.
    assert max(waited) <= 2


def test_what_goes_along_with_a_message_is_found_by_an_index(store: SqlStore) -> None:
    connection = connect(store.path)
    plans = [
        connection.execute(f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE message_id = 1").fetchall()
        for table in ("message_copy", "message_edit")
    ]
    connection.close()
    assert all("SEARCH" in step[3] for plan in plans for step in plan)


async def test_a_damaged_row_keeps_nothing_else_from_going(store: SqlStore) -> None:
    rows = await fill(store, 1, 2)
    async with store.write() as unit:
        await unit.outbox.append(LANE, DeleteMessage(there(9)), datetime.now(UTC) - timedelta(days=1))
    connection = connect(store.path)
    connection.execute("UPDATE message SET used = 'long ago' WHERE id = ?", (rows[1],))
    connection.execute("UPDATE message SET used = 5 WHERE id = ?", (rows[2],))
    connection.execute("UPDATE outbox SET queued_at = 'once'")
    connection.close()
    await pruner(store, Clock()).sweep()
    async with store.read() as unit:
        assert [await unit.messages.find(there(number)) is None for number in (1, 2)] == [False, True]


async def test_a_fault_ends_nothing(store: SqlStore) -> None:
    rounds = asyncio.Event()

    class Broken(Pruner):
        swept = 0

        async def sweep(self) -> None:
            self.swept += 1
            if self.swept == 3:
                rounds.set()
            raise TypeError("a bug")

    running = asyncio.create_task(Broken(store=store, clock=Clock(), messages=DAY, dead_letters=None).run())
    async with asyncio.timeout(PATIENCE):
        await rounds.wait()
    assert not running.done()
    running.cancel()
    await asyncio.wait((running,))


async def test_a_dead_letter_keeps_its_own_message_and_no_other(store: SqlStore) -> None:
    rows = await fill(store, 1, 2)
    now = datetime.now(UTC)
    async with store.write() as unit:
        entry = await unit.outbox.append(LANE, DeleteMessage(there(1)), now - timedelta(days=1))
        await unit.outbox.dead_letter(entry.id, "forbidden", now)
    made = Pruner(store=store, clock=Clock(days=400), messages=90 * DAY, dead_letters=None)
    await made.sweep()
    async with store.read() as unit:
        assert [number for number in rows if await unit.messages.find(there(number)) is not None] == [1]


async def test_a_dead_batch_keeps_all_of_its_messages(store: SqlStore) -> None:
    rows = await fill(store, 1, 2, 3)
    now = datetime.now(UTC)
    content = Content(RichText.plain("x"))
    items = tuple(DigestItem(there(number), Author(ANN, "Ann"), content, now) for number in (1, 3))
    async with store.write() as unit:
        entry = await unit.outbox.append(LANE, Digest(items), now - timedelta(days=1))
        await unit.outbox.dead_letter(entry.id, "forbidden", now)
    await Pruner(store=store, clock=Clock(days=400), messages=90 * DAY, dead_letters=None).sweep()
    async with store.read() as unit:
        assert [number for number in rows if await unit.messages.find(there(number)) is not None] == [1, 3]
