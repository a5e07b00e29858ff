"""Tenants of one process share a few connections: bounded, fair, and nothing of one is left to another."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import asyncpg
import pytest

from relay.config.store_url import of_tenant, without_schema
from relay.core.clock import SystemClock
from relay.core.ports import Cursor
from relay.domain.commands import SendMessage
from relay.domain.ids import Platform
from relay.errors import StoreHeld, StoreUnavailable
from relay.store import migrate
from relay.store.lease import hold
from relay.store.postgresql.connections import NOW, writer_name
from relay.store.postgresql.lease import CONNECTED, has_lock
from relay.store.postgresql.pools import Pool
from relay.store.postgresql.shared import READERS, RENEWALS, WRITERS
from relay.store.postgresql.store import PostgresqlStore
from relay.store.postgresql.transactions import write_lock
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.postgresql import Server
from tests.support.stack import eventually
from tests.support.store_contract import ANN, LANE, sending, there, waiting
from tests.support.store_contract import NOON as THEN

NAMES = [f"t{number:02}" for number in range(30)]
CLOCK = SystemClock()
_SESSION = 1


@pytest.fixture
async def many(url: str) -> AsyncIterator[Sequence[PostgresqlStore]]:
    """The stores of many tenants of this process. All tables of the first are real, the others are copies of them."""
    await asyncio.to_thread(migrate.upgrade, of_tenant(url, NAMES[0]))
    connection = await asyncpg.connect(url)
    for name in NAMES[1:]:
        await connection.execute(f"CREATE SCHEMA tenant_{name}")
        for table in ("lease", "last_commits", "store", "notebook"):
            await connection.execute(f"CREATE TABLE tenant_{name}.{table} (LIKE tenant_t00.{table} INCLUDING ALL)")
    await connection.close()
    stores = [await opened(of_tenant(url, name)) for name in NAMES]
    yield stores
    for store in stores:
        await store.close()


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[PostgresqlStore, PostgresqlStore]]:
    """The stores of two tenants of this process."""
    urls = [of_tenant(url, name) for name in ("a", "b")]
    for each in urls:
        await asyncio.to_thread(migrate.upgrade, each)
    a, b = [await opened(each) for each in urls]
    yield a, b
    for store in (a, b):
        await store.close()


async def opened(url: str) -> PostgresqlStore:
    """The store of a tenant."""
    store = await open_store(url)
    assert isinstance(store, PostgresqlStore)
    return store


def connections(running: Server, url: str) -> int:
    """How many the server has of ours."""
    name = url.partition("@/")[2].partition("?")[0]
    return int(
        running.run(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND starts_with(application_name, 'relay')"
        )[0][0]
    )


async def put(store: SqlStore, value: str, key: str = "a") -> None:
    async with store.write() as unit:
        await unit.key_values.put(key, value)


async def break_off(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.key_values.put("a", "half")
        raise KeyError("enough")


async def get(store: SqlStore) -> str | None:
    async with store.read() as unit:
        return await unit.key_values.get("a")


async def test_a_process_has_so_many_connections_whatever_the_number_of_its_tenants(
    many: Sequence[PostgresqlStore], url: str, running: Server
) -> None:
    async with AsyncExitStack() as exits:
        leases = [await exits.enter_async_context(hold(store, CLOCK)) for store in many]
        most = 0
        for turn in range(3):
            await asyncio.gather(*(put(store, f"{turn} of {store.name}") for store in many))
            assert await asyncio.gather(*map(get, many)) == [f"{turn} of {store.name}" for store in many]
            most = max(most, await asyncio.to_thread(connections, running, url))
        renewed = [lease._renewed for lease in leases]  # type: ignore[attr-defined]
        await eventually(
            lambda: asyncio.sleep(0, [lease._renewed for lease in leases]),  # type: ignore[attr-defined]
            lambda found: all(now > before for now, before in zip(found, renewed, strict=True)),
        )
        assert all(lease.valid() for lease in leases)
        most = max(most, await asyncio.to_thread(connections, running, url))
        assert READERS < most <= WRITERS + READERS + RENEWALS + _SESSION
    for store in many:
        await store.close()
    await eventually(lambda: asyncio.to_thread(connections, running, url), lambda left: left == 0)


async def test_what_one_sets_and_prepares_is_not_there_for_the_next(
    two: tuple[PostgresqlStore, PostgresqlStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two
    assert a.shared is not None
    assert a.shared is b.shared
    # One connection for both, so that each statement runs by turns.
    monkeypatch.setattr(a.shared, "writers", Pool(without_schema(a.url), 1, lock_timeout=1.0))
    for number in range(1, 8):
        for store, offset in ((a, 0), (b, 100)):
            async with store.write() as unit:
                await unit.messages.add(there(number + offset), ANN, THEN, None)
                await unit.outbox.append(LANE, sending(number + offset), THEN)
                await unit.cursors.put(Cursor(Platform.DISCORD, "channel:1", str(number + offset)))
        with pytest.raises(KeyError):
            await break_off(a)
    for store, offset in ((a, 0), (b, 100)):
        commands = [entry.command for entry in await waiting(store)]
        found = [command.source.id for command in commands if isinstance(command, SendMessage)]
        assert found == [str(number + offset) for number in range(1, 8)]
        assert await get(store) is None
    place = await a.shared.writers.enter("")
    connection = await place.open()
    assert await connection.fetchval("SHOW search_path") == '"$user", public'
    assert await connection.fetchval("SHOW application_name") == "relay"
    place.leave()
    await a.shared.writers.close()


async def test_each_looks_into_its_own_tables_on_a_connection_that_others_use(
    two: tuple[PostgresqlStore, PostgresqlStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two[0].shared is not None
    only = Pool(without_schema(two[0].url), 1, lock_timeout=1.0)
    monkeypatch.setattr(two[0].shared, "readers", only)
    for store in two:
        await put(store, store.url)
    for _ in range(2):
        for store in two:
            for _ in range(2):
                async with store.look() as unit:
                    assert await unit.key_values.get("a") == store.url
            # Another one's view in between, and its end.
            for other in two:
                assert await get(other) == other.url
    assert only.opened == 1
    await only.close()


async def test_one_that_is_cancelled_within_a_transaction_takes_its_connection_along(
    two: tuple[PostgresqlStore, PostgresqlStore], url: str
) -> None:
    a, b = two
    lock = await asyncpg.connect(url)
    for _ in range(WRITERS + 1):
        async with lock.transaction():
            await lock.execute("LOCK tenant_a.notebook")
            begun = asyncio.Event()

            async def write(begun: asyncio.Event = begun) -> None:
                async with a.write() as unit:
                    await unit.once_keys.claim(LANE.destination, "begun")
                    begun.set()
                    await unit.key_values.put("a", "half")

            task = asyncio.create_task(write())
            await begun.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await put(b, "of b")
    assert await get(a) is None
    assert await get(b) == "of b"
    await lock.close()


async def test_those_whose_lock_somebody_has_do_not_keep_the_others_waiting(
    url: str, many: Sequence[PostgresqlStore]
) -> None:
    locked, others = many[1 : 1 + 2 * WRITERS], many[1 + 2 * WRITERS :]
    somebody = await asyncpg.connect(url)
    for store in locked:
        await somebody.execute("SELECT pg_advisory_lock($1)", write_lock(store.url))
    stopped = asyncio.Event()

    async def insist(store: SqlStore) -> None:
        while not stopped.is_set():
            try:
                await put(store, "late")
            except StoreUnavailable:
                continue
            return

    insisting = [asyncio.create_task(insist(store)) for store in locked]
    assert many[0].shared is not None
    pool = many[0].shared.writers
    await eventually(lambda: asyncio.sleep(0, pool._places_for_slow.locked()), bool)
    for turn in range(5):
        await asyncio.gather(*(put(store, str(turn)) for store in others))
    assert not any(task.done() for task in insisting)
    await somebody.close()
    await asyncio.gather(*insisting)
    assert set(await asyncio.gather(*map(get, locked))) == {"late"}
    stopped.set()


async def test_who_waits_too_long_for_a_place_is_told_so(
    two: tuple[PostgresqlStore, PostgresqlStore], url: str
) -> None:
    pool = Pool(url, 1, lock_timeout=1.0, longest_wait=0.05)
    place = await pool.enter("a")
    with pytest.raises(StoreUnavailable, match="all connections of this process are in use"):
        await pool.enter("b")
    place.leave()
    (await pool.enter("b")).leave()


async def test_who_takes_a_tenant_ends_its_transaction_and_no_other(
    two: tuple[PostgresqlStore, PostgresqlStore], url: str, running: Server
) -> None:
    a, b = two

    async def named(store: PostgresqlStore) -> int:
        sql = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{writer_name(store.token)}'"
        return int((await asyncio.to_thread(running.run, sql))[0][0])

    async with a.write() as unit:
        await unit.key_values.put("a", "1")
        assert [await named(a), await named(b)] == [1, 0]
    assert await named(a) == 0, "the connection has a name for as long as the transaction lasts"
    # Of a process that is stopped: two of its connections, within transactions of two tenants.
    of_a, of_b = await asyncpg.connect(url), await asyncpg.connect(url)
    for connection, tenant in ((of_a, "a"), (of_b, "b")):
        await connection.execute(
            f"BEGIN; SET LOCAL search_path = tenant_{tenant}; SET LOCAL application_name = '{writer_name(tenant)}'"
        )
    await of_a.execute(f"SELECT pg_advisory_xact_lock({write_lock(of_tenant(url, 'a'))})")
    elsewhere = f"INSERT INTO tenant_a.lease VALUES (1, 'a', 'elsewhere', 1, 'boot pid:[1] 1', {NOW}, {NOW})"
    await asyncio.to_thread(running.run, elsewhere, url.partition("@/")[2].partition("?")[0])
    async with hold(a, CLOCK):  # with the time that a lock is waited for, it would raise `StoreUnavailable`
        await put(a, "2")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await of_a.fetchval("SELECT 1")
    assert await of_b.fetchval("SELECT 1") == 1
    of_a.terminate()
    await of_b.close()


async def test_leases_are_renewed_together_but_for_one_that_is_held_up(
    url: str, two: tuple[PostgresqlStore, PostgresqlStore]
) -> None:
    a, b = two
    assert a.shared is not None
    renewals, somebody = a.shared.together, await asyncpg.connect(url)

    async def together(*tokens: str) -> list[bool]:
        asked = zip(("tenant_a", "tenant_b"), tokens, strict=True)
        return list(await asyncio.gather(*(renewals.renew(schema, token) for schema, token in asked)))

    async def times() -> list[int]:
        return [await somebody.fetchval(f"SELECT renewed_at FROM tenant_{name}.lease") for name in "ab"]

    async with hold(a, CLOCK), hold(b, CLOCK):
        assert await together(a.token, b.token) == [True, True]
        assert await together(a.token, "another") == [True, False]
        async with somebody.transaction():
            await somebody.execute("SELECT FROM tenant_b.lease FOR UPDATE")
            before = await times()
            assert await together(a.token, b.token) == [True, False]
            assert [new > old for new, old in zip(await times(), before, strict=True)] == [True, False]
        gone = list(await asyncio.gather(renewals.renew("tenant_a", a.token), renewals.renew("tenant_gone", "c")))
        assert gone == [False, False], "each asks by itself, and is told what is wrong"
        assert await together(a.token, b.token) == [True, True]
    await somebody.close()


async def test_one_session_shows_that_all_are_served_and_comes_back(
    two: tuple[PostgresqlStore, PostgresqlStore], url: str, running: Server
) -> None:
    a, b = two
    database = url.partition("@/")[2].partition("?")[0]

    async def shown() -> list[bool]:
        sql = f"SELECT {CONNECTED} FROM tenant_{{0}}.lease AS lease"
        return [bool((await asyncio.to_thread(running.run, sql.format(name), database))[0][0]) for name in "ab"]

    async with hold(a, CLOCK):
        async with hold(b, CLOCK):
            assert await shown() == [True, True]
            assert connections_called(running, "relay lives", database) == 1
            ours = f"application_name = 'relay lives' AND datname = '{database}'"  # other tests have the same server
            running.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
            await eventually(shown, lambda found: found == [True, True])
        token = b.token
        left = f"SELECT {has_lock('name')} FROM (VALUES ('{token}')) AS one (name)"
        assert await asyncio.to_thread(running.run, left, database) == [(False,)]

    async def lose() -> None:
        async with hold(a, CLOCK):
            await asyncio.to_thread(running.run, "UPDATE tenant_a.lease SET holder = 'there'", database)
            await asyncio.Event().wait()

    with pytest.raises(StoreHeld):
        await lose()


def connections_called(running: Server, name: str, database: str) -> int:
    """How many of that name are connected to a database: other tests have theirs on the same server."""
    called = f"application_name = '{name}' AND datname = '{database}'"
    return int(running.run(f"SELECT count(*) FROM pg_stat_activity WHERE {called}")[0][0])
