"""Where pictures that many messages show were uploaded."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "media_cache",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("locator", sa.Text(), nullable=False),
        sa.Column("copy_platform", sa.Text(), nullable=False),
        sa.Column("copy_locator", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "locator", "copy_platform", name="pk_media_cache"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the table. Emoji and avatars are then uploaded again."""
    op.drop_table("media_cache")
