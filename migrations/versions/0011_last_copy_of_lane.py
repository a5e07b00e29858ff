"""The last copy of each lane: two that lead to one channel, one after the other, have each their own."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


class _Native(sa.types.UserDefinedType[str]):
    """A column without affinity: numbers, hashes and texts stand in it as they are."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


def upgrade() -> None:
    """Until a lane has one of its own, it is the last one of its channel."""
    op.add_column("lane", sa.Column("last_copy", _Native()))
    op.execute(
        "UPDATE lane SET last_copy = (SELECT c.last_copy FROM channel c"
        " WHERE c.platform = lane.destination_platform AND c.native_id = lane.destination_channel)"
    )


def downgrade() -> None:
    """The channels have theirs."""
    op.execute("ALTER TABLE lane DROP COLUMN last_copy")
