"""The tables. `migrations/` creates them; a test compares the two."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    MetaData,
    ScalarSelect,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    event,
    false,
    select,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from relay.store.portable import POSTGRESQL, WholeNumber, is_postgresql, storable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_LAST_MOMENT = (datetime(9999, 12, 30, tzinfo=UTC) - EPOCH) // MICROSECOND  # in every time zone
_HASH_LENGTH = 44
# One message names the same few IDs in each of its statements.
_PACKED_KEPT = 1_000


class Timestamp(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970 in UTC: exact, sortable, and always with its time zone.

    SQLAlchemy's date type for SQLite drops the zone. A damaged value is read as 1970.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the table. A naive datetime is refused with ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """From the table, in UTC."""
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value <= _LAST_MOMENT:
            return EPOCH
        return EPOCH + timedelta(microseconds=value)


class Milliseconds(TypeDecorator[datetime]):
    """A moment that the database writes (`milliseconds_now`). A damaged value is read as 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the table: only a copy of a store writes these itself."""
        return None if value is None else (value - EPOCH) // timedelta(milliseconds=1)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """From the table, in UTC."""
        if value is None:
            return None
        if not isinstance(value, int) or not 0 <= value <= _LAST_MOMENT // 1000:
            return EPOCH
        return EPOCH + timedelta(milliseconds=value)


class AnyText(TypeDecorator[str]):
    """Text. Any other value, in a damaged row, is also read as text."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """Compared and sorted as SQLite does: by code points, whatever the language of the database."""
        return Text(collation="C") if is_postgresql(dialect) else Text()

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], str | None] | None:
        """To the table."""
        if not is_postgresql(dialect):
            return super().bind_processor(dialect)
        return lambda value: None if value is None else storable(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:
        """From the table."""
        if value is None or isinstance(value, str):
            return value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class AnyInteger(TypeDecorator[int]):
    """A whole number. Any other value, in a damaged row, is read as 0."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[int]:
        """64 bits on every database."""
        return WholeNumber.dialect_impl(dialect)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> int | None:
        """From the table."""
        return value if value is None or isinstance(value, int) else 0


@lru_cache(_PACKED_KEPT)
def packed(native_id: str) -> int | bytes | str:
    """A platform's ID in few bytes: an ID of digits as a number, an event ID that is a hash as its 32 bytes."""
    if native_id.isascii() and native_id.isdigit() and len(native_id) < 20:
        number = int(native_id)
        if str(number) == native_id and number < 2**63:
            return number
    if len(native_id) == _HASH_LENGTH and native_id[0] == "$" and native_id.isascii():
        with suppress(ValueError):
            raw = urlsafe_b64decode(f"{native_id[1:]}=")
            if unpacked(raw) == native_id:
                return raw
    return native_id


def unpacked(value: int | bytes | str) -> str:
    """The ID that `packed` was given."""
    return f"${urlsafe_b64encode(value).decode().rstrip('=')}" if isinstance(value, bytes) else str(value)


class NativeId(UserDefinedType[str]):
    """A platform's ID: https://spec.matrix.org/latest/appendices/#event-ids.

    On SQLite it is `packed`, and the column accepts any type. On PostgreSQL it is text.
    """

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The only column type for which SQLite converts no values."""
        return "BLOB"

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], int | bytes | str | None]:
        """To the table."""
        if is_postgresql(dialect):
            return lambda value: None if value is None else storable(value)
        return lambda value: None if value is None else packed(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], str | None]:
        """From the table."""
        return lambda value: None if value is None else unpacked(value)


@compiles(NativeId, POSTGRESQL)
def _native_id(element: NativeId, compiler: SQLCompiler, **_: Any) -> str:
    return 'TEXT COLLATE "C"'


# The condition for the outbox rows of files that follow their message. There are few of them.
# It is part of an index, so it stays as it is; `codec` writes `kind` as the first key of a command.
LATE_FILE_WAITS = """state = 'waiting' AND substr(command, 1, 19) = '{"kind":"late_file"'"""
# What the JSON of a digest begins with.
DIGEST_BEGINS = '{"kind":"send_batch"'


class EntryState(StrEnum):
    """The state of a row of the outbox. A command that was delivered has no row any more."""

    WAITING = "waiting"
    DEAD = "dead"


# Where an index is partial, it is on PostgreSQL, too: see its migrations. To say so here would import its dialect.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

channel = Table(
    "channel",
    metadata,
    Column("id", WholeNumber, primary_key=True),
    Column("platform", AnyText, nullable=False),
    Column("native_id", AnyText, nullable=False),
    Column("last_copy", NativeId),  # the copy that was recorded last, even if it was deleted since
    UniqueConstraint("platform", "native_id"),
)


def channel_id(prefix: str = "") -> ScalarSelect[int]:
    """A subquery for the ID of the channel in the parameters `<prefix>platform` and `<prefix>channel`."""
    return (
        select(channel.c.id)
        .where(
            channel.c.platform == bindparam(f"{prefix}platform"), channel.c.native_id == bindparam(f"{prefix}channel")
        )
        .correlate(None)
        .scalar_subquery()
    )


# The message map takes 250 bytes a message, with its indexes (tests/benchmarks/map_lookup.py).
message = Table(
    "message",
    metadata,
    Column("id", WholeNumber, primary_key=True),  # rises in the order in which messages were routed
    Column("channel_id", WholeNumber, nullable=False),
    Column("native_id", NativeId, nullable=False),
    Column("author", NativeId, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("edited_at", Timestamp),
    Column("reply_to", NativeId),  # in the same channel
    Column("deleted", Boolean, nullable=False, server_default=false()),
    # When it was last edited, answered or routed, in seconds since 1970.
    Column("used", WholeNumber, nullable=False, server_default=text("0")),
    Column("left_out", Boolean, nullable=False, server_default=false()),
    # For `relay explain`. A message that the relay knew before these columns has none.
    Column("received_at", Milliseconds),
    Column("deleted_at", Milliseconds),
    Column("left_out_why", AnyText),  # a sentence
    # Written before the relay first read there: it came by `relay backfill`, after younger ones.
    Column("from_past", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("channel_id", "native_id"),
    Index("ix_message_standing", "channel_id", sqlite_where=text("deleted = 0 AND from_past = 0")),
    Index("ix_message_past", "channel_id", sqlite_where=text("deleted = 0 AND from_past = 1")),
    Index(
        "ix_message_reply_to",
        "reply_to",
        sqlite_where=text("reply_to IS NOT NULL"),
    ),
)

message_copy = Table(
    "message_copy",
    metadata,
    Column("message_id", WholeNumber, ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    Column("channel_id", WholeNumber, primary_key=True),
    Column("part", WholeNumber, primary_key=True),
    # 0: it is in use. Else: the first, second … copy of its part that was posted again elsewhere and must be deleted.
    Column("superseded", WholeNumber, primary_key=True, server_default=text("0")),
    Column("native_id", NativeId, nullable=False),
    # For `relay explain`: when it was recorded, and how many tries had failed before.
    Column("sent_at", Milliseconds),
    Column("retries", AnyInteger, nullable=False, server_default=text("0")),
    Index(None, "channel_id", "native_id"),  # not unique: several originals may share one copy
    sqlite_with_rowid=False,
)

message_edit = Table(
    "message_edit",
    metadata,
    Column("channel_id", WholeNumber, primary_key=True),
    Column("native_id", NativeId, primary_key=True),
    Column("message_id", WholeNumber, ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    Index(None, "message_id"),
    sqlite_with_rowid=False,
)

lane = Table(
    "lane",
    metadata,
    Column("id", WholeNumber, primary_key=True),
    Column("source_platform", AnyText, nullable=False),
    Column("source_channel", AnyText, nullable=False),
    Column("destination_platform", AnyText, nullable=False),
    Column("destination_channel", AnyText, nullable=False),
    Column("pair", AnyText),  # the name of its pair when that was last declared
    Column("last_copy", NativeId),  # recorded last for one of its messages; at first, the last one of its channel
    Column("waiting", AnyInteger, nullable=False, server_default=text("0")),  # kept by the triggers below
    Column("dead", AnyInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("source_platform", "source_channel", "destination_platform", "destination_channel"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", WholeNumber, primary_key=True),
    Column("lane_id", WholeNumber, ForeignKey("lane.id"), nullable=False),
    Column("position", AnyInteger, nullable=False),  # within its lane
    Column("state", AnyText, nullable=False),
    Column("queued_at", Timestamp, nullable=False),
    Column("source_platform", AnyText),  # of the message that the command is about
    Column("source_channel", AnyText),
    Column("source_id", AnyText),
    Column("reason", AnyText),
    Column("died_at", Timestamp),
    Column("command", AnyText, nullable=False),  # behind the others: reading those does not touch its pages
    # Of a dead letter: whether it waits again once its channel is opened. Read for dead letters only.
    Column("postponed", Boolean, nullable=False, server_default=false()),
    CheckConstraint("state IN ('waiting', 'dead')", name="state"),
    Index(None, "lane_id", "state", "position"),
    Index(
        "ix_outbox_dead_source",
        "source_platform",
        "source_channel",
        "source_id",
        sqlite_where=text("state = 'dead'"),
    ),
    Index(
        "ix_outbox_late_source",
        "source_platform",
        "source_channel",
        "source_id",
        sqlite_where=text(LATE_FILE_WAITS),
    ),
    sqlite_autoincrement=True,  # delivery keys come from the ID: it must never be used again
)

# The counts of each lane are read every second. Counting a million rows would take longer than that.
_COUNTS = (
    """
    CREATE TRIGGER outbox_row_came AFTER INSERT ON outbox BEGIN
      UPDATE lane SET waiting = waiting + (NEW.state = 'waiting'), dead = dead + (NEW.state = 'dead')
      WHERE id = NEW.lane_id;
    END
    """,
    """
    CREATE TRIGGER outbox_row_went AFTER DELETE ON outbox BEGIN
      UPDATE lane SET waiting = waiting - (OLD.state = 'waiting'), dead = dead - (OLD.state = 'dead')
      WHERE id = OLD.lane_id;
    END
    """,
    """
    CREATE TRIGGER outbox_row_changed AFTER UPDATE OF state, lane_id ON outbox BEGIN
      UPDATE lane SET waiting = waiting - (OLD.state = 'waiting'), dead = dead - (OLD.state = 'dead')
      WHERE id = OLD.lane_id;
      UPDATE lane SET waiting = waiting + (NEW.state = 'waiting'), dead = dead + (NEW.state = 'dead')
      WHERE id = NEW.lane_id;
    END
    """,
)
for _trigger in _COUNTS:
    _on_sqlite = DDL(_trigger).execute_if(dialect="sqlite")  # type: ignore[no-untyped-call]  # not annotated there
    event.listen(outbox, "after_create", _on_sqlite)

# The tables `batch`, `notice` and `notebook` keep their first names on disk.
digest = Table(
    "batch",
    metadata,
    Column("channel_id", WholeNumber, primary_key=True),
    Column("native_id", NativeId, primary_key=True),
    Column("command", AnyText, nullable=False),
    sqlite_with_rowid=False,
)

media_cache = Table(
    "media_cache",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("locator", AnyText, primary_key=True),
    Column("copy_platform", AnyText, primary_key=True),
    Column("copy_locator", AnyText, nullable=False),
    Column("used", WholeNumber, nullable=False, server_default=text("0")),
    sqlite_with_rowid=False,
)

# A row with an empty user is of nobody any more: its copy has to be deleted.
avatar = Table(
    "avatar",
    metadata,
    Column("copy_platform", AnyText, primary_key=True),
    Column("user_platform", AnyText, primary_key=True),
    Column("user_id", AnyText, primary_key=True),
    Column("source", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("copy_id", AnyText, nullable=False),
    Column("used", AnyInteger, nullable=False, server_default=text("0")),
    sqlite_with_rowid=False,
)

cursor = Table(
    "cursor",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("stream", AnyText, primary_key=True),
    Column("position", AnyText, nullable=False),
    # The first position. "" as long as that is nothing; NULL: an earlier relay, or another one, had read there before.
    Column("began", AnyText),
    sqlite_with_rowid=False,
)

address = Table(
    "address",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("value", AnyText, primary_key=True),  # as the operator wrote it
    Column("channel", AnyText, nullable=False),  # on the same platform
    sqlite_with_rowid=False,
)

once_key = Table(
    "notice",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("key", AnyText, primary_key=True),
    Column("channel", AnyText, primary_key=True),
    Column("used", WholeNumber, nullable=False, server_default=text("0")),
    sqlite_with_rowid=False,
)

key_value = Table(
    "notebook",
    metadata,
    Column("name", AnyText, primary_key=True),
    Column("value", AnyText, nullable=False),
)

# Each link has two rows, one for each of its accounts.
person_link = Table(
    "person_link",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("account", AnyText, primary_key=True),
    Column("other_platform", AnyText, primary_key=True),
    Column("other_account", AnyText, nullable=False),
    Column("since", Timestamp, nullable=False),
    sqlite_with_rowid=False,
)

# At most one for each account that asked for a link.
link_code = Table(
    "link_code",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("account", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),  # of that account, as people see it
    Column("for_platform", AnyText, nullable=False),  # of the account that may say the code
    Column("for_account", AnyText, nullable=False),
    Column("digest", AnyText, nullable=False),  # of the code
    Column("expires_at", Timestamp, nullable=False),
    Index(None, "for_platform", "for_account"),
    sqlite_with_rowid=False,
)

opted_out = Table(
    "opted_out",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("account", AnyText, primary_key=True),
    Column("since", Timestamp, nullable=False),
    sqlite_with_rowid=False,
)

# Who is banned from where, as moderators of that place decided; the same for the accounts that were linked then.
ban = Table(
    "ban",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("account", AnyText, primary_key=True),
    Column("place_platform", AnyText, primary_key=True),
    Column("place", AnyText, primary_key=True),
    Column("because_platform", AnyText, nullable=False),  # the account that was banned
    Column("because", AnyText, nullable=False),
    Index("ix_ban_place_platform_place", "place_platform", "place"),
    sqlite_with_rowid=False,
)

# Who asked to be forgotten, while that is under way.
forgetting = Table(
    "forgetting",
    metadata,
    Column("platform", AnyText, primary_key=True),
    Column("account", AnyText, primary_key=True),
    Column("copies", Boolean, nullable=False),  # the copies of their messages go too
    Column("position", AnyInteger, nullable=False, server_default=text("0")),  # the last message that was looked at
    sqlite_with_rowid=False,
)

# Accounts that the relay made for people of another platform ("ghosts").
ghost = Table(
    "ghost",
    metadata,
    Column("id", WholeNumber, primary_key=True),
    Column("account", AnyText, nullable=False),  # its ID on its platform
    Column("device", AnyText, nullable=False),  # "" where the platform has none
    Column("avatar", AnyText, nullable=False),  # the picture that it was given last
    UniqueConstraint("account"),
)

ghost_member = Table(
    "ghost_member",
    metadata,
    Column("channel_id", WholeNumber, primary_key=True),
    Column("ghost_id", WholeNumber, ForeignKey("ghost.id", ondelete="CASCADE"), primary_key=True),
    Column("profile", AnyText, nullable=False),  # a digest of the name and picture that it has there
    Index(None, "ghost_id"),
    sqlite_with_rowid=False,
)

store = Table(
    "store",
    metadata,
    Column("id", AnyText, primary_key=True),
)

lease = Table(
    "lease",
    metadata,
    Column("slot", WholeNumber, primary_key=True, autoincrement=False),  # always 1: there is one lease
    Column("holder", AnyText, nullable=False),
    Column("host", AnyText, nullable=False),
    Column("pid", AnyInteger, nullable=False),
    Column("started", AnyText, nullable=False),
    Column("since", Timestamp, nullable=False),
    Column("renewed_at", Timestamp, nullable=False),
    CheckConstraint("slot = 1", name="slot"),
)

# By which a process finds out what became of a commit whose answer was lost; on PostgreSQL only.
last_commits = Table(
    "last_commits",
    metadata,
    Column("slot", WholeNumber, primary_key=True, autoincrement=False),  # always 1
    Column("marks", AnyText, nullable=False),  # one for each transaction, separated by spaces, the last one first
    CheckConstraint("slot = 1", name="slot"),
)
