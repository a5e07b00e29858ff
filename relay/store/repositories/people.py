"""Linked accounts, the codes for that, opt-outs, and who is to be forgotten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, literal, or_, select, tuple_

from relay.core.people.storage import ForgetRequest, LinkCode
from relay.domain.ids import PlaceRef, Platform, UserRef
from relay.store.portable import insert
from relay.store.tables import ban, forgetting, link_code, opted_out, person_link
from relay.store.transaction import Transaction

_PLATFORMS = frozenset(map(str, Platform))

_l = person_link.c
_link_from = and_(_l.platform == bindparam("of_platform"), _l.account == bindparam("of_account"))
_link_to = and_(_l.other_platform == bindparam("of_platform"), _l.other_account == bindparam("of_account"))
_LINKED = select(_l.other_platform, _l.other_account).where(_link_from)
_LINKS = (
    select(_l.account, _l.other_account)
    .where(_l.platform == bindparam("of_platform"), _l.other_platform == bindparam("to_platform"))
    .limit(bindparam("at_most"))
)
_UNLINK = delete(person_link).where(or_(_link_from, _link_to))
_LINK = insert(person_link).values({column.name: bindparam(column.name) for column in _l}).or_replace().inline()

_c = link_code.c
_PUT_CODE = insert(link_code).values({column.name: bindparam(column.name) for column in _c}).or_replace().inline()
_CODES = (
    select(link_code)
    .where(_c.for_platform == bindparam("of_platform"), _c.for_account == bindparam("of_account"))
    .limit(bindparam("at_most"))
)
_FORGET_CODE = delete(link_code).where(_c.platform == bindparam("of_platform"), _c.account == bindparam("of_account"))
_FORGET_CODES = delete(link_code).where(_c.expires_at < bindparam("before"))

_o = opted_out.c
_has_opted_out = and_(_o.platform == bindparam("of_platform"), _o.account == bindparam("of_account"))
_HAS_OPTED_OUT = select(_o.account).where(_has_opted_out)
_OPT_IN = delete(opted_out).where(_has_opted_out)
_OPT_OUT = insert(opted_out).values({column.name: bindparam(column.name) for column in _o}).or_ignore().inline()

_b = ban.c
_of_banned = and_(_b.platform == bindparam("of_platform"), _b.account == bindparam("of_account"))
_in_place = and_(_b.place_platform == bindparam("in_platform"), _b.place == bindparam("in_place"))
_is_because = and_(_b.because_platform == bindparam("of_platform"), _b.because == bindparam("of_account"))
_BANNED_FROM = select(_b.place_platform, _b.place).where(_of_banned)
_BAN_OF = select(_b.because_platform, _b.because).where(_of_banned, _in_place)
_BANNED = select(_b.platform, _b.account).where(_in_place, _b.because_platform == _b.platform, _b.because == _b.account)
_BANNED_BECAUSE = select(_b.platform, _b.account).where(_in_place, _is_because)
_UNBAN = delete(ban).where(_in_place, _is_because)
_BAN = insert(ban).values({column.name: bindparam(column.name) for column in _b}).or_replace().inline()

_f = forgetting.c
_PUT_REQUEST = insert(forgetting).values({column.name: bindparam(column.name) for column in _f}).or_replace().inline()
_REQUESTS = (
    select(forgetting)
    .where(
        tuple_(_f.platform, _f.account) > tuple_(bindparam("of_platform"), bindparam("of_account")),
        _f.platform.in_([literal(platform) for platform in sorted(_PLATFORMS)]),
    )
    .order_by(_f.platform, _f.account)
    .limit(bindparam("at_most"))
)
_asks = and_(_f.platform == bindparam("of_platform"), _f.account == bindparam("of_account"))
_REQUEST_OF = select(forgetting).where(_asks)
_FORGET_REQUEST = delete(forgetting).where(_asks)


@dataclass(slots=True)
class SqlPeople:
    """`core.storage.People`."""

    transaction: Transaction

    async def linked(self, user: UserRef) -> Mapping[Platform, UserRef]:
        """See `People.linked`."""
        rows = await self.transaction.all(_LINKED, _of(user))
        found = (_user(row.other_platform, row.other_account) for row in rows)
        return {other.platform: other for other in found if other is not None}

    async def links_of(self, platform: Platform, other: Platform, limit: int) -> Mapping[UserRef, UserRef]:
        """See `People.links_of`."""
        values = {"of_platform": platform, "to_platform": other, "at_most": limit}
        rows = await self.transaction.all(_LINKS, values)
        return {UserRef(platform, row.account): UserRef(other, row.other_account) for row in rows}

    async def link(self, one: UserRef, other: UserRef, since: datetime) -> None:
        """See `People.link`."""
        for user, linked in ((one, other), (other, one)):
            values = {"other_platform": linked.platform, "other_account": linked.id, "since": since}
            await self.transaction.defer(_LINK, {**_is(user), **values})

    async def unlink(self, user: UserRef) -> None:
        """See `People.unlink`."""
        await self.transaction.defer(_UNLINK, _of(user))

    async def put_code(self, code: LinkCode) -> None:
        """See `People.put_code`."""
        bound = {"for_platform": code.bound_to.platform, "for_account": code.bound_to.id}
        values = {"name": code.name, "digest": code.digest, "expires_at": code.expires_at}
        await self.transaction.defer(_PUT_CODE, {**_is(code.asked_by), **bound, **values})

    async def codes_for(self, user: UserRef, limit: int) -> Sequence[LinkCode]:
        """See `People.codes_for`."""
        rows = await self.transaction.all(_CODES, {**_of(user), "at_most": limit})
        askers = [(row, _user(row.platform, row.account)) for row in rows]
        return tuple(
            LinkCode(asker, row.name, user, row.digest, row.expires_at) for row, asker in askers if asker is not None
        )

    async def forget_code(self, asked_by: UserRef) -> None:
        """See `People.forget_code`."""
        await self.transaction.defer(_FORGET_CODE, _of(asked_by))

    async def forget_codes(self, before: datetime) -> None:
        """See `People.forget_codes`."""
        await self.transaction.defer(_FORGET_CODES, {"before": before})

    async def has_opted_out(self, user: UserRef) -> bool:
        """See `People.has_opted_out`."""
        return await self.transaction.first(_HAS_OPTED_OUT, _of(user)) is not None

    async def opt_out(self, user: UserRef, since: datetime) -> None:
        """See `People.opt_out`."""
        await self.transaction.defer(_OPT_OUT, {**_is(user), "since": since})

    async def opt_in(self, user: UserRef) -> None:
        """See `People.opt_in`."""
        await self.transaction.defer(_OPT_IN, _of(user))

    async def ban(self, place: PlaceRef, user: UserRef, because: UserRef) -> bool:
        """See `People.ban`."""
        row = await self.transaction.first(_BAN_OF, {**_of(user), **_in(place)})
        if row is not None and (user != because or _user(row.because_platform, row.because) == because):
            return False
        values = {"place_platform": place.platform, "place": place.id}
        values |= {"because_platform": because.platform, "because": because.id}
        await self.transaction.defer(_BAN, {**_is(user), **values})
        return True

    async def unban(self, place: PlaceRef, because: UserRef) -> Sequence[UserRef]:
        """See `People.unban`."""
        values = {**_of(because), **_in(place)}
        rows = await self.transaction.all(_BANNED_BECAUSE, values)
        await self.transaction.defer(_UNBAN, values)
        return tuple(user for row in rows if (user := _user(row.platform, row.account)) is not None)

    async def banned_from(self, user: UserRef) -> frozenset[PlaceRef]:
        """See `People.banned_from`."""
        rows = await self.transaction.all(_BANNED_FROM, _of(user))
        return frozenset(
            PlaceRef(Platform(row.place_platform), row.place) for row in rows if row.place_platform in _PLATFORMS
        )

    async def banned(self, place: PlaceRef) -> frozenset[UserRef]:
        """See `People.banned`."""
        rows = await self.transaction.all(_BANNED, _in(place))
        return frozenset(user for row in rows if (user := _user(row.platform, row.account)) is not None)

    async def put_request(self, request: ForgetRequest) -> None:
        """See `People.put_request`."""
        values = {"copies": request.copies, "position": request.position}
        await self.transaction.defer(_PUT_REQUEST, {**_is(request.user), **values})

    async def requests(self, limit: int, after: UserRef | None = None) -> Sequence[ForgetRequest]:
        """See `People.requests`."""
        last = {"of_platform": "", "of_account": ""} if after is None else _of(after)
        rows = await self.transaction.all(_REQUESTS, {**last, "at_most": limit})
        return tuple(request for row in rows if (request := _request(row)) is not None)

    async def request_of(self, user: UserRef) -> ForgetRequest | None:
        """See `People.request_of`."""
        row = await self.transaction.first(_REQUEST_OF, _of(user))
        return None if row is None else _request(row)

    async def forget_request(self, user: UserRef) -> None:
        """See `People.forget_request`."""
        await self.transaction.defer(_FORGET_REQUEST, _of(user))


def _is(user: UserRef) -> dict[str, Any]:
    return {"platform": user.platform, "account": user.id}


def _of(user: UserRef) -> dict[str, Any]:
    return {"of_platform": user.platform, "of_account": user.id}


def _in(place: PlaceRef) -> dict[str, Any]:
    return {"in_platform": place.platform, "in_place": place.id}


def _user(platform: str, account: str) -> UserRef | None:
    """An account in a row; None if its platform is none that this relay knows."""
    return UserRef(Platform(platform), account) if platform in _PLATFORMS else None


def _request(row: Row[Any]) -> ForgetRequest | None:
    user = _user(row.platform, row.account)
    return None if user is None else ForgetRequest(user, bool(row.copies), row.position)
