"""The message map in half the space: numbers for channels, packed IDs, and when each message was used last.

Going back, it is no longer known when notices were posted and pictures were uploaded.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error

import sqlalchemy as sa
from alembic import op

# ruff: noqa: S608 - the statements contain only our own text
revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SUPERSEDED = 1000
_HASH_LENGTH = 44
_NOW = "CAST(strftime('%s', 'now') AS INTEGER) / 3600"


class _Native(sa.types.UserDefinedType[str]):
    """A column without affinity: SQLite stores numbers, hashes and texts as they are."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


def _packed(native_id: str | None) -> int | bytes | str | None:
    """`relay.store.tables.packed`, as it was at this revision."""
    if native_id is None:
        return None
    if native_id.isascii() and native_id.isdigit() and len(native_id) < 20:
        number = int(native_id)
        if str(number) == native_id and number < 2**63:
            return number
    if len(native_id) == _HASH_LENGTH and native_id[0] == "$" and native_id.isascii():
        try:
            raw = urlsafe_b64decode(f"{native_id[1:]}=")
        except Error:
            return native_id
        if _unpacked(raw) == native_id:
            return raw
    return native_id


def _unpacked(value: int | bytes | str | None) -> str | None:
    if value is None:
        return None
    return f"${urlsafe_b64encode(value).decode().rstrip('=')}" if isinstance(value, bytes) else str(value)


def upgrade() -> None:
    """Create the tables again."""
    _with_functions()
    for table in ("message_edit", "batch", "message_copy", "message"):
        op.rename_table(table, f"{table}_before")
    op.drop_index("ix_message_platform_channel_created_at")
    op.drop_index("ix_message_copy_platform_channel_native_id")
    op.drop_index("ix_message_copy_platform_channel_id")
    _make_small()
    for table in ("message", "message_copy", "message_edit", "batch"):
        op.execute(
            f"INSERT OR IGNORE INTO channel (platform, native_id) SELECT DISTINCT platform, channel FROM {table}_before"
        )
    number = "(SELECT id FROM channel WHERE platform = o.platform AND native_id = o.channel)"
    op.execute(
        "INSERT INTO message (id, channel_id, native_id, author, created_at, edited_at, reply_to, deleted, used) "
        f"SELECT o.id, {number}, packed(o.native_id), packed(o.author), o.created_at, o.edited_at, packed(o.reply_to), "
        f"o.deleted, max(0, min({_NOW}, max(o.created_at, coalesce(o.edited_at, 0)) / 3600000000)) "
        "FROM message_before o ORDER BY o.id"
    )
    op.execute(
        "INSERT INTO message_copy (message_id, channel_id, part, native_id) "
        f"SELECT o.message_id, {number}, o.part, packed(o.native_id) "
        "FROM message_copy_before o ORDER BY o.message_id, 2, o.part"
    )
    op.execute(
        "UPDATE channel SET last_copy = (SELECT packed(o.native_id) FROM message_copy_before o "
        "WHERE o.platform = channel.platform AND o.channel = channel.native_id "
        f"AND o.part < {_SUPERSEDED} ORDER BY o.id DESC LIMIT 1)"
    )
    op.execute(
        "INSERT INTO message_edit (channel_id, native_id, message_id) "
        f"SELECT {number}, packed(o.native_id), o.message_id FROM message_edit_before o"
    )
    op.execute(
        "INSERT INTO batch (channel_id, native_id, command) "
        f"SELECT {number}, packed(o.native_id), o.command FROM batch_before o"
    )
    for table in ("message_edit", "batch", "message_copy", "message"):
        op.drop_table(f"{table}_before")


def downgrade() -> None:
    """Back to the names of channels."""
    _with_functions()
    for table in ("message_edit", "batch", "message_copy", "message"):
        op.rename_table(table, f"{table}_after")
    for index in ("ix_message_standing", "ix_message_copy_channel_id_native_id", "ix_message_edit_message_id"):
        op.drop_index(index)
    _make_named()
    named = "JOIN channel c ON c.id = o.channel_id"
    op.execute(
        "INSERT INTO message (id, platform, channel, native_id, author, created_at, edited_at, reply_to, deleted) "
        "SELECT o.id, c.platform, c.native_id, unpacked(o.native_id), unpacked(o.author), o.created_at, o.edited_at, "
        f"unpacked(o.reply_to), o.deleted FROM message_after o {named} ORDER BY o.id"
    )
    op.execute(
        "INSERT INTO message_copy (message_id, part, platform, channel, native_id) "
        "SELECT o.message_id, o.part, c.platform, c.native_id, unpacked(o.native_id) "
        f"FROM message_copy_after o {named} "
        "ORDER BY o.native_id IS c.last_copy, o.message_id, o.part"
    )
    op.execute(
        "INSERT INTO message_edit (platform, channel, native_id, message_id) "
        f"SELECT c.platform, c.native_id, unpacked(o.native_id), o.message_id FROM message_edit_after o {named}"
    )
    op.execute(
        "INSERT INTO batch (platform, channel, native_id, command) "
        f"SELECT c.platform, c.native_id, unpacked(o.native_id), o.command FROM batch_after o {named}"
    )
    for table in ("message_edit", "batch", "message_copy", "message"):
        op.drop_table(f"{table}_after")
    op.drop_table("channel")


def _with_functions() -> None:
    raw = op.get_bind().connection.driver_connection
    raw.create_function("packed", 1, _packed, deterministic=True)  # type: ignore[union-attr]
    raw.create_function("unpacked", 1, _unpacked, deterministic=True)  # type: ignore[union-attr]


def _make_small() -> None:
    op.create_table(
        "channel",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("native_id", sa.Text(), nullable=False),
        sa.Column("last_copy", _Native()),
        sa.PrimaryKeyConstraint("id", name="pk_channel"),
        sa.UniqueConstraint("platform", "native_id", name="uq_channel_platform_native_id"),
    )
    op.create_table(
        "message",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("native_id", _Native(), nullable=False),
        sa.Column("author", _Native(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("edited_at", sa.BigInteger()),
        sa.Column("reply_to", _Native()),
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.text("0")),
        sa.Column("used", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_message"),
        sa.UniqueConstraint("channel_id", "native_id", name="uq_message_channel_id_native_id"),
    )
    op.create_index("ix_message_standing", "message", ["channel_id"], sqlite_where=sa.text("deleted = 0"))
    op.create_table(
        "message_copy",
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("native_id", _Native(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_copy_message_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message_id", "channel_id", "part", name="pk_message_copy"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_message_copy_channel_id_native_id", "message_copy", ["channel_id", "native_id"])
    op.create_table(
        "message_edit",
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("native_id", _Native(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_edit_message_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("channel_id", "native_id", name="pk_message_edit"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_message_edit_message_id", "message_edit", ["message_id"])
    op.create_table(
        "batch",
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("native_id", _Native(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "native_id", name="pk_batch"),
        sqlite_with_rowid=False,
    )


def _make_named() -> None:
    names = ("platform", "channel", "native_id")

    def place() -> list[sa.Column[str]]:
        return [sa.Column(name, sa.Text(), nullable=False) for name in names]

    op.create_table(
        "message",
        sa.Column("id", sa.Integer(), nullable=False),
        *place(),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("edited_at", sa.BigInteger()),
        sa.Column("reply_to", sa.Text()),
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_message"),
        sa.UniqueConstraint(*names, name="uq_message_platform_channel_native_id"),
    )
    op.create_index("ix_message_platform_channel_created_at", "message", ["platform", "channel", "created_at"])
    op.create_table(
        "message_copy",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        *place(),
        sa.PrimaryKeyConstraint("id", name="pk_message_copy"),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_copy_message_id", ondelete="CASCADE"),
        sa.UniqueConstraint(
            "message_id", "platform", "channel", "part", name="uq_message_copy_message_id_platform_channel_part"
        ),
    )
    op.create_index("ix_message_copy_platform_channel_native_id", "message_copy", list(names))
    op.create_index("ix_message_copy_platform_channel_id", "message_copy", ["platform", "channel", "id"])
    op.create_table(
        "message_edit",
        *place(),
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_edit_message_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint(*names, name="pk_message_edit"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batch",
        *place(),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(*names, name="pk_batch"),
        sqlite_with_rowid=False,
    )
