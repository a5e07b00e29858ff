"""Accounts that the relay made for people of the other side: the tables `ghost` and `ghost_member`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, select

from relay.core.people.storage import Ghost
from relay.domain.ids import ChannelRef, Platform
from relay.store.portable import insert
from relay.store.tables import channel, channel_id, ghost, ghost_member
from relay.store.transaction import Transaction

_g = ghost.c
_m = ghost_member.c

_columns = (_g.account, _g.device, _g.avatar)
_ghost_id = select(_g.id).where(_g.account == bindparam("of_account")).correlate(None).scalar_subquery()
_GET = select(*_columns).where(_g.account == bindparam("of_account"))
_ghost_insert = insert(ghost).values({column.name: bindparam(column.name) for column in _columns})
_PUT = _ghost_insert.or_update("account", device=_ghost_insert.new.device, avatar=_ghost_insert.new.avatar)
_member_is = and_(_m.channel_id == channel_id("of_"), _m.ghost_id == _ghost_id)
_PROFILE = select(_m.profile).where(_member_is)
_LEAVE = delete(ghost_member).where(_member_is)
_JOIN = (
    insert(ghost_member)
    .from_select(
        ["channel_id", "ghost_id", "profile"],
        select(channel_id("of_"), _g.id, bindparam("profile", type_=_m.profile.type)).where(
            _g.account == bindparam("of_account")
        ),
    )
    .or_replace()
    .inline()
)
_CHANNELS = (
    select(channel.c.platform, channel.c.native_id)
    .join(ghost_member, _m.channel_id == channel.c.id)
    .join(ghost, _g.id == _m.ghost_id)
    .where(_g.account == bindparam("of_account"))
    .order_by(channel.c.id)
)
_FORGET_MEMBER = delete(ghost_member).where(_m.ghost_id == _ghost_id)
_FORGET = delete(ghost).where(_g.account == bindparam("of_account"))
_INSIDE = (
    select(_g.account)
    .join(ghost_member, _m.ghost_id == _g.id)
    .where(_m.channel_id == channel_id("of_"))
    .order_by(_g.account)
)


@dataclass(slots=True)
class SqlGhosts:
    """`core.storage.Ghosts`."""

    transaction: Transaction

    async def get(self, account: str) -> Ghost | None:
        """See `Ghosts.get`."""
        row = await self.transaction.first(_GET, {"of_account": account})
        return None if row is None else Ghost(row.account, row.device or "", row.avatar or "")

    async def put(self, ghost: Ghost) -> None:
        """See `Ghosts.put`."""
        values = {"account": ghost.account, "device": ghost.device, "avatar": ghost.avatar}
        await self.transaction.defer(_PUT, values)

    async def profile(self, account: str, channel: ChannelRef) -> str | None:
        """See `Ghosts.profile`."""
        row = await self.transaction.first(_PROFILE, _member(account, channel))
        return None if row is None else str(row.profile)

    async def join(self, account: str, channel: ChannelRef, profile: str) -> None:
        """See `Ghosts.join`."""
        await self.transaction.record_channel(channel)
        await self.transaction.defer(_JOIN, {**_member(account, channel), "profile": profile})

    async def leave(self, account: str, channel: ChannelRef) -> None:
        """See `Ghosts.leave`."""
        await self.transaction.defer(_LEAVE, _member(account, channel))

    async def channels(self, account: str) -> Sequence[ChannelRef]:
        """See `Ghosts.channels`."""
        rows = await self.transaction.all(_CHANNELS, {"of_account": account})
        known = frozenset(map(str, Platform))
        return [ChannelRef(Platform(row.platform), row.native_id) for row in rows if row.platform in known]

    async def forget(self, account: str) -> None:
        """See `Ghosts.forget`."""
        await self.transaction.defer(_FORGET_MEMBER, {"of_account": account})
        await self.transaction.defer(_FORGET, {"of_account": account})

    async def inside(self, channel: ChannelRef) -> Sequence[str]:
        """See `Ghosts.inside`."""
        rows = await self.transaction.all(_INSIDE, {"of_platform": channel.platform, "of_channel": channel.id})
        return [str(row.account) for row in rows]


def _member(account: str, channel: ChannelRef) -> dict[str, str]:
    return {"of_account": account, "of_platform": channel.platform, "of_channel": channel.id}
