"""When notices, uploaded pictures and messages were used last, in seconds, so that old ones can be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NOW = "CAST(strftime('%s', 'now') AS INTEGER)"


def upgrade() -> None:
    """Add the columns. Existing rows count as used now."""
    op.execute("UPDATE message SET used = used * 3600")
    for table in ("notice", "media_cache"):
        op.add_column(table, sa.Column("used", sa.Integer(), nullable=False, server_default=sa.text("0")))
        op.execute(f"UPDATE {table} SET used = {_NOW}")  # noqa: S608 - our own words


def downgrade() -> None:
    """Drop the columns."""
    op.execute("UPDATE message SET used = used / 3600")
    _rebuild("media_cache", ("platform", "locator", "copy_platform"), ("copy_locator",))
    _rebuild("notice", ("platform", "key", "channel"), ())


def _rebuild(table: str, key: tuple[str, ...], values: tuple[str, ...]) -> None:
    """Create the table again: before version 3.35 SQLite cannot drop a column."""
    op.rename_table(table, f"{table}_after")
    columns = (*key, *values)
    op.create_table(
        table,
        *(sa.Column(name, sa.Text(), nullable=False) for name in columns),
        sa.PrimaryKeyConstraint(*key, name=f"pk_{table}"),
        sqlite_with_rowid=False,
    )
    names = ", ".join(columns)
    op.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}_after")  # noqa: S608 - our own words
    op.drop_table(f"{table}_after")
