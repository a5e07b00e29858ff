"""Which picture of which person stands where on the other side."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "avatar",
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("copy_platform", "user_platform", "user_id", "source", "name", "copy_id")
        ),
        sa.Column("used", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("copy_platform", "user_platform", "user_id", "source", name="pk_avatar"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the table. The pictures stay where they are, and are found by their names after the next upgrade."""
    op.drop_table("avatar")
