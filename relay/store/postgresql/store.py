"""The store on a PostgreSQL database."""

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path

from sqlalchemy import text

from relay.config.store_url import schema_in, without_password
from relay.errors import StoreUnavailable
from relay.store.postgresql.connections import READ_ONLY, writer_name
from relay.store.postgresql.pools import Pool
from relay.store.postgresql.shared import Shared
from relay.store.postgresql.transactions import READERS, Readers, Writer
from relay.store.unit_of_work import SqlStore, valid_id

_KNOWN_SECONDS = 10.0
"""So long a start may take. What is asked for later is asked for seldom, and memory is for other things."""

_DATABASE = text(
    "SELECT 'database ' || system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AS name, (SELECT id FROM store LIMIT 1) AS id FROM pg_control_system()"
)
_READ_ONLY = text("SELECT current_setting('default_transaction_read_only') = 'on' AS is_read_only")


class PostgresqlStore(SqlStore):
    """`core.storage.Store` on one database of PostgreSQL, or in a schema of one that tenants share.

    In a database of its own it has a connection that writes and a few that read. In a schema it has none to itself.
    """

    on_postgresql = True

    def __init__(self, url: str, busy_timeout: float) -> None:
        super().__init__(Path(), busy_timeout)  # opens nothing
        self.url = url
        self.name = without_password(url)
        # Of the lease, when this process holds it.
        self.token = secrets.token_hex(8)
        self._busy_timeout = busy_timeout
        self._shared: Shared | None = None
        # Forgets what `prepare_start` has read.
        self._forgetting: asyncio.TimerHandle | None = None
        name = writer_name(self.token)
        self._own = Pool(url, 1, lock_timeout=busy_timeout, name=name), Pool(url, READERS, lock_timeout=busy_timeout)
        self._readers = Readers(url, self._reading)
        self._writer = self._fenced_writer = Writer(url, busy_timeout, self._writing, self.forget_lanes, self.token)

    @property
    def shared(self) -> Shared | None:
        """The connections that it has together with the other tenants of this process; None if it has its own."""
        if self._shared is None and schema_in(self.url):
            self._shared = Shared.of(self.url, self._busy_timeout)
        return self._shared

    def _writing(self) -> Pool:
        return self._own[0] if self.shared is None else self.shared.writers

    def _reading(self) -> Pool:
        return self._own[1] if self.shared is None else self.shared.readers

    async def prepare_start(self) -> None:
        """See `SqlStore.prepare_start`. Here each bit would be a trip or two to the server."""
        async with self.look() as unit:
            await self._known.read(unit.transaction)
        self._forgetting = asyncio.get_running_loop().call_later(_KNOWN_SECONDS, self._known.forget)

    async def close(self) -> None:
        """See `SqlStore.close`."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        await super().close()
        for pool in self._own:
            await pool.close()
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.leave()

    async def load_id(self) -> None:
        """See `SqlStore.load_id`; and which database it is, of which there may be copies with the same ID."""
        self.database, self._id = "", ""
        with suppress(StoreUnavailable):  # some servers tell nobody
            async with self.look() as unit:
                row = await unit.transaction.first(_DATABASE, {})
                if row is not None:
                    self.database, self._id = row.name, valid_id(row)
        if not self._id:
            await super().load_id()

    async def problem(self) -> str | None:
        """See `SqlStore.problem`."""
        async with self.look() as unit:
            row = await unit.transaction.first(_READ_ONLY, {})
        return str(StoreUnavailable(self.name, *READ_ONLY)) if row is not None and row.is_read_only else None

    def write_only_with(self, token: str | None) -> None:
        """Refuse every later write transaction unless the lease has this token. None: no longer."""
        self._fenced_writer.fence = token
