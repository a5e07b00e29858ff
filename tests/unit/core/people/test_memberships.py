"""Everybody who may read a channel is brought to the other side, where that is wanted, and goes on after trouble."""

import asyncio
from pathlib import Path

from relay.domain.ids import Platform, UserRef
from relay.errors import Transient
from tests.support.world import pair, until, world


async def test_who_may_read_a_channel_comes_but_bots_and_those_who_opted_out(tmp_path: Path) -> None:
    async with world(tmp_path, pair("help"), pair("other")) as made:
        here, there = made.channels("help")
        other, _ = made.channels("other")
        made.discord.readers = {here: ["ann", "ben", "cat"], other: ["ann"]}
        made.matrix.wants_everybody = {there}
        cat = UserRef(Platform.DISCORD, "cat")
        async with made.store.write() as unit:
            await unit.people.opt_out(cat, made.clock.now())
        async with made.relay() as core:
            task = asyncio.create_task(core.memberships.run())
            await until(lambda: len(made.matrix.members) == 2, [task])
            task.cancel()
        assert made.matrix.members == {(there, UserRef(Platform.DISCORD, name)) for name in ("ann", "ben")}


async def test_it_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        here, there = made.channels()
        made.discord.readers = {here: ["ann", "ben"]}
        made.matrix.wants_everybody = {there}
        calls = 0

        async def fail_once(call: str) -> None:
            nonlocal calls
            calls += call == "add_member"
            if call == "add_member" and calls == 2:
                raise Transient("the homeserver is away")

        for _ in range(2):
            async with made.relay(lambda _, matrix: setattr(matrix, "before", fail_once)) as core:
                task = asyncio.create_task(core.memberships.run())
                before = calls
                await until(lambda before=before: calls >= before + 2, [task])  # type: ignore[misc]
                task.cancel()
        assert len(made.matrix.members) == 2


async def test_who_left_while_nobody_told_of_it_leaves_behind_their_last_words(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        here, there = made.channels()
        ann, ben = (UserRef(Platform.DISCORD, name) for name in ("ann", "ben"))
        made.matrix.members = {(there, ann), (there, ben)}
        made.discord.departed = {"ann"}
        words: list[str] = []

        async def note_down(call: str) -> None:
            if call == "remove_member":
                words.extend(made.words(there))

        async with made.relay(lambda _, matrix: setattr(matrix, "before", note_down)) as core:
            made.discord.say(here, "ann", "my last words")
            await until(lambda: made.words(there) == ["my last words"])
            task = asyncio.create_task(core.memberships.run())
            await until(lambda: made.matrix.members == {(there, ben)}, [task])
            task.cancel()
        assert words == ["my last words"]
