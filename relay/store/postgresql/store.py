"""The store on a PostgreSQL database."""

from pathlib import Path

from relay.config.store_url import without_password
from relay.store.postgresql.transactions import Readers, Writer
from relay.store.unit_of_work import SqlStore


class PostgresqlStore(SqlStore):
    """`core.storage.Store` on one database of PostgreSQL: one connection that writes, a few that read."""

    on_postgresql = True

    def __init__(self, url: str, busy_timeout: float) -> None:
        super().__init__(Path(), busy_timeout)  # opens nothing
        self.url = url
        self.name = without_password(url)
        # The same to the base class: transactions.
        self._readers = Readers(url, busy_timeout)  # type: ignore[assignment]
        self._writer = Writer(url, busy_timeout, replaced=self.forget_lanes)  # type: ignore[assignment]

    def write_only_with(self, token: str | None) -> None:
        """Refuse every later write transaction unless the lease has this token. None: no longer."""
        self._writer.fence = token  # type: ignore[assignment]
