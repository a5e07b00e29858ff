"""Refusals and odd answers of a real homeserver, and of a proxy in front of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from relay.core.files import File, Sender
from relay.core.ports import Delivery
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.content import Attachment, Content
from relay.domain.events import Event, MessageCreated
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform
from relay.errors import ActionNeeded, Permanent, Transient
from tests.support.matrix import (
    BOB,
    HomeserverProxy,
    SavedState,
    Side,
    address,
    matrix_side,
    numbers,
    pass_on,
    person,
    room,
    words,
)
from tests.support.patience import PATIENCE
from tests.support.unsynced import Unsynced


@dataclass
class Meeting:
    """Ann in a room, and the relay with her, behind a proxy."""

    ann: Person
    bot_id: str
    room: str
    side: Side
    proxy: HomeserverProxy

    async def send(self, key: str, text: str = "hi") -> MessageRef:
        return await self.side.adapter.send(Delivery(room(self.room), key, BOB, words(text)))

    async def edit(self, target: MessageRef, key: str, text: str) -> None:
        await self.side.adapter.edit(target, Delivery(target.channel, key, BOB, words(text)))


@pytest.fixture
async def meeting(homeserver: Homeserver) -> AsyncIterator[Meeting]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}") as ann, HomeserverProxy(homeserver.url) as proxy:
        token = await homeserver.register(f"bot{number}")
        place = await ann.create_room()
        bot_id = f"@bot{number}:{homeserver.server_name}"
        async with matrix_side(homeserver, bot_id, [place], token=token, url=proxy.url) as side:
            yield Meeting(ann, bot_id, place, side, proxy)


async def test_after_a_proxys_error_page_the_outcome_is_unknown(meeting: Meeting) -> None:
    ref = await meeting.send("k1", "one")

    async def page(request: web.Request) -> web.Response | None:
        return None if request.path.endswith("/sync") else web.Response(status=404, text="<html>404")

    meeting.proxy.answer = page
    for call in (meeting.send("k2"), meeting.edit(ref, "k3", "two"), meeting.side.adapter.delete(ref, "k4")):
        with pytest.raises(Transient) as error:
            await call
        assert (type(error.value), error.value.ambiguous, error.value.failed) == (Transient, True, True)
    with pytest.raises(Transient):
        await meeting.side.adapter.quote(ref)
    meeting.proxy.answer = pass_on
    await meeting.edit(ref, "k3", "two")
    assert [line.body for line in await meeting.ann.messages(meeting.room)] == ["Bob: two"]


class Photographs:
    """Files of the other side: always the same image."""

    @asynccontextmanager
    async def open(
        self, attachments: Sequence[Attachment], *, max_bytes: int, sender: Sender | None = None
    ) -> AsyncIterator[Sequence[File]]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"photo"

        yield [File(attachment.name, "image/png", 5, chunks()) for attachment in attachments]

    async def fetch(self, attachment: Attachment, *, channel: ChannelRef, max_bytes: int, wait: float) -> bool | None:
        return True

    def forget(self, attachment: Attachment) -> None: ...

    async def picture(self, media: MediaRef, *, side: int, max_bytes: int, wait: float) -> bytes:
        return b"photo"

    async def copy_of(self, media: MediaRef, destination: Platform) -> MediaRef | None:
        return None

    async def remember(self, media: MediaRef, copy: MediaRef) -> None: ...


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, ""), (503, '{"errcode": "M_UNKNOWN", "error": "Internal server error"}'), (403, "<html>a firewall's page")],
)
async def test_an_error_answer_counts_as_failed_and_a_lost_connection_does_not(
    homeserver: Homeserver, status: int, body: str
) -> None:
    number = next(numbers)
    photo = Attachment("1", "photo.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example/photo.png"), size=5)
    async with person(homeserver, f"ann{number}") as ann, HomeserverProxy(homeserver.url) as proxy:
        token = await homeserver.register(f"bot{number}")
        place = await ann.create_room()
        bot_id = f"@bot{number}:{homeserver.server_name}"
        side_of = matrix_side(homeserver, bot_id, [place], token=token, url=proxy.url, files=Photographs())
        async with side_of as side:
            adapter = side.adapter
            ref = await adapter.send(Delivery(room(place), "k1", BOB, words("one")))

            async def fails(request: web.Request) -> web.Response | None:
                return None if request.path.endswith("/sync") else web.Response(status=status, text=body)

            proxy.answer = fails
            pictured = Content(words("two").text, (photo,))
            for call in (
                adapter.send(Delivery(room(place), "k2", BOB, words("two"))),
                adapter.send(Delivery(room(place), "k3", BOB, pictured)),
                adapter.edit(ref, Delivery(room(place), "k4", BOB, words("three"))),
                adapter.mark(ref, done=False),
            ):
                with pytest.raises(Transient) as error:
                    await call
                assert error.value.failed

            async def breaks_off(request: web.Request) -> web.Response | None:
                if not request.path.endswith("/sync"):
                    assert request.transport is not None
                    request.transport.abort()
                return None

            proxy.answer = breaks_off
            for content in (words("four"), pictured):
                with pytest.raises(Transient) as error:
                    await adapter.send(Delivery(room(place), "k5", BOB, content))
                assert not error.value.failed


async def test_an_edit_that_changes_nothing_is_not_sent(meeting: Meeting) -> None:
    puts: list[bytes] = []
    is_lost = False

    async def count(request: web.Request) -> web.Response | None:
        if request.method == "PUT":
            puts.append(await request.read())
            return web.Response(status=502) if is_lost else None
        return None

    meeting.proxy.answer = count
    ref = await meeting.send("k1", "one")
    for number, text in enumerate(("one", "two", "two", "one")):
        await meeting.edit(ref, f"k2{number}", text)
    assert len(puts) == 3
    is_lost = True
    with pytest.raises(Transient):
        await meeting.edit(ref, "k3", "three")
    is_lost = False
    await meeting.edit(ref, "k4", "one")
    assert len(puts) == 5, "after a lost answer its content is unknown"
    assert [line.body for line in await meeting.ann.messages(meeting.room)] == ["Bob: one"]


async def test_content_that_an_earlier_attempt_posted_is_replaced(meeting: Meeting) -> None:
    is_lost = True

    async def lose_the_answer(request: web.Request) -> web.Response | None:
        nonlocal is_lost
        if request.method != "PUT" or not is_lost:
            return None
        is_lost = False
        await meeting.proxy.carry_out(request)
        return web.Response(status=502)

    meeting.proxy.answer = lose_the_answer
    with pytest.raises(Transient):
        await meeting.send("k1", "secret")
    ref = await meeting.side.adapter.send(Delivery(room(meeting.room), "k1", BOB, words("removed"), suspect=True))
    await meeting.edit(ref, "k2", "removed")
    assert [line.body for line in await meeting.ann.messages(meeting.room)] == ["Bob: removed"]
    is_lost = True
    with pytest.raises(Transient):
        await meeting.edit(ref, "k3", "secret again")
    for _ in range(2):
        await meeting.edit(ref, "k3", "removed again")
    assert [line.body for line in await meeting.ann.messages(meeting.room)] == ["Bob: removed again"]


async def test_a_message_that_a_spam_checker_refuses_does_not_hold_up_the_others(meeting: Meeting) -> None:
    async def check(request: web.Request) -> web.Response | None:
        if request.method == "PUT" and b"spam" in await request.read():
            return web.json_response({"errcode": "M_FORBIDDEN", "error": "This is spam"}, status=403)
        return None

    meeting.proxy.answer = check
    with pytest.raises(Permanent, match="This is spam"):
        await meeting.send("k1", "spam")
    ref = await meeting.send("k2", "ham")
    with pytest.raises(Permanent, match="This is spam"):
        await meeting.edit(ref, "k3", "spam")


async def test_without_permission_to_write_messages_wait(meeting: Meeting) -> None:
    """Also when the last sync has not told it yet."""
    unsynced = Unsynced(meeting.proxy)
    await meeting.ann.text(meeting.room, "ends the request that is under way")
    await meeting.side.until_said("ends the request that is under way")
    unsynced.tells.clear()
    await meeting.ann.set_power(meeting.room, events_default=50)
    with pytest.raises(ActionNeeded, match="allow it to write"):
        await meeting.send("k1")
    await meeting.ann.kick(meeting.room, meeting.bot_id)
    with pytest.raises(ActionNeeded, match="into the room"):
        await meeting.send("k2")
    unsynced.tells.set()


async def test_an_edit_in_a_room_of_before_is_refused_without_advice_that_would_be_wrong(meeting: Meeting) -> None:
    """After an upgrade, mostly. It was advised to declare the old room again."""
    ref = await meeting.send("k1")
    await meeting.side.adapter.watch(frozenset())
    await meeting.ann.set_power(meeting.room, events_default=50)
    with pytest.raises(ActionNeeded, match=r"may not write in .* any more"):
        await meeting.edit(ref, "k2", "two")


async def test_a_deletion_that_the_room_forbids_does_not_hold_up_the_others(meeting: Meeting) -> None:
    ref = await meeting.send("k1")
    await meeting.ann.set_power(meeting.room, events={"m.room.redaction": 50})
    with pytest.raises(Permanent, match="forbids"):
        await meeting.side.adapter.delete(ref, "k2")


async def test_an_alias_whose_server_does_not_answer_delays_no_other_room(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a test waits: whoever waited for the answer would not be ready.
    monkeypatch.setattr("relay.adapters.matrix.rooms.lookup._TIMEOUT", 2 * PATIENCE)
    number = next(numbers)
    alias = f"#slow{number}:localhost"
    async with person(homeserver, f"ann{number}") as ann, HomeserverProxy(homeserver.url) as proxy:
        token = await homeserver.register(f"bot{number}")
        quick, slow = await ann.create_room(), await ann.create_room(alias=f"slow{number}")
        answered = asyncio.Event()

        async def silence(request: web.Request) -> web.Response | None:
            if "/directory/room/" in request.path:
                await answered.wait()
            return None

        proxy.answer = silence
        bot_id = f"@bot{number}:{homeserver.server_name}"
        starting = matrix_side(homeserver, bot_id, [quick, alias], token=token, url=proxy.url, ready=False)
        async with starting as side:
            await side.until(lambda: side.adapter.health().state == "ready")
            await side.until(lambda: "could not be looked up yet" in side.inbox.problems.get(alias, ""))
            assert quick in side.inbox.channels
            answered.set()
            await side.until(lambda: alias in side.inbox.channels)
            assert side.inbox.problems == {}
            await ann.text(slow, "at last")
            await side.until_said("at last")


async def test_a_reload_during_a_catch_up_loses_nothing(homeserver: Homeserver) -> None:
    number = next(numbers)
    alias, bot_id = f"#both{number}:localhost", f"@bot{number}:{homeserver.server_name}"
    async with person(homeserver, f"ann{number}") as ann, HomeserverProxy(homeserver.url) as proxy:
        token = await homeserver.register(f"bot{number}")
        place = await ann.create_room(alias=f"both{number}")
        saved = SavedState()
        async with matrix_side(homeserver, bot_id, [place], token=token, saved=saved):
            pass
        lines = [str(line) for line in range(110)]
        for line in lines:
            await ann.text(place, line)
        asked, answered = asyncio.Event(), asyncio.Event()

        async def hold_history(request: web.Request) -> web.Response | None:
            if request.path.endswith("/messages"):
                asked.set()
                await answered.wait()
            return None

        proxy.answer = hold_history
        starting = matrix_side(homeserver, bot_id, [place], token=token, url=proxy.url, saved=saved, ready=False)
        async with starting as side:
            dropped: list[str] = []

            def route(event: Event) -> None:
                if isinstance(event, MessageCreated) and event.ref.channel not in side.inbox.channels.values():
                    dropped.append(event.ref.id)

            side.inbox.fail_on = route
            await asyncio.wait_for(asked.wait(), PATIENCE)
            side.inbox.channels.clear()
            await side.adapter.watch(frozenset({address(alias)}))
            answered.set()
            await side.until_said(*lines)
            assert dropped == []
            assert set(side.inbox.channels) == {alias}
