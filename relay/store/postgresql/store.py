"""The store on a PostgreSQL database."""

import secrets
from contextlib import suppress
from pathlib import Path

from sqlalchemy import text

from relay.config.store_url import without_password
from relay.errors import StoreUnavailable
from relay.store.postgresql.connections import READ_ONLY
from relay.store.postgresql.transactions import Readers, Writer
from relay.store.unit_of_work import SqlStore

_DATABASE = text(
    "SELECT 'database ' || system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AS name FROM pg_control_system()"
)
_READ_ONLY = text("SELECT current_setting('default_transaction_read_only') = 'on' AS is_read_only")


class PostgresqlStore(SqlStore):
    """`core.storage.Store` on one database of PostgreSQL: one connection that writes, a few that read."""

    on_postgresql = True

    def __init__(self, url: str, busy_timeout: float) -> None:
        super().__init__(Path(), busy_timeout)  # opens nothing
        self.url = url
        self.name = without_password(url)
        # Of the lease, when this process holds it.
        self.token = secrets.token_hex(8)
        self._readers = Readers(url, busy_timeout)
        self._writer = self._fenced_writer = Writer(url, busy_timeout, self.forget_lanes, self.token)

    async def load_id(self) -> None:
        """See `SqlStore.load_id`; and which database it is, of which there may be copies with the same ID."""
        await super().load_id()
        with suppress(StoreUnavailable):  # some servers tell nobody
            async with self.read() as unit:
                row = await unit.transaction.first(_DATABASE, {})
                self.database = "" if row is None else row.name

    async def problem(self) -> str | None:
        """See `SqlStore.problem`."""
        async with self.read() as unit:
            row = await unit.transaction.first(_READ_ONLY, {})
        return str(StoreUnavailable(self.name, *READ_ONLY)) if row is not None and row.is_read_only else None

    def write_only_with(self, token: str | None) -> None:
        """Refuse every later write transaction unless the lease has this token. None: no longer."""
        self._fenced_writer.fence = token
