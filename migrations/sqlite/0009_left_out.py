"""Which messages did not cross because they had no content that can cross. An edit may add some."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("message", sa.Column("left_out", sa.Boolean(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    """An older relay does not know these messages: they go with all that belongs to them.

    References are not followed while tables are changed.
    """
    for table in ("message_edit", "message_copy"):
        op.execute(f"DELETE FROM {table} WHERE message_id IN (SELECT id FROM message WHERE left_out)")  # noqa: S608
    op.execute("DELETE FROM message WHERE left_out")
    op.execute("ALTER TABLE message DROP COLUMN left_out")
