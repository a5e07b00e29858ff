"""Whoever is blocked by the operator, or by a policy list, is not carried over."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.bootstrap import Core
from relay.core.moderation.rules import RuleSet, from_text, to_text
from relay.core.ports import CommandCall, EventBatch
from relay.domain.events import PolicyListRead, PolicyRule
from relay.domain.ids import ChannelAddress, Platform, UserRef
from relay.domain.pair import Pair
from relay.errors import RateLimited
from tests.support.logs import captured_logs
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.world import lane, pair, redeclare, until, world

TO_MATRIX, TO_DISCORD = lane(Platform.MATRIX), lane(Platform.DISCORD)
LIST = ChannelAddress(Platform.MATRIX, "#bans")


def blocking(*globs: str, **more: Any) -> Pair:
    """A pair that blocks accounts of both platforms by these globs."""
    return pair(blocked=tuple((platform, glob) for glob in globs for platform in Platform), **more)


def following(**more: Any) -> Pair:
    return pair(policy_lists=(LIST,), **more)


async def listed(core: Core, *entities: str, kind: Any = "account", reason: str = "") -> None:
    """From now on the list has these rules."""
    rules = tuple(PolicyRule(kind, entity, reason) for entity in entities)
    await core.inbox.receive(EventBatch((PolicyListRead(LIST, rules),)))


async def test_whoever_is_blocked_does_not_cross_and_nobody_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, blocking("mal*")) as bridge:
        here, there = bridge.channels()
        with captured_logs() as logs:
            async with bridge.relay() as core:
                for number in range(3):
                    bridge.discord.say(here, "mallory", f"spam {number}")
                bridge.matrix.say(there, "mal", "spam")
                bridge.discord.say(here, "ann", "hello")
                bridge.matrix.say(there, "ben", "hi")
                await bridge.shows(there, "spam", "hi", "hello")
                await bridge.shows(here, "spam 0", "spam 1", "spam 2", "hello", "hi")
                await bridge.quiet()
                assert core.status.lane(TO_MATRIX).dropped == {"moderation": 3}
                assert core.status.lane(TO_DISCORD).dropped == {"moderation": 1}
        assert bridge.discord.reactions == bridge.matrix.reactions == []
        told = sorted((line["user"], line["why"]) for line in logs if line["event"] == "messages do not cross")
        assert told == [(who, "the operator has blocked mal*") for who in ("mal", "mallory")]


async def test_what_was_said_while_somebody_was_blocked_never_crosses(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            before = bridge.discord.say(here, "mallory", "before")
            gone = bridge.discord.say(here, "mallory", "gone")
            await bridge.shows(there, "before", "gone")
            await redeclare(core, blocking("mallory"))
            secret = bridge.discord.say(here, "mallory", "spam")
            bridge.discord.edit(before, "spam instead")
            bridge.discord.delete(gone)
            bridge.discord.say(here, "ann", "hello")
            await bridge.shows(there, "before", "hello")
            await redeclare(core, pair())
            bridge.discord.edit(secret, "spam again")
            bridge.discord.say(here, "mallory", "sorry")
            await bridge.shows(there, "before", "hello", "sorry")
            bridge.discord.edit(before, "better")
            await bridge.shows(there, "better", "hello", "sorry")
            await bridge.quiet()


async def test_linked_accounts_are_one_person(tmp_path: Path) -> None:
    async with world(tmp_path, blocking("mallory")) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            core.people.declare([(UserRef(Platform.DISCORD, "mallory"), UserRef(Platform.MATRIX, "other"))])
            bridge.matrix.say(there, "other", "spam")
            bridge.matrix.say(there, "ben", "hi")
            await bridge.shows(here, "hi")
            await bridge.quiet()


async def test_what_waits_when_somebody_is_blocked_does_not_cross_either(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        held = asyncio.Event()

        async def hold(call: str) -> None:
            if call == "send":
                await held.wait()

        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", hold)) as core:
            bridge.discord.say(here, "ann", "first")
            spam = bridge.discord.say(here, "mallory", "spam")
            bridge.discord.say(here, "ann", "last")
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with bridge.store.read() as uow:
                        if len(await uow.outbox.waiting(TO_MATRIX, 9)) == 3:
                            break
                    await asyncio.sleep(0.01)
            await redeclare(core, blocking("mallory"))
            held.set()
            await bridge.shows(there, "first", "last")
            await bridge.quiet()
            assert core.status.lane(TO_MATRIX).dropped == {"moderation": 1}
            await redeclare(core, pair())
            bridge.discord.edit(spam, "spam once more")
            bridge.discord.say(here, "ann", "after")
            await bridge.shows(there, "first", "last", "after")


async def test_a_shared_copy_that_waits_leaves_out_whoever_is_blocked_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path, pair(batch_when_behind=0.01)) as bridge:
        here, there = bridge.channels()
        refusals = iter([True, True])
        held, tried = asyncio.Event(), asyncio.Event()

        async def slow(call: str) -> None:
            if call != "send":
                return
            if next(refusals, False):
                if tried.is_set():
                    await held.wait()
                tried.set()
                raise RateLimited("slow down", retry_after=0.2)

        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", slow)) as core:
            for who, text in (("ann", "one"), ("mallory", "two"), ("ann", "three")):
                bridge.discord.say(here, who, text)
            await tried.wait()
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with bridge.store.read() as uow:
                        if len(await uow.outbox.waiting(TO_MATRIX, 9)) == 1:
                            break  # they are one entry now
                    await asyncio.sleep(0.01)
            await redeclare(core, blocking("mallory", batch_when_behind=0.01))
            held.set()
            await bridge.shows(there, "one", "three")
            await bridge.quiet()


async def test_an_answer_does_not_quote_whoever_is_blocked(tmp_path: Path) -> None:
    async with world(tmp_path, blocking("mallory")) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            spam = bridge.matrix.say(there, "mallory", "buy my things")
            bridge.matrix.say(there, "ben", "an answer", reply_to=spam)
            await until(lambda: len(bridge.words(here)) == 1)
            assert "an answer" in bridge.words(here)[0]
            assert "buy" not in bridge.words(here)[0]
            assert "mallory" not in bridge.words(here)[0]


async def test_an_answer_that_was_changed_meanwhile_is_not_told_by_its_quoted_line(tmp_path: Path) -> None:
    """Somebody who is blocked edits an old answer, and somebody else what it quotes."""
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            quoted = bridge.matrix.say(there, "ben", "question")
            answer = bridge.matrix.say(there, "mallory", "answer", reply_to=quoted)
            await until(lambda: len(bridge.words(here)) == 2)
            await bridge.quiet()
            await redeclare(core, blocking("mallory"))
            bridge.matrix.edit(answer, "spam")
            bridge.matrix.edit(quoted, "another question")
            await until(lambda: bridge.words(here)[0] == "another question")
            await bridge.quiet()
            assert "answer" in bridge.words(here)[1]
            assert "spam" not in bridge.words(here)[1]


async def test_what_a_policy_list_says_holds_at_once_and_over_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path, following()) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            assert bridge.matrix_adapter is not None
            assert bridge.matrix_adapter.lists == {LIST}
            bridge.matrix.say(there, "mal:evil", "before")
            await bridge.shows(here, "before")
            await listed(core, "mal*", reason="spam")
            bridge.matrix.say(there, "mal:evil", "not this")
            bridge.matrix.say(there, "ben", "one")
            await bridge.shows(here, "before", "one")
        async with bridge.relay() as core:
            # Nobody has read the list again yet.
            bridge.matrix.say(there, "mal:evil", "nor this")
            bridge.matrix.say(there, "ben", "two")
            await bridge.shows(here, "before", "one", "two")
            await listed(core, "ev*", kind="home")
            bridge.matrix.say(there, "anybody:evil", "nor that")
            bridge.matrix.say(there, "ben", "three")
            await bridge.shows(here, "before", "one", "two", "three")
            await listed(core)
            bridge.matrix.say(there, "mal:evil", "back")
            await bridge.shows(here, "before", "one", "two", "three", "back")
            await bridge.quiet()


async def test_a_reload_takes_a_list_out(tmp_path: Path) -> None:
    async with world(tmp_path, following()) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            await listed(core, "mal")
            await redeclare(core, pair())
            bridge.matrix.say(there, "mal", "free")
            await bridge.shows(here, "free")
            await listed(core, "mal")  # it was on its way
            await redeclare(core, following())
            bridge.matrix.say(there, "mal", "still free: it has not been read again")
            await until(lambda: len(bridge.words(here)) == 2)
            await listed(core, "mal")
        bridge.pairs = (pair(),)  # taken out while the relay was away
        async with bridge.relay():
            pass
        bridge.pairs = (following(),)
        async with bridge.relay():
            bridge.matrix.say(there, "mal", "free once more")
            await until(lambda: len(bridge.words(here)) == 3)


@pytest.mark.parametrize("ghosts", [True, False])
async def test_the_account_that_stands_for_somebody_may_be_listed_where_there_are_such(
    tmp_path: Path, ghosts: bool
) -> None:
    async with world(tmp_path, following(ghosts=ghosts)) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            await listed(core, "ghost of mal:relay")
            bridge.discord.say(here, "mal", "spam")
            bridge.discord.say(here, "ann", "hello")
            await bridge.shows(there, *([] if ghosts else ["spam"]), "hello")


@pytest.mark.parametrize(("kind", "entity"), [("account", "*"), ("home", "rel*"), ("account", "relay:*")])
async def test_no_list_may_be_about_the_relay_itself(tmp_path: Path, kind: str, entity: str) -> None:
    async with world(tmp_path, following()) as bridge:
        here, there = bridge.channels()
        with captured_logs() as logs:
            async with bridge.relay() as core:
                await listed(core, entity, kind=kind)
                bridge.matrix.say(there, "ben:relay", "hi")
                bridge.discord.say(here, "ann", "hello")
                await bridge.shows(here, "hello", "hi")
                await bridge.shows(there, "hi", "hello")
                [note] = core.moderation.notes(core.pairs.pairs[0])
                assert "about the relay itself" in note
        assert [line for line in logs if line["event"] == "rules about the relay itself are not followed"]


async def test_a_list_holds_in_the_pairs_that_name_it_only(tmp_path: Path) -> None:
    other = pair("other")
    async with world(tmp_path, following(), other) as bridge:
        _, there = bridge.channels("other")
        here, _ = bridge.channels("other")
        async with bridge.relay() as core:
            await listed(core, "mal")
            bridge.matrix.say(there, "mal", "spam")
            await bridge.shows(here, "spam")


async def test_commands_of_whoever_is_blocked_are_still_answered(tmp_path: Path) -> None:
    """They may unlink, or ask to be forgotten."""
    async with world(tmp_path, blocking("ann")) as bridge:
        here, _ = bridge.channels()
        async with bridge.relay() as core:
            call = CommandCall(UserRef(Platform.DISCORD, "ann"), here, ("whoami",), private=True)
            assert await core.inbox.command(call)


async def test_an_archived_pair_follows_no_list(tmp_path: Path) -> None:
    async with world(tmp_path, replace(following(), destinations=frozenset()), pair("other")) as bridge:

        def nothing_followed(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
            assert matrix.lists == frozenset()

        async with bridge.relay(nothing_followed) as core:
            assert core.moderation.notes(core.pairs.pairs[0]) == ()


def test_rules_survive_the_store_and_a_damaged_row() -> None:
    rules = (PolicyRule("account", "a*", "x"), PolicyRule("home", "evil.example"))
    assert from_text(to_text(rules)) == rules
    for text in ("", "{", "1", '[["account"], ["other", "a", ""], ["home", 1, ""], null]'):
        assert from_text(text) == ()


def test_ten_thousand_rules_are_asked_quickly() -> None:
    rules = tuple(PolicyRule("account", f"@spam{number}-*:evil.example") for number in range(5_000))
    rules += tuple(PolicyRule("home", f"evil{number}.example") for number in range(5_000))
    made = RuleSet(rules, lambda user: user.id.partition(":")[2])
    assert made.unused == 0
    for number in range(2_000):
        assert made.rule_for(UserRef(Platform.MATRIX, f"@nobody{number}:matrix.example")) is None
    assert made.rule_for(UserRef(Platform.MATRIX, "@spam4999-x:evil.example")) == rules[4_999]
    assert made.rule_for(UserRef(Platform.MATRIX, "@a:evil4999.example")) == rules[9_999]
