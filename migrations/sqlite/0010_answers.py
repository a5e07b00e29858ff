"""An index of the answers to a message: their quotes follow its edits."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index. It contains only answers."""
    op.create_index("ix_message_reply_to", "message", ["reply_to"], sqlite_where=sa.text("reply_to IS NOT NULL"))


def downgrade() -> None:
    """Drop the index. Nothing is lost."""
    op.drop_index("ix_message_reply_to")
