"""A homeserver restored from a backup, as its answers tell; and all that looks like it, and is none.

What a real one answers that was restored is in tests/e2e/test_restored_homeserver.py.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from aiohttp import web

from relay.adapters.matrix.cursors import OUTSIDE, RESTORED, SyncPosition, room_stream
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.events import MessageCreated
from tests.support.matrix import HomeserverProxy, SavedState, Side, matrix_side, numbers, person, room


@dataclass
class Town:
    """Ann in two rooms, and an account for the relay, which is told in the first one of the last event."""

    homeserver: Homeserver
    ann: Person
    bot_id: str
    token: str
    room: str
    other: str
    # The event ID of the first message in `room`.
    first: str = ""
    saved: SavedState = field(default_factory=SavedState)

    def side(self, url: str = "") -> contextlib.AbstractAsyncContextManager[Side]:
        """A process of the relay, after the others."""
        rooms = [self.room, self.other]
        return matrix_side(self.homeserver, self.bot_id, rooms, token=self.token, saved=self.saved, url=url)

    @property
    def position(self) -> SyncPosition:
        """What the last process wrote down."""
        found = SyncPosition.parse(self.saved.cursors["sync"])
        assert found is not None
        return found

    @property
    def restores(self) -> bool:
        """Whether a restore was noticed."""
        return RESTORED in self.saved.cursors

    async def shut_out(self, place: str) -> None:
        """Ann removes the relay from a room, which it cannot join again by itself."""
        await self.ann.set_state(place, "m.room.join_rules", {"join_rule": "invite"})
        await self.ann.kick(place, self.bot_id)

    def count_ahead(self, stream: str = "sync") -> None:
        """As if the homeserver had told of more events than it counts now."""
        ahead = re.sub(r"s(\d+)", lambda found: f"s{int(found[1]) + 1_000}", self.saved.cursors[stream], count=1)
        assert ahead != self.saved.cursors[stream]
        self.saved.cursors[stream] = ahead

    def lose_told(self, *, later: bool) -> None:
        """As if it had told last of an event that it does not know any more.

        `later`: that one was written before what it has now before the token.
        """
        told = self.position.told
        assert told is not None
        latest = told.latest - timedelta(days=1) if later else told.latest
        self.saved.cursors["sync"] = str(replace(self.position, told=replace(told, event_id="$lost", latest=latest)))

    def lose_originals(self, *kept: str) -> None:
        """As if it did not know what is on record of the first room, but for these messages."""

        def lost(event: MessageCreated) -> MessageCreated:
            return replace(event, ref=replace(event.ref, id=f"$lost{event.ref.id[1:6]}"))

        self.saved.events = [
            lost(event)
            if isinstance(event, MessageCreated) and event.ref.channel == room(self.room) and event.ref.id not in kept
            else event
            for event in self.saved.events
        ]


@pytest.fixture
async def town(homeserver: Homeserver) -> AsyncIterator[Town]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}") as ann:
        token = await homeserver.register(f"bot{number}")
        bot_id, first, second = f"@bot{number}:localhost", await ann.create_room(), await ann.create_room()
        made = Town(homeserver, ann, bot_id, token, first, second)
        async with made.side() as side:
            await ann.text(made.other, "elsewhere")
            made.first = await ann.text(made.room, "first")
            await side.until(lambda: {"elsewhere", "first"} <= set(side.said))
            told = made.position.told
            assert told is not None
            assert told.room_id == made.room
        yield made


# --- None ---------------------------------------------------------------------------------------------------


async def kicked(town: Town) -> None:
    await town.shut_out(town.room)


async def banned(town: Town) -> None:
    await town.ann.ban(town.room, town.bot_id)


async def forgotten(town: Town) -> None:
    async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
        await bot.leave(town.room)
        await bot.call("POST", f"client/v3/rooms/{town.room}/forget")


async def redacted(town: Town) -> None:
    assert town.position.told is not None
    await town.ann.redact(town.room, town.position.told.event_id)


async def no_longer_kept(town: Town) -> None:
    town.lose_told(later=False)


@pytest.mark.parametrize("happened", [kicked, banned, forgotten, redacted, no_longer_kept])
async def test_an_event_that_is_not_shown_any_more_is_no_restore(
    town: Town, happened: Callable[[Town], Awaitable[None]]
) -> None:
    await happened(town)
    await town.ann.text(town.other, "missed")
    async with town.side() as side:
        await side.until(lambda: "missed" in side.said)
        assert side.said.count("missed") == 1
    assert not town.restores


@pytest.mark.parametrize(
    ("status", "code"), [(403, "M_FORBIDDEN"), (404, "M_UNRECOGNIZED"), (404, ""), (403, ""), (500, "M_UNKNOWN")]
)
async def test_any_other_answer_is_no_restore_and_stops_nothing(town: Town, status: int, code: str) -> None:
    async def refuse(request: web.Request) -> web.Response | None:
        if "/event/" not in request.path:
            return None
        return web.json_response({"errcode": code}, status=status) if code else web.Response(status=status, text="no")

    await town.ann.text(town.room, "missed")
    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = refuse
        async with town.side(proxy.url) as side:
            await side.until(lambda: "missed" in side.said)
    assert not town.restores


async def test_a_proxy_that_answers_for_a_while_in_its_place_is_waited_for(town: Town) -> None:
    town.lose_told(later=True)
    refused: list[str] = []

    async def restarting(request: web.Request) -> web.Response | None:
        if "/event/" not in request.path or len(refused) == 2:
            return None
        refused.append(request.path)
        return web.Response(status=502, text="Bad Gateway")

    async with HomeserverProxy(town.homeserver.url) as proxy:
        proxy.answer = restarting
        async with town.side(proxy.url):
            assert town.restores
    assert len(refused) == 2


# --- Restored -----------------------------------------------------------------------------------------------


async def test_where_the_last_event_is_lost_and_later_ones_are_there(town: Town) -> None:
    town.lose_told(later=True)
    await town.ann.text(town.room, "missed")
    async with town.side() as side:
        await town.ann.text(town.room, "live")
        await side.until(lambda: "live" in side.said)
        assert [line for line in side.said if line != "elsewhere"] == ["first", "missed", "live"]
        assert side.said.count("elsewhere") == 1
        (note,) = side.adapter.notes(room(town.room))
        assert "was restored from a backup" in note
    assert town.restores
    # The next start is one like any other, and still says so.
    noticed = town.saved.cursors[RESTORED]
    async with town.side() as side:
        assert list(side.adapter.notes(room(town.room))) == [note]
    assert town.saved.cursors[RESTORED] == noticed


async def test_where_the_last_event_is_lost_and_the_count_went_back(town: Town) -> None:
    town.lose_told(later=False)
    town.count_ahead()
    async with town.side() as side:
        assert town.restores
        await town.ann.text(town.room, "live")
        await side.until(lambda: "live" in side.said)
        assert sorted(side.said) == ["elsewhere", "first", "live"]


async def test_a_count_that_went_back_alone_skips_nothing_and_is_no_restore(town: Town) -> None:
    town.count_ahead()
    await town.ann.text(town.room, "missed")
    async with town.side() as side:
        await town.ann.text(town.room, "live")
        await side.until(lambda: "live" in side.said)
        assert sorted(side.said) == ["elsewhere", "first", "live", "missed"]
        assert list(side.adapter.notes(room(town.room))) == []
    assert not town.restores


@pytest.mark.parametrize("timeline", [2, 100])
async def test_what_is_read_begins_at_the_last_message_that_it_still_has(
    town: Town, timeline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._TIMELINE", timeline)
    async with town.side() as side:
        kept = await town.ann.text(town.room, "kept")
        for number in range(5):
            await town.ann.text(town.room, f"lost {number}")
        await side.until(lambda: "lost 4" in side.said)
    town.lose_originals(town.first, kept)
    town.count_ahead()
    async with town.side() as side:
        await town.ann.text(town.room, "live")
        await side.until(lambda: "live" in side.said)
        # The homeserver of this test has the others as well: with IDs that are not on record.
        lines = [line for line in side.said if line not in {"first", "elsewhere"}]
        lost = [f"lost {number}" for number in range(5)]
        assert lines == ["kept", *lost, *lost, "live"]


@pytest.mark.parametrize("timeline", [2, 100])
async def test_where_all_on_record_are_lost_only_what_is_newer_crosses(
    town: Town, timeline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.sync.loop._TIMELINE", timeline)
    town.lose_originals()
    town.count_ahead()
    lines = [f"missed {number}" for number in range(4)]
    for line in lines:
        await town.ann.text(town.room, line)
    async with town.side() as side:
        await side.until(lambda: lines[-1] in side.said)
        # It says that something may be missing.
        assert sorted(side.said) == sorted(["elsewhere", "first", "skipped None", *lines])
        assert [line for line in side.said if line in lines] == lines


async def test_a_room_that_we_are_out_of_is_read_on_from_the_record(town: Town) -> None:
    async with town.side() as side:
        await town.shut_out(town.other)
        await side.until(lambda: town.saved.cursors[room_stream(town.other)].startswith(OUTSIDE))
    town.count_ahead()
    town.count_ahead(room_stream(town.other))
    await town.ann.text(town.other, "missed")
    async with town.side() as side:
        assert town.saved.cursors[room_stream(town.other)] == OUTSIDE
        await town.ann.invite(town.other, town.bot_id)
        await town.ann.text(town.other, "live")
        await side.until(lambda: "live" in side.said)
        assert sorted(side.said) == ["elsewhere", "first", "live", "missed"]
