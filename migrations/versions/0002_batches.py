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
    """Drop it. Refused where there are any: the next edit of a message would put its words over all the others."""
    if op.get_bind().execute(sa.text("SELECT count(*) FROM batch")).scalar():
        raise ValueError(
            "several messages stand in one copy, which an older relay would take for one message",
            "go back no further than 0002: they are forgotten with their messages, after `[store] retention`",
        )
    op.drop_table("batch")
