"""Several processes that share the tenants of one database: who is there, and who serves which tenant.

A process counts while it has its session (with an advisory lock) and a heartbeat, by the database's clock: one that
ended has lost the session at once, and one that is stopped keeps it, but not its share. Who may serve a tenant, the
lease of its schema decides (`lease.py`); here it is only looked up.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from relay.config.store_url import of_tenant, schema_in, without_password
from relay.store.lease import Holder, ProcessState
from relay.store.postgresql.connections import NOW, connect, translated
from relay.store.postgresql.lease import LENGTH, LOCKS, TAKE_LOCK, SeenLease, has_lock, process_of
from relay.store.tables import EPOCH, MICROSECOND

ALIVE = 3.0
"""Seconds without a heartbeat after which a process does not count any more."""

# Two processes may start at the same moment: CREATE TABLE IF NOT EXISTS alone may then fail in the catalogue.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('relay_worker', 0))"
_TABLE = """
    CREATE TABLE IF NOT EXISTS relay_worker (
        id text PRIMARY KEY, who text NOT NULL, held integer NOT NULL, seen_at timestamptz NOT NULL
    )"""
_BEAT = """
    INSERT INTO relay_worker VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET held = excluded.held, seen_at = excluded.seen_at"""
_FORGET = "DELETE FROM relay_worker WHERE id = $1 OR seen_at < clock_timestamp() - interval '1 hour'"
_ALIVE = f"""
    SELECT id, held FROM relay_worker WHERE seen_at > clock_timestamp() - make_interval(secs => $1)
    AND {has_lock("relay_worker.id")}"""  # noqa: S608 - SQL of our own
_SCHEMAS = """
    SELECT n.nspname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = 'lease' AND c.relkind = 'r' AND n.nspname = ANY($1)"""


_AT_ONCE = 100
"""So many leases are read by one statement, which has to lock all their tables."""

# The locks are read once: there is one for each tenant, and to look through them for each would be that many squared.
_LOOK = f"""
    WITH held AS MATERIALIZED ({LOCKS}), seen AS MATERIALIZED ({{leases}})
    SELECT seen.*, {NOW} AS now, hashtextextended(holder, 0) IN (SELECT key FROM held) AS connected
    FROM seen"""  # noqa: S608 - names of our own
_LEASE = """SELECT '{schema}' AS schema, holder, host, pid, started, since, renewed_at FROM "{schema}".lease"""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Workers:
    """The processes on one database, as this one sees them. Every call may raise `StoreError`."""

    url: str
    # This process: a word of its own, and how people are told of it.
    id: str
    who: str
    _connection: asyncpg.Connection | None = field(init=False, default=None)
    # The schemas in which there was a lease: to look for them takes longer than to read what is in it.
    _there: set[str] = field(init=False, default_factory=set)

    async def beat(self, held: int) -> Mapping[str, int]:
        """Show that this process lives and serves so many tenants; how many each that lives serves, this one too."""
        with translated(without_password(self.url)):
            connection = await self._open()
            try:
                await connection.execute(_BEAT, self.id, self.who, held)
            except asyncpg.UndefinedTableError:
                connection.terminate()  # the next call makes it again
                raise
            return {row["id"]: row["held"] for row in await connection.fetch(_ALIVE, ALIVE)}

    async def holders(self, tenants: Collection[str]) -> Mapping[str, Holder | None]:
        """Who serves each of these tenants, None for nobody."""
        schemas = {schema_in(of_tenant(self.url, tenant)): tenant for tenant in tenants}
        found: dict[str, Holder | None] = dict.fromkeys(tenants)
        # A process serves many, and to look at it takes longer than to read its lease.
        processes: dict[tuple[str, int, str], ProcessState] = {}
        with translated(without_password(self.url)):
            connection = await self._open()
            if unknown := schemas.keys() - self._there:
                self._there.update(row["name"] for row in await connection.fetch(_SCHEMAS, list(unknown)))
            # In the same order each time: the server and the library know the statement then.
            there = sorted(self._there & schemas.keys())
            for begin in range(0, len(there), _AT_ONCE):
                for row in await self._leases(connection, there[begin : begin + _AT_ONCE]):
                    seen = _seen(row)
                    holder = seen.holder
                    key = holder.host, holder.pid, holder.started
                    if key not in processes:
                        processes[key] = process_of(holder)
                    free = seen.state_where(processes[key]) == "free"
                    found[schemas[row["schema"]]] = None if free else holder
        return found

    async def _leases(self, connection: asyncpg.Connection, schemas: Sequence[str]) -> list[asyncpg.Record]:
        """The lease in each of these schemas, as far as it can be read.

        One that cannot be (dropped meanwhile, without the right to read it, of another version) counts as free: whoever
        begins to serve it is told what is wrong, and it keeps nobody from looking at the others.
        """
        leases = " UNION ALL ".join(_LEASE.format(schema=schema) for schema in schemas)
        try:
            return list(await connection.fetch(_LOOK.format(leases=leases)))
        except asyncpg.SyntaxOrAccessError:
            if len(schemas) == 1:
                self._there.difference_update(schemas)
                return []
            return [row for schema in schemas for row in await self._leases(connection, [schema])]

    async def leave(self) -> None:
        """Count no longer."""
        if self._connection is not None:
            try:
                with translated(without_password(self.url)):
                    await self._connection.execute(_FORGET, self.id)
            finally:
                self._connection.terminate()

    async def _open(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            seconds = LENGTH.total_seconds()
            opened = await connect(self.url, lock_timeout=seconds, patience=seconds)
            try:
                async with opened.transaction():
                    await opened.execute(_LOCK)
                    await opened.execute(_TABLE)
                await opened.execute(TAKE_LOCK, self.id)
            except BaseException:
                opened.terminate()
                raise
            self._connection = opened
        return self._connection


def _seen(row: asyncpg.Record) -> SeenLease:
    since, renewed, now = (EPOCH + row[name] * MICROSECOND for name in ("since", "renewed_at", "now"))
    holder = Holder(row["holder"], row["host"], row["pid"], row["started"], since, renewed)
    return SeenLease(holder, now, row["connected"])
