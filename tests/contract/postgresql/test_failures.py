"""What the server and the network may do: told in plain words, and the store is well again afterwards."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import bindparam, select, text

from relay.domain.ids import Platform, UserRef
from relay.errors import StoreError, StoreUnavailable
from relay.store.postgresql.connections import failure
from relay.store.tables import message
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.postgresql import Server
from tests.support.store_contract import NOON, ROOM, there

SECRET = "open-sesame"


def database(url: str) -> str:
    """Its name."""
    return url.partition("@/")[2].partition("?")[0]


async def put(store: SqlStore, value: str) -> None:
    async with store.write() as unit:
        await unit.key_values.put("a", value)


async def get(store: SqlStore) -> str | None:
    async with store.read() as unit:
        return await unit.key_values.get("a")


@pytest.fixture
async def store(either: str) -> AsyncIterator[SqlStore]:
    """A store that has its connections to itself, and one that shares them."""
    opened = await open_store(either)
    yield opened
    await opened.close()


@pytest.fixture
def guest(running: Server, url: str) -> str:
    """The URL of the database for somebody who may not do anything, with a wrong password."""
    running.run(f"DO $$ BEGIN CREATE ROLE guest LOGIN PASSWORD '{SECRET}'; EXCEPTION WHEN OTHERS THEN NULL; END $$")
    return url.replace("relay@", "guest:wrong@")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url, server: url.replace("test_", "none_"), "there is no such database .*; create it: CREATE DATABASE"),
        (lambda url, server: url.replace(str(server.folder), "/tmp/nowhere"), "the server cannot be reached"),
        (
            lambda url, server: f"{url.partition('?')[0]}?host=127.0.0.1&port=1",
            ".connection refused: 127.0.0.1, port 1.;",
        ),
        (lambda url, server: f"{url.partition('?')[0]}?host=nowhere.invalid", "the server cannot be reached"),
    ],
)
async def test_nobody_there(url: str, running: Server, change: object, words: str) -> None:
    assert callable(change)
    with pytest.raises(StoreUnavailable, match=words):
        await open_store(change(url, running))


async def test_a_wrong_password_and_the_right_one_of_somebody_else(guest: str) -> None:
    with pytest.raises(StoreUnavailable, match="refuses the user or the password") as caught:
        await open_store(guest)
    assert "wrong@" not in str(caught.value)
    assert "guest@" in str(caught.value)
    with pytest.raises(StoreUnavailable, match="the user may not do that") as caught:
        await open_store(guest.replace("wrong", SECRET))
    assert SECRET not in str(caught.value)


async def test_no_tables(empty: str) -> None:
    with pytest.raises(StoreError, match="its tables are missing or outdated; run `relay db upgrade`"):
        await open_store(empty)


async def test_read_only_for_a_while(store: SqlStore, url: str, running: Server) -> None:
    await put(store, "before")
    for sql, words in (("on", "it is read-only"), ("off", "")):
        running.run(f"ALTER DATABASE {database(url)} SET default_transaction_read_only = {sql}")
        running.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(url)}'"
            " AND starts_with(application_name, 'relay')"
        )
        if words:
            with pytest.raises(StoreUnavailable, match=words):
                await put(store, "meanwhile")
            assert await get(store) == "before"
            assert words in str(await store.problem())
    await put(store, "after")
    assert await get(store) == "after"
    assert await store.problem() is None


async def test_two_write_in_turn_whatever_isolation_the_database_is_set_to(either: str, running: Server) -> None:
    """The second one failed each time, and before last_commits read what had stood there before it had the lock."""
    name = database(either)
    running.run(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    one, other = await open_store(either), await open_store(either)

    async def longer() -> None:
        async with other.write() as unit:
            await unit.key_values.put("a", f"{await unit.key_values.get('a')}, longer")

    waits = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'advisory'"
    try:
        await put(one, "before")
        async with one.write() as unit:
            await unit.key_values.get("b")  # it begins
            writing = asyncio.create_task(longer())
            while not await asyncio.to_thread(running.run, waits):
                assert not writing.done()
            await unit.key_values.put("a", "after")
        await writing
        assert await get(one) == "after, longer"
    finally:
        await one.close()
        await other.close()


async def test_every_connection_is_ended_between_two_transactions(store: SqlStore, url: str, running: Server) -> None:
    for number in range(3):
        running.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(url)}'"
            " AND starts_with(application_name, 'relay')"
        )
        await put(store, str(number))
        assert await get(store) == str(number)


async def test_every_connection_is_ended_between_two_looks(either: str, running: Server) -> None:
    store = await open_store(either)
    try:
        await put(store, "there")
        for _ in range(3):
            async with store.look() as unit:
                assert await unit.key_values.get("a") == "there"
            await asyncio.to_thread(
                running.run,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(either)}'",
            )
    finally:
        await store.close()


async def test_a_connection_that_ends_within_a_transaction(store: SqlStore, url: str, running: Server) -> None:
    async def cut() -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "half")
            await asyncio.to_thread(
                running.run, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(url)}'"
            )
            await unit.key_values.put("b", "half")

    with pytest.raises(StoreUnavailable):
        await cut()
    assert await get(store) is None
    await put(store, "whole")
    assert await get(store) == "whole"


async def test_an_error_that_somebody_caught_commits_nothing(store: SqlStore) -> None:
    async def go_on() -> None:
        async with store.write() as unit:
            await unit.key_values.put("a", "x")
            with pytest.raises(asyncpg.PostgresError):
                await unit.transaction.execute(text("INSERT INTO channel (platform) VALUES ('x')"), {})
            with pytest.raises(StoreUnavailable, match="an earlier statement"):
                await unit.key_values.put("b", "x")

    # The server tells the row, and so people's words, which no log may hold.
    with pytest.raises(asyncpg.NotNullViolationError, match=r"violates not-null constraint\Z"):
        await go_on()
    assert await get(store) is None


async def test_the_values_of_a_wrong_statement_are_not_told(store: SqlStore) -> None:
    with pytest.raises(asyncpg.DataError, match=r"\Ainvalid input [^:]*\Z"):
        async with store.read() as unit:
            await unit.transaction.first(select(message.c.id).where(message.c.id == bindparam("x")), {"x": "words"})


async def test_locked_by_another_process(either: str) -> None:
    store, other = await open_store(either, busy_timeout=0.2), await open_store(either)
    async with other.write() as unit:
        await unit.key_values.put("a", "theirs")
        with pytest.raises(StoreUnavailable, match="it is locked by another process"):
            await put(store, "ours")
    await put(store, "ours")
    assert await get(store) == "ours"
    for each in (store, other):
        await each.close()


async def test_text_that_postgresql_cannot_hold_is_replaced(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.key_values.put("a", "nul \0 half \ud800")
        assert await unit.messages.add(there("1\0"), UserRef(Platform.DISCORD, "\0"), NOON, None)
        assert await unit.once_keys.claim(ROOM, "key \0")
        assert not await unit.once_keys.claim(ROOM, "key \0")
    assert await get(store) == "nul \N{REPLACEMENT CHARACTER} half ?"
    async with store.read() as unit:
        assert await unit.messages.find(there("1\0")) is not None


def test_a_full_disk_and_other_codes() -> None:
    for code, words in {
        "53100": "the server's disk is full",
        "53300": "no connection left",
        "57P03": "starting",
    }.items():
        error = asyncpg.PostgresError("x")
        error.sqlstate = code
        assert words in str(failure("db", error))
    assert "does not answer in time" in str(failure("db", TimeoutError()))


@pytest.mark.parametrize("kind", [asyncpg.InterfaceError, asyncpg.InternalClientError])
def test_a_lost_connection_is_told_in_words_of_ours(kind: type[Exception]) -> None:
    said = failure("db", kind("cannot switch to state 12; another operation (2) is in progress"))
    assert said.reason == "the connection was lost"
    # What is wrong with the address is in the library's words only.
    assert failure("db", asyncpg.ClientConfigurationError("no such key file\nHINT:  x")).reason.endswith(
        "said as it should be (no such key file)"
    )


def test_an_address_that_was_tried_is_told_in_plain_words() -> None:
    both = OSError(
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 5432, 0, 0),"
        " [Errno 111] Connect call failed ('127.0.0.1', 5432)"
    )
    assert failure("db", both).reason == (
        "the server cannot be reached (connection refused: ::1, port 5432 and 127.0.0.1, port 5432)"
    )
    assert failure("db", OSError("it is broken")).reason == "the server cannot be reached (it is broken)"
