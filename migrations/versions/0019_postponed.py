"""Whether a dead letter is queued again when its channel is opened. Earlier relays told it by the end of its reason."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_CURSOR = sa.table("cursor", sa.column("platform"), sa.column("stream"), sa.column("position"))
# A token, a room, an event in it, and milliseconds.
_TOLD = re.compile(r"(.+) (![^ ]+) (\$[^ ]+) (\d{1,14})", re.ASCII)


def upgrade() -> None:
    """Add the column, and fill it from the reasons."""
    op.add_column("outbox", sa.Column("postponed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE outbox SET postponed = true"
        " WHERE state = 'dead' AND reason LIKE '%; it is tried again once that is mended'"
    )


def downgrade() -> None:
    """Drop it: the reasons still end in the same words. And leave of how far sync has been read the token alone.

    Later relays write the last event that they were told of behind it, which a homeserver refuses.
    """
    op.execute("ALTER TABLE outbox DROP COLUMN postponed")
    mine = (_CURSOR.c.platform == "matrix") & (_CURSOR.c.stream == "sync")
    for position in op.get_bind().scalars(sa.select(_CURSOR.c.position).where(mine)).all():
        if (found := _TOLD.fullmatch(position)) is not None:
            op.execute(_CURSOR.update().where(mine).values(position=found[1]))
