"""How far each stream has been read."""

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite import insert

from relay.core.ports import Cursor
from relay.domain.ids import Platform
from relay.store.sqlite.transactions import Session
from relay.store.tables import cursor

_GET = select(cursor.c.position).where(
    cursor.c.platform == bindparam("of_platform"), cursor.c.stream == bindparam("of_stream")
)
_insert = insert(cursor).values({name: bindparam(name) for name in ("platform", "stream", "position")})
_PUT = _insert.on_conflict_do_update(
    index_elements=["platform", "stream"], set_={"position": _insert.excluded.position}
)


class SqlCursors:
    """`core.storage.Cursors`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, platform: Platform, stream: str) -> str | None:
        """The last position, None before the first."""
        row = await self._session.first(_GET, {"of_platform": platform, "of_stream": stream})
        return None if row is None else str(row.position)

    async def put(self, cursor: Cursor) -> None:
        """Remember a position."""
        values = {"platform": cursor.platform, "stream": cursor.stream, "position": cursor.position}
        await self._session.later(_PUT, values)
