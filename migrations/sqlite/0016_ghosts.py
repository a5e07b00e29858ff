"""The accounts that the relay made for people of the other side, and which rooms they are in."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "ghost",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("avatar", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ghost"),
        sa.UniqueConstraint("account", name="uq_ghost_account"),
    )
    op.create_table(
        "ghost_member",
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("ghost_id", sa.Integer(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ghost_id"], ["ghost.id"], name="fk_ghost_member_ghost_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("channel_id", "ghost_id", name="pk_ghost_member"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ghost_member_ghost_id", "ghost_member", ["ghost_id"])


def downgrade() -> None:
    """Drop both. A ghost that speaks again is registered again, which changes nothing."""
    op.drop_table("ghost_member")
    op.drop_table("ghost")
