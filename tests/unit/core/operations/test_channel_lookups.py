"""What is known of rooms that are not mirrored: asked for seldom, kept, and forgotten with the configuration."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from relay.core.operations.channel_lookups import ChannelLookups, known_channels, read_known_channels
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import Pair
from relay.errors import Transient
from relay.store.unit_of_work import open_store
from tests.support.clocks import FakeClock
from tests.support.store import new_store

GENERAL = ChannelAddress(Platform.MATRIX, "#general:example.org")
OTHER = ChannelAddress(Platform.MATRIX, "#other:example.org")
INFO = ChannelInfo("General", topic="All else", public=True, aliases=("#general:example.org",))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(new_store(tmp_path))
    yield opened
    await opened.close()


class Rooms:
    """A platform that knows some rooms, and counts how often it is asked."""

    def __init__(self, rooms: Mapping[str, ChannelInfo | None]) -> None:
        self.rooms = rooms
        self.asked: list[str] = []

    async def look_up(self, address: ChannelAddress) -> ChannelInfo | None:
        self.asked.append(address.value)
        if address.value not in self.rooms:
            raise Transient("nobody is there")
        return self.rooms[address.value]


def lookups(store: Store, rooms: Rooms, clock: FakeClock) -> ChannelLookups:
    return ChannelLookups(store=store, clock=clock, adapters={Platform.MATRIX: rooms}, wanted=lambda: [GENERAL, OTHER])


async def test_each_room_is_asked_for_once_an_hour_and_soon_again_after_a_failure(store: Store) -> None:
    rooms, clock = Rooms({GENERAL.value: INFO}), FakeClock()
    looking = lookups(store, rooms, clock)
    await looking.look()
    assert looking.known == {GENERAL: INFO}
    clock.seconds += 60
    await looking.look()
    clock.seconds += 3600
    await looking.look()
    assert sorted(rooms.asked) == [GENERAL.value] * 2 + [OTHER.value] * 3


async def test_what_nobody_tells_any_more_stays_known_and_what_is_not_listed_is_forgotten(store: Store) -> None:
    looking = lookups(store, Rooms({GENERAL.value: None, OTHER.value: None}), FakeClock())
    gone = ChannelAddress(Platform.MATRIX, "#gone:example.org")
    looking.known = {GENERAL: INFO, gone: INFO}
    await looking.look()
    assert looking.known == {GENERAL: INFO}


def test_a_channel_is_known_under_the_address_that_names_it() -> None:
    side, other = ChannelAddress(Platform.MATRIX, "#help:example.org"), ChannelAddress(Platform.DISCORD, "1")
    pairs = PairDirectory([Pair("help", (other, side), frozenset(Platform))], {side: ChannelRef(Platform.MATRIX, "!a")})
    mirrored = {ChannelRef(Platform.MATRIX, "!a"): INFO, ChannelRef(Platform.DISCORD, "1"): ChannelInfo("#help")}
    found = known_channels(pairs, mirrored, {GENERAL: INFO})
    assert found == {GENERAL: INFO, side: INFO, other: ChannelInfo("#help")}


async def test_without_a_daemon_what_it_saved_is_known_and_damaged_rows_are_not(store: Store) -> None:
    async with store.write() as uow:
        await uow.key_values.put("channel lookups", '[{"platform": "matrix", "address": "#a:b"}, 7, {"platform": 3}]')
        await uow.key_values.put("channel info", "no JSON")
    assert await read_known_channels(store, PairDirectory()) == {}
