"""Who speaks for whom, whatever a homeserver answers: the ghost, the bot, or nobody."""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.outbound.ghost_accounts import GhostAccounts
from relay.adapters.matrix.outbound.ghosts import BOT, Ghosts, Speaker
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.config.mistakes import validated
from relay.config.settings import AppserviceSettings
from relay.core.clock import Backoff
from relay.domain.content import Author
from relay.domain.ids import ChannelAddress, MediaRef, Platform, UserRef
from relay.domain.jsontext import Json
from relay.errors import Permanent, Transient, Unsupported
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.clocks import FakeClock
from tests.support.store import new_store

ME, ROOM = "@relay:example.org", "!room:example.org"
ADA = Author(UserRef(Platform.DISCORD, "42"), "Ada")
GHOST = "@_discord_42:example.org"
BEN = Author(UserRef(Platform.DISCORD, "7"), "Ben")
DONE: tuple[int, Json] = (200, {"event_id": "$done"})


@dataclass
class Server:
    """A homeserver that answers as it is told, by what is asked: `register`, `devices`, `join`, `invite` …"""

    answers: dict[str, Callable[[], tuple[int, Json]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    identities: list[str] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/_matrix/client/v3/").split("/")
        what = {"PUT": "join", "GET": "member"}[request.method] if "m.room.member" in path else path[0]
        what = path[-1] if path[0] == "rooms" and "state" not in path else what
        self.asked[what] += 1
        self.identities.append(f"{what} {request.query.get('user_id', '-')} {request.query.get('device_id', '-')}")
        self.bodies.append(json.loads(await request.text() or "{}"))
        status, body = self.answers.get(what, lambda: DONE)()
        return web.json_response(body, status=status)

    def refuse(self, what: str, status: int, code: str) -> None:
        self.answers[what] = lambda: (status, {"errcode": code, "error": "no"})


@dataclass
class Bench:
    """Ghosts, their homeserver, and what outlives them."""

    server: Server
    ghosts: Ghosts
    clock: FakeClock
    store: SqlStore
    again: Callable[[], Ghosts]

    async def speaker(self, author: Author = ADA, *, has_spoken: bool = True, picture_late: bool = False) -> Speaker:
        return await self.ghosts.speaker(ROOM, author, has_spoken=has_spoken, picture_late=picture_late)

    async def by_ghost(self, author: Author = ADA) -> bool:
        """Whether the ghost speaks, under the author's own name."""
        found = await self.speaker(author)
        return found.identity is not None and not found.named

    def note(self) -> str:
        return " ".join(self.ghosts.notes(ROOM))


@asynccontextmanager
async def made(folder: Path) -> AsyncIterator[Bench]:
    server, clock = Server(), FakeClock()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(f"http://127.0.0.1:{runner.addresses[0][1]}", ME)
    store = await open_store(new_store(folder))
    accounts = OwnAccounts(me=ME, prefix="_discord_")
    rooms = DeclaredRooms(accounts, backoff=partial(Backoff, random.Random(0), first=1, longest=2), now=clock.monotonic)
    rooms.declare([ChannelAddress(Platform.MATRIX, ROOM)])
    settings = validated(AppserviceSettings, {"as_token": "secret"})
    settings.as_token.source = "relay.toml:9"

    def again() -> Ghosts:
        kept = GhostAccounts(api=api, settings=settings, store=store)
        return Ghosts(api=api, accounts=accounts, rooms=rooms, clock=clock, made=kept, wanted=lambda _: True)

    try:
        yield Bench(server, again(), clock, store, again)
    finally:
        await store.close()
        await api.close()
        await runner.cleanup()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with made(tmp_path) as one:
        yield one


async def test_a_new_ghost_is_registered_profiled_and_joined_once(bench: Bench) -> None:
    author = Author(ADA.user, "Ada", MediaRef(Platform.MATRIX, "mxc://example.org/ada"))
    assert await bench.by_ghost(author)
    assert bench.server.asked == {"register": 1, "devices": 1, "profile": 2, "join": 1}
    assert bench.server.bodies[-1] == {
        "membership": "join",
        "displayname": "Ada",
        "avatar_url": "mxc://example.org/ada",
    }
    assert bench.server.identities[0] == "register - -"
    assert set(bench.server.identities[2:]) == {f"profile {GHOST} RELAY", f"join {GHOST} RELAY"}
    bench.server.asked.clear()
    assert await bench.by_ghost(author)
    # Nor does the next process ask anything.
    bench.ghosts = bench.again()
    assert await bench.by_ghost(author)
    assert not bench.server.asked


async def test_a_name_in_use_is_ours_from_before(bench: Bench) -> None:
    bench.server.refuse("register", 400, "M_USER_IN_USE")
    assert await bench.by_ghost()


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("register", 400, "M_EXCLUSIVE"),
        ("register", 401, "M_UNKNOWN_TOKEN"),
        ("devices", 403, "M_FORBIDDEN"),
        ("join", 401, "M_UNKNOWN_TOKEN"),
    ],
)
async def test_where_it_cannot_be_made_the_bot_speaks_and_it_is_said_why(
    bench: Bench, what: str, status: int, code: str
) -> None:
    bench.server.refuse(what, status, code)
    assert await bench.speaker() == BOT
    assert ME in bench.note()
    asked = bench.server.asked.total()
    assert await bench.speaker() == BOT
    assert bench.server.asked.total() == asked
    # After a while it is tried again; what it says then ends the note.
    del bench.server.answers[what]
    bench.clock.seconds += 70
    assert await bench.by_ghost()
    assert bench.note() == ""


async def test_a_homeserver_that_fails_is_waited_for_but_not_for_ever(bench: Bench) -> None:
    bench.server.refuse("register", 500, "M_UNKNOWN")
    for _ in range(3):
        with pytest.raises(Transient):
            await bench.speaker()
    assert await bench.speaker() == BOT
    del bench.server.answers["register"]
    bench.clock.seconds += 70
    assert await bench.by_ghost()


async def test_that_nobody_reaches_the_homeserver_says_nothing_about_a_ghost(bench: Bench) -> None:
    url, bench.ghosts.api.homeserver_url = bench.ghosts.api.homeserver_url, "http://127.0.0.1:9"
    client = bench.ghosts.api._client
    client.homeserver = "http://127.0.0.1:9"
    for _ in range(5):
        with pytest.raises(Transient):
            await bench.speaker()
    client.homeserver = url
    assert await bench.by_ghost()


async def test_a_limit_keeps_nobody_waiting(bench: Bench) -> None:
    bench.server.refuse("join", 429, "M_LIMIT_EXCEEDED")
    assert await bench.speaker() == BOT
    assert bench.note() == ""
    del bench.server.answers["join"]
    assert await bench.by_ghost()


async def test_without_devices_it_acts_without_one(bench: Bench) -> None:
    bench.server.refuse("devices", 404, "M_NOT_FOUND")
    found = await bench.speaker()
    assert found.identity is not None
    assert found.identity.device_id == ""


async def test_a_device_that_is_gone_is_made_again(bench: Bench) -> None:
    assert await bench.by_ghost()
    bench.clock.seconds += 70
    answers = iter([(400, {"errcode": "M_UNKNOWN_DEVICE", "error": "no"}), DONE])
    bench.server.answers["join"] = lambda: next(answers)
    bench.server.asked.clear()
    assert await bench.by_ghost(Author(ADA.user, "Ada Lovelace"))
    assert bench.server.asked == {"join": 2, "devices": 1}


async def test_a_private_room_needs_an_invitation(bench: Bench) -> None:
    answers = iter([(403, {"errcode": "M_FORBIDDEN", "error": "invite only"}), DONE])
    bench.server.answers["join"] = lambda: next(answers)
    bench.server.refuse("member", 404, "M_NOT_FOUND")
    assert await bench.by_ghost()
    assert bench.server.asked["invite"] == 1
    assert "invite - -" in bench.server.identities


@pytest.mark.parametrize("code", ["M_USER_LOCKED", "M_USER_DEACTIVATED", "M_USER_SUSPENDED"])
async def test_one_that_was_silenced_on_the_homeserver_is_silent(bench: Bench, code: str) -> None:
    bench.server.refuse("join", 401 if code == "M_USER_LOCKED" else 403, code)
    with pytest.raises(Unsupported) as silent:
        await bench.speaker()
    assert silent.value.feature == "moderation"


async def test_one_that_is_banned_is_silent_and_not_asked_for_each_time(bench: Bench) -> None:
    bench.server.refuse("join", 403, "M_FORBIDDEN")
    bench.server.answers["member"] = lambda: (200, {"membership": "ban"})
    for _ in range(3):
        with pytest.raises(Unsupported):
            await bench.speaker()
    assert bench.server.asked["member"] == 1
    assert GHOST in bench.note()
    # Nobody told that the ban has ended.
    del bench.server.answers["join"]
    bench.server.answers["member"] = lambda: (200, {"membership": "leave"})
    bench.clock.seconds += 70
    assert await bench.by_ghost()
    assert bench.note() == ""


async def test_a_ban_that_sync_tells_of_costs_no_request(bench: Bench) -> None:
    assert await bench.by_ghost()
    bench.server.asked.clear()
    event = {"type": "m.room.member", "state_key": GHOST, "content": {"membership": "ban"}}
    bench.ghosts.saw_member(ROOM, event)
    with pytest.raises(Unsupported):
        await bench.speaker()
    assert not bench.server.asked
    bench.ghosts.saw_member(ROOM, event | {"content": {"membership": "leave"}})
    assert await bench.by_ghost()
    assert bench.server.asked == {"join": 1}
    for odd in ({}, {"state_key": 5}, {"state_key": GHOST, "content": 7}, {"state_key": "@mia:example.org"}):
        bench.ghosts.saw_member(ROOM, odd)


async def test_power_levels_that_let_no_ghost_write_let_the_bot_speak(bench: Bench) -> None:
    state = bench.ghosts.rooms.state(ROOM)
    levels = {"events_default": 50, "users": {ME: 50}}
    state.apply({"type": "m.room.power_levels", "state_key": "", "content": levels})
    assert await bench.speaker() == BOT
    assert "power levels" in bench.note()
    assert not bench.server.asked


async def test_a_changing_name_floods_nobody(bench: Bench) -> None:
    assert await bench.by_ghost()
    for number in range(20):
        found = await bench.speaker(Author(ADA.user, f"Ada {number}"))
        # The message says itself who wrote it.
        assert (found.identity is not None, found.named) == (True, True)
    assert bench.server.asked["join"] == 1
    bench.clock.seconds += 70
    assert await bench.by_ghost(Author(ADA.user, "Ada 20"))
    assert bench.server.asked["join"] == 2


async def test_a_picture_that_is_late_takes_none_away(bench: Bench) -> None:
    author = Author(ADA.user, "Ada", MediaRef(Platform.MATRIX, "mxc://example.org/ada"))
    assert await bench.by_ghost(author)
    bench.clock.seconds += 70
    assert (await bench.speaker(ADA, picture_late=True)).identity is not None
    assert bench.server.asked["join"] == 1
    assert await bench.by_ghost()
    assert bench.server.asked["join"] == 2
    assert "avatar_url" not in bench.server.bodies[-1]


async def test_a_crowd_does_not_use_up_the_joins_of_people(bench: Bench) -> None:
    crowd = [Author(UserRef(Platform.DISCORD, str(number)), f"Member {number}") for number in range(100, 130)]
    spoke = [(await bench.speaker(one)).identity is not None for one in crowd]
    assert sum(spoke) == 5
    bench.clock.seconds += 1
    assert [(await bench.speaker(one)).identity is not None for one in crowd[-2:]] == [True, False]
    # Who is in there is not kept from speaking.
    assert await bench.by_ghost(crowd[0])
    # Those who are only brought in come after all who have something to say.
    before = bench.clock.seconds
    for one in crowd[10:13]:
        assert await bench.ghosts.add(ROOM, one)
    assert bench.clock.seconds - before >= 6


async def test_who_is_to_be_forgotten_is_not_forgotten_while_the_registration_is_gone(bench: Bench) -> None:
    assert await bench.by_ghost()
    for what in ("account", "leave", "profile"):
        bench.server.refuse(what, 401, "M_UNKNOWN_TOKEN")
    with pytest.raises(Transient, match=r"does not know the registration .* the as_token is from relay\.toml:9"):
        await bench.ghosts.forget(ADA.user)
    assert await bench.ghosts.channels_of(ADA.user)
    bench.server.answers.clear()
    await bench.ghosts.forget(ADA.user)
    assert not await bench.ghosts.channels_of(ADA.user)
    assert bench.server.bodies[-1] == {"avatar_url": ""}


async def test_that_the_registration_is_back_is_told_once(bench: Bench) -> None:
    returned: list[str] = []
    bench.ghosts.returned = lambda: returned.append("returned")
    assert await bench.by_ghost()
    bench.server.refuse("join", 401, "M_UNKNOWN_TOKEN")
    bench.server.refuse("register", 401, "M_UNKNOWN_TOKEN")
    assert not await bench.by_ghost(BEN)
    assert bench.ghosts.is_away(GHOST)
    bench.server.answers.clear()
    assert not await bench.by_ghost(BEN)
    bench.clock.seconds += 61
    assert returned == []
    assert await bench.by_ghost(BEN)
    assert await bench.by_ghost(ADA)
    assert returned == ["returned"]
    assert not bench.ghosts.is_away(GHOST)


async def test_who_cannot_leave_while_the_registration_is_gone_counts_as_there(bench: Bench) -> None:
    assert await bench.by_ghost()
    bench.server.refuse("account", 401, "M_UNKNOWN_TOKEN")
    with pytest.raises(Permanent):
        await bench.ghosts.leave(GHOST, ROOM)
    assert await bench.ghosts.channels_of(ADA.user)
    bench.server.answers.clear()
    await bench.ghosts.leave(GHOST, ROOM)
    assert not await bench.ghosts.channels_of(ADA.user)
    assert bench.server.asked["leave"] == 1


async def test_what_is_only_said_about_somebody_makes_no_ghost(bench: Bench) -> None:
    assert await bench.speaker(has_spoken=False) == BOT
    assert not bench.server.asked
    assert await bench.by_ghost()
    assert (await bench.speaker(has_spoken=False)).identity is not None


async def test_several_people_at_once_are_nobody_s_ghost(bench: Bench) -> None:
    assert await bench.speaker(Author(ADA.user, "[Ada, Ben]", is_group=True)) == BOT


async def test_memory_is_bounded(bench: Bench) -> None:
    for number in range(300):
        bench.clock.seconds += 2
        assert await bench.by_ghost(Author(UserRef(Platform.DISCORD, str(number)), "x"))
    accounts = bench.ghosts.made
    assert accounts is not None
    assert len(accounts._profiles) == 300
    for number in range(6_000):
        accounts.remember(f"@_discord_{number}:example.org", ROOM, "x")
    assert len(accounts._profiles) == 5_000
