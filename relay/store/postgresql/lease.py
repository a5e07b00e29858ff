"""One daemon per database: only the holder of the lease writes to it and sends messages.

The holder renews its row every second. One that has not for `LENGTH`, by the database's clock, has lost it: so two
machines need not agree on the time, and nobody need see whether the other one's process is alive. (On the same machine
a process that has ended is seen at once.) The holder itself counts from before each renewal, by a clock that only runs
forwards, and sends nothing once the time is over. Every write transaction checks the row (`transactions.Writer`).
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from sqlalchemy import BigInteger, Row, bindparam, delete, literal_column, select, update

from relay.core.ports import Clock
from relay.errors import StoreHeld, StoreUnavailable
from relay.logs import get_logger
from relay.store.lease import Holder, cancelled_by, held
from relay.store.portable import insert
from relay.store.postgresql.store import PostgresqlStore
from relay.store.tables import Timestamp
from relay.store.tables import lease as lease_table
from relay.store.transaction import Transaction
from relay.store.unit_of_work import SqlStore

LENGTH = timedelta(seconds=5)
RENEW_EVERY = 1.0  # seconds
WATCH_EVERY = 0.5  # seconds

_log = get_logger(__name__)

_now = literal_column("CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)", BigInteger())
_l = lease_table.c
GET_LEASE = select(lease_table, literal_column(str(_now), Timestamp()).label("now"))
_TAKE = (
    insert(lease_table)
    .values({column.name: bindparam(column.name) for column in (_l.slot, _l.holder, _l.host, _l.pid, _l.started)})
    .values(since=_now, renewed_at=_now)
    .or_replace()
    .inline()
)
_RENEW = update(lease_table).where(_l.holder == bindparam("token")).values(renewed_at=_now)
_RELEASE = delete(lease_table).where(_l.holder == bindparam("token"))


@dataclass(frozen=True, slots=True)
class SeenLease:
    """The row of the lease, and the database's time when it was read."""

    holder: Holder
    now: datetime

    @classmethod
    def of_row(cls, row: Row[Any]) -> Self:
        """From a row of `GET_LEASE`."""
        return cls(Holder.of_row(row), row.now)

    @property
    def sign(self) -> tuple[str, datetime]:
        """It changes with each renewal."""
        return self.holder.token, self.holder.renewed_at

    def is_alive(self, first: tuple[str, datetime] | None) -> bool:
        """Whether its holder certainly lives. `first`: its sign at an earlier look."""
        return self.state == "held" or (self.state == "unknown" and first is not None and self.sign != first)

    @property
    def state(self) -> Literal["free", "held", "unknown"]:
        """Whether it can be taken. `unknown`: it cannot yet, but its holder may have ended."""
        # Two machines may have one name: only of a process of this one we know that it has ended.
        process = self.holder.process_state() if self.holder.on_this_kernel() else "unknown"
        if process == "ended" or self.now - self.holder.renewed_at > LENGTH:
            return "free"
        return "held" if process == "alive" else "unknown"


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class PostgresqlLease:
    """The right to write and to send."""

    store: PostgresqlStore
    clock: Clock
    # This process.
    holder: Holder
    _renewed: float = field(init=False)

    def valid(self) -> bool:
        """Whether the lease is certainly still ours, by the monotonic clock. No I/O."""
        return self.clock.monotonic() - self._renewed < LENGTH.total_seconds()

    async def take(self) -> None:
        """Wait until the lease is free, and take it. Raises `StoreHeld` if its holder is alive."""
        first: tuple[str, datetime] | None = None
        while True:
            asked = self.clock.monotonic()
            async with self.store.write() as unit:
                seen = await _seen(unit.transaction)
                if seen is None or seen.state == "free":
                    await self._put(unit.transaction)
                    break
            if seen.is_alive(first):
                raise held(self.store.name, seen.holder)
            if first is None:
                first = seen.sign
                _log.info("lease_watched", host=seen.holder.host, pid=seen.holder.pid)
            await self.clock.sleep(WATCH_EVERY)
        self._renewed = asked
        if seen is not None:
            _log.warning("lease_taken_over", host=seen.holder.host, pid=seen.holder.pid)

    async def _put(self, transaction: Transaction) -> None:
        mine = self.holder
        values = {"slot": 1, "holder": mine.token, "host": mine.host, "pid": mine.pid, "started": mine.started}
        await transaction.execute(_TAKE, values)

    async def keep(self) -> None:
        """Renew the lease until cancelled. Raises `StoreHeld` when it is lost; waits while the store is away."""
        tries = 0
        while True:
            await self.clock.sleep(RENEW_EVERY)
            try:
                asked = self.clock.monotonic()
                async with self.store.write() as unit:  # every write transaction begins with the fence
                    await unit.transaction.execute(_RENEW, {"token": self.holder.token})
                self._renewed, tries = asked, 0
            except StoreUnavailable as error:
                tries += 1
                _log.warning("lease_not_renewed", reason=str(error), tries=tries)

    async def release(self) -> None:
        """Give it back."""
        try:
            async with self.store.write() as unit:
                await unit.transaction.execute(_RELEASE, {"token": self.holder.token})
        except (StoreUnavailable, StoreHeld) as error:
            _log.warning("lease_not_released", reason=str(error))


@asynccontextmanager
async def hold(store: SqlStore, clock: Clock) -> AsyncIterator[PostgresqlLease]:
    """Take the lease, renew it while the block runs, and give it back at the end. Raises `StoreHeld`.

    If the lease is lost meanwhile, the block is cancelled and `StoreHeld` is raised.
    """
    if not isinstance(store, PostgresqlStore):
        raise TypeError(f"{store.name} is not on PostgreSQL")
    lease = PostgresqlLease(store=store, clock=clock, holder=Holder.this_process(secrets.token_hex(8), clock.now()))
    store.write_only_with(None)
    await lease.take()
    store.write_only_with(lease.holder.token)
    renewal = asyncio.create_task(lease.keep(), name="lease")
    try:
        async with cancelled_by(renewal):
            yield lease
    finally:
        renewal.cancel()
        await asyncio.wait((renewal,))
        await lease.release()


async def is_held(store: SqlStore) -> bool:
    """Whether a daemon runs on the store, as far as one look can tell."""
    async with store.read() as unit:
        seen = await _seen(unit.transaction)
    return seen is not None and seen.state != "free"


async def last_seen(store: SqlStore) -> datetime | None:
    """When a holder that did not give the lease back last showed that it was alive."""
    async with store.read() as unit:
        seen = await _seen(unit.transaction)
    return None if seen is None else seen.holder.renewed_at


async def _seen(transaction: Transaction) -> SeenLease | None:
    row = await transaction.first(GET_LEASE, {})
    return None if row is None else SeenLease.of_row(row)
