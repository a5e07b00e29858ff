"""Linking two accounts: a code for one account of the other side, said there, once, in time, and by nobody else."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from relay.core.clock import SystemClock
from relay.core.people.codes import _ALPHABET, _LENGTH, _MOST_TRIES
from relay.core.ports import CommandCall
from relay.domain.ids import Platform, UserRef
from relay.domain.text.nodes import plain_text
from tests.support.codes import guess
from tests.support.world import World, until, world

ANN = UserRef(Platform.DISCORD, "ann")
BEN = UserRef(Platform.MATRIX, "ben")


@dataclass
class Clock(SystemClock):
    """A clock that a test puts forward."""

    ahead: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        """The time of day."""
        return super().now() + self.ahead

    def monotonic(self) -> float:
        """Seconds."""
        return super().monotonic() + self.ahead.total_seconds()


async def ask(bridge: World, *words: str, user: UserRef = ANN, name: str = "Ann") -> str:
    """A private answer."""
    assert bridge.core is not None
    where = next(one for one in bridge.channels() if one.platform is user.platform)
    return plain_text(await bridge.core.inbox.command(CommandCall(user, where, words, private=True, name=name)))


async def say(bridge: World, words: str, who: str = "ben") -> str:
    """What the relay answers to a command in the room."""
    _, there = bridge.channels()
    ref = bridge.matrix.say(there, who, words)
    await until(lambda: any(message.reply_to == ref for message in bridge.shown(there)))
    return next(message.text for message in bridge.shown(there) if message.reply_to == ref)


def code_in(told: str) -> str:
    found = re.search(r"!relay link (\S+)", told)
    assert found is not None, told
    return found[1]


async def linked(bridge: World, user: UserRef) -> UserRef | None:
    assert bridge.core is not None
    other = Platform.MATRIX if user.platform is Platform.DISCORD else Platform.DISCORD
    return await bridge.core.people.linked(user, other)


async def test_a_code_links_the_two_accounts_and_either_ends_it(bridge: World) -> None:
    here, _ = bridge.channels()
    async with bridge.relay():
        code = code_in(await ask(bridge, "link", "matrix:ben"))
        told = await say(bridge, f"!relay link {code.upper()}")
        assert told.startswith("You are linked with Ann (ann) on Discord now.")
        assert await linked(bridge, ANN) == BEN
        assert await linked(bridge, BEN) == ANN
        assert "linked with ben on Matrix" in await ask(bridge, "whoami")
        told = await say(bridge, "!relay whoami")
        assert "linked with an account on Discord" in told
        assert "ann" not in told
        assert "not linked" in await say(bridge, "!relay unlink")
        assert await linked(bridge, ANN) is await linked(bridge, BEN) is None
        await say(bridge, f"!relay link {code_in(await ask(bridge, 'link', 'matrix:ben'))}")
        assert await linked(bridge, BEN) == ANN
        assert "not linked" in await ask(bridge, "unlink")
        assert await linked(bridge, BEN) is None
        await bridge.quiet()
    assert bridge.words(here) == []


async def test_a_code_is_of_no_use_to_anybody_else_and_only_once(bridge: World) -> None:
    async with bridge.relay():
        told = await ask(bridge, "link", "matrix:ben")
        code = code_in(told)
        assert "no such code" in await say(bridge, f"!relay link {code}", "eve")
        assert "no such code" in await ask(bridge, "link", code)
        assert await linked(bridge, UserRef(Platform.MATRIX, "eve")) is None
        assert "You are linked" in await say(bridge, f"!relay link {code}")
        assert "You are linked with an account" in await say(bridge, f"!relay link {code}")
        await say(bridge, "!relay unlink")
        assert "no such code" in await say(bridge, f"!relay link {code}")


async def test_a_newer_code_replaces_the_older_one(bridge: World) -> None:
    async with bridge.relay():
        old = code_in(await ask(bridge, "link", "matrix:ben"))
        new = code_in(await ask(bridge, "link", "matrix:ben"))
        assert "no such code" in await say(bridge, f"!relay link {old}")
        assert "You are linked" in await say(bridge, f"!relay link {new}")


async def test_a_code_expires(bridge: World) -> None:
    clock = bridge.clock = Clock()
    async with bridge.relay():
        code = code_in(await ask(bridge, "link", "matrix:ben"))
        clock.ahead = timedelta(minutes=16)
        assert "no such code" in await say(bridge, f"!relay link {code}")
        assert await linked(bridge, BEN) is None


async def test_a_code_outlives_a_restart(bridge: World) -> None:
    async with bridge.relay():
        code = code_in(await ask(bridge, "link", "matrix:ben"))
    async with bridge.relay():
        assert "You are linked" in await say(bridge, f"!relay link {code}")
    async with bridge.relay():
        assert await linked(bridge, ANN) == BEN


async def test_a_room_never_sees_a_code(bridge: World) -> None:
    async with bridge.relay():
        for words in ("!relay link", "!relay link discord:ann", "!relay link matrix:ben", "!relay link @ann"):
            told = await say(bridge, words)
            assert "/relay link ben" in told
            assert re.search(rf"\b[{_ALPHABET}]{{{_LENGTH}}}\b", told) is None
        async with bridge.store.read() as uow:
            assert await uow.people.codes_for(ANN, 9) == ()


async def test_a_link_of_either_account_has_to_end_before_another(bridge: World) -> None:
    async with bridge.relay():
        await say(bridge, f"!relay link {code_in(await ask(bridge, 'link', 'matrix:ben'))}")
        assert "You are linked with ben" in await ask(bridge, "link", "matrix:carl")
        bob = UserRef(Platform.DISCORD, "bob")
        code = code_in(await ask(bridge, "link", "matrix:ben", user=bob))  # says nothing of ben
        assert "You are linked with an account" in await say(bridge, f"!relay link {code}")
        assert await linked(bridge, BEN) == ANN


async def test_a_code_of_somebody_who_is_linked_by_now_links_nobody(bridge: World) -> None:
    async with bridge.relay() as core:
        code = code_in(await ask(bridge, "link", "matrix:ben"))
        core.people.declare([(ANN, UserRef(Platform.MATRIX, "carl"))])
        assert "linked with another account by now" in await say(bridge, f"!relay link {code}")
        assert await linked(bridge, BEN) is None


async def test_what_the_operator_declares_needs_no_code_and_is_theirs_to_end(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge, bridge.relay() as core:
        assert await linked(bridge, ANN) is None
        core.people.declare([(ANN, BEN)])
        assert await linked(bridge, ANN) == BEN
        assert await linked(bridge, BEN) == ANN
        assert "The operator has declared that." in await ask(bridge, "whoami")
        assert "Ask them" in await ask(bridge, "unlink")
        core.people.declare([])
        assert await linked(bridge, BEN) is None


async def test_a_new_link_ends_what_a_declared_one_had_covered(bridge: World) -> None:
    """Else one account stays linked with somebody who is linked with a third, once the declaration goes."""
    async with bridge.relay() as core:
        await say(bridge, f"!relay link {code_in(await ask(bridge, 'link', 'matrix:ben'))}")
        core.people.declare([(UserRef(Platform.DISCORD, "carl"), BEN)])
        eve = UserRef(Platform.MATRIX, "eve")
        await say(bridge, f"!relay link {code_in(await ask(bridge, 'link', 'matrix:eve'))}", "eve")
        assert await linked(bridge, ANN) == eve
        core.people.declare([])
        assert await linked(bridge, ANN) == eve
        assert await linked(bridge, BEN) is None


async def test_wrong_codes_are_limited(bridge: World) -> None:
    clock = bridge.clock = Clock()
    async with bridge.relay():
        code = code_in(await ask(bridge, "link", "matrix:ben"))
        for _ in range(_MOST_TRIES):
            assert "no such code" in await say(bridge, "!relay link aaaaaaaaaa")
        clock.ahead += timedelta(minutes=2)  # the limit of commands is another one
        assert "Too many wrong codes" in await say(bridge, f"!relay link {code}")
        assert await linked(bridge, BEN) is None
        clock.ahead += timedelta(minutes=14)
        code = code_in(await ask(bridge, "link", "matrix:ben"))
        assert "You are linked" in await say(bridge, f"!relay link {code}")


@pytest.mark.parametrize("pending", [19, 20])
async def test_few_may_ask_for_one_account_at_a_time(bridge: World, pending: int) -> None:
    async with bridge.relay():
        for number in range(pending):
            await ask(bridge, "link", "matrix:ben", user=UserRef(Platform.DISCORD, f"d{number}"))
        told = await ask(bridge, "link", "matrix:ben")
    assert ("Too many others" in told) == (pending == 20)


async def test_whom_others_ask_for_can_clear_that(bridge: World) -> None:
    async with bridge.relay():
        for number in range(20):
            await ask(bridge, "link", "matrix:ben", user=UserRef(Platform.DISCORD, f"d{number}"))
        await say(bridge, "!relay unlink")
        code = code_in(await ask(bridge, "link", "matrix:ben"))
        assert "You are linked" in await say(bridge, f"!relay link {code}")


async def test_no_guess_finds_a_code(tmp_path: Path) -> None:
    """`python -m tests.code_fuzz` makes 100,000 others."""
    assert await guess(tmp_path, 400, seed=1) is None
