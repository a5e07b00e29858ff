"""Behind PgBouncer: with session pooling all is well, and what shares connections is refused."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.config.store_url import of_tenant
from relay.core.clock import SystemClock
from relay.errors import StoreError
from relay.store.lease import hold
from relay.store.postgresql.connections import connect
from relay.store.unit_of_work import open_store
from tests.support.patience import PATIENCE
from tests.support.postgresql import SHORT, USER, Server, unprivileged

_SETTINGS = """
[databases]
* = host={server} user={user}
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = {folder}
auth_type = any
pool_mode = {mode}
"""


@pytest.fixture
def behind(running: Server, url: str) -> Iterator[Callable[[str], str]]:
    """The database's URL behind a pooler of that mode."""
    # Debian has it where a user's PATH does not look.
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer (Debian's package pgbouncer has it)")
    folder = Path(tempfile.mkdtemp(prefix="relay-pool-", dir=SHORT))
    pooler: subprocess.Popen[str] | None = None

    def start(mode: str) -> str:
        nonlocal pooler
        settings = folder / "pgbouncer.ini"
        settings.write_text(_SETTINGS.format(server=running.folder, user=USER, folder=folder, mode=mode))
        pooler = subprocess.Popen([program, settings], stderr=subprocess.PIPE, text=True, **unprivileged(folder))
        assert pooler.stderr is not None
        for line in pooler.stderr:
            if "process up" in line:
                break
        return url.replace(str(running.folder), str(folder))

    yield start
    if pooler is not None:
        pooler.terminate()
        pooler.communicate(timeout=PATIENCE)
    shutil.rmtree(folder, ignore_errors=True)


async def test_session_pooling(behind: Callable[[str], str]) -> None:
    store = await open_store(behind("session"))
    async with hold(store, SystemClock()) as lease:
        async with store.write() as unit:
            await unit.key_values.put("a", "b")
        async with store.read() as unit:
            assert await unit.key_values.get("a") == "b"
        assert lease.valid()
    await store.close()


async def test_a_tenant_keeps_its_schema_where_the_pooler_leaves_it_out(behind: Callable[[str], str]) -> None:
    connection = await connect(of_tenant(behind("session"), "a"), lock_timeout=1.0)
    assert await connection.fetchval("SHOW search_path") == "tenant_a"
    connection.terminate()


async def test_transaction_pooling(behind: Callable[[str], str]) -> None:
    with pytest.raises(StoreError, match=r"a pooler shares its connections .* pool_mode = session"):
        await open_store(behind("transaction"))
