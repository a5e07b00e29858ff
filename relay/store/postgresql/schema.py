"""The tables: created and changed in one transaction, under the lock of all write transactions.

So of several that upgrade at once one does it, and the others wait and find it done.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from relay.config.store_url import schema_in, without_password
from relay.core.offload import run_unhindered
from relay.errors import StoreError, StoreUnavailable
from relay.store import migrate
from relay.store.lease import held
from relay.store.postgresql.connections import LOCKED, connect, failure, translated
from relay.store.postgresql.lease import GET_LEASE, WATCH_EVERY, SeenLease
from relay.store.postgresql.store import PostgresqlStore
from relay.store.postgresql.transactions import end_stale, write_lock
from relay.store.sqlite.engine import BUSY_TIMEOUT
from relay.store.tables import lease

_PATIENCE = 600.0
"""Seconds that a change of the tables, or the one of another process, may take."""

_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock)")

_REVISION = text("SELECT version_num FROM alembic_version")

T = TypeVar("T")

Work = Callable[[Connection], bool]


async def is_current(url: str, busy_timeout: float) -> bool:
    """See `migrate.is_current`."""
    store = PostgresqlStore(url, busy_timeout)
    try:
        async with store.look() as unit:
            found = await unit.transaction.all(_REVISION, {})
    except StoreError:
        return False
    finally:
        await store.close()
    return [row.version_num for row in found] == migrate.known_revisions("postgresql")[-1:]


@dataclass(slots=True)
class PostgresqlSchema:
    """The tables of one database. Every call blocks, and raises `StoreError`."""

    url: str
    # The lease as it was at the first look.
    _first: tuple[str, datetime] | None = field(init=False, default=None)

    @property
    def name(self) -> str:
        """For errors."""
        return without_password(self.url)

    def upgrade(self) -> migrate.Schema:
        """See `migrate.upgrade`. Mostly there is nothing to do, and no lock to wait for."""
        schema = self.check()
        if schema.state == "current":
            return schema
        return self._migrate(
            lambda connection: migrate.bring_to_head(self.name, connection, partial(self._free, connection))
        )

    def downgrade(self, revision: str) -> migrate.Schema:
        """See `migrate.downgrade`."""
        return self._migrate(
            lambda connection: migrate.take_back(self.name, connection, revision, partial(self._free, connection))
        )

    def check(self) -> migrate.Schema:
        """See `migrate.check`."""
        return run_unhindered(self._run(migrate.schema_of, patience=None))

    def _migrate(self, work: Work) -> migrate.Schema:
        return run_unhindered(self._until_done(work))

    async def _until_done(self, work: Work) -> migrate.Schema:
        def under_lock(connection: Connection) -> migrate.Schema | None:
            if not connection.scalar(_LOCK, {"lock": write_lock(self.url)}):
                connection.execute(text(end_stale(self.url)))
                return None
            if schema := schema_in(self.url):
                connection.execute(CreateSchema(schema, if_not_exists=True))
            return migrate.schema_of(connection) if work(connection) else None

        deadline = time.monotonic() + _PATIENCE
        # The holder of the lease needs the lock to renew it: we do not wait with the lock.
        while True:
            if (schema := await self._run(under_lock)) is not None:
                return schema
            if time.monotonic() > deadline:
                raise StoreUnavailable(self.name, *LOCKED)
            await asyncio.sleep(WATCH_EVERY)

    async def _run(self, work: Callable[[Connection], T], patience: float | None = _PATIENCE) -> T:
        """The result of `work` in a transaction. `patience`: as in `connect`."""
        open_one = partial(connect, self.url, lock_timeout=patience or BUSY_TIMEOUT, patience=patience)
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=open_one, poolclass=NullPool, hide_parameters=True
        )
        try:
            with translated(self.name):
                async with engine.begin() as connection:
                    return await connection.run_sync(work)
        except DBAPIError as error:
            raise failure(self.name, error.orig or error) from error
        finally:
            await engine.dispose()

    def _free(self, connection: Connection) -> bool:
        """Whether no daemon uses the database. False: look again. Raises `StoreHeld`."""
        if not inspect(connection).has_table(lease.name):
            return True
        row = connection.execute(GET_LEASE).first()
        if row is None:
            return True
        seen = SeenLease.of_row(row)
        if seen.is_alive(self._first):
            raise held(self.name, seen.holder)
        self._first = self._first or seen.sign
        return seen.state == "free"
