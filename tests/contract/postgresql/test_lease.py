"""One daemon per database, by the database's clock."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from relay.core.clock import SystemClock
from relay.errors import StoreHeld, StoreUnavailable
from relay.store import migrate
from relay.store.lease import HeldLease, Holder, hold, holder_of, is_held, last_seen, standbys, standing_by
from relay.store.postgresql import lease as leases
from relay.store.postgresql.connections import writer_name
from relay.store.postgresql.store import PostgresqlStore
from relay.store.postgresql.transactions import write_lock
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.patience import PATIENCE
from tests.support.postgresql import Server
from tests.support.stack import eventually

CLOCK = SystemClock()


@pytest.fixture
async def store(either: str) -> AsyncIterator[SqlStore]:
    """A store that has its connections to itself, and one that shares them."""
    opened = await open_store(either)
    yield opened
    await opened.close()


@pytest.fixture
async def other(either: str) -> AsyncIterator[SqlStore]:
    """The same database, as another process opens it."""
    opened = await open_store(either)
    yield opened
    await opened.close()


def database(url: str) -> str:
    """Its name."""
    return url.partition("@/")[2].partition("?")[0]


async def since(session: asyncpg.Connection) -> timedelta:
    """When the lease was taken, by the database's clock."""
    return timedelta(microseconds=await session.fetchval("SELECT since FROM lease"))


async def put(store: SqlStore, key: str) -> None:
    async with store.write() as unit:
        await unit.key_values.put(key, "x")


async def test_who_holds_it_is_named(store: SqlStore, other: SqlStore) -> None:
    assert not await is_held(store)
    async with hold(store, CLOCK) as lease:
        assert lease.valid()
        assert await is_held(other)
        with pytest.raises(StoreHeld, match=rf"process \d+ on {socket.gethostname()} holds it since"):
            async with hold(other, CLOCK):
                pass
        await put(store, "a")
    assert not await is_held(other)
    assert await last_seen(other) is None


async def test_it_is_renewed_though_the_server_has_not_seen_that_a_session_ended(store: SqlStore, url: str) -> None:
    async with hold(store, CLOCK) as lease:
        token = await holder_token(store)
        left = await asyncpg.connect(url)
        taken = asyncio.create_task(left.execute(leases.TAKE_LOCK, token))
        lose_session(store, lease)
        await taken
        before = await last_seen(store)
        await eventually(lambda: last_seen(store), lambda seen: seen != before)
        left.terminate()


def lose_session(store: SqlStore, lease: HeldLease) -> None:
    """As when an answer stays away."""
    assert isinstance(lease, leases.PostgresqlLease)
    assert isinstance(store, PostgresqlStore)
    lease.session.failed()
    if store.shared is not None:
        store.shared.session._drop()


async def holder_token(store: SqlStore) -> str:
    """Of the one that has the lease."""
    holder = await holder_of(store)
    assert holder is not None
    return holder.token


async def test_one_on_this_machine_that_cannot_renew_it_runs(store: SqlStore, url: str, running: Server) -> None:
    """As where the database can only be read: nobody may say that it has ended."""
    insert(running, url, Holder.this_process("here", datetime.now(UTC)))
    running.run("UPDATE lease SET renewed_at = 0", database(url))
    assert await is_held(store)
    assert await holder_of(store) is None


async def test_one_that_ended_on_this_machine_is_replaced_at_once(
    store: SqlStore, url: str, running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(Holder.this_process("gone", datetime.now(UTC)), pid=2**22 + 1)
    insert(running, url, gone)
    monkeypatch.setattr(leases, "WATCH_EVERY", 1000.0)
    async with asyncio.timeout(PATIENCE), hold(store, CLOCK):
        pass


@pytest.mark.parametrize(("connected", "length"), [(True, leases.LENGTH), (False, leases.SILENT)])
async def test_one_elsewhere_is_replaced_once_its_time_is_over(
    store: SqlStore, url: str, running: Server, connected: bool, length: timedelta
) -> None:
    session = await asyncpg.connect(url)
    if connected:
        await session.execute("SELECT pg_advisory_lock(hashtextextended('there', 0))")
    insert(running, url, Holder("there", "elsewhere", 1, "boot pid:[1] 1", datetime.now(UTC), datetime.now(UTC)))
    assert await is_held(store)
    began = await since(session)
    async with hold(store, CLOCK):
        assert await since(session) - began > length
    await session.close()


def test_who_is_silent_stops_sending_before_anybody_may_replace_it() -> None:
    assert leases.RENEW_EVERY < leases.SENDS_FOR < leases.SILENT.total_seconds() < leases.LENGTH.total_seconds()


async def test_who_replaces_one_that_is_stopped_within_a_transaction_does_not_wait_for_it(
    store: SqlStore, either: str, url: str, running: Server
) -> None:
    stopped = await asyncpg.connect(url, server_settings={"application_name": writer_name("there")})
    await stopped.execute("BEGIN")
    await stopped.fetchrow("SELECT pg_advisory_xact_lock($1)", write_lock(either))
    insert(running, url, Holder("there", "elsewhere", 1, "boot pid:[1] 1", datetime.now(UTC), datetime.now(UTC)))
    async with hold(store, CLOCK):  # with the time that a lock is waited for, it would raise `StoreUnavailable`
        await put(store, "a")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await stopped.fetchval("SELECT 1")


async def test_who_stands_by_is_seen_until_its_connection_ends(store: SqlStore, other: SqlStore) -> None:
    async with hold(store, CLOCK):
        async with standing_by(other) as look:
            holder = await look()
            assert holder is not None
            assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
            assert await standbys(store) == [f"process {os.getpid()} on {socket.gethostname()}"]
        await eventually(lambda: standbys(store), lambda found: not found)
    async with standing_by(other) as look:
        assert await look() is None


async def test_one_elsewhere_that_renews_it_is_alive(store: SqlStore, url: str, running: Server) -> None:
    insert(running, url, Holder("there", "elsewhere", 1, "boot pid:[1] 1", datetime.now(UTC), datetime.now(UTC)))

    async def renew() -> None:
        while True:
            await asyncio.sleep(0.2)
            sql = "UPDATE lease SET renewed_at = extract(epoch FROM clock_timestamp()) * 1000000"
            await asyncio.to_thread(running.run, sql, database(url))

    renewing = asyncio.create_task(renew())
    with pytest.raises(StoreHeld, match="process 1 on elsewhere holds it"):
        async with hold(store, CLOCK):
            pass
    renewing.cancel()
    await asyncio.wait((renewing,))


async def test_who_lost_it_writes_nothing_more_and_ends(store: SqlStore, url: str, running: Server) -> None:
    async def work() -> None:
        async with hold(store, CLOCK):
            await put(store, "before")
            sql = "UPDATE lease SET holder = 'there', host = 'elsewhere', pid = 1"
            await asyncio.to_thread(running.run, sql, database(url))
            with pytest.raises(StoreHeld):
                await put(store, "after")
            await asyncio.Event().wait()

    with pytest.raises(StoreHeld, match="this daemon has lost its lease; process 1 on elsewhere has it"):
        await work()
    async with store.read() as unit:
        assert await unit.key_values.get("before") == "x"
        assert await unit.key_values.get("after") is None


def insert(server: Server, url: str, holder: Holder) -> None:
    """Give the lease to another process, which has just renewed it."""
    now = "extract(epoch FROM clock_timestamp()) * 1000000"
    values = f"'{holder.token}', '{holder.host}', {holder.pid}, '{holder.started}', {now}, {now}"
    server.run(f"INSERT INTO lease VALUES (1, {values})", database(url))


async def test_a_process_that_is_stopped_within_a_statement_does_not_keep_the_lock(
    store: SqlStore, either: str, url: str
) -> None:
    stopped = await asyncpg.connect(url)
    try:
        await stopped.execute("BEGIN")
        await stopped.fetchrow("SELECT pg_advisory_xact_lock($1)", write_lock(either))
        # The server waits for the rest of the statement, for which it has no time-out.
        await stopped.prepare("SELECT count(*) FROM lease WHERE slot = $1")

        async def write() -> None:
            while True:
                try:
                    await put(store, "a")
                except StoreUnavailable:
                    continue  # the lock is waited for; then the relay tries again
                return

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(write(), asyncio.to_thread(migrate.upgrade, either))
    finally:
        stopped.terminate()


class NotedClock(SystemClock):
    """Remembers how long somebody wanted to wait."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await super().sleep(seconds)


async def test_a_slow_server_is_asked_again_sooner(store: SqlStore, url: str) -> None:
    """Else whoever holds the lease may send for a part of the time only."""
    clock = NotedClock()
    other = await asyncpg.connect(url)
    async with hold(store, clock):
        while len(clock.sleeps) < 2:
            async with other.transaction():
                await other.execute("SELECT FROM lease FOR UPDATE")
                await asyncio.sleep(leases.RENEW_EVERY * 1.5)
    await other.close()
    assert max(clock.sleeps) <= leases.RENEW_EVERY
    assert min(clock.sleeps[1:]) < leases.RENEW_EVERY * 0.8
