"""What all tenants that a process serves on one database share, so that their number costs no connections.

Their transactions have `WRITERS` and `READERS`, in which they take turns (`pools.py`); their leases are renewed by
`RENEWALS`, for which no transaction makes them wait; and one session shows by its advisory locks whose process lives.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from relay.config.store_url import without_password, without_schema
from relay.errors import StoreError, StoreUnavailable
from relay.logs import get_logger
from relay.store.postgresql.connections import ERRORS, NOW, connect, quoted, translated
from relay.store.postgresql.pools import Pool

WRITERS, READERS, RENEWALS = 8, 8, 4
_LONGEST_WAIT = 20.0
"""Seconds that a transaction waits for a place; the relay tries again then."""

_RENEWAL_LOCK, _RENEWAL = 0.5, 5.0
"""Seconds that a renewal waits for a transaction of its tenant, and for its answer."""

_GATHER, _TOGETHER = 0.01, 50
"""Seconds in which those come together who ask at the same time, and how many have one statement."""

_LEAVE = 1.0  # seconds that the server has to see that one of them, or all, have ended
_LOOK_EVERY = 1.0  # seconds
_PROVE_EVERY = 5  # looks

_log = get_logger(__name__)

_TAKE = "SELECT pg_advisory_lock_shared(hashtextextended(token, 0)) FROM unnest($1::text[]) AS token"
_GIVE_BACK = "SELECT pg_advisory_unlock_shared(hashtextextended($1, 0))"


class Shared:
    """The connections of this process to one database. `of` and `leave` count who uses them."""

    def __init__(self, url: str, busy_timeout: float) -> None:
        self.users = 0
        self.writers = Pool(url, WRITERS, lock_timeout=busy_timeout, longest_wait=_LONGEST_WAIT)
        self.readers = Pool(url, READERS, lock_timeout=busy_timeout, longest_wait=_LONGEST_WAIT)
        self.renewals = Pool(
            url, RENEWALS, lock_timeout=_RENEWAL_LOCK, patience=_RENEWAL, longest_wait=_RENEWAL, name="relay renews"
        )
        self.together = Renewals(self.renewals, without_password(url))
        self.session = Session(url)
        self._key = (url, busy_timeout)

    @classmethod
    def of(cls, url: str, busy_timeout: float) -> "Shared":
        """Those for a store in a schema of its own; the same for all stores of one database, in one loop."""
        for loop in [loop for loop in _known if loop.is_closed()]:
            del _known[loop]
        known = _known.setdefault(asyncio.get_running_loop(), {})
        key = (without_schema(url), busy_timeout)
        found = known.get(key) or known.setdefault(key, cls(*key))
        found.users += 1
        return found

    async def leave(self) -> None:
        """One store uses them no longer; the last one closes them."""
        self.users -= 1
        if self.users:
            return
        known = _known[asyncio.get_running_loop()]
        if known.get(self._key) is self:
            del known[self._key]
        await self.together.close()
        await self.session.close()
        await asyncio.gather(*(pool.close() for pool in (self.writers, self.readers, self.renewals)))


def forget_all() -> None:
    """Share nothing of before with whoever comes: for a fork, and for tests that pretend to be a new process."""
    _known.clear()


_known: dict[asyncio.AbstractEventLoop, dict[tuple[str, float], Shared]] = {}


@dataclass(slots=True, eq=False)
class Renewals:
    """The leases of all tenants, renewed in one trip for those that ask at the same time.

    No tenant waits for another one's transaction: whose row is locked is left out, and asks by itself then.
    """

    pool: Pool
    name: str
    # Who asks, by its token: its schema, and the answer.
    _asked: dict[str, tuple[str, asyncio.Future[bool]]] = field(init=False, default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    async def renew(self, schema: str, token: str) -> bool:
        """Whether it was. If not, the tenant has to ask by itself: it is held up, or lost, or something is wrong."""
        if not self._asked:
            task = asyncio.create_task(self._next(), name="renewal of all leases")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        _, answer = self._asked.setdefault(token, (schema, asyncio.get_running_loop().create_future()))
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Wait until nothing is asked any more, if the server answers."""
        if self._tasks:
            _, silent = await asyncio.wait(self._tasks, timeout=_LEAVE / 2)
            for task in silent:
                task.cancel()

    async def _next(self) -> None:
        await asyncio.sleep(_GATHER)
        asked, self._asked = self._asked, {}
        tokens = sorted(asked, key=lambda token: asked[token][0])
        for begin in range(0, len(tokens), _TOGETHER):
            part = tokens[begin : begin + _TOGETHER]
            renewed: set[str] = set()
            try:
                renewed = await self._renew([asked[token][0] for token in part], part)
            except (StoreError, *ERRORS) as error:
                _log.debug("leases not renewed together", reason=type(error).__name__)
            finally:
                for token in part:
                    asked[token][1].set_result(token in renewed)

    async def _renew(self, schemas: list[str], tokens: list[str]) -> set[str]:
        place = await self.pool.enter("")
        try:
            with translated(self.name):
                rows = await (await place.open()).fetch(_together(schemas), tokens)
        except BaseException:
            place.drop()
            raise
        finally:
            place.leave()
        return {row["holder"] for row in rows}


def _together(schemas: list[str]) -> str:
    """Renews these. Each is a table of its own, and what is locked is left out."""
    parts = [
        f"""r{number} AS (UPDATE {quoted(schema)}.lease SET renewed_at = {NOW} WHERE slot IN (
        SELECT slot FROM {quoted(schema)}.lease WHERE holder = ANY($1::text[]) FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING holder)"""  # noqa: S608 - names of our own
        for number, schema in enumerate(schemas)
    ]
    whole = " UNION ALL ".join(f"SELECT holder FROM r{number}" for number in range(len(schemas)))  # noqa: S608
    return f"WITH {', '.join(parts)} {whole}"


@dataclass(slots=True)
class Session:
    """Shows for as long as it lasts that the process lives which has these tokens: an advisory lock for each of them.

    When it is lost another one takes all locks again, while renewals go on.
    """

    url: str
    _tokens: set[str] = field(init=False, default_factory=set)
    # Those whose lock the connection has.
    _shown: set[str] = field(init=False, default_factory=set)
    _connection: asyncpg.Connection | None = field(init=False, default=None)
    _lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _keeper: asyncio.Task[None] | None = field(init=False, default=None)

    async def show(self, token: str) -> None:
        """Begin with this one. Raises `StoreError`."""
        self._tokens.add(token)
        try:
            await self._take()
        except BaseException:
            self._tokens.discard(token)
            raise
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="session of all tenants")

    async def hide(self, token: str) -> None:
        """Its process serves it no longer."""
        self._tokens.discard(token)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE), self._lock:
                await self._give_back(token)

    async def _give_back(self, token: str) -> None:
        if self._connection is None or token not in self._shown:
            return
        try:
            with translated(without_password(self.url)):
                await self._connection.execute(_GIVE_BACK, token)
            self._shown.discard(token)
        except StoreUnavailable as error:
            _log.warning("the session of all tenants is opened again", reason=error.reason)
            self._drop()
        except BaseException:
            self._drop()
            raise

    async def close(self) -> None:
        """End it."""
        self._tokens.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        self._drop()

    async def _keep(self) -> None:
        looks = tries = 0
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            looks += 1
            try:
                await self._take(prove=looks % _PROVE_EVERY == 0)
                tries = 0
            except StoreUnavailable as error:
                tries += 1
                _log.warning("no session shows that this process lives", reason=error.reason, tries=tries)

    async def _take(self, *, prove: bool = False) -> None:
        """Take the locks that are missing. `prove`: see whether the connection is there at all."""
        async with self._lock:
            if self._connection is not None and self._connection.is_closed():
                self._drop()
            missing = sorted(self._tokens - self._shown)
            if not missing and not prove:
                return
            try:
                if self._connection is None:
                    self._connection = await connect(
                        self.url, lock_timeout=_RENEWAL, patience=_RENEWAL, name="relay lives"
                    )
                with translated(without_password(self.url)):
                    await self._connection.fetch(_TAKE, missing)
                self._shown.update(missing)
            except BaseException:
                self._drop()
                raise

    def _drop(self) -> None:
        dropped, self._connection = self._connection, None
        self._shown.clear()
        if dropped is not None:
            dropped.terminate()
