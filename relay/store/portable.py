"""SQL that SQLite and PostgreSQL write differently. The repositories use these, and know neither of the two."""

from typing import Any, Self

from sqlalchemy import Boolean, ColumnElement, Dialect, FunctionElement, Table
from sqlalchemy import Insert as PlainInsert
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import BigInteger, Integer

# Of PostgreSQL's dialect only its name is used here: it is not imported where nobody uses it.
POSTGRESQL = "postgresql"

# 64 bits on both: SQLite's only whole numbers have as many.
WholeNumber = BigInteger().with_variant(Integer(), "sqlite")


class _DoNothing(OnConflictDoNothing):
    """`ON CONFLICT … DO NOTHING`, for the compilers of both."""

    inherit_cache = True
    # What PostgreSQL's compiler looks for besides.
    constraint_target = None


class _DoUpdate(OnConflictDoUpdate):
    """`ON CONFLICT … DO UPDATE`, for the compilers of both."""

    inherit_cache = True
    constraint_target = None


class Insert(PlainInsert):
    """An INSERT that says what becomes of a row that is there already."""

    inherit_cache = True

    def or_ignore(self) -> Self:
        """Leave the old row."""
        return self.ext(_DoNothing())

    def or_update(self, *key: str, where: ColumnElement[bool] | None = None, **values: Any) -> Self:
        """Change the old row with this `key` to `values`."""
        return self.ext(_DoUpdate(index_elements=key, set_=dict(values), where=where))

    def or_replace(self) -> Self:
        """Change the old row with the same primary key to the new one."""
        key = [column.name for column in self.table.primary_key]
        return self.or_update(*key, **{name: value for name, value in self.new.items() if name not in key})

    @property
    def new(self) -> ReadOnlyColumnCollection[str, ColumnElement[Any]]:
        """The columns of the row that was not inserted."""
        return self.table.alias("excluded").c


def insert(table: Table) -> Insert:
    """An INSERT into `table`."""
    return Insert(table)


class seconds_now(FunctionElement[int]):  # noqa: N801 - a function of SQL
    """Whole seconds since 1970, by the database's clock. Pruning compares with it when something was used last."""

    type = BigInteger()
    inherit_cache = True


class milliseconds_now(FunctionElement[int]):  # noqa: N801
    """Milliseconds since 1970, by the database's clock: SQLite's has no smaller ones."""

    type = BigInteger()
    inherit_cache = True


class next_entry_id(FunctionElement[int]):  # noqa: N801
    """The ID of a new row of the outbox, which was never used before: SQLite itself gives up above a damaged one.

    If the row of `sqlite_sequence` is damaged or gone, the largest ID of the table counts. A damaged ID close to the
    largest number is ignored.
    """

    type = BigInteger()
    inherit_cache = True


class without_index(FunctionElement[int]):  # noqa: N801
    """A column for which SQLite uses no index (a `+` in front): https://www.sqlite.org/optoverview.html.

    SQLite has no statistics here, and might prefer the index of all messages of a channel to that of one message.
    PostgreSQL has some.
    """

    inherit_cache = True

    def __init__(self, column: ColumnElement[int]) -> None:
        super().__init__(column)
        self.type = column.type


class is_whole_number(FunctionElement[bool]):  # noqa: N801
    """Whether a value is a whole number: in a damaged row SQLite may have anything."""

    type = Boolean()
    inherit_cache = True


class contains(FunctionElement[bool]):  # noqa: N801
    """Whether the first text has the second one in it."""

    type = Boolean()
    inherit_cache = True


@compiles(seconds_now)
def _seconds(element: seconds_now, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(strftime('%s', 'now') AS INTEGER)"


@compiles(seconds_now, POSTGRESQL)
def _seconds_postgresql(element: seconds_now, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT)"


@compiles(milliseconds_now)
def _milliseconds(element: milliseconds_now, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)"


@compiles(milliseconds_now, POSTGRESQL)
def _milliseconds_postgresql(element: milliseconds_now, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)"


@compiles(next_entry_id)
def _next_entry_id(element: next_entry_id, compiler: SQLCompiler, **_: Any) -> str:
    return (
        "(SELECT max(coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'outbox' AND typeof(seq) = 'integer'"
        " AND seq < 1 << 62), 0), coalesce((SELECT max(id) FROM outbox WHERE id < 1 << 62), 0)) + 1)"
    )


@compiles(next_entry_id, POSTGRESQL)
def _next_entry_id_postgresql(element: next_entry_id, compiler: SQLCompiler, **_: Any) -> str:
    return "nextval(pg_get_serial_sequence('outbox', 'id'))"


@compiles(without_index)
def _without_index(element: without_index, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


@compiles(without_index, POSTGRESQL)
def _without_index_postgresql(element: without_index, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(is_whole_number)
def _is_whole_number(element: is_whole_number, compiler: SQLCompiler, **options: Any) -> str:
    return f"(typeof({compiler.process(element.clauses, **options)}) = 'integer')"


@compiles(is_whole_number, POSTGRESQL)
def _is_whole_number_postgresql(element: is_whole_number, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(element.clauses, **options)}) IS NOT NULL"


@compiles(contains)
def _contains(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    return f"(instr({compiler.process(element.clauses, **options)}) > 0)"


@compiles(contains, POSTGRESQL)
def _contains_postgresql(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    return f"(strpos({compiler.process(element.clauses, **options)}) > 0)"


def storable(text: str) -> str:
    """`text` as PostgreSQL can store it: it knows no NUL, and UTF-8 no half of a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def is_postgresql(dialect: Dialect) -> bool:
    """Whether statements are for PostgreSQL."""
    return dialect.name == POSTGRESQL
