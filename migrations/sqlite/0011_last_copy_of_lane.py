"""The last copy of each lane: two lanes may lead to one channel, one after the other."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


class _Native(sa.types.UserDefinedType[str]):
    """A column without affinity: SQLite stores numbers, hashes and texts as they are."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


def upgrade() -> None:
    """Add the column. At first it is the last copy of the lane's channel."""
    op.add_column("lane", sa.Column("last_copy", _Native()))
    op.execute(
        "UPDATE lane SET last_copy = (SELECT c.last_copy FROM channel c"
        " WHERE c.platform = lane.destination_platform AND c.native_id = lane.destination_channel)"
    )


def downgrade() -> None:
    """Drop the column. The channels keep theirs."""
    op.execute("ALTER TABLE lane DROP COLUMN last_copy")
