"""Copies one store into another, between SQLite and PostgreSQL or within one of them, and compares the two.

No daemon may use either. All of it is one transaction of the new store, which ends once both hold the same: or nothing
has changed. The copy says when it was made, as a backup does (`backup.py`): should a daemon still run on the old store
before one starts on the new, what crossed meanwhile is looked for before it is sent.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Row, Table, bindparam, func, select, text

from relay.config.store_url import names_postgresql, schema_in, without_password
from relay.core.offload import run_unhindered
from relay.core.ports import Clock
from relay.errors import StoreError, StoreHeld
from relay.store import migrate
from relay.store.backup import TAKEN
from relay.store.lease import hold, is_held
from relay.store.lock_file import LockFile
from relay.store.portable import WholeNumber, insert, storable
from relay.store.sqlite.engine import BUSY_TIMEOUT, connect, database_path, translated
from relay.store.sqlite.replacing import BESIDE, is_there, remove_with_log
from relay.store.tables import (
    AnyInteger,
    channel,
    ghost,
    lane,
    last_commits,
    lease,
    message,
    message_copy,
    message_edit,
    metadata,
    outbox,
)
from relay.store.transaction import Transaction
from relay.store.unit_of_work import SqlStore, store_at

_AT_ONCE = 1_000
"""Rows in one read."""
_EMPTY = "copy into an empty database"

# Of the others each store has its own.
_TABLES = tuple(table for table in metadata.sorted_tables if table not in (lease, last_commits))
# Tables that may be long are read in the order of a number; all others at once.
_ORDER = {message: message.c.id, message_copy: message_copy.c.message_id, message_edit: message_edit.c.message_id}
_ORDER[outbox] = outbox.c.id
_NUMBERED = (channel, message, lane, outbox, ghost)
# Counted by the triggers of the outbox.
_COUNTED = {"waiting": 0, "dead": 0}

_LAST_ENTRY = {
    False: "SELECT coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'outbox'), 0) AS last",
    True: "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last FROM outbox_id_seq",
}


@dataclass(frozen=True, slots=True)
class _Sum:
    """What a table holds, in whatever order it is read."""

    rows: int
    checksum: int


async def copy_store(source_url: str, target_url: str, clock: Clock) -> Mapping[str, int]:
    """Copy a store into a new one; how many rows each table has. Raises `StoreError`; then nothing has changed."""
    source, target = store_at(source_url), store_at(target_url)
    if source.name == target.name:
        raise StoreError(source.name, "it cannot be copied into itself", "name another store")
    async with AsyncExitStack() as stack:
        for store in (source, target):
            stack.push_async_callback(store.close)
        await stack.enter_async_context(hold(source, clock))
        await stack.enter_async_context(hold(target, clock))
        await source.recount()
        old = await stack.enter_async_context(source.read())
        async with target.write() as new:
            await _refuse_used(target, new.transaction)
            sums = {table: await _copy(source, table, old.transaction, new.transaction) for table in _TABLES}
            sums[lane] = await _sum(source, lane, old.transaction)
            for table in _TABLES:
                if await _sum(target, table, new.transaction) != sums[table]:
                    raise StoreError(target.name, f"the copy of {table.name} is not the same", "report this")
            await _continue_numbers(source, target, old.transaction, new.transaction)
            if not await old.key_values.get(TAKEN):
                await new.key_values.put(TAKEN, clock.now().isoformat())
    return {table.name: one.rows for table, one in sums.items()}


@contextmanager
def prepared(source_url: str, target_url: str) -> Iterator[str]:
    """Make sure that there is a store to copy, and make the tables of the new one; the URL to copy it to. Blocks.

    Raises `StoreError`. When the block fails, what was made for it is gone again, and nothing else: the next try would
    find a store there. A new file gets its name only once it is complete.
    """
    schema = migrate.check(source_url)
    if schema.state != "current":
        reason = "it does not exist" if schema.state in ("missing", "empty") else "it is not at this relay's revision"
        raise StoreError(store_at(source_url).name, reason, "name a store that `relay db check` calls up to date")
    match migrate.check(target_url).state:
        case "current":
            yield target_url
        case "missing":
            with _new_file(database_path(target_url)) as url:
                yield url
        case "empty":
            with _filled_database(target_url) if names_postgresql(target_url) else _filled_file(target_url):
                yield target_url
        case "outdated" | "too_new":
            raise StoreError(store_at(target_url).name, "it is not new: it is another relay's", _EMPTY)


@contextmanager
def _new_file(path: Path) -> Iterator[str]:
    """A store beside the file, which gets its name at the end of the block. Until then nobody else may make one."""
    partly = path.with_name(f"{path.name}.part")
    with LockFile(path) as lock, ExitStack() as undo:
        with translated(partly):  # told as what else cannot be written there
            alone = not is_there(lock.path)
            free = lock.take()
        if not free:
            raise StoreHeld(path, "another process is making it", "wait for that one, or name another file")
        undo.callback(LockFile(partly).path.unlink, missing_ok=True)
        undo.callback(remove_with_log, partly)
        if alone:
            undo.callback(lock.path.unlink, missing_ok=True)
        remove_with_log(partly)  # of one that was killed
        url = f"sqlite:///{partly}"
        migrate.upgrade(url)
        yield url
        with translated(path):
            with closing(connect(partly)) as copy:
                copy.execute("DELETE FROM lease")  # nobody holds it
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            if is_there(path):
                raise StoreError(path, "another process has made it meanwhile", "name another file")
            partly.rename(path)


@contextmanager
def _filled_file(url: str) -> Iterator[None]:
    """Tables in a file that has none. When the block fails it is as it was, unless somebody else uses it by then."""
    path = database_path(url)
    lock = LockFile(path).path
    was_locked, content = is_there(lock), path.read_bytes()
    migrate.upgrade(url)
    try:
        yield
    except BaseException:
        # What is told is why the copy failed.
        with suppress(StoreError, OSError):
            if run_unhindered(_is_unused(url)) and not any(is_there(path.with_name(path.name + end)) for end in BESIDE):
                path.write_bytes(content)
                if not was_locked:
                    lock.unlink(missing_ok=True)
        raise


@contextmanager
def _filled_database(url: str) -> Iterator[None]:
    """The same in a database on a server, or in a schema of one."""
    new = run_unhindered(_will_be_new(url))
    migrate.upgrade(url)
    try:
        yield
    except BaseException:
        with suppress(StoreError):
            if run_unhindered(_is_unused(url)):
                migrate.downgrade(url, "base")
                run_unhindered(_run(url, [f"DROP {name}" for name in new]))
        raise


async def _is_unused(url: str) -> bool:
    store = store_at(url)
    try:
        if await is_held(store):
            return False
        async with store.read() as unit:
            return await _used(unit.transaction) is None
    finally:
        await store.close()


async def _will_be_new(url: str) -> Sequence[str]:
    """What an upgrade makes in an empty database and a downgrade leaves there."""
    from relay.store.postgresql.connections import quoted

    schema = schema_in(url)
    found = await _run(url, ["SELECT to_regclass('alembic_version')", "SELECT nspname FROM pg_namespace"])
    new = () if found[0][0][0] else ("TABLE alembic_version",)
    names = {name for (name,) in found[1]}
    return new if not schema or schema in names else (*new, f"SCHEMA {quoted(schema)}")


async def _run(url: str, statements: Sequence[str]) -> list[Any]:
    from relay.store.postgresql.connections import connect, translated

    with translated(without_password(url)):
        server = await connect(url, lock_timeout=BUSY_TIMEOUT)
        try:
            return [await server.fetch(statement) for statement in statements]
        finally:
            server.terminate()


async def _refuse_used(target: SqlStore, transaction: Transaction) -> None:
    if (table := await _used(transaction)) is not None:
        raise StoreError(target.name, f"it is not new: {table.name} has rows", _EMPTY)


async def _used(transaction: Transaction) -> Table | None:
    """A table with rows."""
    for table in _TABLES:
        if await transaction.first(select(next(iter(table.columns))).limit(1), {}) is not None:
            return table
    return None


async def _copy(store: SqlStore, table: Table, old: Transaction, new: Transaction) -> _Sum:
    statement = insert(table).values({column.name: bindparam(column.name) for column in table.columns}).inline()
    counted = _COUNTED if table is lane else {}
    found = _Sum(0, 0)
    async for rows in _pages(table, old):
        values = [_values(store, table, row) for row in rows]
        found = _added(found, values)
        await new.execute_all(statement, [{**one, **counted} for one in values])
    return found


async def _sum(store: SqlStore, table: Table, transaction: Transaction) -> _Sum:
    found = _Sum(0, 0)
    async for rows in _pages(table, transaction):
        found = _added(found, [_values(store, table, row) for row in rows])
    return found


async def _pages(table: Table, transaction: Transaction) -> AsyncIterator[Sequence[Row[Any]]]:
    order: ColumnElement[int] | None = _ORDER.get(table)
    if order is None:
        yield await transaction.all(select(table), {})
        return
    following = select(order.label("number")).where(order > bindparam("after")).order_by(order)
    last_of = select(func.max(following.limit(_AT_ONCE).subquery().c.number).label("last"))
    page = select(table).where(order > bindparam("after"), order <= bindparam("last"))
    after = -1
    while True:
        found = await transaction.first(last_of, {"after": after})
        if found is None or found.last is None:
            return
        yield await transaction.all(page, {"after": after, "last": found.last})
        after = found.last


def _values(store: SqlStore, table: Table, row: Row[Any]) -> dict[str, Any]:
    """A row as both databases hold it. Raises `StoreError` if it is damaged."""
    values = {}
    for column, value in zip(table.columns, row, strict=True):
        is_number = column.type is WholeNumber or isinstance(column.type, AnyInteger)
        if is_number and value is not None and type(value) is not int:
            raise StoreError(store.name, f"a row of {table.name} is damaged ({column.name})", "restore a backup")
        if isinstance(column.type, Boolean):
            value = bool(value)  # noqa: PLW2901 - the same value
        values[column.name] = storable(value) if isinstance(value, str) else value
    return values


def _added(known: _Sum, rows: Sequence[Mapping[str, Any]]) -> _Sum:
    """The sum of what is known and of these rows. Sums do not depend on the order, which is each database's own."""
    checksum = known.checksum
    for row in rows:
        written = repr(tuple(row.values())).encode("utf-8", "backslashreplace")
        checksum += int.from_bytes(hashlib.blake2b(written, digest_size=16).digest())
    return _Sum(known.rows + len(rows), checksum % (1 << 128))


async def _continue_numbers(source: SqlStore, target: SqlStore, old: Transaction, new: Transaction) -> None:
    """No number of the old store is given out again: keys of deliveries are made of those of the outbox."""
    row = await old.first(text(_LAST_ENTRY[source.on_postgresql]), {})
    used = {outbox: 0 if row is None else int(row.last)}
    for table in _NUMBERED:
        found = await new.first(select(func.coalesce(func.max(table.c.id), 0).label("last")), {})
        last = max(used.get(table, 0), 0 if found is None else found.last)
        if target.on_postgresql:
            sequence = f"SELECT setval('{table.name}_id_seq', {max(last, 1)}, {last > 0}) AS last"
            await new.first(text(sequence), {})
        elif table is outbox:
            await new.execute(text("DELETE FROM sqlite_sequence WHERE name = 'outbox'"), {})
            await new.execute(text("INSERT INTO sqlite_sequence VALUES ('outbox', :last)"), {"last": last})
