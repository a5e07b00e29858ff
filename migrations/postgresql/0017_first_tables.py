"""All tables, as SQLite's revisions 0001 to 0017 have made them there.

A store on PostgreSQL begins here: no earlier relay knows one. Text is compared by code points, as SQLite compares it.
"""

from alembic import op

# ruff: noqa: E501 - as PostgreSQL is given it

revision = "0017"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE address (
    platform TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_address PRIMARY KEY (platform, value)
);
CREATE TABLE avatar (
    copy_platform TEXT COLLATE "C" NOT NULL,
    user_platform TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    copy_id TEXT COLLATE "C" NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_avatar PRIMARY KEY (copy_platform, user_platform, user_id, source)
);
CREATE TABLE batch (
    channel_id BIGINT NOT NULL,
    native_id TEXT COLLATE "C" NOT NULL,
    command TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_batch PRIMARY KEY (channel_id, native_id)
);
CREATE TABLE channel (
    id BIGSERIAL NOT NULL,
    platform TEXT COLLATE "C" NOT NULL,
    native_id TEXT COLLATE "C" NOT NULL,
    last_copy TEXT COLLATE "C",
    CONSTRAINT pk_channel PRIMARY KEY (id),
    CONSTRAINT uq_channel_platform_native_id UNIQUE (platform, native_id)
);
CREATE TABLE cursor (
    platform TEXT COLLATE "C" NOT NULL,
    stream TEXT COLLATE "C" NOT NULL,
    position TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_cursor PRIMARY KEY (platform, stream)
);
CREATE TABLE forgetting (
    platform TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    copies BOOLEAN NOT NULL,
    position BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_forgetting PRIMARY KEY (platform, account)
);
CREATE TABLE ghost (
    id BIGSERIAL NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    avatar TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_ghost PRIMARY KEY (id),
    CONSTRAINT uq_ghost_account UNIQUE (account)
);
CREATE TABLE lane (
    id BIGSERIAL NOT NULL,
    source_platform TEXT COLLATE "C" NOT NULL,
    source_channel TEXT COLLATE "C" NOT NULL,
    destination_platform TEXT COLLATE "C" NOT NULL,
    destination_channel TEXT COLLATE "C" NOT NULL,
    pair TEXT COLLATE "C",
    last_copy TEXT COLLATE "C",
    waiting BIGINT DEFAULT 0 NOT NULL,
    dead BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_lane PRIMARY KEY (id),
    CONSTRAINT uq_lane_source_platform_source_channel_destination_plat_a68b UNIQUE (source_platform, source_channel, destination_platform, destination_channel)
);
CREATE TABLE lease (
    slot BIGINT NOT NULL,
    holder TEXT COLLATE "C" NOT NULL,
    host TEXT COLLATE "C" NOT NULL,
    pid BIGINT NOT NULL,
    started TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    renewed_at BIGINT NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (slot),
    CONSTRAINT ck_lease_slot CHECK (slot = 1)
);
CREATE TABLE link_code (
    platform TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    for_platform TEXT COLLATE "C" NOT NULL,
    for_account TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    CONSTRAINT pk_link_code PRIMARY KEY (platform, account)
);
CREATE INDEX ix_link_code_for_platform_for_account ON link_code (for_platform, for_account);
CREATE TABLE media_cache (
    platform TEXT COLLATE "C" NOT NULL,
    locator TEXT COLLATE "C" NOT NULL,
    copy_platform TEXT COLLATE "C" NOT NULL,
    copy_locator TEXT COLLATE "C" NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_media_cache PRIMARY KEY (platform, locator, copy_platform)
);
CREATE TABLE message (
    id BIGSERIAL NOT NULL,
    channel_id BIGINT NOT NULL,
    native_id TEXT COLLATE "C" NOT NULL,
    author TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    edited_at BIGINT,
    reply_to TEXT COLLATE "C",
    deleted BOOLEAN DEFAULT false NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    left_out BOOLEAN DEFAULT false NOT NULL,
    received_at BIGINT,
    deleted_at BIGINT,
    left_out_why TEXT COLLATE "C",
    CONSTRAINT pk_message PRIMARY KEY (id),
    CONSTRAINT uq_message_channel_id_native_id UNIQUE (channel_id, native_id)
);
CREATE INDEX ix_message_reply_to ON message (reply_to) WHERE reply_to IS NOT NULL;
CREATE INDEX ix_message_standing ON message (channel_id) WHERE NOT deleted;
CREATE TABLE notebook (
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_notebook PRIMARY KEY (name)
);
CREATE TABLE notice (
    platform TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_notice PRIMARY KEY (platform, key, channel)
);
CREATE TABLE opted_out (
    platform TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    CONSTRAINT pk_opted_out PRIMARY KEY (platform, account)
);
CREATE TABLE person_link (
    platform TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    other_platform TEXT COLLATE "C" NOT NULL,
    other_account TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    CONSTRAINT pk_person_link PRIMARY KEY (platform, account, other_platform)
);
CREATE TABLE store (
    id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_store PRIMARY KEY (id)
);
CREATE TABLE ghost_member (
    channel_id BIGINT NOT NULL,
    ghost_id BIGINT NOT NULL,
    profile TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_ghost_member PRIMARY KEY (channel_id, ghost_id),
    CONSTRAINT fk_ghost_member_ghost_id FOREIGN KEY(ghost_id) REFERENCES ghost (id) ON DELETE CASCADE
);
CREATE INDEX ix_ghost_member_ghost_id ON ghost_member (ghost_id);
CREATE TABLE message_copy (
    message_id BIGINT NOT NULL,
    channel_id BIGINT NOT NULL,
    part BIGINT NOT NULL,
    superseded BIGINT DEFAULT 0 NOT NULL,
    native_id TEXT COLLATE "C" NOT NULL,
    sent_at BIGINT,
    retries BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_message_copy PRIMARY KEY (message_id, channel_id, part, superseded),
    CONSTRAINT fk_message_copy_message_id FOREIGN KEY(message_id) REFERENCES message (id) ON DELETE CASCADE
);
CREATE INDEX ix_message_copy_channel_id_native_id ON message_copy (channel_id, native_id);
CREATE TABLE message_edit (
    channel_id BIGINT NOT NULL,
    native_id TEXT COLLATE "C" NOT NULL,
    message_id BIGINT NOT NULL,
    CONSTRAINT pk_message_edit PRIMARY KEY (channel_id, native_id),
    CONSTRAINT fk_message_edit_message_id FOREIGN KEY(message_id) REFERENCES message (id) ON DELETE CASCADE
);
CREATE INDEX ix_message_edit_message_id ON message_edit (message_id);
CREATE TABLE outbox (
    id BIGSERIAL NOT NULL,
    lane_id BIGINT NOT NULL,
    position BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    queued_at BIGINT NOT NULL,
    source_platform TEXT COLLATE "C",
    source_channel TEXT COLLATE "C",
    source_id TEXT COLLATE "C",
    reason TEXT COLLATE "C",
    died_at BIGINT,
    command TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_outbox PRIMARY KEY (id),
    CONSTRAINT ck_outbox_state CHECK (state IN ('waiting', 'dead')),
    CONSTRAINT fk_outbox_lane_id FOREIGN KEY(lane_id) REFERENCES lane (id)
);
CREATE INDEX ix_outbox_dead_source ON outbox (source_platform, source_channel, source_id) WHERE state = 'dead';
CREATE INDEX ix_outbox_lane_id_state_position ON outbox (lane_id, state, position);
CREATE INDEX ix_outbox_late_source ON outbox (source_platform, source_channel, source_id) WHERE state = 'waiting' AND substr(command, 1, 19) = '{"kind":"late_file"';
"""

# The counts of each lane are read every second. Counting a million rows would take longer than that.
_COUNT = """
CREATE FUNCTION outbox_row_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE lane SET waiting = waiting - CAST(OLD.state = 'waiting' AS integer),
            dead = dead - CAST(OLD.state = 'dead' AS integer) WHERE id = OLD.lane_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE lane SET waiting = waiting + CAST(NEW.state = 'waiting' AS integer),
            dead = dead + CAST(NEW.state = 'dead' AS integer) WHERE id = NEW.lane_id;
    END IF;
    RETURN NULL;
END $$
"""
_TRIGGER = """
CREATE TRIGGER outbox_row_changed AFTER INSERT OR DELETE OR UPDATE OF state, lane_id ON outbox
FOR EACH ROW EXECUTE FUNCTION outbox_row_counted()
"""


def upgrade() -> None:
    """Create them."""
    connection = op.get_bind()
    for statement in _TABLES.split(";"):
        if statement.strip():
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_COUNT)
    connection.exec_driver_sql(_TRIGGER)


def downgrade() -> None:
    """Drop all of them."""
    names = [line.split()[2] for line in _TABLES.splitlines() if line.startswith("CREATE TABLE ")]
    for name in reversed(names):
        op.drop_table(name)
    op.execute("DROP FUNCTION outbox_row_counted()")
