"""The message map, the outbox, cursors, once-only keys, key values and the lease."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables."""
    _message_map()
    _outbox()
    _small_tables()


def _message_map() -> None:
    op.create_table(
        "message",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("native_id", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("edited_at", sa.BigInteger()),
        sa.Column("reply_to", sa.Text()),
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_message"),
        sa.UniqueConstraint("platform", "channel", "native_id", name="uq_message_platform_channel_native_id"),
    )
    op.create_index("ix_message_platform_channel_created_at", "message", ["platform", "channel", "created_at"])
    op.create_table(
        "message_copy",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("native_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_message_copy"),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_copy_message_id", ondelete="CASCADE"),
        sa.UniqueConstraint("message_id", "pair", "part", name="uq_message_copy_message_id_pair_part"),
    )
    op.create_index("ix_message_copy_platform_channel_native_id", "message_copy", ["platform", "channel", "native_id"])
    op.create_index("ix_message_copy_platform_channel_id", "message_copy", ["platform", "channel", "id"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("source_platform", sa.Text()),
        sa.Column("source_channel", sa.Text()),
        sa.Column("source_id", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("died_at", sa.BigInteger()),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.CheckConstraint("state IN ('waiting', 'dead')", name=op.f("ck_outbox_state")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_pair_destination_state_position", "outbox", ["pair", "destination", "state", "position"])
    op.create_index("ix_outbox_position", "outbox", ["position"])
    op.create_index(
        "ix_outbox_dead_source",
        "outbox",
        ["source_platform", "source_channel", "source_id"],
        sqlite_where=sa.text("state = 'dead'"),
    )


def _small_tables() -> None:
    op.create_table(
        "cursor",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("position", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "stream", name="pk_cursor"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "notice",
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "destination", "key", name="pk_notice"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "notebook",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_notebook"),
    )
    op.create_table(
        "store",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_store"),
    )
    op.create_table(
        "lease",
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("renewed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slot", name="pk_lease"),
        sa.CheckConstraint("slot = 1", name=op.f("ck_lease_slot")),
    )


def downgrade() -> None:
    """Drop all tables."""
    for table in ("lease", "store", "notebook", "notice", "cursor", "outbox", "message_copy", "message"):
        op.drop_table(table)
