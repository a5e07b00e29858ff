"""Caches are bounded by the bytes that they take, whatever strangers put into them."""

import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.gateway.guild_cache import GuildCache
from relay.adapters.matrix.rooms.state import MEMBERS, Members, RoomState
from relay.core.author_names import AuthorNames
from relay.core.clock import SystemClock
from relay.core.delivery.resolve import _Awaited
from relay.core.moderation.rules import RuleSet
from relay.core.recent import Recent
from relay.domain.commands import LateFile
from relay.domain.content import Attachment, Author
from relay.domain.events import PolicyRule
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from tests.support.world import World

MIB = 1024 * 1024
ANN = UserRef(Platform.DISCORD, "1")


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Tells how many bytes of what was allocated inside the block are still held."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.collect()
    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


def grown(fill: Callable[[], object]) -> int:
    """By how many bytes what Python has allocated grows while `fill` runs."""
    with traced() as held:
        kept = fill()
        grown = held()
    assert kept is not None
    return grown


def test_what_was_used_last_stays() -> None:
    cache = Recent[str, str](1000, lambda key, value: 100)
    for number in range(10):
        cache[str(number)] = "x"
        assert cache.get("0") == "x"
    assert list(cache) == ["7", "8", "9", "0"]


def test_one_that_is_too_large_for_itself_is_held_until_the_next_comes() -> None:
    cache = Recent[str, str](1000)
    cache["large"] = "x" * 5000
    assert cache["large"]
    cache["small"] = "y"
    assert list(cache) == ["small"]


@given(st.lists(st.tuples(st.sampled_from("sgd"), st.integers(0, 9), st.integers(0, 400)), max_size=60))
def test_the_size_is_that_of_what_is_held_and_within_the_bound(steps: list[tuple[str, int, int]]) -> None:
    cache = Recent[int, int](1000, lambda _, value: value)
    for step, key, value in steps:
        if step == "s":
            cache[key] = value
        elif step == "g":
            cache.get(key)
        else:
            cache.pop(key, None)
        assert cache.size == sum(120 + held for held in cache.values())
        assert cache.size <= 1000
    cache.clear()
    assert cache.size == 0
    assert len(cache) == 0


@pytest.mark.parametrize("length", [1, 100, 5_000])
@pytest.mark.parametrize("letter", ["a", "é", "鳥", "🐦"])
def test_it_takes_no_more_memory_than_it_says(length: int, letter: str) -> None:
    cache = Recent[tuple[str, str], str](MIB // 4)

    def fill() -> object:
        for number in range(MIB // (300 + length)):
            cache[f"!{number}:example.org", f"@{number}:example.org"] = f"{number}{letter * length}"
        return cache

    assert grown(fill) < 1.5 * MIB / 4
    assert cache.size > 0.8 * MIB / 4


def members() -> Iterator[object]:
    """A hundred people with the longest names in each of a hundred rooms."""
    together = Members(MEMBERS)
    for room in range(100):
        state = RoomState(f"!{room}:example.org", together)
        for person in range(100):
            content = {"membership": "join", "displayname": f"{person}" + "鳥" * 500}
            key = f"@{person}:example.org"
            state.apply({"type": "m.room.member", "sender": key, "state_key": key, "content": content})
        yield state


def nicknames() -> object:
    cache = GuildCache(SystemClock())
    for number in range(14_000):
        cache.remember_nickname("1", str(number), f"{number}" + "鳥" * 32)
    return cache


def answers() -> object:
    rules = RuleSet((PolicyRule("account", "@spam*", ""),), lambda user: user.id.partition(":")[2])
    for number in range(8_000):
        rules.rule_for(UserRef(Platform.MATRIX, f"@{number}:example.org"))
    return rules


@pytest.mark.parametrize(
    ("fill", "most"),
    [(lambda: list(members()), MEMBERS), (nicknames, 2 * MIB), (answers, MIB)],
    ids=["members", "nicknames", "answers"],
)
def test_what_strangers_choose_takes_no_more_than_its_share(fill: Callable[[], object], most: int) -> None:
    assert grown(fill) < 1.5 * most


async def test_what_the_core_keeps_of_people_files_and_channels_is_bounded(bridge: World) -> None:
    async with bridge.relay() as core:
        late_files, gate = core.dispatcher.resolver.late_files, core.dispatcher.resolver.reply_gate
        forgetter, router = core.forgetter, core.inbox.router
        file = Attachment("1", "a.png", "image", MediaRef(Platform.DISCORD, "https://a"))
        now = router.clock.now()
        for number in range(15_000):
            name = f"{number:0200}"
            lane = LaneKey(ChannelRef(Platform.DISCORD, name), ChannelRef(Platform.MATRIX, f"!{name}"))
            message = MessageRef(lane.source, name)
            late_files._deadline(LateFile(message, Author(ANN, "Ann"), file, now))
            forgetter._leave_alone(UserRef(Platform.MATRIX, name))
            router._told[lane.destination] = 1.0
            gate._heads[lane], gate._awaited[lane] = (1, 1.0), _Awaited(message, 1)
        kept = (late_files._given_up_at, forgetter._later, router._told, gate._heads, gate._awaited)
        assert [len(one) < 5_001 for one in kept] == [True] * len(kept)


async def test_the_names_in_all_channels_together_take_no_more_than_their_share(bridge: World) -> None:
    names, channels = AuthorNames(), [ChannelRef(Platform.MATRIX, f"!{number}:example.org") for number in range(150)]
    async with bridge.store.write() as uow:
        for number, channel in enumerate(channels):
            owners = {f"{number:05x}{name:05x}": f"{number:08x}{name:08x}" for name in range(300)}
            await uow.key_values.put(f"names matrix {channel.id}", json.dumps(owners))
        ann = Author(UserRef(Platform.MATRIX, "@ann:example.org"), "Ann")
        with traced() as held:
            for channel in channels:
                assert (await names.distinguished(uow, channel, ann)).name == "Ann"
            assert held() < 1.5 * 4 * MIB
