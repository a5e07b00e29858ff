"""What an earlier try is, and which of the core's errors each error of a homeserver becomes."""

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api, Refused
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.media import MediaRepository
from relay.adapters.matrix.outbound.ghost_accounts import GhostAccounts
from relay.adapters.matrix.outbound.ghosts import Ghosts
from relay.adapters.matrix.outbound.sender import MessageSender, delivery_error
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.config.mistakes import validated
from relay.config.settings import AppserviceSettings
from relay.core.clock import Backoff, SystemClock
from relay.core.offload import Conversions
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform, UserRef
from relay.domain.jsontext import Json
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, DeliveryError, Permanent, RateLimited, TargetGone, Transient
from relay.store.unit_of_work import open_store
from tests.support.store import new_store


@pytest.mark.parametrize(
    ("status", "code", "reason", "kind", "ambiguous"),
    [
        (429, "M_LIMIT_EXCEEDED", "Too Many Requests", RateLimited, False),
        (401, "M_UNKNOWN_TOKEN", "Invalid access token", Transient, False),
        (403, "M_FORBIDDEN", "not in room", ActionNeeded, False),
        (404, "M_NOT_FOUND", "Could not find event", TargetGone, False),
        (400, "M_UNKNOWN", "Can't send relation to unknown event", TargetGone, False),
        (404, "M_UNRECOGNIZED", "Unrecognized request", Transient, False),
        (413, "", "", Permanent, False),
        (413, "M_TOO_LARGE", "event too large", Permanent, False),
        (400, "M_BAD_JSON", "Bad JSON value: float", Permanent, False),
        (400, "M_INVALID_PARAM", "no", Permanent, False),
        (500, "M_UNKNOWN", "Internal server error", Transient, True),
        (502, "", "", Transient, True),
    ],
)
def test_each_refusal_becomes_an_error_of_the_core(
    status: int, code: str, reason: str, kind: type[DeliveryError], *, ambiguous: bool
) -> None:
    error = delivery_error(Refused(status, code, reason, 2.5 if status == 429 else None), "@relay:example.org")
    assert type(error) is kind
    if isinstance(error, Transient):
        assert error.ambiguous == ambiguous
        assert error.failed == (status >= 500 or code == "M_UNRECOGNIZED")
        assert error.retry_after == (2.5 if status == 429 else None)
    if isinstance(error, ActionNeeded):
        assert "@relay:example.org" in str(error)


ME, ROOM = "@relay:example.org", "!room:example.org"
ADA_GHOST, BEN_GHOST = "@_discord_42:example.org", "@_discord_7:example.org"
ROOM_REF = ChannelRef(Platform.MATRIX, ROOM)
EARLIER, LONG_AGO = timedelta(hours=3), datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class History:
    """A homeserver with a room in which ghosts have spoken; the newest message first."""

    events: list[Json]
    sent: list[str] = field(default_factory=list)
    # Called when a ghost comes into the room.
    on_join: Callable[[], None] = lambda: None
    # What a firewall in front of it refuses: parts of paths.
    firewall: frozenset[str] = frozenset()

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/_matrix/client/v3/").split("/")
        if path[-1] == "messages":
            wanted = json.loads(request.query["filter"])["senders"]
            return web.json_response({"chunk": [event for event in self.events if event["sender"] in wanted]})
        if "event" in path:
            found = [event for event in self.events if event["event_id"] == path[-1]]
            return web.json_response(found[0] if found else {"errcode": "M_NOT_FOUND"}, status=200 if found else 404)
        if self.firewall.intersection(path):
            return web.Response(status=403, text="<html>Blocked</html>", content_type="text/html")
        if "m.room.member" in path:
            self.on_join()
        if request.method == "PUT" and "send" in path:
            self.sent.append((await request.json())["body"])
        return web.json_response({"event_id": "$new"})


def line(event_id: str, sender: str, body: str, age: timedelta) -> Json:
    content = {"msgtype": "m.text", "body": body, "m.mentions": {}}
    unsigned = {"age": age // timedelta(milliseconds=1)}
    return {"event_id": event_id, "sender": sender, "content": content, "unsigned": unsigned}


@asynccontextmanager
async def sender_in(
    history: History, folder: Path, logged_in_since: datetime = LONG_AGO
) -> AsyncIterator[MessageSender]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", history.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(f"http://127.0.0.1:{runner.addresses[0][1]}", ME)
    store, clock = await open_store(new_store(folder)), SystemClock()
    accounts = OwnAccounts(me=ME, prefix="_discord_")
    rooms = DeclaredRooms(accounts, backoff=partial(Backoff, random.Random(0), first=1, longest=2), now=clock.monotonic)
    rooms.declare([ChannelAddress(Platform.MATRIX, ROOM)])
    rooms.mark_joined(ROOM, complete=True)
    made = GhostAccounts(api=api, settings=validated(AppserviceSettings, {"as_token": "secret"}), store=store)
    try:
        yield MessageSender(
            api=api,
            rooms=rooms,
            media=MediaRepository(api, None, clock),
            ghosts=Ghosts(api=api, accounts=accounts, rooms=rooms, clock=clock, made=made, wanted=lambda _: True),
            makes_ghosts=True,
            clock=clock,
            token_refused=lambda: None,
            conversions=Conversions(),
            logged_in_since=lambda: logged_in_since,
        )
    finally:
        await store.close()
        await api.close()
        await runner.cleanup()


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_a_ghost_wrote_long_ago_is_no_earlier_try(tmp_path: Path, *, is_there: bool) -> None:
    """Its record has been pruned. The lane's last copy, which another ghost posted, ends the search; or age does."""
    last = line("$last", BEN_GHOST, "last", timedelta(minutes=2))
    old = [line("$same", ADA_GHOST, "ok", EARLIER), line("$other", ADA_GHOST, "something else", EARLIER)]
    history = History([last, *old] if is_there else old)
    delivery = Delivery(
        ROOM_REF,
        "k1",
        Author(UserRef(Platform.DISCORD, "42"), "Ada"),
        Content(RichText.plain("ok")),
        suspect=True,
        after=MessageRef(ROOM_REF, "$last"),
        queued_at=SystemClock().now() - timedelta(minutes=1),
    )
    async with sender_in(history, tmp_path) as sender:
        assert (await sender.send(delivery)).id == "$new"
    assert history.sent == ["ok"]


async def test_nothing_goes_into_a_room_that_was_encrypted_while_a_message_was_made_ready(tmp_path: Path) -> None:
    history = History([])
    delivery = Delivery(ROOM_REF, "k1", Author(UserRef(Platform.DISCORD, "42"), "Ada"), Content(RichText.plain("ok")))
    async with sender_in(history, tmp_path) as sender:
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {}}
        history.on_join = partial(sender.rooms.state(ROOM).apply, encryption)
        with pytest.raises(ActionNeeded, match="encrypted"):
            await sender.send(delivery)
    assert history.sent == []


@pytest.mark.parametrize("is_new", [True, False])
async def test_after_a_new_login_an_earlier_try_is_looked_for(tmp_path: Path, *, is_new: bool) -> None:
    """The homeserver does not know the transaction IDs of another device, and would take the message twice."""
    history = History([line("$earlier", ME, "ok", timedelta(minutes=1))])
    now = SystemClock().now()
    delivery = Delivery(
        ROOM_REF, "k1", None, Content(RichText.plain("ok")), suspect=True, queued_at=now - timedelta(minutes=2)
    )
    async with sender_in(history, tmp_path, now - timedelta(minutes=1 if is_new else 3)) as sender:
        assert (await sender.send(delivery)).id == ("$earlier" if is_new else "$new")


@pytest.mark.parametrize("refuses", [{"send"}, {"send", "typing"}])
async def test_words_that_a_firewall_refuses_do_not_hold_up_what_follows(tmp_path: Path, refuses: set[str]) -> None:
    """Where it refuses all, no message is given up for that."""
    history = History([], firewall=frozenset(refuses))
    delivery = Delivery(ROOM_REF, "k1", None, Content(RichText.plain("cat /etc/passwd")))
    async with sender_in(history, tmp_path) as sender:
        for _ in range(2):
            with pytest.raises(Transient):
                await sender.send(delivery)
        with pytest.raises(Transient if "typing" in refuses else Permanent):
            await sender.send(delivery)
