"""Which processes share the tenants of a database, and who serves which."""

import asyncio
import os

import pytest

from relay.config.store_url import of_tenant
from relay.core.clock import SystemClock
from relay.errors import StoreError
from relay.store import migrate
from relay.store.lease import hold
from relay.store.postgresql import workers
from relay.store.postgresql.workers import Workers
from relay.store.unit_of_work import open_store
from tests.support.stack import eventually


async def test_one_that_ended_or_is_stopped_does_not_count(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (Workers(url=url, id=name, who=f"process of {name}") for name in ("one", "two", "three"))
    assert await one.beat(0) == {"one": 0}
    assert await two.beat(2) == {"one": 0, "two": 2}
    assert await three.beat(3) == {"one": 0, "two": 2, "three": 3}
    await two.leave()
    assert await one.beat(1) == {"one": 1, "three": 3}
    assert three._connection is not None
    three._connection.terminate()  # as when its process is killed
    await eventually(lambda: one.beat(1), lambda found: found == {"one": 1})
    assert await three.beat(3) == {"one": 1, "three": 3}, "it is back"
    monkeypatch.setattr(workers, "ALIVE", 0.0)
    assert await three.beat(3) == {}, "nobody has shown that it lives for so long"
    for worker in (one, three):
        await worker.leave()


async def test_a_store_that_cannot_be_read_hides_no_other_one(url: str) -> None:
    worker = Workers(url=url, id="one", who="process of one")
    await worker.beat(0)
    assert worker._connection is not None
    await worker._connection.execute("CREATE SCHEMA tenant_a; CREATE TABLE tenant_a.lease (slot integer)")
    await asyncio.to_thread(migrate.upgrade, of_tenant(url, "b"))
    b = await open_store(of_tenant(url, "b"))
    async with hold(b, SystemClock()):
        found = await worker.holders(["a", "b"])
        assert found["a"] is None
        assert found["b"] is not None
        assert found["b"].pid == os.getpid()
    await b.close()
    await worker._connection.execute("DROP TABLE relay_worker")
    with pytest.raises(StoreError):
        await worker.beat(0)
    assert await worker.beat(0) == {"one": 0}, "it made its table again"
    await worker.leave()


async def test_who_serves_a_tenant_is_seen_and_each_has_its_own_store(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_AT_ONCE", 2)
    worker = Workers(url=url, id="one", who="process of one")
    assert await worker.holders(["a", "b"]) == {"a": None, "b": None}
    for tenant in ("a", "b"):
        assert (await asyncio.to_thread(migrate.upgrade, of_tenant(url, tenant))).state == "current"
    a, b = [await open_store(of_tenant(url, tenant)) for tenant in ("a", "b")]
    async with hold(a, SystemClock()):
        found = await worker.holders(["a", "b", "c"])
        assert found["a"] is not None
        assert (found["a"].pid, found["b"], found["c"]) == (os.getpid(), None, None)
        async with a.write() as unit, b.write() as other:  # neither waits for the other
            await unit.key_values.put("key", "of a")
            await other.key_values.put("key", "of b")
        async with b.read() as unit:
            assert await unit.key_values.get("key") == "of b"
    assert await worker.holders(["a"]) == {"a": None}
    for store in (a, b):
        await store.close()
    await worker.leave()


async def test_where_a_lease_is_is_looked_for_once(url: str) -> None:
    """To look for two hundred took the server ten times as long as to read them, again and again."""
    worker = Workers(url=url, id="one", who="process of one")
    for tenant in ("a", "b"):
        await asyncio.to_thread(migrate.upgrade, of_tenant(url, tenant))
    assert await worker.holders(["a", "b"]) == {"a": None, "b": None}
    asked: list[str] = []
    assert worker._connection is not None
    worker._connection.add_query_logger(lambda told: asked.append(told.query))
    a = await open_store(of_tenant(url, "a"))
    async with hold(a, SystemClock()):
        found = await worker.holders(["b", "a"])
        assert (found["b"], found["a"] is None) == (None, False)
        await asyncio.sleep(0)  # then the library tells
        assert len(asked) == 1
        await worker._connection.execute("DROP SCHEMA tenant_b CASCADE")
        found = await worker.holders(["a", "b"])
        assert (found["b"], found["a"] is None) == (None, False)
        await asyncio.sleep(0)
        asked.clear()
        await worker.holders(["a", "b"])
        await asyncio.sleep(0)
        assert sum("pg_namespace" in query for query in asked) == 1, "there may be one again"
    await a.close()
    await worker.leave()
