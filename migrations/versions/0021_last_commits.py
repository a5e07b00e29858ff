"""The marks of the last commits, by which a process finds out what became of one whose answer was lost.

On PostgreSQL; SQLite has no use for the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "last_commits",
        sa.Column("slot", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("marks", _TEXT, nullable=False),
        sa.CheckConstraint("slot = 1", name=op.f("ck_last_commits_slot")),
    )


def downgrade() -> None:
    """Drop it: earlier relays ask the server by the number of a transaction."""
    op.drop_table("last_commits")
