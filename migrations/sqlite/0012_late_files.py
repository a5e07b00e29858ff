"""An index of the files that follow their messages, to find them among all other entries."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index. It contains only late files."""
    op.create_index(
        "ix_outbox_late_source",
        "outbox",
        ["source_platform", "source_channel", "source_id"],
        sqlite_where=sa.text("""state = 'waiting' AND substr(command, 1, 19) = '{"kind":"late_file"'"""),
    )


def downgrade() -> None:
    """Drop the index. Nothing is lost."""
    op.drop_index("ix_outbox_late_source")
