"""For `relay backfill`: where the relay began to read, and which messages came later although they are older."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _index_standing(sqlite: str, postgresql: str) -> None:
    op.drop_index("ix_message_standing", "message")
    op.create_index(
        "ix_message_standing",
        "message",
        ["channel_id"],
        sqlite_where=sa.text(sqlite),
        postgresql_where=sa.text(postgresql),
    )


def upgrade() -> None:
    """Add the columns. Where the relay began in a channel that it reads already is not known."""
    op.add_column("cursor", sa.Column("began", _TEXT))
    op.add_column("message", sa.Column("from_past", sa.Boolean(), nullable=False, server_default=sa.false()))
    _index_standing("deleted = 0 AND from_past = 0", "NOT deleted AND NOT from_past")
    op.create_index(
        "ix_message_past",
        "message",
        ["channel_id"],
        sqlite_where=sa.text("deleted = 0 AND from_past = 1"),
        postgresql_where=sa.text("NOT deleted AND from_past"),
    )


def downgrade() -> None:
    """Drop them. An earlier relay takes what came from the past for the newest, and reads on behind that."""
    _index_standing("deleted = 0", "NOT deleted")
    op.drop_index("ix_message_past", "message")
    # SQLite deletes nothing by itself during a migration.
    op.execute("DELETE FROM message_copy WHERE message_id IN (SELECT id FROM message WHERE from_past)")
    op.execute("DELETE FROM message_edit WHERE message_id IN (SELECT id FROM message WHERE from_past)")
    op.execute("DELETE FROM message WHERE from_past")
    op.execute("ALTER TABLE message DROP COLUMN from_past")
    op.execute("ALTER TABLE cursor DROP COLUMN began")
