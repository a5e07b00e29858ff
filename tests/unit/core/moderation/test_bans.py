"""Bans that follow: whoever is banned does not cross, and what they wrote last goes where the pair says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.moderation import bans
from relay.core.moderation.ports import Decision
from relay.core.ports import EventBatch
from relay.domain.events import MemberBanned, MemberUnbanned
from relay.domain.ids import PlaceRef, Platform, UserRef
from relay.errors import ActionNeeded, Transient
from tests.support.logs import captured_logs
from tests.support.memory_adapter import MemoryAdapter
from tests.support.patience import PATIENCE
from tests.support.world import World, pair, until, world

MAL, OTHER = UserRef(Platform.DISCORD, "mal"), UserRef(Platform.MATRIX, "other")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bans, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(bans, "_LIST_AGAIN", 0.05)
    monkeypatch.setattr(bans, "_LOOKS_FOR_A_DECISION", 500)


@asynccontextmanager
async def following(folder: Path, **more: Any) -> AsyncIterator[World]:
    async with world(folder, pair(follow_bans=True, **more)) as made:
        yield made


async def banned(bridge: World, *users: UserRef, place: UserRef | None = None) -> None:
    """Wait until these accounts are known to be banned from somewhere, and no others."""
    names = {"mal", "other", "ann", "ben", "bob"}
    every = [UserRef(platform, name) for platform in Platform for name in sorted(names)]
    async with asyncio.timeout(PATIENCE):
        while True:
            async with bridge.store.read() as uow:
                if {user for user in every if await uow.people.banned_from(user)} == set(users):
                    return
            await asyncio.sleep(0.01)


async def until_listed(bridge: World) -> None:
    """Wait until both lists of bans have been read for the first time."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with bridge.store.read() as uow:
                names = [f"bans listed {channel.platform} {channel.id}" for channel in bridge.channels()]
                if all([await uow.key_values.get(name) for name in names]):
                    return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("follows", [True, False])
async def test_a_ban_of_one_account_holds_for_those_linked_with_it(tmp_path: Path, follows: bool) -> None:
    async with world(tmp_path, pair(follow_bans=follows)) as bridge:
        here, there = bridge.channels()
        with captured_logs() as logs:
            async with bridge.relay() as core:
                core.people.declare([(MAL, OTHER)])
                bridge.matrix.say(there, "other", "before")
                await bridge.shows(here, "before")
                bridge.discord.ban(here, "mal")
                if follows:
                    await banned(bridge, MAL, OTHER)
                bridge.matrix.say(there, "other", "spam")
                bridge.matrix.say(there, "ben", "hi")
                await bridge.shows(here, "before", *([] if follows else ["spam"]), "hi")
                bridge.discord.unban(here, "mal")
                await banned(bridge)
                bridge.matrix.say(there, "other", "back")
                await until(lambda: bridge.words(here)[-1] == "back")
        told = [line for line in logs if line["event"] in {"ban followed", "ban lifted"}]
        assert [line["event"] for line in told] == (["ban followed", "ban lifted"] if follows else [])
        assert all(line["user"] == "mal" and line["linked"] == "other" for line in told)


async def test_to_unlink_does_not_let_the_other_account_speak(tmp_path: Path) -> None:
    async with following(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            core.people.declare([(MAL, OTHER)])
            bridge.discord.ban(here, "mal")
            await banned(bridge, MAL, OTHER)
            core.people.declare([])
            bridge.matrix.say(there, "other", "spam")
            bridge.matrix.say(there, "ben", "hi")
            await bridge.shows(here, "hi")
            # And to be linked later with somebody who is banned silences as well.
            core.people.declare([(MAL, UserRef(Platform.MATRIX, "ann"))])
            bridge.matrix.say(there, "ann", "spam")
            bridge.matrix.say(there, "ben", "hello")
            await bridge.shows(here, "hi", "hello")


async def test_a_ban_holds_in_its_own_place_only(tmp_path: Path) -> None:
    async with world(tmp_path, pair(follow_bans=True), pair("other", follow_bans=True)) as bridge:
        here, _ = bridge.channels()
        _, elsewhere = bridge.channels("other")
        async with bridge.relay() as core:
            core.people.declare([(MAL, OTHER)])
            bridge.discord.ban(here, "mal")
            await banned(bridge, MAL, OTHER)
            bridge.matrix.say(elsewhere, "other", "hello")
            await bridge.shows(bridge.channels("other")[0], "hello")


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
async def test_what_they_wrote_last_goes_where_the_pair_says_so(tmp_path: Path, seconds: float) -> None:
    async with following(tmp_path, ban_removes=seconds) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            await until_listed(bridge)
            for number in range(12):
                bridge.discord.say(here, "mal", f"spam {number}")
            bridge.discord.say(here, "ann", "hello")
            await until(lambda: len(bridge.words(there)) == 13)
            bridge.discord.ban(here, "mal")
            await banned(bridge, MAL)
            if seconds:
                await bridge.shows(there, "hello")
            await bridge.quiet()
            assert len(bridge.words(there)) == (1 if seconds else 13)
            assert len(bridge.words(here)) == 13  # where they were written, moderators decide


async def test_nothing_older_goes_and_none_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(tmp_path, ban_removes=0.001) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            await until_listed(bridge)
            bridge.discord.say(here, "mal", "old")
            bridge.discord.say(here, "ann", "hello")
            await bridge.shows(there, "old", "hello")
            await asyncio.sleep(0.05)
            bridge.discord.ban(here, "mal")
            await banned(bridge, MAL)
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with bridge.store.read() as uow:
                        if not await uow.key_values.get("removals after bans"):
                            break
                    await asyncio.sleep(0.01)
            await bridge.quiet()
            assert bridge.words(there) == ["old", "hello"]


async def test_a_ban_may_ask_that_all_goes(tmp_path: Path) -> None:
    async with following(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            await until_listed(bridge)
            bridge.matrix.say(there, "other", "spam")
            await bridge.shows(here, "spam")
            bridge.matrix.ban(there, "other", removes_all=True)
            await bridge.shows(here)


async def test_bans_that_were_missed_are_found_and_those_of_before_remove_nothing(tmp_path: Path) -> None:
    ann = UserRef(Platform.DISCORD, "ann")
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            bridge.discord.say(here, "ann", "from before")
            bridge.discord.say(here, "mal", "spam")
            await bridge.shows(there, "from before", "spam")
            await bridge.quiet()
        bridge.discord.ban(here, "ann", live=False)
        bridge.pairs = (pair(follow_bans=True, ban_removes=3600.0),)
        async with bridge.relay():
            await until_listed(bridge)
            await banned(bridge, ann)
            await bridge.quiet()
            assert bridge.words(there) == ["from before", "spam"]
        bridge.discord.ban(here, "mal", live=False)
        async with bridge.relay():
            await banned(bridge, MAL, ann)
            await bridge.shows(there, "from before")
        bridge.discord.unban(here, "mal", live=False)
        async with bridge.relay() as core:
            await banned(bridge, ann)
            # Within one life, where the adapter knows that it may have missed something.
            bridge.discord.ban(here, "mal", live=False)
            assert bridge.discord_adapter is not None
            bridge.discord_adapter.missed_bans += 1
            await banned(bridge, MAL, ann)
            assert core.moderation.notes(core.pairs.pairs[0]) == ()


async def test_a_ban_that_was_told_while_nobody_followed_it_is_found_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path) as bridge:
        here, _ = bridge.channels()
        async with bridge.relay() as core:
            await until_listed(bridge)
            monkeypatch.setattr(bans, "_LOOK_EVERY", 0.5)  # what follows comes between two looks
            await until(lambda: bool(core.moderation.bans._listed))
            core.inbox.declare(())
            bridge.discord.ban(here, "mal", live=False)
            place = PlaceRef(Platform.DISCORD, here.id)
            await core.inbox.receive(EventBatch((MemberBanned(place, MAL),)))
            core.inbox.declare(bridge.pairs)
            await banned(bridge, MAL)


async def test_bans_of_before_remove_nothing_also_where_the_pair_was_taken_out_while_they_were_read(
    tmp_path: Path,
) -> None:
    begin = asyncio.Event()

    async def before(call: str) -> None:
        if call == "bans":
            await begin.wait()

    async def deliver_to_nobody(batch: EventBatch) -> None:
        core.moderation.bans.deliver = deliver
        core.inbox.declare(())
        await deliver(batch)
        core.inbox.declare(bridge.pairs)
        for side, channel in zip(bridge.pairs[0].sides, (here, there), strict=True):
            await core.inbox.opened(side, channel)

    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            bridge.discord.say(here, "mal", "from before")
            await bridge.shows(there, "from before")
            await bridge.quiet()
        bridge.discord.ban(here, "mal", live=False)
        bridge.pairs = (pair(follow_bans=True, ban_removes=3600.0),)
        async with bridge.relay(lambda discord, _: setattr(discord, "before", before)) as core:
            deliver, core.moderation.bans.deliver = core.moderation.bans.deliver, deliver_to_nobody
            begin.set()
            await banned(bridge, MAL)
            await bridge.quiet()
            async with bridge.store.read() as uow:
                assert not await core.moderation.bans._removals(uow)
            assert bridge.words(there) == ["from before"]


async def test_what_is_told_before_the_list_is_worked_off_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path) as bridge:
        here, _ = bridge.channels()
        place = PlaceRef(Platform.DISCORD, here.id)
        async with bridge.relay() as core:
            await until_listed(bridge)
            bridge.discord.ban(here, "mal")
            await banned(bridge, MAL)
            monkeypatch.setattr(bans, "_LOOK_EVERY", 0.5)  # what follows comes between two looks
            core.inbox.declare(())
            bridge.discord.unban(here, "mal", live=False)
            await core.inbox.receive(EventBatch((MemberUnbanned(place, MAL),)))

            async def late(batch: EventBatch) -> None:
                await core.inbox.receive(EventBatch((MemberBanned(place, MAL),)))
                await core.inbox.receive(batch)

            core.moderation.bans.deliver = late
            with captured_logs() as logs:
                core.inbox.declare(bridge.pairs)
                await until(lambda: any(line["event"] == "bans listed" for line in logs))
            await banned(bridge, MAL)


async def test_a_restart_neither_loses_nor_repeats_a_removal(tmp_path: Path) -> None:
    async with following(tmp_path, ban_removes=3600.0) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            await until_listed(bridge)
            bridge.discord.say(here, "mal", "spam")
            await bridge.shows(there, "spam")
            await bridge.quiet()

            held = asyncio.Event()

            async def hold(call: str) -> None:
                if call == "delete":
                    held.set()
                    await asyncio.Event().wait()

            assert bridge.matrix_adapter is not None
            bridge.matrix_adapter.before = hold
            bridge.discord.ban(here, "mal")
            await held.wait()
        async with bridge.relay():
            await bridge.shows(there)
            await bridge.quiet()
            bridge.discord.unban(here, "mal")
            await banned(bridge)
            bridge.discord.say(here, "mal", "sorry")
            await bridge.shows(there, "sorry")
        async with bridge.relay():
            bridge.discord.say(here, "ann", "hello")
            await bridge.shows(there, "sorry", "hello")
            await bridge.quiet()


async def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    async with following(tmp_path) as bridge:
        here, _ = bridge.channels()
        allowed = False

        async def refuse(call: str) -> None:
            if call == "bans" and not allowed:
                raise ActionNeeded("the bans cannot be listed: give it that permission")

        def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
            discord.before = refuse

        async with bridge.relay(prepare) as core:
            await until(lambda: bool(core.moderation.notes(core.pairs.pairs[0])))
            [note] = core.moderation.notes(core.pairs.pairs[0])
            assert "give it that permission" in note
            bridge.discord.ban(here, "mal")  # what is told live counts all the same
            await banned(bridge, MAL)
            allowed = True
            await until(lambda: not core.moderation.notes(core.pairs.pairs[0]))


async def test_nothing_comes_back_and_archived_pairs_follow_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, replace(pair(follow_bans=True), destinations=frozenset()), pair("b")) as bridge:
        here, _ = bridge.channels()
        async with bridge.relay():
            bridge.discord.ban(here, "mal")
            bridge.discord.say(bridge.channels("b")[0], "ann", "hello")
            await bridge.shows(bridge.channels("b")[1], "hello")
            await banned(bridge)
            assert bridge.matrix.bans == {}


async def test_a_damaged_row_of_removals_is_left_out(tmp_path: Path) -> None:
    async with following(tmp_path, ban_removes=3600.0) as bridge:
        here, there = bridge.channels()
        async with bridge.store.write() as uow:
            await uow.key_values.put("removals after bans", '[1, ["x"], ["discord", "a", "x", "b", "y", "c", 1, null]]')
        async with bridge.relay():
            await until_listed(bridge)
            bridge.discord.say(here, "mal", "spam")
            await bridge.shows(there, "spam")
            bridge.discord.ban(here, "mal")
            await bridge.shows(there)


async def test_of_two_bans_of_one_person_each_ends_by_itself(tmp_path: Path) -> None:
    place = PlaceRef(Platform.DISCORD, "1")
    async with world(tmp_path) as bridge:
        async with bridge.store.write() as uow:
            assert await uow.people.ban(place, MAL, because=MAL)
            assert not await uow.people.ban(place, MAL, because=MAL)
            assert await uow.people.ban(place, OTHER, because=MAL)
            assert await uow.people.ban(place, OTHER, because=OTHER)  # a ban of their own
            assert not await uow.people.ban(place, OTHER, because=MAL)
        async with bridge.store.write() as uow:
            assert await uow.people.banned(place) == {MAL, OTHER}
            assert await uow.people.unban(place, because=MAL) == (MAL,)
        async with bridge.store.read() as uow:
            assert await uow.people.banned_from(OTHER) == {place}
            assert await uow.people.banned_from(MAL) == frozenset()


async def test_the_log_names_the_moderator_and_the_reason_once_they_are_told(tmp_path: Path) -> None:
    async with following(tmp_path) as bridge:
        here, _ = bridge.channels()
        with captured_logs() as logs:
            async with bridge.relay():
                await until_listed(bridge)
                bridge.discord.ban(here, "mal")
                await banned(bridge, MAL)
                # A platform may write it down only after it has told of the ban.
                bridge.discord.decisions[here.id, "mal", False] = Decision("olga", "spam")
                await until(lambda: any(line["event"] == "banned by" for line in logs))
                bridge.discord.decisions[here.id, "mal", True] = Decision("olga", "")
                bridge.discord.unban(here, "mal")
                await until(lambda: any(line["event"] == "ban lifted by" for line in logs))
        told = [line for line in logs if line["event"] in ("banned by", "ban lifted by")]
        assert [(line["user"], line["moderator"], line["reason"]) for line in told] == [
            ("mal", "olga", "spam"),
            ("mal", "olga", "none given"),
        ]


async def test_the_platform_is_asked_again_while_it_does_not_answer_and_the_line_comes_once(tmp_path: Path) -> None:
    asked = 0

    async def away(call: str) -> None:
        nonlocal asked
        if call == "decision":
            asked += 1
            if asked <= 3:
                raise Transient("502")

    def prepare(discord: MemoryAdapter, _: MemoryAdapter) -> None:
        discord.before = away

    async with following(tmp_path) as bridge:
        here, _ = bridge.channels()
        bridge.discord.decisions[here.id, "mal", False] = Decision("olga", "spam")
        with captured_logs() as logs:
            async with bridge.relay(prepare):
                await until_listed(bridge)
                bridge.discord.ban(here, "mal")
                await until(lambda: any(line["event"] == "banned by" for line in logs))
                bridge.discord.unban(here, "mal")
                await until(lambda: asked > 6)  # of the end of the ban nothing is told
        assert [(line["moderator"], line["reason"]) for line in logs if line["event"] == "banned by"] == [
            ("olga", "spam")
        ]


async def test_a_platform_that_never_answers_is_not_asked_for_ever_and_the_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bans, "_ASKED_FOR", 0.1)
    monkeypatch.setattr(bans, "_MOST_UNEXPLAINED", 2)

    async def away(call: str) -> None:
        if call == "decision":
            raise Transient("502")

    def prepare(discord: MemoryAdapter, _: MemoryAdapter) -> None:
        discord.before = away

    async with following(tmp_path) as bridge:
        here, _ = bridge.channels()
        with captured_logs() as logs:
            async with bridge.relay(prepare):
                await until_listed(bridge)
                for name in ("mal", "bob", "ben"):  # one more than are remembered
                    bridge.discord.ban(here, name)
                await until(lambda: sum(line["event"] == "banned by" for line in logs) == 3)
        told = [line for line in logs if line["event"] == "banned by"]
        assert {line["user"] for line in told} == {"mal", "bob", "ben"}
        assert {line["moderator"] for line in told} == {"unknown"}


async def test_where_the_platform_does_not_say_who_banned_them_the_ban_holds_all_the_same(tmp_path: Path) -> None:
    async def refused(call: str) -> None:
        if call == "decision":
            raise ActionNeeded("the audit log may not be read")

    def prepare(discord: MemoryAdapter, _: MemoryAdapter) -> None:
        discord.before = refused

    async with following(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay(prepare):
            await until_listed(bridge)
            bridge.discord.ban(here, "mal")
            await banned(bridge, MAL)
            bridge.discord.say(here, "mal", "spam")
            bridge.discord.say(here, "ann", "hello")
            await bridge.shows(there, "hello")
