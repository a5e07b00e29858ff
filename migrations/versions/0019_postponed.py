"""Whether a dead letter is queued again when its channel is opened. Earlier relays told it by the end of its reason."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and fill it from the reasons."""
    op.add_column("outbox", sa.Column("postponed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE outbox SET postponed = true"
        " WHERE state = 'dead' AND reason LIKE '%; it is tried again once that is mended'"
    )


def downgrade() -> None:
    """Drop it: the reasons still end in the same words."""
    op.execute("ALTER TABLE outbox DROP COLUMN postponed")
