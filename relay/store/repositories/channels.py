"""Which channel each declared address stood for when it was last opened."""

from collections.abc import Mapping

from sqlalchemy import and_, bindparam, delete, exists, or_, select
from sqlalchemy.dialects.sqlite import insert

from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.store.sqlite.transactions import Session
from relay.store.tables import address as address_table
from relay.store.tables import lane as lane_table

_KNOWN = select(address_table)
_is = and_(address_table.c.platform == bindparam("of_platform"), address_table.c.value == bindparam("of_value"))
_GET = select(address_table.c.channel).where(_is)
_l = lane_table.c
_in_use = exists().where(
    _l.waiting + _l.dead > 0,
    or_(
        and_(_l.source_platform == address_table.c.platform, _l.source_channel == address_table.c.channel),
        and_(_l.destination_platform == address_table.c.platform, _l.destination_channel == address_table.c.channel),
    ),
)
_FORGET = delete(address_table).where(_is, ~_in_use)
_insert = insert(address_table).values({name: bindparam(name) for name in ("platform", "value", "channel")})
_BIND = _insert.on_conflict_do_update(
    index_elements=["platform", "value"],
    set_={"channel": _insert.excluded.channel},
    where=address_table.c.channel != _insert.excluded.channel,
)


class SqlChannels:
    """`core.storage.Channels`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, address: ChannelAddress) -> ChannelRef | None:
        """The channel of one address, None if it was never opened."""
        row = await self._session.first(_GET, _of(address))
        return None if row is None else ChannelRef(address.platform, row.channel)

    async def known(self) -> Mapping[ChannelAddress, ChannelRef]:
        """All of them."""
        found = {}
        for row in await self._session.all(_KNOWN, {}):
            if row.platform not in frozenset(Platform):
                continue  # one that this relay does not know
            platform = Platform(row.platform)
            found[ChannelAddress(platform, row.value)] = ChannelRef(platform, row.channel)
        return found

    async def bind(self, address: ChannelAddress, channel: ChannelRef) -> None:
        """`address` stands for `channel` from now on."""
        values = {"platform": address.platform, "value": address.value, "channel": channel.id}
        await self._session.later(_BIND, values)

    async def forget(self, address: ChannelAddress) -> None:
        """`address` is not declared any more. While a lane of its channel holds anything, what it stood for is kept."""
        await self._session.later(_FORGET, _of(address))


def _of(address: ChannelAddress) -> dict[str, str]:
    return {"of_platform": address.platform, "of_value": address.value}
