"""When a message was received, sent and deleted, after how many retries, and why it did not cross: for `relay explain`.

Nothing is known of earlier messages.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_COLUMNS = {
    "message": (
        sa.Column("received_at", sa.BigInteger()),
        sa.Column("deleted_at", sa.BigInteger()),
        sa.Column("left_out_why", sa.Text()),
    ),
    "message_copy": (
        sa.Column("sent_at", sa.BigInteger()),
        sa.Column("retries", sa.Integer(), nullable=False, server_default=sa.text("0")),
    ),
}


def upgrade() -> None:
    """Add the columns."""
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.add_column(table, column)


def downgrade() -> None:
    """Drop them."""
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column.name}")
