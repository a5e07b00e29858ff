"""Rows of the outbox belong to lanes, from one channel to another, and no longer to the name of a pair.

The channels of a waiting entry are not known here: only relay.toml has the channels of a pair's name. So the entry
waits in a lane whose destination is "?" and the name, which is not a channel. When a pair of that name is declared with
the channel of the message, the destination is known. Until then the entry waits, and is shown. Notices whose channel
cannot be known are dropped: they are the relay's own words.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_GAP = 1 << 20

_COUNTS = (
    """
    CREATE TRIGGER outbox_row_came AFTER INSERT ON outbox BEGIN
      UPDATE lane SET waiting = waiting + (NEW.state = 'waiting'), dead = dead + (NEW.state = 'dead')
      WHERE id = NEW.lane_id;
    END
    """,
    """
    CREATE TRIGGER outbox_row_went AFTER DELETE ON outbox BEGIN
      UPDATE lane SET waiting = waiting - (OLD.state = 'waiting'), dead = dead - (OLD.state = 'dead')
      WHERE id = OLD.lane_id;
    END
    """,
    """
    CREATE TRIGGER outbox_row_changed AFTER UPDATE OF state, lane_id ON outbox BEGIN
      UPDATE lane SET waiting = waiting - (OLD.state = 'waiting'), dead = dead - (OLD.state = 'dead')
      WHERE id = OLD.lane_id;
      UPDATE lane SET waiting = waiting + (NEW.state = 'waiting'), dead = dead + (NEW.state = 'dead')
      WHERE id = NEW.lane_id;
    END
    """,
)


def upgrade() -> None:
    """Create the lanes, and move all entries into them."""
    op.create_table(
        "lane",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source_platform", sa.Text(), nullable=False),
        sa.Column("source_channel", sa.Text(), nullable=False),
        sa.Column("destination_platform", sa.Text(), nullable=False),
        sa.Column("destination_channel", sa.Text(), nullable=False),
        sa.Column("pair", sa.Text()),
        sa.Column("waiting", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("dead", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_lane"),
        sa.UniqueConstraint(
            "source_platform",
            "source_channel",
            "destination_platform",
            "destination_channel",
            name="uq_lane_source_platform_source_channel_destination_platform_destination_channel",
        ),
    )
    op.create_table(
        "address",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "value", name="pk_address"),
        sqlite_with_rowid=False,
    )
    _outbox_in_lanes()
    _notices_of_channels()


def _outbox_in_lanes() -> None:
    bind = op.get_bind()
    last = bind.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")).scalar()
    for index in ("ix_outbox_pair_destination_state_position", "ix_outbox_position", "ix_outbox_dead_source"):
        op.drop_index(index)
    op.rename_table("outbox", "outbox_before")
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("lane_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("source_platform", sa.Text()),
        sa.Column("source_channel", sa.Text()),
        sa.Column("source_id", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("died_at", sa.BigInteger()),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.ForeignKeyConstraint(["lane_id"], ["lane.id"], name="fk_outbox_lane_id"),
        sa.CheckConstraint("state IN ('waiting', 'dead')", name=op.f("ck_outbox_state")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_lane_id_state_position", "outbox", ["lane_id", "state", "position"])
    _dead_source_index()
    for trigger in _COUNTS:
        op.execute(trigger)
    op.execute(
        # Notes to the author of a message go to where it was written.
        "CREATE TEMP TABLE moved AS SELECT id, coalesce(source_platform, destination) AS source_platform,"
        " source_channel, destination AS destination_platform,"
        " CASE WHEN source_platform = destination THEN source_channel ELSE '?' || pair END AS destination_channel, pair"
        " FROM outbox_before WHERE source_channel IS NOT NULL"
    )
    for row in bind.execute(
        sa.text("SELECT id, pair, destination, command FROM outbox_before WHERE source_channel IS NULL")
    ).all():
        channel = _thread_channel(row.command, row.destination)
        if channel is not None:
            bind.execute(
                sa.text("INSERT INTO moved VALUES (:id, :platform, :channel, :platform, :channel, :pair)"),
                {"id": row.id, "platform": row.destination, "channel": channel, "pair": row.pair},
            )
    lane = "source_platform, source_channel, destination_platform, destination_channel"
    op.execute(f"INSERT INTO lane ({lane}, pair) SELECT {lane}, max(pair) FROM moved GROUP BY {lane}")  # noqa: S608
    op.execute(
        "INSERT INTO outbox SELECT o.id, l.id,"  # noqa: S608 - nothing in it is from outside
        f" row_number() OVER (PARTITION BY l.id ORDER BY o.position, o.id) * {_GAP}, o.state, o.queued_at,"
        " o.source_platform, o.source_channel, o.source_id, o.reason, o.died_at, o.command"
        " FROM outbox_before o JOIN moved m ON m.id = o.id JOIN lane l ON l.source_platform = m.source_platform"
        " AND l.source_channel = m.source_channel AND l.destination_platform = m.destination_platform"
        " AND l.destination_channel = m.destination_channel ORDER BY o.id"
    )
    op.execute("DROP TABLE moved")
    op.drop_table("outbox_before")
    _keep_sequence(last)


def _thread_channel(payload: str, platform: str) -> str | None:
    """The channel of a notice's thread. None if the notice is about no thread, or cannot be read."""
    try:
        channel = json.loads(payload)["thread"]["channel"]
        found = channel["id"] if channel["platform"] == platform else None
    except (ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, str) else None


def _notices_of_channels() -> None:
    op.rename_table("notice", "notice_before")
    op.create_table(
        "notice",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "key", "channel", name="pk_notice"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO notice SELECT destination, key, '?' || pair FROM notice_before")
    op.drop_table("notice_before")


def downgrade() -> None:
    """Back to names of pairs. Refused if entries wait for two channels whose pairs have, or had, the same name."""
    _refuse_mistakable()
    bind = op.get_bind()
    last = bind.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")).scalar()
    for index in ("ix_outbox_lane_id_state_position", "ix_outbox_dead_source"):
        op.drop_index(index)
    for trigger in ("came", "went", "changed"):
        op.execute(f"DROP TRIGGER outbox_row_{trigger}")
    op.rename_table("outbox", "outbox_after")
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("source_platform", sa.Text()),
        sa.Column("source_channel", sa.Text()),
        sa.Column("source_id", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("died_at", sa.BigInteger()),
        sa.Column("command", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.CheckConstraint("state IN ('waiting', 'dead')", name=op.f("ck_outbox_state")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_pair_destination_state_position", "outbox", ["pair", "destination", "state", "position"])
    op.create_index("ix_outbox_position", "outbox", ["position"])
    _dead_source_index()
    op.execute(
        "INSERT INTO outbox SELECT o.id, row_number() OVER (ORDER BY o.lane_id, o.position, o.id), l.pair,"
        " l.destination_platform, o.state, o.queued_at, o.source_platform, o.source_channel, o.source_id, o.reason,"
        " o.died_at, o.command FROM outbox_after o JOIN lane l ON l.id = o.lane_id ORDER BY o.id"
    )
    op.drop_table("outbox_after")
    _keep_sequence(last)
    op.rename_table("notice", "notice_after")
    op.create_table(
        "notice",
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pair", "destination", "key", name="pk_notice"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO notice SELECT substr(channel, 2), platform, key FROM notice_after WHERE channel LIKE '?%'")
    op.execute(
        "INSERT OR IGNORE INTO notice SELECT l.pair, n.platform, n.key FROM notice_after n JOIN lane l"
        " ON l.destination_platform = n.platform AND l.destination_channel = n.channel WHERE l.pair IS NOT NULL"
    )
    for table in ("notice_after", "lane", "address"):
        op.drop_table(table)


def _refuse_mistakable() -> None:
    """Refuse if a name alone would be ambiguous: entries for one channel would be posted in another.

    An address and its channel count as one, and so do a name and its channel. An empty lane whose channel has no
    address is not declared any more, and cannot be confused with anything.
    """
    names = op.get_bind().execute(
        sa.text(
            "SELECT l.pair FROM lane l WHERE l.waiting + l.dead > 0 AND (l.pair IS NULL OR EXISTS (SELECT 1 FROM lane o"
            " WHERE o.pair = l.pair AND o.destination_platform = l.destination_platform"
            " AND o.destination_channel != l.destination_channel"
            " AND (o.waiting + o.dead > 0 OR EXISTS (SELECT 1 FROM address a WHERE a.platform = o.destination_platform"
            " AND o.destination_channel IN (a.value, a.channel)))"
            " AND NOT EXISTS (SELECT 1 FROM address a WHERE a.platform = l.destination_platform"
            " AND (a.value, a.channel) IN (VALUES (l.destination_channel, o.destination_channel),"
            " (o.destination_channel, l.destination_channel)))"
            " AND NOT (o.source_platform = l.source_platform AND o.source_channel = l.source_channel"
            " AND '?' || l.pair IN (l.destination_channel, o.destination_channel))))"
        )
    ).scalars()  # fmt: skip
    for name in names:
        raise ValueError(
            f"something waits for a pair that was called {name!r}, and another pair has that name now"
            if name
            else "something waits for a pair whose name is not known",
            "let the daemon deliver it, or discard it (`relay outbox discard`, `relay dead discard`), first",
        )


def _dead_source_index() -> None:
    op.create_index(
        "ix_outbox_dead_source",
        "outbox",
        ["source_platform", "source_channel", "source_id"],
        sqlite_where=sa.text("state = 'dead'"),
    )


def _keep_sequence(last: int | None) -> None:
    """Keep the counter of IDs, so that no ID is used again."""
    bind = op.get_bind()
    bind.execute(sa.text("DELETE FROM sqlite_sequence WHERE name IN ('outbox', 'outbox_before', 'outbox_after')"))
    if last is not None:
        bind.execute(sa.text("INSERT INTO sqlite_sequence VALUES ('outbox', :last)"), {"last": last})
