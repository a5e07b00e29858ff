"""Alembic's entry: runs revisions on the connection that `relay.store.migrate` hands over.

For development (`alembic -x url=sqlite:///scratch.db revision --autogenerate -m "…"`) it opens one by itself.
"""

from alembic import context
from sqlalchemy import Connection

from relay.store.migrate import migration_engine
from relay.store.tables import metadata


def run(connection: Connection) -> None:
    """Run the revisions that were asked for, in the transaction of `connection`."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,  # SQLite alters little in place
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("the store is migrated online only")

handed_over: Connection | None = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    url = context.get_x_argument(as_dictionary=True).get("url", "sqlite:///relay.db")
    with migration_engine(url, create=True).begin() as opened:
        run(opened)
