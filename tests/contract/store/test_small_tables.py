"""What every implementation of the smaller protocols of `core.storage` does."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from relay.core.people.storage import AvatarRecord, Ghost
from relay.core.ports import Cursor
from relay.core.storage import Store
from relay.domain.ids import ChannelAddress, MediaRef, Platform, UserRef
from relay.store.unit_of_work import SqlStore
from tests.support.store_contract import DISCORD, ELSEWHERE, ROOM, Closable


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

    async def test_where_a_stream_began(self, store: Store) -> None:
        began = {"a": "10", "b": "", "c": "20", "d": None}
        async with store.write() as unit:
            for stream, position in began.items():
                if position is not None:
                    await unit.cursors.put(Cursor(Platform.DISCORD, stream, position, resumes=stream == "c"))
        async with store.read() as unit:
            assert [await unit.cursors.began(Platform.DISCORD, stream) for stream in began] == ["10", None, None, None]
        for position in ("30", "40"):
            async with store.write() as unit:
                for stream in began:
                    await unit.cursors.put(Cursor(Platform.DISCORD, stream, position))
        async with store.read() as unit:
            assert [await unit.cursors.began(Platform.DISCORD, stream) for stream in began] == ["10", "30", None, "30"]
            assert await unit.cursors.get(Platform.DISCORD, "a") == "40"

    async def test_a_cursor_that_may_wait_goes_with_the_next_transaction(
        self, opener: Callable[[], Awaitable[Closable]]
    ) -> None:
        first, second = await opener(), await opener()

        async def position(store: Store) -> str | None:
            async with store.read() as unit:
                return await unit.cursors.get(Platform.DISCORD, "channel:1")

        first.put_later([Cursor(Platform.DISCORD, "channel:1", "10")])
        assert (await position(first), await position(second)) == ("10", None)
        with suppress(KeyError):
            async with first.write() as unit:
                await unit.key_values.put("a", "1")
                raise KeyError
        assert (await position(first), await position(second)) == ("10", None)
        async with first.write() as unit:
            await unit.key_values.put("a", "1")
        assert (await position(first), await position(second)) == ("10", "10")
        await first.close()
        await second.close()

    async def test_a_cursor_that_waits_never_goes_before_a_later_one(self, store: Store) -> None:
        store.put_later([Cursor(Platform.DISCORD, "channel:1", "10"), Cursor(Platform.MATRIX, "sync", "1")])
        with suppress(KeyError):
            async with store.write() as unit:
                await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", "11"))
                raise KeyError
        async with store.read() as unit:
            assert await unit.cursors.get(Platform.DISCORD, "channel:1") == "10"

        async def put(number: int) -> None:
            async with store.write() as unit:
                await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", str(number)))

        async with asyncio.TaskGroup() as group:  # they share a commit where the store can do that
            for number in (11, 12, 13):
                group.create_task(put(number))
        async with store.write() as unit:
            await unit.key_values.put("a", "1")
        async with store.read() as unit:
            assert await unit.cursors.get(Platform.DISCORD, "channel:1") == "13"
            assert await unit.cursors.get(Platform.MATRIX, "sync") == "1"

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
            assert await unit.key_values.several("b", "a") == [None, "☃" * 100_000]

    async def test_values_are_the_latest_also_after_the_start_was_prepared(self, store: SqlStore) -> None:
        async def put(value: str) -> None:
            async with store.write() as unit:
                await unit.cursors.put(Cursor(Platform.DISCORD, "written", value))
                await unit.key_values.put("written", value)
                assert await unit.cursors.get(Platform.DISCORD, "written") == value
                assert await unit.key_values.get("written") == value
                if value == "undone":
                    raise KeyError(value)

        async def found(name: str) -> list[str | None]:
            async with store.read() as unit:
                [several] = await unit.key_values.several(name)
                values = await unit.cursors.get(Platform.DISCORD, name), await unit.key_values.get(name)
                assert await unit.cursors.get(Platform.MATRIX, name) is None
                return [*values, several]

        async with store.write() as unit:
            for name in ("written", "left", "names of a channel"):
                await unit.cursors.put(Cursor(Platform.DISCORD, name, "before"))
                await unit.key_values.put(name, "before")
        await store.prepare_start()
        for name in ("written", "left", "names of a channel"):
            assert await found(name) == ["before"] * 3
        assert await found("nothing") == [None] * 3
        with pytest.raises(KeyError):
            await put("undone")
        assert await found("written") == ["before"] * 3
        await put("after")
        assert await found("written") == ["after"] * 3
        assert await found("left") == ["before"] * 3
        store.put_later([Cursor(Platform.DISCORD, "left", "later")])
        assert await found("left") == ["later", "before", "before"]
        await put("afterwards")
        assert await found("left") == ["later", "before", "before"]

    async def test_avatars(self, store: Store) -> None:
        ann, bob = UserRef(Platform.MATRIX, "@ann:b"), UserRef(Platform.MATRIX, "@bob:b")
        hers, his, shared = (MediaRef(Platform.DISCORD, id_) for id_ in ("1", "2", "3"))
        async with store.write() as unit:
            await unit.avatars.put(AvatarRecord(ann, "old", "x", hers))
            await unit.avatars.put(AvatarRecord(ann, "mxc://a", "a", hers))
            await unit.avatars.put(AvatarRecord(ann, "mxc://c", "c", shared))
            await unit.avatars.put(AvatarRecord(bob, "mxc://b", "b", his))
            await unit.avatars.put(AvatarRecord(bob, "mxc://d", "c", shared))
            await unit.avatars.put(AvatarRecord(ann, "old", "a", hers))
        async with store.read() as unit:
            found = {
                (one.user, one.source): (one.name, one.copy) for one in await unit.avatars.known(DISCORD.platform, 9)
            }
            assert len(await unit.avatars.known(Platform.DISCORD, 3)) == 3
            assert not await unit.avatars.known(Platform.MATRIX, 9)
        assert found == {
            (ann, "old"): ("a", hers),
            (ann, "mxc://a"): ("a", hers),
            (ann, "mxc://c"): ("c", shared),
            (bob, "mxc://b"): ("b", his),
            (bob, "mxc://d"): ("c", shared),
        }
        async with store.write() as unit:
            await unit.avatars.disown(ann)
        async with store.write() as unit:
            # A shared picture is still his.
            assert await unit.avatars.unowned(Platform.DISCORD) == [hers]
            assert {one.user for one in await unit.avatars.known(Platform.DISCORD, 9)} == {bob}
            await unit.avatars.forget_copy(hers)
            assert not await unit.avatars.unowned(Platform.DISCORD)
            await unit.avatars.disown(bob)
            assert set(await unit.avatars.unowned(Platform.DISCORD)) == {his, shared}

    async def test_the_avatars_used_last_are_kept(self, store: Store) -> None:
        records = [
            AvatarRecord(UserRef(Platform.MATRIX, f"@{number}:b"), "x", "x", MediaRef(Platform.DISCORD, str(number)))
            for number in range(5)
        ]
        async with store.write() as unit:
            for record in records:
                await unit.avatars.put(record)
            await unit.avatars.disown(records[0].user)
            await unit.avatars.use(records)
            await unit.avatars.trim(Platform.DISCORD, 2)
        async with store.read() as unit:
            assert len(await unit.avatars.known(Platform.DISCORD, 9)) == 2
            assert await unit.avatars.unowned(Platform.DISCORD) == [records[0].copy]

    async def test_ghosts_and_where_they_are(self, store: Store) -> None:
        ann, ben, cat = (Ghost(f"@_discord_{number}:b", "RELAY") for number in (1, 2, 3))
        async with store.write() as unit:
            for ghost in (ann, ben, cat):
                await unit.ghosts.put(ghost)
            await unit.ghosts.put(ann := Ghost(ann.account, "", "mxc://b/ann"))
            await unit.ghosts.join(ann.account, ROOM, "one")
            await unit.ghosts.join(ann.account, ROOM, "two")
            await unit.ghosts.join(ben.account, ROOM, "one")
            await unit.ghosts.join("@nobody:b", ROOM, "one")
            await unit.ghosts.leave(ben.account, ROOM)
        async with store.read() as unit:
            assert await unit.ghosts.get(ann.account) == ann
            assert await unit.ghosts.get("@nobody:b") is None
            assert await unit.ghosts.profile(ann.account, ROOM) == "two"
            assert await unit.ghosts.profile(ann.account, ELSEWHERE.destination) is None
            assert await unit.ghosts.profile(ben.account, ROOM) is None
            assert await unit.ghosts.profile("@nobody:b", ROOM) is None
            assert await unit.ghosts.inside(ROOM) == [ann.account]
            assert await unit.ghosts.inside(ELSEWHERE.destination) == []
            assert await unit.ghosts.channels(ann.account) == [ROOM]
            assert await unit.ghosts.channels(ben.account) == []
        async with store.write() as unit:
            await unit.ghosts.forget(ann.account)
        async with store.read() as unit:
            assert await unit.ghosts.get(ann.account) is None
            assert await unit.ghosts.channels(ann.account) == []
