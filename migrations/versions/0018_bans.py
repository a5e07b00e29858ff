"""Who is banned from where, so that it holds from the first moment after a start, and each ban is acted on once."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "ban",
        sa.Column("platform", _TEXT, nullable=False),
        sa.Column("account", _TEXT, nullable=False),
        sa.Column("place_platform", _TEXT, nullable=False),
        sa.Column("place", _TEXT, nullable=False),
        sa.Column("because_platform", _TEXT, nullable=False),
        sa.Column("because", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("platform", "account", "place_platform", "place", name="pk_ban"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ban_place_platform_place", "ban", ["place_platform", "place"])


def downgrade() -> None:
    """Drop it. The bans are read again from both platforms."""
    op.drop_table("ban")
