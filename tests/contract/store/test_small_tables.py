"""What every implementation of the smaller protocols of `core.storage` does."""

from relay.core.ports import Cursor
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress, Platform
from tests.support.store_contract import DISCORD, ELSEWHERE, ROOM


class TestSmallTables:
    async def test_cursors(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "10"))
            await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "11"))
            await unit.cursors.put(Cursor(Platform.MATRIX, "sync", "s1"))
        async with store.read() as unit:
            assert await unit.cursors.get(Platform.DISCORD, "channel:1") == "11"
            assert await unit.cursors.get(Platform.MATRIX, "sync") == "s1"
            assert await unit.cursors.get(Platform.MATRIX, "channel:1") is None

    async def test_a_notice_is_claimed_once(self, store: Store) -> None:
        async with store.write() as unit:
            assert await unit.once_keys.claim(ROOM, "thread 1")
            assert not await unit.once_keys.claim(ROOM, "thread 1")
            assert await unit.once_keys.claim(DISCORD, "thread 1")
        async with store.write() as unit:
            assert not await unit.once_keys.claim(ROOM, "thread 1")
            assert await unit.once_keys.claim(ELSEWHERE.destination, "thread 1")

    async def test_what_an_address_stands_for(self, store: Store) -> None:
        alias, other = (ChannelAddress(Platform.MATRIX, f"#{name}:b") for name in ("one", "two"))
        async with store.write() as unit:
            assert await unit.channels.get(alias) is None
            await unit.channels.bind(alias, ELSEWHERE.destination)
            await unit.channels.bind(other, ROOM)
            await unit.channels.bind(alias, ROOM)
        async with store.write() as unit:
            assert await unit.channels.get(alias) == ROOM
            assert await unit.channels.known() == {alias: ROOM, other: ROOM}
            await unit.channels.forget(alias)
            assert await unit.channels.known() == {other: ROOM}

    async def test_key_values(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "1")
            await unit.key_values.put("a", "☃" * 100_000)
        async with store.read() as unit:
            assert await unit.key_values.get("a") == "☃" * 100_000
            assert await unit.key_values.get("b") is None
