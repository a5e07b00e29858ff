"""Looks up a server's members by name, and the names of members and channels by ID. Remembers answers for a while."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import ErrorCode, Limited, Refused, Unanswered
from relay.core.convert.references import folded
from relay.core.ports import Clock
from relay.core.recent import keep
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict, as_list
from relay.logs import get_logger

_log = get_logger(__name__)

# https://docs.discord.com/developers/resources/guild#search-guild-members: those whose names begin with the query.
_MAX_FOUND = 100
_PAGE = 1_000
_MAX_QUERY_LENGTH = 100
_REMEMBERED_SECONDS = 300.0
_REMEMBERED = 500
_REMEMBERED_NAMES = 2_000
_REMEMBERED_ROLES = 2_000
# A message waits no longer for its roles, and so many are asked for at a time. Those that come later count next time.
_ROLES_WITHIN = 2.0
_ROLES_AT_ONCE = 5
# https://docs.discord.com/developers/resources/channel#channel-object-channel-types: all but private threads.
_PUBLIC_THREADS = frozenset({10, 11})
# A member's ID and names.
_Member = tuple[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class _KnownName:
    name: str | None
    # The channel whose readers may see the name; None: everybody may.
    visible_with: str | None = None


@dataclass(slots=True)
class Members:
    """Asks Discord for members and names. What Discord does not answer at once is not waited for."""

    rest: RestClient
    clock: Clock
    # Per server and search.
    _found: OrderedDict[tuple[str, str], tuple[float, tuple[_Member, ...]]] = field(
        init=False, default_factory=OrderedDict
    )
    _names: OrderedDict[tuple[str, UserRef | ChannelRef], tuple[float, _KnownName]] = field(
        init=False, default_factory=OrderedDict
    )
    # The roles of members, and of those who are none.
    _roles: OrderedDict[tuple[str, str], tuple[float, frozenset[str]]] = field(init=False, default_factory=OrderedDict)

    async def having_role(self, guild: str, role: str, people: Collection[UserRef]) -> frozenset[UserRef]:
        """Which of these people have a role. Who could not be looked up in time is left out."""
        unknown = deque(user for user in people if self._known_roles(guild, user) is None)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ROLES_WITHIN), asyncio.TaskGroup() as group:
                for _ in range(min(_ROLES_AT_ONCE, len(unknown))):
                    group.create_task(self._fetch_roles(guild, unknown), name="discord roles")
        return frozenset(user for user in people if role in (self._known_roles(guild, user) or ()))

    def _known_roles(self, guild: str, user: UserRef) -> frozenset[str] | None:
        at, roles = self._roles.get((guild, user.id), (None, None))
        return None if at is None or self.clock.monotonic() - at >= _REMEMBERED_SECONDS else roles

    async def _fetch_roles(self, guild: str, people: deque[UserRef]) -> None:
        """Take people from the list until it is empty, or Discord does not answer at once."""
        while people:
            user = people.popleft()
            try:
                member = await self._fetch(_member_route(guild, user)) or {}
            except (Limited, Unanswered) as error:
                _log.info("roles not looked up", guild=guild, reason=str(error))
                return
            roles = member.get("roles")
            held = frozenset(map(str, roles)) if isinstance(roles, list) else frozenset[str]()
            keep(self._roles, (guild, user.id), (self.clock.monotonic(), held), _REMEMBERED_ROLES)

    async def names(
        self, guild: str, wanted: Iterable[UserRef | ChannelRef], may_name: Callable[[str], bool | None]
    ) -> Mapping[UserRef | ChannelRef, str]:
        """The names of people and channels. When a rate limit is reached, the remaining names are left out.

        `may_name` tells whether everybody who will read the message may know the name of a channel.
        """
        found: dict[UserRef | ChannelRef, str] = {}
        for ref in wanted:
            known = self._names.get((guild, ref))
            if known is None or self.clock.monotonic() - known[0] >= _REMEMBERED_SECONDS:
                try:
                    known = self.clock.monotonic(), await self._fetch_name(guild, ref)
                except (Limited, Unanswered) as error:
                    _log.info("name not looked up", guild=guild, reason=str(error))
                    break
                keep(self._names, (guild, ref), known, _REMEMBERED_NAMES)
            name, channel = known[1].name, known[1].visible_with
            if name is not None and (channel is None or may_name(channel)):
                found[ref] = name
        return found

    async def _fetch_name(self, guild: str, ref: UserRef | ChannelRef) -> _KnownName:
        if isinstance(ref, ChannelRef):
            return await self._fetch_thread_name(guild, ref)
        return _KnownName(await self._fetch_person_name(guild, ref))

    async def _fetch_person_name(self, guild: str, user: UserRef) -> str | None:
        """A member's name in the server. For somebody who is not a member: their global name."""
        member = await self._fetch(_member_route(guild, user))
        own = as_dict(member.get("user") if member is not None else await self._fetch(_user_route(user)))
        names = ((member or {}).get("nick"), own.get("global_name"), own.get("username"))
        return next((str(name) for name in names if name), None)

    async def _fetch_thread_name(self, guild: str, channel: ChannelRef) -> _KnownName:
        """The name of an archived thread. All other channels are known from the gateway.

        Not of one in another server, and not of a private one: not everybody here may know those names.
        """
        found = await self._fetch(Route("GET", "/channels/{channel}", {"channel": channel.id})) or {}
        if found.get("guild_id") != guild or found.get("type") not in _PUBLIC_THREADS or not found.get("name"):
            return _KnownName(None)
        return _KnownName(str(found["name"]), visible_with=str(found.get("parent_id")))

    async def _fetch(self, route: Route) -> Json | None:
        """The object that Discord answers with; None if there is none, or the bot may not see it."""
        try:
            answer = await self.rest.call(replace(route, max_wait=0.0))
        except Refused as error:
            _log.debug("name refused", status=error.status, code=error.code)
            return None
        return answer if isinstance(answer, dict) else None

    async def everybody(self, guild: str) -> AsyncIterator[Sequence[Json]]:
        """The members of a server as Discord describes them, a page at a time, by rising ID.

        https://docs.discord.com/developers/resources/guild#list-guild-members: for bots with the Server Members Intent.
        """
        after = "0"
        while True:
            query = {"limit": str(_PAGE), "after": after}
            answer = await self.rest.call(Route("GET", "/guilds/{guild}/members", {"guild": guild}), query=query)
            page = [item for item in as_list(answer) if isinstance(item, dict)]
            if page:
                yield page
            if len(page) < _PAGE:
                return
            after = str(page[-1]["user"]["id"])

    async def departed(self, guild: str, people: frozenset[UserRef]) -> frozenset[UserRef]:
        """Who of these people is not in a server any more. Raises `ApiError`.

        Whoever is missing in the list is asked for by ID: they may have come since, or the list may be incomplete. A
        webhook is no member and no user either.
        """
        missing = {user.id for user in people}
        async for page in self.everybody(guild):
            missing -= {str((item.get("user") or {}).get("id")) for item in page}
        gone = set[UserRef]()
        for one in sorted(missing):
            user = UserRef(Platform.DISCORD, one)
            try:
                await self.rest.call(_member_route(guild, user))
            except Refused as error:
                if error.code not in {ErrorCode.UNKNOWN_MEMBER, ErrorCode.UNKNOWN_USER}:
                    raise
                if await self._fetch(_user_route(user)) is not None:
                    gone.add(user)
        return frozenset(gone)

    async def find(self, guild: str, names: Iterable[str]) -> Mapping[str, UserRef]:
        """The members that go by `names`, as nickname, display name or user name. Bots count too.

        A name that several members have is left out.
        """
        searches: dict[str, set[str]] = {}
        for name in names:
            if wanted := folded(name):
                searches.setdefault(wanted.split(" ")[0].rstrip(".,:;!?)]}'\"…") or wanted, set()).add(wanted)
        found: dict[str, UserRef] = {}
        for query, wanted_names in searches.items():
            members = await self._search(guild, query[:_MAX_QUERY_LENGTH])
            for wanted in wanted_names:
                matching = [user for user, called in members if wanted in called]
                if len(matching) == 1:
                    found[wanted] = UserRef(Platform.DISCORD, matching[0])
        return found

    async def _search(self, guild: str, query: str) -> tuple[_Member, ...]:
        known = self._found.get((guild, query))
        if known is not None and self.clock.monotonic() - known[0] < _REMEMBERED_SECONDS:
            return known[1]
        route = Route("GET", "/guilds/{guild}/members/search", {"guild": guild}, max_wait=0.0)
        try:
            answer = await self.rest.call(route, query={"query": query, "limit": str(_MAX_FOUND)})
        except (Limited, Unanswered) as error:
            # Not waited for: somebody who writes made-up names must not delay everybody in the server.
            _log.info("members not searched", guild=guild, reason=str(error))
            return ()
        except Refused as error:
            # Remembered as well, because Discord counts refusals against us.
            _log.warning("members must not be searched", guild=guild, reason=str(error))
            answer = None
        listed = [item for item in as_list(answer) if isinstance(item, dict)]
        # A full page may not be everybody, so that nobody is certain to be the only one of that name.
        members = tuple(map(_member, listed)) if len(listed) < _MAX_FOUND else ()
        keep(self._found, (guild, query), (self.clock.monotonic(), members), _REMEMBERED)
        return members


def _member_route(guild: str, user: UserRef) -> Route:
    return Route("GET", "/guilds/{guild}/members/{user}", {"guild": guild, "user": user.id})


def _user_route(user: UserRef) -> Route:
    return Route("GET", "/users/{user}", {"user": user.id})


def _member(item: Json) -> _Member:
    user = item["user"]
    names = (item.get("nick"), user.get("global_name"), user.get("username"))
    return str(user["id"]), frozenset(folded(str(name)) for name in names if name)
