"""Small things to remember: named values, and which one-time notices have been posted."""

from sqlalchemy import ColumnElement, bindparam, exists, literal_column, select, update
from sqlalchemy.dialects.sqlite import insert

from relay.domain.ids import ChannelRef
from relay.store.sqlite.transactions import Session
from relay.store.tables import SECONDS_NOW, notebook, notice

# A claim from before notices belonged to channels names its pair, after a question mark: it holds for every channel.
_claimed_before = exists().where(
    notice.c.platform == bindparam("platform"), notice.c.key == bindparam("key"), notice.c.channel.startswith("?")
)
_now: ColumnElement[int] = literal_column(SECONDS_NOW)
# As long as a thread goes on, it is not forgotten that it was told of.
_USE = (
    update(notice)
    .where(
        notice.c.platform == bindparam("of_platform"), notice.c.key == bindparam("of_key"), notice.c.used < _now - 3600
    )
    .values(used=_now)
)
_CLAIM = (
    insert(notice)
    .from_select(
        ["platform", "key", "channel", "used"],
        select(bindparam("platform"), bindparam("key"), bindparam("channel"), _now).where(~_claimed_before),
    )
    .on_conflict_do_nothing()
    .returning(notice.c.key)
)
_GET = select(notebook.c.value).where(notebook.c.name == bindparam("of_name"))
_insert = insert(notebook).values({name: bindparam(name) for name in ("name", "value")})
_PUT = _insert.on_conflict_do_update(index_elements=["name"], set_={"value": _insert.excluded.value})


class SqlOnceKeys:
    """`core.storage.OnceKeys`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def claim(self, destination: ChannelRef, key: str) -> bool:
        """True the first time that `key` is claimed for the channel, False ever after."""
        values = {"platform": destination.platform, "key": key, "channel": destination.id}
        await self._session.later(_USE, {"of_platform": destination.platform, "of_key": key})
        return await self._session.first(_CLAIM, values) is not None


class SqlKeyValues:
    """`core.storage.KeyValues`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, name: str) -> str | None:
        """The value, None if there is none."""
        row = await self._session.first(_GET, {"of_name": name})
        return None if row is None else str(row.value)

    async def put(self, name: str, value: str) -> None:
        """Remember a value under a name."""
        await self._session.later(_PUT, {"name": name, "value": value})
