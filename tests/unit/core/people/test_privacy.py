"""`optout`, `optin` and `forget`: what somebody does not want to cross does not, and what is known of them goes."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relay.core.people.forgetting import is_kept_back
from relay.core.people.storage import ForgetRequest
from relay.core.ports import CommandCall, EventBatch
from relay.domain.commands import Digest, DigestItem, SendMessage
from relay.domain.content import Author, Content
from relay.domain.events import MessageCreated
from relay.domain.ids import MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import Transient
from tests.support.patience import PATIENCE
from tests.support.world import World, lane, pair, until, world

ANN = UserRef(Platform.DISCORD, "ann")
BEN = UserRef(Platform.MATRIX, "ben")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def ask(bridge: World, *words: str, user: UserRef = ANN) -> str:
    assert bridge.core is not None
    where = next(one for one in bridge.channels() if one.platform is user.platform)
    return plain_text(await bridge.core.inbox.command(CommandCall(user, where, words, private=True)))


async def forgotten(bridge: World) -> None:
    """Wait until nobody is to be forgotten any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with bridge.store.read() as uow:
                if not await uow.people.requests(1):
                    return
            await asyncio.sleep(0.05)


async def test_who_opts_out_is_not_carried_over_until_they_opt_in(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        bridge.discord.say(here, "ann", "before")
        await bridge.shows(there, "before")
        assert "nothing that you write" in await ask(bridge, "optout")
        secret = bridge.discord.say(here, "ann", "not this")
        bridge.discord.edit(secret, "nor this")
        bridge.discord.say(here, "bob", "this")
        await bridge.shows(there, "before", "this")
        async with bridge.store.read() as uow:
            assert await uow.messages.find(secret) is None
        assert core.status.lane(lane(Platform.MATRIX)).dropped == {"optout": 1}
    async with bridge.relay():
        bridge.discord.say(here, "ann", "still not")
        bridge.discord.say(here, "bob", "and this")
        await bridge.shows(there, "before", "this", "and this")
        assert "opted out" in await ask(bridge, "whoami")
        assert "crosses again" in await ask(bridge, "optin")
        assert "have not opted out" in await ask(bridge, "optin")
        bridge.discord.say(here, "ann", "after")
        await bridge.shows(there, "before", "this", "and this", "after")
    assert len(bridge.shown(there)) == 4


async def test_what_comes_again_does_not_cross_because_its_author_is_in_again(bridge: World) -> None:
    """Nothing of it is on record. Seen in the simulation, seed 7170609."""
    here, there = bridge.channels()
    again: list[EventBatch] = []

    def doubled(batches: Sequence[EventBatch]) -> EventBatch | None:
        says = [plain_text(event.content.text) for event in batches[-1].events if isinstance(event, MessageCreated)]
        again.extend([batches[-1]] if "not this" in says else ())
        return again.pop() if "go on" in says else None

    async with bridge.relay(lambda discord, _: setattr(discord, "doubled", doubled)):
        await ask(bridge, "optout")
        bridge.discord.say(here, "ann", "not this")
        await until(lambda: bool(again))
        await ask(bridge, "optin")
        bridge.discord.say(here, "bob", "go on")
        await until(lambda: not again)
        bridge.discord.say(here, "ann", "but this")
        await bridge.shows(there, "go on", "but this")
        await bridge.quiet()


async def test_earlier_copies_of_who_opted_out_follow_their_edits_and_deletions(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        first, second = (bridge.matrix.say(there, "ben", word) for word in ("one", "two"))
        await bridge.shows(here, "one", "two")
        bridge.matrix.say(there, "ben", "!relay optout")
        bridge.matrix.edit(first, "something else")
        bridge.matrix.delete(second)
        await bridge.shows(here, "something else")
        await bridge.quiet()


async def test_what_waited_when_somebody_opted_out_does_not_cross(bridge: World) -> None:
    here, there = bridge.channels()
    held = asyncio.Event()

    async def hold(call: str) -> None:
        if call == "send":
            await held.wait()

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", hold)):
        bridge.discord.say(here, "bob", "first")
        await until(lambda: bool(bridge.core and bridge.core.status.lane(lane(Platform.MATRIX))))
        bridge.discord.say(here, "ann", "waits")
        bridge.discord.say(here, "bob", "waits, too")
        async with asyncio.timeout(PATIENCE):
            while True:
                async with bridge.store.read() as uow:
                    if len(await uow.outbox.waiting(lane(Platform.MATRIX), 9)) == 3:
                        break
                await asyncio.sleep(0.01)
        await ask(bridge, "optout")
        held.set()
        await bridge.shows(there, "first", "waits, too")
        await bridge.quiet()
    assert bridge.words(there) == ["first", "waits, too"]


async def test_whoever_answers_somebody_who_opted_out_does_not_quote_them(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        bridge.matrix.say(there, "ben", "!relay optout")
        secret = bridge.matrix.say(there, "ben", "my secret")
        bridge.matrix.say(there, "carl", "an answer", reply_to=secret)
        await until(lambda: len(bridge.words(here)) == 1)
        assert "an answer" in bridge.words(here)[0]
        assert "secret" not in bridge.words(here)[0]
        assert "ben" not in bridge.words(here)[0]


@pytest.mark.parametrize("shown", [True, False])
async def test_a_pair_may_show_that_somebody_is_not_carried_over(tmp_path: Path, shown: bool) -> None:
    async with world(tmp_path, pair(show_opted_out=shown)) as bridge, bridge.relay():
        here, there = bridge.channels()
        await ask(bridge, "optout")
        for number in range(20):
            bridge.discord.say(here, "ann", f"secret {number}")
        bridge.discord.say(here, "bob", "this")
        await until(lambda: "this" in bridge.words(there))
        await bridge.quiet()
        told = [words for words in bridge.words(there) if words != "this"]
        assert len(told) == shown
        assert not any("ann" in words or "secret" in words for words in told)


async def test_forget_removes_what_is_known_and_leaves_the_copies(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        first = bridge.discord.say(here, "ann", "one")
        other = bridge.discord.say(here, "bob", "two")
        await bridge.shows(there, "one", "two")
        core.people.settled.clear()
        async with bridge.store.write() as uow:
            await uow.people.link(ANN, BEN, NOW)
            own = SendMessage(MessageRef(here, "9"), Author(ANN, "Ann"), Content(RichText.plain("dead")), NOW)
            items = tuple(
                DigestItem(MessageRef(here, str(number)), Author(UserRef(Platform.DISCORD, name), name), Content(), NOW)
                for number, name in ((10, "ann"), (11, "bob"))
            )
            for command in (own, Digest(items), Digest(items[:1])):
                entry = await uow.outbox.append(lane(Platform.MATRIX), command, NOW)
                await uow.outbox.dead_letter(entry.id, "no", NOW)
        assert "is being removed" in await ask(bridge, "forget")
        await forgotten(bridge)
        async with bridge.store.read() as uow:
            original = await uow.messages.find(first)
            assert original is not None
            assert original.author.id == ""
            kept = await uow.messages.find(other)
            assert kept is not None
            assert kept.author.id == "bob"
            assert await uow.people.linked(BEN) == {}
            letters = [letter.entry.command for letter in await uow.outbox.dead()]
            assert letters == [Digest(items[1:])]
            for letter in await uow.outbox.dead():
                assert "'ann'" not in repr(letter)
        assert bridge.words(there) == ["one", "two"]
        bridge.discord.delete(first)
        await bridge.shows(there, "two")


async def test_forget_copies_deletes_them_and_goes_on_after_a_restart(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        for number in range(5):
            bridge.discord.say(here, "ann", f"a{number}")
            bridge.discord.say(here, "bob", f"b{number}")
        await until(lambda: len(bridge.words(there)) == 10)
        await bridge.quiet()
        assert "are being deleted" in await ask(bridge, "forget", "Copies")
        await until(lambda: len(bridge.words(there)) < 10)
    async with bridge.relay():
        await forgotten(bridge)
        await bridge.quiet()
        assert bridge.words(there) == [f"b{number}" for number in range(5)]
        assert len(bridge.words(here)) == 10
        async with bridge.store.read() as uow:
            assert (await uow.messages.written_by(ANN, 0, 100))[1] == ()


async def test_the_copies_go_though_somebody_asks_for_less_meanwhile(bridge: World) -> None:
    """Until then most of them stayed, and what was said before could cross by a backfill."""
    here, there = bridge.channels()
    async with bridge.relay():
        for number in range(5):
            bridge.discord.say(here, "ann", f"a{number}")
        await until(lambda: len(bridge.words(there)) == 5)
        await bridge.quiet()
        await ask(bridge, "forget", "copies")
        assert "are being deleted" in await ask(bridge, "forget")
        await forgotten(bridge)
        await bridge.quiet()
        assert bridge.words(there) == []
        async with bridge.store.read() as uow:
            assert await is_kept_back(uow, ANN)


async def test_forget_asks_for_a_word_it_knows_and_not_all_the_time(bridge: World) -> None:
    async with bridge.relay():
        assert "/relay forget copies" in await ask(bridge, "forget", "everybody")
        async with bridge.store.read() as uow:
            assert await uow.people.requests(9) == ()
        for _ in range(2):
            assert "is being removed" in await ask(bridge, "forget")
        assert "a moment ago" in await ask(bridge, "forget")


async def test_whoever_keeps_something_of_people_is_asked_until_it_is_gone(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.core.people.forgetting._AFTER_TROUBLE", 0.05)
    asked: list[UserRef] = []

    class Keeper:
        async def forget_person(self, user: UserRef) -> None:
            asked.append(user)
            async with bridge.store.read() as uow:
                assert await uow.people.requests(9) == (ForgetRequest(ANN, copies=False),)
            if len(asked) < 3:
                raise (Transient("not now") if len(asked) == 1 else ValueError("a bug"))

    async with bridge.relay() as core:
        core.forgetter.forgetters = (Keeper(),)
        await ask(bridge, "forget")
        await forgotten(bridge)
    assert asked == [ANN] * 3


async def test_those_who_have_to_wait_keep_nobody_from_being_forgotten(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.core.people.forgetting._PEOPLE", 2)

    class Keeper:
        async def forget_person(self, user: UserRef) -> None:
            if user.id != "z":
                raise Transient("not now")

    async with bridge.relay() as core:
        core.forgetter.forgetters = (Keeper(),)
        async with bridge.store.write() as uow:
            for name in "abcdefz":
                await uow.people.put_request(ForgetRequest(UserRef(Platform.DISCORD, name), copies=False))
        core.people.settled.set()
        async with asyncio.timeout(PATIENCE):
            while True:
                async with bridge.store.read() as uow:
                    left = {request.user.id for request in await uow.people.requests(9)}
                if "z" not in left:
                    break
                await asyncio.sleep(0.05)
        assert left == set("abcdef")
