"""Where pictures that many messages show (emoji, avatars) have been uploaded to."""

from sqlalchemy import and_, bindparam, literal_column, select
from sqlalchemy.dialects.sqlite import insert

from relay.domain.ids import MediaRef, Platform
from relay.store.sqlite.transactions import Session
from relay.store.tables import SECONDS_NOW, media_cache

_c = media_cache.c
_GET = select(_c.copy_locator).where(
    and_(
        _c.platform == bindparam("of_platform"),
        _c.locator == bindparam("of_locator"),
        _c.copy_platform == bindparam("on_platform"),
    )
)
_PUT = (
    insert(media_cache)
    .prefix_with("OR REPLACE")
    .values(
        {name: bindparam(name) for name in ("platform", "locator", "copy_platform", "copy_locator")}
        | {"used": literal_column(SECONDS_NOW)}
    )
    .inline()
)


class SqlMediaCache:
    """`core.storage.MediaCache`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, source: MediaRef, destination: Platform) -> MediaRef | None:
        """The copy of `source` on a platform, None if there is none."""
        row = await self._session.first(
            _GET, {"of_platform": source.platform, "of_locator": source.locator, "on_platform": destination}
        )
        return None if row is None else MediaRef(destination, row.copy_locator)

    async def put(self, source: MediaRef, copy: MediaRef) -> None:
        """Remember a copy; it replaces an earlier one on the same platform."""
        await self._session.later(
            _PUT,
            {
                "platform": source.platform,
                "locator": source.locator,
                "copy_platform": copy.platform,
                "copy_locator": copy.locator,
            },
        )
