"""Policy lists on a real homeserver: what is read of them, and what becomes of lists that cannot be read."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from relay.core.moderation.ports import Decision
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.events import PolicyListRead, PolicyRule
from relay.domain.ids import ChannelAddress, ChannelRef, PlaceRef, Platform, UserRef
from relay.errors import Transient
from tests.support.matrix import HomeserverProxy, Side, address, matrix_side, numbers, person

USER, SERVER = "m.policy.rule.user", "m.policy.rule.server"


def ban(entity: Any, advice: Any = "m.ban", reason: Any = "spam") -> dict[str, Any]:
    return {"entity": entity, "recommendation": advice, "reason": reason}


@dataclass
class Lists:
    """Ann, who keeps lists, and an account for the relay, which is in one room."""

    homeserver: Homeserver
    ann: Person
    bot_id: str
    token: str
    mirrored: str

    @asynccontextmanager
    async def side(self, *lists: str, url: str = "") -> AsyncIterator[Side]:
        """The adapter, which follows these lists."""
        async with matrix_side(self.homeserver, self.bot_id, [self.mirrored], token=self.token, url=url) as side:
            await side.adapter.watch_lists(frozenset(map(address, lists)))
            yield side


@pytest.fixture
async def lists(homeserver: Homeserver) -> AsyncIterator[Lists]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}") as ann:
        token = await homeserver.register(f"bot{number}")
        bot = f"@bot{number}:localhost"
        yield Lists(homeserver, ann, bot, token, await ann.create_room())


def known(side: Side, place: str) -> set[tuple[str, str]] | None:
    """What was last read of a list, as kind and entity; None if nothing was."""
    read = [event for event in side.inbox.saved.events if isinstance(event, PolicyListRead)]
    mine = [event for event in read if event.address == ChannelAddress(Platform.MATRIX, place)]
    return {(rule.kind, rule.entity) for rule in mine[-1].rules} if mine else None


async def test_rules_are_read_and_followed_as_they_change(lists: Lists, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.adapters.matrix.policy_lists._CHANGES_EVERY", 0.0)
    ann = lists.ann
    place = await ann.create_room()
    rules: Mapping[tuple[str, str], Any] = {
        (USER, "a"): ban("@spam*:one.example"),
        ("m.room.rule.user", "b"): ban("@old:one.example", "org.matrix.mjolnir.ban"),
        ("org.matrix.mjolnir.rule.user", "c"): ban("@older:one.example"),
        (SERVER, "d"): ban("*.Evil.example:8448"),
        ("org.matrix.mjolnir.rule.server", "e"): ban("old.example"),
        # None of these says anything that is ours to do.
        (USER, "f"): ban("@taken:one.example", "m.takedown"),
        (USER, "g"): ban("@ok:one.example", "org.matrix.mjolnir.allow"),
        (USER, "h"): ban(5),
        (USER, "i"): ban("@a:one.example", ["m.ban"]),
        (USER, "j"): ban("@" + "a" * 1000),
        (USER, "k"): {},
        ("m.policy.rule.room", "l"): ban("!room:one.example"),
    }
    for (kind, key), content in rules.items():
        await ann.set_state(place, kind, content, key)
    expected = {
        ("account", "@spam*:one.example"),
        ("account", "@old:one.example"),
        ("account", "@older:one.example"),
        ("home", "*.evil.example"),
        ("home", "old.example"),
    }
    async with lists.side(place) as side:
        await side.until(lambda: known(side, place) == expected)
        await ann.set_state(place, USER, ban("@new:two.example"), "new")
        await side.until(lambda: known(side, place) == expected | {("account", "@new:two.example")})
        await ann.set_state(place, USER, ban("@newer:two.example"), "new")
        await side.until(lambda: known(side, place) == expected | {("account", "@newer:two.example")})
        await ann.set_state(place, USER, {}, "new")
        await side.until(lambda: known(side, place) == expected)
        # Taken back by a redaction.
        event = await ann.set_state(place, USER, ban("@last:two.example"), "last")
        await side.until(lambda: known(side, place) == expected | {("account", "@last:two.example")})
        await ann.redact(place, event)
        await ann.set_state(place, USER, ban("@first:two.example"), "first")
        await side.until(lambda: ("account", "@first:two.example") in (known(side, place) or set()))
        assert side.adapter.list_problem(address(place)) is None
        # What is said there is nobody's business here.
        await ann.text(place, "a word")
        await ann.text(lists.mirrored, "hello")
        await side.until_said("hello")
    async with lists.side(place) as side:  # from scratch, where each redaction has been carried out
        await side.until(lambda: known(side, place) == expected | {("account", "@first:two.example")})


async def test_lists_that_cannot_be_read_are_told_and_read_once_they_can(
    lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.policy_lists._TRY_AGAIN", 0.3)
    ann = lists.ann
    secret, missing = await ann.create_room(public=False), "#nobody-has-this:localhost"
    good = await ann.create_room()
    await ann.set_state(good, USER, ban("@good:one.example"), "a")
    await ann.set_state(secret, USER, ban("@secret:one.example"), "a")
    async with lists.side(secret, missing, good) as side:
        await side.until(lambda: known(side, good) == {("account", "@good:one.example")})
        for one, words in ((secret, "invite it there"), (missing, f"There is no policy list {missing}")):
            await side.until(lambda one=one, words=words: words in (side.adapter.list_problem(address(one)) or ""))  # type: ignore[misc]
        assert side.adapter.health().state == "ready"
        await ann.invite(secret, lists.bot_id)
        await side.until(lambda: known(side, secret) == {("account", "@secret:one.example")})
        await side.until(lambda: side.adapter.list_problem(address(secret)) is None)
        # Whoever keeps a list can put the relay out of it: what was read last stays as it is.
        await ann.ban(good, lists.bot_id)
        await side.until(lambda: side.adapter.list_problem(address(good)) is not None)
        assert known(side, good) == {("account", "@good:one.example")}
        await ann.unban(good, lists.bot_id)
        await ann.set_state(good, USER, ban("@better:one.example"), "a")
        await side.until(lambda: known(side, good) == {("account", "@better:one.example")})
        # Other lists from now on.
        await side.adapter.watch_lists(frozenset({address(secret)}))
        assert side.adapter.list_problem(address(missing)) is None
        seen = len(_reads(side))
        await ann.set_state(good, USER, ban("@best:one.example"), "a")
        await ann.set_state(secret, USER, {}, "a")
        await side.until(lambda: known(side, secret) == set())
        assert all(event.address == address(secret) for event in _reads(side)[seen:])


async def test_a_list_that_is_followed_again_is_read_from_the_beginning(
    lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.adapters.matrix.policy_lists._CHANGES_EVERY", 0.0)
    place = await lists.ann.create_room()
    await lists.ann.set_state(place, USER, ban("@old:one.example"), "a")
    async with lists.side(place) as side:
        await side.until(lambda: known(side, place) == {("account", "@old:one.example")})
        seen = len(_reads(side))
        # The core forgets what a list says that nobody follows.
        await side.adapter.watch_lists(frozenset())
        await side.adapter.watch_lists(frozenset({address(place)}))
        await side.until(lambda: len(_reads(side)) > seen)
        assert known(side, place) == {("account", "@old:one.example")}
        await lists.ann.set_state(place, USER, ban("@new:one.example"), "b")
        both = {("account", "@old:one.example"), ("account", "@new:one.example")}
        await side.until(lambda: known(side, place) == both)


def _reads(side: Side) -> list[PolicyListRead]:
    return [event for event in side.inbox.saved.events if isinstance(event, PolicyListRead)]


async def test_a_moved_list_is_told_and_not_followed(lists: Lists) -> None:
    place = await lists.ann.create_room()
    async with lists.side(place) as side:
        await side.until(lambda: known(side, place) == set())
        await lists.ann.call("POST", f"client/v3/rooms/{quote(place)}/upgrade", {"new_version": "11"})
        await side.until(lambda: "moved to another room" in (side.adapter.list_problem(address(place)) or ""))


async def test_a_list_of_ten_thousand_rules_holds_up_nobody(lists: Lists) -> None:
    place = await lists.ann.create_room()
    events = [
        {
            "type": USER,
            "state_key": str(number),
            "sender": lists.ann.user_id,
            "event_id": f"${number}",
            "content": ban(f"@spam{number}*:evil*.example", reason="\x1b[31m" + "long " * 100),
        }
        for number in range(10_000)
    ]

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith("/filter") and USER in await request.text():
            return web.json_response({"filter_id": "lists"})
        if request.path.endswith("/sync") and request.query.get("filter") == "lists":
            if "since" in request.query:
                await asyncio.sleep(int(request.query["timeout"]) / 1000)
                return web.json_response({"next_batch": "2"})
            rooms = {"join": {place: {"state": {"events": events}}}}
            return web.json_response({"next_batch": "1", "rooms": rooms})
        return None

    async with HomeserverProxy(lists.homeserver.url) as proxy:
        proxy.answer = answer
        await _read_through(proxy, lists, place)
    assert len(json.dumps(events)) > 5_000_000


async def _read_through(proxy: HomeserverProxy, lists: Lists, place: str) -> None:
    async with lists.side(place, url=proxy.url) as side:
        await side.until(lambda: known(side, place) is not None)
        [read] = _reads(side)
        assert len(read.rules) == 10_000
        assert read.rules[0] == PolicyRule("account", "@spam0*:evil*.example", ("[31m" + "long " * 100)[:99])
        await lists.ann.text(lists.mirrored, "hello")
        await side.until_said("hello")
        assert side.adapter.home_of(UserRef(Platform.MATRIX, "@a:Evil.example:8448")) == "evil.example"


async def test_everybody_who_is_banned_from_a_room_is_listed_but_the_relay(lists: Lists) -> None:
    room = ChannelRef(Platform.MATRIX, lists.mirrored)
    async with lists.side() as side, person(lists.homeserver, f"mal{next(numbers)}") as mal:
        place = side.adapter.place_of(room)
        assert place is not None
        assert [page async for page in side.adapter.bans(place)] == [[]]
        for user in (mal.user_id, "@never.here:localhost"):
            await lists.ann.ban(lists.mirrored, user)
        [page] = [page async for page in side.adapter.bans(place)]
        assert set(page) == {UserRef(Platform.MATRIX, user) for user in (mal.user_id, "@never.here:localhost")}
        banned, by = UserRef(Platform.MATRIX, mal.user_id), lists.ann.user_id
        assert await side.adapter.decision(place, banned, lifted=False) == Decision(by, "")
        assert await side.adapter.decision(place, banned, lifted=True) is None
        await lists.ann.unban(lists.mirrored, mal.user_id)
        assert await side.adapter.decision(place, banned, lifted=True) == Decision(by, "")
        assert [page async for page in side.adapter.bans(place)] == [
            [UserRef(Platform.MATRIX, "@never.here:localhost")]
        ]


async def test_bans_of_a_room_that_the_relay_is_not_in_wait(lists: Lists) -> None:
    async with lists.side() as side:
        with pytest.raises(Transient, match="cannot be listed"):
            [
                page
                async for page in side.adapter.bans(
                    PlaceRef(Platform.MATRIX, await lists.ann.create_room(public=False))
                )
            ]
