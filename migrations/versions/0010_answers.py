"""Who answers a message: what is quoted follows its source."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only answers are in it."""
    op.create_index("ix_message_reply_to", "message", ["reply_to"], sqlite_where=sa.text("reply_to IS NOT NULL"))


def downgrade() -> None:
    """Nothing is lost."""
    op.drop_index("ix_message_reply_to")
