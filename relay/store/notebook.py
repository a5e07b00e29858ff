"""Small things to remember: named values, and which one-time notices have been posted."""

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.sqlite import insert

from relay.domain.pair import LaneKey
from relay.store.session import Session
from relay.store.tables import notebook, notice

_CLAIM = (
    insert(notice)
    .values({name: bindparam(name) for name in ("pair", "destination", "key")})
    .on_conflict_do_nothing()
    .returning(notice.c.key)
)
_GET = select(notebook.c.value).where(notebook.c.name == bindparam("of_name"))
_insert = insert(notebook).values({name: bindparam(name) for name in ("name", "value")})
_PUT = _insert.on_conflict_do_update(index_elements=["name"], set_={"value": _insert.excluded.value})


class SqlNotices:
    """`core.storage.Notices`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def claim(self, lane: LaneKey, key: str) -> bool:
        """True the first time that `key` is claimed in the lane, False ever after."""
        values = {"pair": lane.pair, "destination": lane.destination, "key": key}
        return await self._session.first(_CLAIM, values) is not None


class SqlNotebook:
    """`core.storage.Notebook`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, name: str) -> str | None:
        """The value, None if there is none."""
        row = await self._session.first(_GET, {"of_name": name})
        return None if row is None else str(row.value)

    async def put(self, name: str, value: str) -> None:
        """Remember a value under a name."""
        await self._session.later(_PUT, {"name": name, "value": value})
