"""What stands in the copies that several originals share."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "batch",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("native_id", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "channel", "native_id", name="pk_batch"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop it: shared copies stay as they are, and can no longer be edited."""
    op.drop_table("batch")
