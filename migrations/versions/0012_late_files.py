"""The files that follow their messages are found among whatever else waits."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only late files are in it."""
    op.create_index(
        "ix_outbox_late_source",
        "outbox",
        ["source_platform", "source_channel", "source_id"],
        sqlite_where=sa.text("""state = 'waiting' AND substr(command, 1, 19) = '{"kind":"late_file"'"""),
    )


def downgrade() -> None:
    """Nothing is lost."""
    op.drop_index("ix_outbox_late_source")
