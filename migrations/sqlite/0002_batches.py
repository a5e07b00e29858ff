"""The messages in each digest: a copy that several originals share."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
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
    """Drop the table. Refused if there are digests: the next edit of one message would overwrite the others."""
    if op.get_bind().execute(sa.text("SELECT count(*) FROM batch")).scalar():
        raise ValueError(
            "some copies contain several messages, and an older relay would take each for one message",
            "go back to 0002 at most: such copies are forgotten with their messages, after `[store] retention`",
        )
    op.drop_table("batch")
