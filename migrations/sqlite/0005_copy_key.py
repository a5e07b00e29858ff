"""A copy is identified by its message, channel and part, and not by the name of its pair.

Under a pair's name, a message's copy in a second channel took the place of the first one's.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PLACE = ("platform", "channel", "native_id")


def upgrade() -> None:
    """Create the table again. If a pair had two names, the copy that was recorded last counts."""
    _rebuild(
        sa.UniqueConstraint(
            "message_id", "platform", "channel", "part", name="uq_message_copy_message_id_platform_channel_part"
        )
    )


def downgrade() -> None:
    """Create the table again. The pair of a copy is not known: the channel takes its place, as for a renamed pair."""
    _rebuild(
        sa.UniqueConstraint("message_id", "pair", "part", name="uq_message_copy_message_id_pair_part"),
        sa.Column("pair", sa.Text(), nullable=False),
    )


def _rebuild(key: sa.UniqueConstraint, *pair: sa.Column[str]) -> None:
    op.rename_table("message_copy", "message_copy_before")
    op.drop_index("ix_message_copy_platform_channel_native_id", "message_copy_before")
    op.drop_index("ix_message_copy_platform_channel_id", "message_copy_before")
    op.create_table(
        "message_copy",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        *pair,
        sa.Column("part", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _PLACE),
        sa.PrimaryKeyConstraint("id", name="pk_message_copy"),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_copy_message_id", ondelete="CASCADE"),
        key,
    )
    columns = "id, message_id, part, platform, channel, native_id"
    names, values = (f"{columns}, pair", f"{columns}, platform || ' ' || channel") if pair else (columns, columns)
    op.execute(
        f"INSERT OR REPLACE INTO message_copy ({names}) "  # noqa: S608 - our own words
        f"SELECT {values} FROM message_copy_before ORDER BY id"
    )
    op.drop_table("message_copy_before")
    op.create_index("ix_message_copy_platform_channel_native_id", "message_copy", list(_PLACE))
    op.create_index("ix_message_copy_platform_channel_id", "message_copy", ["platform", "channel", "id"])
