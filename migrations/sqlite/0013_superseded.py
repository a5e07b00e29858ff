"""Which copies were posted again elsewhere and must still be deleted: a column, no longer 1,000 added to their part."""

import sqlalchemy as sa
from alembic import op

# ruff: noqa: S608 - the statements contain only our own text
revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STEP = 1000
_INDEX = "ix_message_copy_channel_id_native_id"


class _Native(sa.types.UserDefinedType[str]):
    """A column without affinity: SQLite stores numbers, hashes and texts as they are."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


def upgrade() -> None:
    """A part of 1002 was the first old copy of part 2, one of 2002 the second."""
    old = f"typeof(part) = 'integer' AND part >= {_STEP}"
    _rebuild(
        [sa.Column("superseded", sa.Integer(), nullable=False, server_default=sa.text("0"))],
        ("part", f"CASE WHEN {old} THEN part % {_STEP} ELSE part END"),
        ("superseded", f"CASE WHEN {old} THEN part / {_STEP} ELSE 0 END"),
    )


def downgrade() -> None:
    """Back into the part's number. A message of more than a thousand parts would be taken for old copies."""
    too_many = op.get_bind().exec_driver_sql(f"SELECT 1 FROM message_copy WHERE part >= {_STEP} LIMIT 1").first()
    if too_many is not None:
        raise ValueError(f"a message has more than {_STEP} parts", "go back to 0013 at most")
    _rebuild([], ("part", f"part + superseded * {_STEP}"))


def _rebuild(more: list[sa.Column[int]], *values: tuple[str, str]) -> None:
    """Make the table again, because the column is part of its key. `values`: columns, each with what it is made of."""
    op.rename_table("message_copy", "message_copy_before")
    op.drop_index(_INDEX)
    op.create_table(
        "message_copy",
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        *more,
        sa.Column("native_id", _Native(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_message_copy_message_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint(
            "message_id", "channel_id", "part", *(column.name for column in more), name="pk_message_copy"
        ),
        sqlite_with_rowid=False,
    )
    columns, made_of = zip(*values, strict=True)
    op.execute(
        f"INSERT INTO message_copy (message_id, channel_id, native_id, {', '.join(columns)}) "
        f"SELECT message_id, channel_id, native_id, {', '.join(made_of)} FROM message_copy_before"
    )
    op.drop_table("message_copy_before")
    op.create_index(_INDEX, "message_copy", ["channel_id", "native_id"])
