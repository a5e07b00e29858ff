"""Joining rooms, being removed from them, upgrades, and rooms that cannot be used; on a real homeserver."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest
from aiohttp import web

from relay.adapters.matrix.outbound import stranded
from relay.adapters.matrix.rooms.declared import DeclaredRoom
from relay.core.clock import Backoff
from relay.core.ports import Delivery
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.ids import ChannelAddress, MessageRef, Platform
from relay.errors import ActionNeeded
from tests.support.matrix import (
    BOB,
    HomeserverProxy,
    SavedState,
    address,
    matrix_side,
    numbers,
    person,
    room,
    words,
)
from tests.support.patience import PATIENCE
from tests.support.unsynced import Unsynced


@dataclass
class Town:
    """Ann, who makes rooms, and an account for the relay."""

    homeserver: Homeserver
    ann: Person
    bot_id: str
    token: str
    number: int

    def alias(self, name: str) -> str:
        return f"#{name}{self.number}:localhost"


@pytest.fixture
async def town(homeserver: Homeserver) -> AsyncIterator[Town]:
    number = next(numbers)
    async with person(homeserver, f"ann{number}") as ann:
        token = await homeserver.register(f"bot{number}")
        yield Town(homeserver, ann, f"@bot{number}:localhost", token, number)


async def test_rooms_are_entered_by_alias_by_id_and_by_invitation(town: Town) -> None:
    named = await town.ann.create_room(alias=f"named{town.number}")
    public = await town.ann.create_room()
    invited = await town.ann.create_room(public=False, invite=[town.bot_id])
    uninvited = await town.ann.create_room(public=False)
    rooms = [town.alias("named"), public, invited, uninvited]
    async with matrix_side(town.homeserver, town.bot_id, rooms, token=town.token) as side:
        assert set(side.inbox.channels) == {town.alias("named"), public, invited}
        assert town.bot_id in side.inbox.problems[uninvited]
        assert "invite it" in side.inbox.problems[uninvited]
        await town.ann.invite(uninvited, town.bot_id)
        await side.until(lambda: uninvited in side.inbox.channels)
        for place in (named, public, invited, uninvited):
            await town.ann.text(place, "hello")
        await side.until_said("hello", "hello", "hello", "hello")
        # One that waits for nothing to happen would keep two KiB for each room.
        await side.until(lambda: not any(task.get_name().startswith("room !") for task in asyncio.all_tasks()))


async def test_an_alias_that_nobody_has_yet_is_looked_up_again(town: Town) -> None:
    async with matrix_side(town.homeserver, town.bot_id, [town.alias("later")], token=town.token) as side:
        assert side.inbox.problems[town.alias("later")].startswith(f"No room has the alias {town.alias('later')}")
        place = await town.ann.create_room(alias=f"later{town.number}")
        await side.until(lambda: town.alias("later") in side.inbox.channels)
        await town.ann.text(place, "hello")
        await side.until_said("hello")


async def test_a_room_in_two_addresses_is_used_once(town: Town) -> None:
    place = await town.ann.create_room(alias=f"twice{town.number}")
    async with matrix_side(town.homeserver, town.bot_id, [place, town.alias("twice")], token=town.token) as side:
        assert "same room" in side.inbox.problems[town.alias("twice")]
        assert list(side.inbox.channels) == [place]


async def test_a_room_that_an_alias_names_is_not_used_by_its_id_that_is_declared_later(town: Town) -> None:
    place, alias = await town.ann.create_room(alias=f"twice{town.number}"), town.alias("twice")
    async with matrix_side(town.homeserver, town.bot_id, [alias], token=town.token) as side:
        await side.until(lambda: alias in side.inbox.channels)
        await side.adapter.watch(frozenset({address(alias), address(place)}))
        await side.until(lambda: "declare the room in one pair only" in side.inbox.problems.get(place, ""))
        await town.ann.text(place, "hello")
        await side.until_said("hello")
        await side.adapter.watch(frozenset({address(place)}))
        await side.until(lambda: place in side.inbox.channels)


@pytest.mark.parametrize("pair_by_alias", [True, False])
async def test_an_address_of_no_pair_gives_way_to_the_pair_s(town: Town, pair_by_alias: bool) -> None:
    place = await town.ann.create_room(alias=f"twice{town.number}")
    pair, other = (town.alias("twice"), place) if pair_by_alias else (place, town.alias("twice"))
    saved = SavedState()
    for start in range(2):
        rooms = [pair, other]
        async with matrix_side(
            town.homeserver, town.bot_id, rooms, token=town.token, saved=saved, secondary=[other]
        ) as side:
            await side.until(partial({f"opened {pair}", f"closed {other}"}.issubset, side.inbox.news))
            assert side.inbox.problems[other] == (
                f"{other} names the same room as {pair}, which is in a pair: write {pair} here, too."
            )
            assert side.inbox.channels[pair].id == place
            assert pair not in side.inbox.problems
            said = [f"hello {number}" for number in range(start + 1)]
            await town.ann.text(place, said[-1])
            await side.until_said(*said)
            side.inbox.news.clear()
            await side.adapter.watch(frozenset({address(other)}), secondary=frozenset({address(other)}))
            await side.until(partial({f"opened {other}"}.issubset, side.inbox.news))


async def test_a_room_in_two_addresses_is_used_once_after_its_upgrade_too(town: Town) -> None:
    old = await town.ann.create_room(alias=f"twice{town.number}", version="11")
    declared = [old, town.alias("twice")]
    async with matrix_side(town.homeserver, town.bot_id, declared, token=town.token) as side:
        await town.ann.text(old, "before")
        await side.until_said("before")
        new = await upgrade(town.ann, old)
        await town.ann.text(new, "after")
        await side.until_said("before", "after")
        await side.until(lambda: [side.inbox.channels[one].id for one in side.inbox.channels].count(new) == 1)
        [other] = [one for one in declared if one not in side.inbox.channels or side.inbox.channels[one].id != new]
        await side.until(lambda: other in side.inbox.problems)
        await town.ann.text(new, "later")
        await side.until_said("before", "after", "later")


@pytest.mark.parametrize(("version", "asked"), [("11", 0), ("12", 1)])
async def test_who_made_a_room_is_asked_only_where_sync_does_not_tell(town: Town, version: str, asked: int) -> None:
    place, saved, requests = await town.ann.create_room(version=version), SavedState(), list[str]()
    async with HomeserverProxy(town.homeserver.url) as proxy:

        async def answer(request: web.Request) -> web.StreamResponse | None:
            requests.extend([request.path] if request.path.endswith("/state/m.room.create") else [])
            return None

        for _ in range(2):
            proxy.answer = answer
            async with matrix_side(
                town.homeserver, town.bot_id, [place], token=town.token, saved=saved, url=proxy.url
            ) as side:
                await side.until(lambda: place in side.inbox.channels)
    assert len(requests) == asked


async def test_an_alias_that_names_the_replacement_before_sync_tells_of_it_does_not_take_it(town: Town) -> None:
    old = await town.ann.create_room(alias=f"twice{town.number}", version="11")
    alias, looked_up = town.alias("twice"), asyncio.Event()
    async with HomeserverProxy(town.homeserver.url) as proxy:
        unsynced = Unsynced(proxy)

        async def answer(request: web.Request) -> web.StreamResponse | None:
            if "/directory/" not in request.path:
                return await unsynced.answer(request)
            told = await proxy.carry_out(request)
            looked_up.set()
            return told

        async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, url=proxy.url) as side:
            await town.ann.text(old, "before")
            await side.until_said("before")
            proxy.answer = answer
            unsynced.tells.clear()
            new = await upgrade(town.ann, old)
            await town.ann.text(new, "after")
            await side.adapter.watch(frozenset({address(old), address(alias)}))
            await asyncio.wait_for(looked_up.wait(), PATIENCE)
            unsynced.tells.set()
            await side.until_said("before", "after")
            assert side.inbox.channels[old].id == new
            await side.until(lambda: "same room" in side.inbox.problems.get(alias, ""))


async def test_an_alias_that_names_the_replacement_while_that_is_entered_does_not_open_it_twice(town: Town) -> None:
    old = await town.ann.create_room(alias=f"twice{town.number}", version="11")
    alias, entering, looked_up = town.alias("twice"), asyncio.Event(), asyncio.Event()
    async with HomeserverProxy(town.homeserver.url) as proxy:

        async def answer(request: web.Request) -> web.StreamResponse | None:
            if request.path.endswith("/state/m.room.create") and "format" not in request.query:
                entering.set()
                await looked_up.wait()
            if "/join/" in request.path and entering.is_set():
                looked_up.set()
            return None

        proxy.answer = answer
        async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, url=proxy.url) as side:
            await side.until(lambda: old in side.inbox.channels)
            new = await upgrade(town.ann, old)
            await asyncio.wait_for(entering.wait(), PATIENCE)
            await side.adapter.watch(frozenset({address(old), address(alias)}))
            await side.until(lambda: side.inbox.channels[old].id == new)
            await side.until(lambda: "same room" in side.inbox.problems.get(alias, ""))
            await town.ann.text(new, "after")
            await side.until_said("after")


async def test_rooms_can_be_added_and_taken_away_while_it_runs(town: Town) -> None:
    first, second = await town.ann.create_room(), await town.ann.create_room()
    async with (
        matrix_side(town.homeserver, town.bot_id, [first], token=town.token) as side,
        Person(town.homeserver.url, town.bot_id, town.token) as bot,
    ):
        await bot.join(second)  # Long before it is declared: nothing from that time is copied.
        await town.ann.text(second, "private")
        await side.adapter.watch(frozenset({address(first), address(second)}))
        await side.until(lambda: second in side.inbox.channels)
        await town.ann.text(second, "public")
        await side.until_said("public")
        await side.adapter.watch(frozenset({address(second)}))
        await town.ann.text(first, "private again")
        await town.ann.text(second, "still public")
        await side.until_said("public", "still public")


async def test_messages_from_before_the_relay_joined_are_not_copied_and_all_later_ones_are(town: Town) -> None:
    place = await town.ann.create_room()
    await town.ann.text(place, "before")
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [], token=town.token, saved=saved):
        pass
    async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
        await bot.join(place)
    # More than one sync holds, so that our own join is in the gap.
    lines = [str(number) for number in range(130)]
    for line in lines:
        await town.ann.text(place, line)
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=saved) as side:
        await side.until_said(*lines)


async def test_a_kick_closes_the_room_and_an_invitation_opens_it_again(town: Town) -> None:
    place = await town.ann.create_room(public=False, invite=[town.bot_id])
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token) as side:
        farewell = await town.ann.text(place, "farewell")
        regretted = await town.ann.text(place, "regretted")
        await town.ann.kick(place, town.bot_id)
        await side.until(lambda: place in side.inbox.problems)
        assert f"removed from {place} by {town.ann.user_id}" in side.inbox.problems[place]
        with pytest.raises(ActionNeeded):
            await side.adapter.send(Delivery(room(place), "k", BOB, words("anybody?")))
        # More than one sync holds.
        meanwhile = [f"while it was away {number}" for number in range(110)]
        for line in meanwhile:
            await town.ann.text(place, line)
        await town.ann.edit(place, farewell, "so long")
        await town.ann.redact(place, regretted)
        await town.ann.invite(place, town.bot_id)
        await side.until(lambda: place not in side.inbox.problems)
        await town.ann.text(place, "welcome")
        await side.until(lambda: "welcome" in side.said)
        assert [line for line in side.said if line in meanwhile] == meanwhile
        others = [line for line in side.said if line not in meanwhile]
        assert others == ["farewell", "regretted", "edit: so long", "deletion", "welcome"]


@pytest.mark.parametrize("is_seen", [True, False])
async def test_who_comes_into_a_room_again_is_not_told_what_was_said_before_they_first_came(
    town: Town, is_seen: bool
) -> None:
    place = await town.ann.create_room(public=False)
    await town.ann.text(place, "before")
    await town.ann.invite(place, town.bot_id)
    saved = SavedState()

    async def remove() -> None:
        await town.ann.kick(place, town.bot_id)
        await town.ann.text(place, "meanwhile")

    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=saved) as side:
        await town.ann.text(place, "first")
        await side.until_said("first")
        if is_seen:
            await remove()
            await side.until(lambda: place in side.inbox.problems)
    if not is_seen:  # nor that it is back: somebody let it in with its own account
        await remove()
    await town.ann.invite(place, town.bot_id)
    if not is_seen:
        async with Person(town.homeserver.url, town.bot_id, town.token) as bot:
            await bot.join(place)
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=saved) as side:
        await side.until_said("first", "meanwhile")
        await town.ann.text(place, "welcome")
        await side.until_said("first", "meanwhile", "welcome")


async def test_what_a_room_has_become_while_the_relay_was_removed_holds_when_it_is_back(town: Town) -> None:
    place = await town.ann.create_room(public=False, invite=[town.bot_id])
    await town.ann.set_power(place, events_default=50)
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token) as side:
        assert "power level 50" in side.inbox.problems[place]
        for number in range(110):  # so that sync tells of the level apart from the timeline
            await town.ann.text(place, str(number))
        await town.ann.kick(place, town.bot_id)
        await side.until(lambda: "removed from" in side.inbox.problems[place])
        await town.ann.set_power(place, events_default=0)
        await town.ann.invite(place, town.bot_id)
        await town.ann.text(place, "welcome")
        await side.until(lambda: "welcome" in side.said)
        await side.until(lambda: place not in side.inbox.problems)


async def test_a_kick_while_the_relay_is_down_is_noticed(town: Town) -> None:
    place = await town.ann.create_room(public=False, invite=[town.bot_id])
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=saved):
        pass
    await town.ann.text(place, "farewell")
    await town.ann.ban(place, town.bot_id)
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token, saved=saved) as side:
        await side.until(lambda: place in side.inbox.problems)
        assert "banned" in side.inbox.problems[place]
        assert side.said == ["farewell"]
        await side.until(lambda: "is banned from" in side.inbox.problems[place])
        await town.ann.unban(place, town.bot_id)
        await town.ann.invite(place, town.bot_id)
        await side.until(lambda: place not in side.inbox.problems)
        await town.ann.text(place, "welcome")
        await side.until_said("farewell", "welcome")


async def test_nothing_is_sent_into_an_encrypted_room(town: Town) -> None:
    secret = await town.ann.create_room(encrypted=True)
    plain = await town.ann.create_room()
    async with matrix_side(town.homeserver, town.bot_id, [secret, plain], token=town.token) as side:
        assert "is encrypted" in side.inbox.problems[secret]
        await side.adapter.send(Delivery(room(plain), "k1", BOB, words("hi")))
        await town.ann.set_state(plain, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        await side.until(lambda: plain in side.inbox.problems)
        for place in (secret, plain):
            with pytest.raises(ActionNeeded, match="encrypted"):
                await side.adapter.send(Delivery(room(place), "k2", BOB, words("hi")))
        sent = [line for place in (secret, plain) for line in await town.ann.messages(place)]
        assert len(sent) == 1


async def test_without_the_power_to_write_the_room_is_closed_but_still_read(town: Town) -> None:
    place = await town.ann.create_room()
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token) as side:
        await town.ann.set_power(place, events_default=50)
        await side.until(lambda: place in side.inbox.problems)
        assert "power level 50" in side.inbox.problems[place]
        with pytest.raises(ActionNeeded, match="power level 50"):
            await side.adapter.send(Delivery(room(place), "k", BOB, words("hi")))
        await town.ann.text(place, "can you hear me?")
        await side.until_said("can you hear me?")
        await town.ann.set_power(place, events_default=0)
        await side.until(lambda: place not in side.inbox.problems)
        await side.adapter.send(Delivery(room(place), "k", BOB, words("yes")))


async def upgrade(by: Person, old: str) -> str:
    """A new room in place of the old one."""
    answer = await by.call("POST", f"client/v3/rooms/{old}/upgrade", {"new_version": "12"})
    return str(answer["replacement_room"])


@pytest.mark.parametrize("named", [True, False])
async def test_an_upgraded_room_is_followed_and_nothing_is_lost_or_written_into_the_old_one(
    town: Town, named: bool
) -> None:
    old = await town.ann.create_room(alias=f"moves{town.number}", version="11")
    declared = town.alias("moves") if named else old
    # With this power a bot could go on writing into the old room.
    await town.ann.set_power(old, users={town.ann.user_id: 100, town.bot_id: 50})
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [declared], token=town.token, saved=saved) as side:
        await town.ann.text(old, "before")
        await side.until_said("before")
        new = await upgrade(town.ann, old)
        await town.ann.text(new, "at once")
        await side.until(lambda: side.inbox.channels[declared].id == new)
        await town.ann.text(new, "later")
        await side.until_said("before", "at once", "later")
        assert side.inbox.predecessors[declared] == {old}
        with pytest.raises(ActionNeeded):
            await side.adapter.send(Delivery(room(old), "k", BOB, words("anybody?")))
        await side.adapter.send(Delivery(room(new), "k", BOB, words("yes")))
    # Messages and a second upgrade while the relay is away.
    await town.ann.text(new, "while it was away")
    newer = await upgrade(town.ann, new)
    await town.ann.text(newer, "in the newer one")
    async with matrix_side(town.homeserver, town.bot_id, [declared], token=town.token, saved=saved) as side:
        await side.until(lambda: side.inbox.channels[declared].id == newer)
        await side.until_said("before", "at once", "later", "while it was away", "in the newer one")
        assert side.inbox.predecessors[declared] == {old, new}
    assert [line.body for line in await town.ann.messages(old) if line.name] == []
    # The operator may declare the new room itself: nothing is lost or copied twice.
    async with matrix_side(town.homeserver, town.bot_id, [newer], token=town.token, saved=saved) as side:
        await town.ann.text(newer, "by its own name")
        await side.until(lambda: side.said[-1] == "by its own name")
        assert side.said.count("in the newer one") == 1


@pytest.mark.parametrize(
    ("trouble", "arrives"),
    [
        ("limited", ["one", "two", "three"]),
        ("forbidden", ["one", "three"]),
        ("failing", ["one", "three"]),
        ("failing once, after joins that failed", ["one", "two", "three"]),
        ("no tombstone", []),
    ],
)
async def test_what_cannot_be_posted_again_in_the_new_room(town: Town, trouble: str, arrives: list[str]) -> None:
    """Later, if that helps; else the others are, and the upgrade is followed."""
    old = await town.ann.create_room(invite=[town.bot_id], version="11")
    await town.ann.set_power(old, users={town.ann.user_id: 100, town.bot_id: 50})
    refusals = {
        "limited": (429, "M_LIMIT_EXCEEDED"),
        "forbidden": (403, "M_FORBIDDEN"),
        "failing": (500, "M_UNKNOWN"),
        "failing once, after joins that failed": (500, "M_UNKNOWN"),
    }
    async with HomeserverProxy(town.homeserver.url) as proxy:
        unsynced, new, refused, joins = Unsynced(proxy), "", 0, 0

        async def answer(request: web.Request) -> web.StreamResponse | None:
            nonlocal refused, joins
            if "joins" in trouble and "/join/" in request.path and new and joins < 7:
                joins += 1
                return web.json_response({"errcode": "M_UNKNOWN", "error": "no"}, status=502)
            if trouble == "no tombstone" and request.path.endswith(f"{old}/messages"):
                return web.json_response({"chunk": []})
            sends = trouble in refusals and new and f"/rooms/{new}/send/" in request.path
            if sends and "two" in await request.text() and (trouble in ("forbidden", "failing") or not refused):
                refused += 1
                status, code = refusals[trouble]
                return web.json_response({"errcode": code, "error": "no", "retry_after_ms": 50}, status=status)
            return await unsynced.answer(request)

        proxy.answer = answer
        async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, url=proxy.url) as side:
            unsynced.tells.clear()
            new = await upgrade(town.ann, old)
            sent = {
                word: await side.adapter.send(Delivery(room(old), word, BOB, words(word)))
                for word in ("one", "two", "three")
            }
            unsynced.tells.set()
            await side.until(lambda: side.inbox.channels[old].id == new)
            there = [line for line in await town.ann.messages(new) if line.name]
            assert [line.body.removeprefix("Bob: ") for line in there] == arrives
            moved = zip(arrives, there, strict=True)
            assert side.inbox.posted_again == {sent[word]: MessageRef(room(new), line.event_id) for word, line in moved}
            left = [line.body.removeprefix("Bob: ") for line in await town.ann.messages(old) if line.name]
            assert left == [word for word in sent if word not in arrives]
            assert refused == {"no tombstone": 0, "failing": 7}.get(trouble, 1)


async def test_a_room_with_many_servers_is_joined_through_those_of_its_alias_first(town: Town) -> None:
    """The others are dead for the most part, and ten of them were asked by the alphabet."""
    room_id = await town.ann.create_room()
    joined_through: list[str] = []
    async with HomeserverProxy(town.homeserver.url) as proxy:

        async def answer(request: web.Request) -> web.StreamResponse | None:
            if "/directory/room/" in request.path:
                servers = ["localhost", *(f"{number}.example" for number in range(99, 0, -1))]
                return web.json_response({"room_id": room_id, "servers": servers})
            if "/join/" in request.path:
                joined_through.extend(request.query.getall("via"))
            return None

        proxy.answer = answer
        async with matrix_side(
            town.homeserver, town.bot_id, ["#many:zoo.example"], token=town.token, url=proxy.url
        ) as side:
            await side.until(lambda: "#many:zoo.example" in side.inbox.channels)
    first, *others = joined_through
    assert first == "zoo.example"
    assert others[:3] == ["localhost", "99.example", "98.example"]
    assert len(joined_through) == 10


async def test_what_was_stranded_arrives_where_a_transaction_id_counts_in_all_rooms(town: Town) -> None:
    """As continuwuity has it. It would else be taken for posted, and removed from the old room."""
    old = await town.ann.create_room(invite=[town.bot_id], version="11")
    await town.ann.set_power(old, users={town.ann.user_id: 100, town.bot_id: 50})
    async with HomeserverProxy(town.homeserver.url) as proxy:
        unsynced, sent = Unsynced(proxy), dict[str, MessageRef]()

        async def answer(request: web.Request) -> web.StreamResponse | None:
            key = request.path.rpartition("/")[2]
            if "/send/" in request.path and key in sent:
                return web.json_response({"event_id": sent[key].id})
            return await unsynced.answer(request)

        proxy.answer = answer
        async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, url=proxy.url) as side:
            unsynced.tells.clear()
            new = await upgrade(town.ann, old)
            sent["key"] = await side.adapter.send(Delivery(room(old), "key", BOB, words("stranded")))
            unsynced.tells.set()
            await side.until(lambda: side.inbox.channels[old].id == new)
            (there,) = [line for line in await town.ann.messages(new) if line.name]
            assert there.body == "Bob: stranded"
            assert side.inbox.posted_again == {sent["key"]: MessageRef(room(new), there.event_id)}


async def test_what_only_looks_like_a_tombstone_keeps_nothing_in_the_old_room(town: Town) -> None:
    """Clients and homeservers go by the one without a key; through another homeserver, it need not even be state."""
    old = await town.ann.create_room(invite=[town.bot_id], version="11")
    await town.ann.set_power(old, users={town.ann.user_id: 100, town.bot_id: 50})
    async with HomeserverProxy(town.homeserver.url) as proxy:
        unsynced = Unsynced(proxy)
        async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, url=proxy.url) as side:
            unsynced.tells.clear()
            new = await upgrade(town.ann, old)
            await side.adapter.send(Delivery(room(old), "k", BOB, words("stranded")))
            content = {"body": "moved", "replacement_room": new}
            await town.ann.call("PUT", f"client/v3/rooms/{old}/state/m.room.tombstone/other", content)
            unsynced.tells.set()
            await side.until(lambda: side.inbox.channels[old].id == new)
            assert [line.body for line in await town.ann.messages(new) if line.name] == ["Bob: stranded"]


async def test_what_was_stranded_is_found_whatever_others_go_on_to_say_there(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the upgrade leaves everybody the power to write, one member may hide it behind any number of words."""
    monkeypatch.setattr(stranded, "_PAGES", 1)
    monkeypatch.setattr(stranded, "_PAGE", 4)
    old = await town.ann.create_room(invite=[town.bot_id], version="11")
    async with (
        person(town.homeserver, f"talker{town.number}") as talker,
        HomeserverProxy(town.homeserver.url) as proxy,
    ):
        await talker.join(old)
        await town.ann.set_power(old, users={town.ann.user_id: 100, town.bot_id: 50, talker.user_id: 50})
        unsynced = Unsynced(proxy)
        async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, url=proxy.url) as side:
            unsynced.tells.clear()
            new = await upgrade(town.ann, old)
            await side.adapter.send(Delivery(room(old), "k", BOB, words("stranded")))
            for number in range(4):
                await talker.text(old, f"more {number}")
            unsynced.tells.set()
            await side.until(lambda: side.inbox.channels[old].id == new)
            assert [line.body for line in await town.ann.messages(new) if line.name] == ["Bob: stranded"]


async def test_a_room_that_is_upgraded_again_at_once_is_followed_later_and_nothing_is_lost(town: Town) -> None:
    old = await town.ann.create_room(version="11")
    saved = SavedState()
    async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, saved=saved) as side:
        new = await upgrade(town.ann, old)
        await side.until(lambda: side.inbox.channels[old].id == new)
        newer = await upgrade(town.ann, new)
        await town.ann.text(newer, "in the newer one")
        await side.until(lambda: "followed in some minutes" in side.inbox.problems.get(old, ""))
        assert side.inbox.channels[old].id == new
    async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token, saved=saved) as side:
        await side.until_said("in the newer one")


def test_the_pause_between_two_replacements_doubles_and_is_forgotten() -> None:
    room = DeclaredRoom(ChannelAddress(Platform.MATRIX, "!a:b"), Backoff(random.Random(1)))
    now = 1_000.0
    for pause in (60, 120, 240):
        room.start_upgrade_pause(now)
        assert room.upgrade_at == now + pause
        now = room.upgrade_at
    room.start_upgrade_pause(now + 3600)
    assert room.upgrade_at == now + 3600 + 60


async def test_a_room_that_is_upgraded_while_the_relay_is_removed_is_read_on_from_there(town: Town) -> None:
    place = await town.ann.create_room(public=False, invite=[town.bot_id])
    async with matrix_side(town.homeserver, town.bot_id, [place], token=town.token) as side:
        await town.ann.text(place, "first")
        await side.until_said("first")
        await town.ann.kick(place, town.bot_id)
        await side.until(lambda: place in side.inbox.problems)
        new = await upgrade(town.ann, place)
        await town.ann.text(new, "meanwhile")
        for either in (new, place):
            await town.ann.invite(either, town.bot_id)
        await side.until(lambda: "meanwhile" in side.said)
        await town.ann.text(new, "welcome")
        await side.until_said("first", "meanwhile", "welcome")


async def test_a_replacement_that_needs_an_invitation_is_read_from_the_upgrade_on(town: Town) -> None:
    old = await town.ann.create_room(public=False, invite=[town.bot_id], version="11")
    async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token) as side:
        await town.ann.text(old, "before")
        await side.until_said("before")
        # Else it may not redact there, either, once the room is upgraded.
        await town.ann.set_power(old, users={town.ann.user_id: 100, town.bot_id: 50})
        secret = await side.adapter.send(Delivery(room(old), "secret", BOB, words("secret")))
        new = await upgrade(town.ann, old)
        await town.ann.text(new, "behind closed doors")
        await side.until(lambda: "invite it" in side.inbox.problems.get(old, ""))
        assert f"upgraded to {new}" in side.inbox.problems[old]
        # That may take days, and people read what stands here meanwhile.
        await side.adapter.delete(secret, "k")
        assert [line for line in await town.ann.messages(old) if line.name] == []
        await side.until_said("before", "deletion")
        with pytest.raises(ActionNeeded):
            await side.adapter.send(Delivery(room(old), "k", BOB, words("anybody?")))
        await town.ann.invite(new, town.bot_id)
        await side.until(lambda: old not in side.inbox.problems)
        await town.ann.text(new, "welcome")
        await side.until_said("before", "deletion", "behind closed doors", "welcome")


async def test_a_tombstone_that_its_successor_does_not_confirm_is_not_followed(town: Town) -> None:
    old, other = await town.ann.create_room(), await town.ann.create_room()
    async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token) as side:
        await town.ann.set_state(old, "m.room.tombstone", {"body": "moved", "replacement_room": other})
        await side.until(lambda: "does not say so" in side.inbox.problems.get(old, ""))
        await town.ann.text(other, "not for them")
        assert town.bot_id not in await town.ann.members(other)
        assert side.said == []


async def test_a_false_tombstone_does_not_make_the_relay_leave_a_room_that_it_was_in(town: Town) -> None:
    old, other = await town.ann.create_room(), await town.ann.create_room(public=False)
    await town.ann.invite(other, town.bot_id)
    async with matrix_side(town.homeserver, town.bot_id, [other], token=town.token):
        pass
    async with matrix_side(town.homeserver, town.bot_id, [old], token=town.token) as side:
        await town.ann.set_state(old, "m.room.tombstone", {"body": "moved", "replacement_room": other})
        await side.until(lambda: "does not say so" in side.inbox.problems.get(old, ""))
        assert town.bot_id in await town.ann.members(other)


async def test_an_alias_that_is_given_to_another_room_takes_the_pair_there(town: Town) -> None:
    old = await town.ann.create_room(alias=f"given{town.number}")
    await town.ann.set_state(old, "m.room.canonical_alias", {"alias": town.alias("given")})
    new = await town.ann.create_room()
    async with matrix_side(town.homeserver, town.bot_id, [town.alias("given")], token=town.token) as side:
        await town.ann.text(old, "in the old one")
        await side.until_said("in the old one")
        await town.ann.text(new, "before the alias named it")
        await town.ann.set_alias(town.alias("given"), new)
        await town.ann.set_state(old, "m.room.canonical_alias", {})
        await side.until(lambda: side.inbox.channels[town.alias("given")].id == new)
        # It is another room, not an upgrade of the old one.
        assert side.inbox.predecessors[town.alias("given")] == set()
        with pytest.raises(ActionNeeded):
            await side.adapter.send(Delivery(room(old), "k", BOB, words("anybody?")))
        await town.ann.text(new, "in the new one")
        await side.until_said("in the old one", "in the new one")


async def test_two_aliases_that_swap_their_rooms_are_both_followed(town: Town) -> None:
    rooms = [await town.ann.create_room(alias=f"{name}{town.number}") for name in ("left", "right")]
    aliases = [town.alias("left"), town.alias("right")]
    async with matrix_side(town.homeserver, town.bot_id, aliases, token=town.token) as side:
        for alias, place in zip(aliases, reversed(rooms), strict=True):
            await town.ann.set_alias(alias, place)
        for place in rooms:
            await town.ann.set_state(place, "m.room.canonical_alias", {"alias": aliases[1 - rooms.index(place)]})
        await side.until(lambda: [side.inbox.channels[alias].id for alias in aliases] == rooms[::-1])
        await side.until(lambda: not side.inbox.problems)


async def test_a_room_that_is_declared_by_its_other_name_goes_on_and_stays_closed_if_it_is_encrypted(
    town: Town,
) -> None:
    plain = await town.ann.create_room(alias=f"plain{town.number}")
    secret = await town.ann.create_room(alias=f"secret{town.number}", encrypted=True)
    aliases = (town.alias("plain"), town.alias("secret"))
    async with matrix_side(town.homeserver, town.bot_id, aliases, token=town.token) as side:
        said: list[str] = []
        for number, (open_one, closed_one) in enumerate(((plain, secret), aliases, (plain, secret))):
            side.inbox.news.clear()
            await side.adapter.watch(frozenset({address(open_one), address(closed_one)}))
            # At once, while nothing is known yet, and once all is.
            said += [f"{number} early", f"{number} late"]
            await town.ann.text(plain, f"{number} early")
            with pytest.raises(ActionNeeded):
                await side.adapter.send(Delivery(room(secret), f"s{number}", BOB, words("psst")))
            told = {f"opened {open_one}", f"closed {closed_one}"}
            await side.until(partial(told.issubset, side.inbox.news))
            assert "is encrypted" in side.inbox.problems[closed_one]
            assert open_one not in side.inbox.problems
            await side.adapter.send(Delivery(room(plain), f"k{number}", BOB, words(f"copy {number}")))
            await town.ann.text(plain, f"{number} late")
            await side.until_said(*said)
            with pytest.raises(ActionNeeded, match="encrypted"):
                await side.adapter.send(Delivery(room(secret), f"s{number}", BOB, words("psst")))
        copies = [line.body for line in await town.ann.messages(plain) if line.name]
        assert copies == ["Bob: copy 0", "Bob: copy 1", "Bob: copy 2"]
        assert await town.ann.messages(secret) == []


async def test_messages_from_while_a_room_was_not_declared_are_not_copied(town: Town) -> None:
    first, second = await town.ann.create_room(), await town.ann.create_room()
    async with matrix_side(town.homeserver, town.bot_id, [first, second], token=town.token) as side:
        await side.adapter.watch(frozenset({address(second)}))
        await town.ann.text(second, "it is gone")
        await side.until_said("it is gone")
        await town.ann.text(first, "private")
        await town.ann.text(second, "still gone")
        await side.until_said("it is gone", "still gone")
        side.inbox.news.clear()
        await side.adapter.watch(frozenset({address(first), address(second)}))
        await side.until(lambda: f"opened {first}" in side.inbox.news)
        await town.ann.text(first, "public")
        await side.until_said("it is gone", "still gone", "public")
