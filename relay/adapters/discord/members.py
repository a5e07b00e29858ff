"""Who of a server goes by a name, and how somebody is called: asked of Discord, and remembered for a while."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import structlog

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.api.errors import Limited, Refused, Unanswered
from relay.core.convert.references import folded
from relay.core.ports import Clock
from relay.domain.ids import ChannelRef, Platform, UserRef

_log = structlog.get_logger(__name__)

# https://docs.discord.com/developers/resources/guild#search-guild-members: whose names begin with the query.
_MOST = 100
_LONGEST_QUERY = 100
_REMEMBERED_SECONDS = 300.0
_REMEMBERED = 500
_REMEMBERED_NAMES = 2_000
# https://docs.discord.com/developers/resources/channel#channel-object-channel-types: all but private ones.
_OPEN_THREADS = frozenset({10, 11})
# A name, and the channel whose readers may know it; None: anybody.
_Called = tuple[str | None, str | None]
_Members = tuple[tuple[str, frozenset[str]], ...]


class Members:
    """Looks members up by name."""

    def __init__(self, rest: RestClient, clock: Clock) -> None:
        self._rest = rest
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[float, _Members]] = OrderedDict()
        self._names: OrderedDict[tuple[str, UserRef | ChannelRef], tuple[float, _Called]] = OrderedDict()

    async def names(
        self, guild: str, wanted: Iterable[UserRef | ChannelRef], may_name: Callable[[str], bool | None]
    ) -> Mapping[UserRef | ChannelRef, str]:
        """How members, others and channels are called, each asked for once; nobody's message waits for a limit.

        `may_name`: whether a channel's name is for those who will read it.
        """
        found: dict[UserRef | ChannelRef, str] = {}
        for ref in wanted:
            known = self._names.get((guild, ref))
            if known is None or self._clock.monotonic() - known[0] >= _REMEMBERED_SECONDS:
                try:
                    known = self._clock.monotonic(), await self._look(guild, ref)
                except (Limited, Unanswered) as error:
                    _log.info("name not looked up", guild=guild, reason=str(error))
                    break
                self._names[guild, ref] = known
                self._names.move_to_end((guild, ref))
                if len(self._names) > _REMEMBERED_NAMES:
                    self._names.popitem(last=False)
            name, gate = known[1]
            if name is not None and (gate is None or may_name(gate)):
                found[ref] = name
        return found

    async def _look(self, guild: str, ref: UserRef | ChannelRef) -> _Called:
        return (
            await self._channel(guild, ref) if isinstance(ref, ChannelRef) else (await self._person(guild, ref), None)
        )

    async def _person(self, guild: str, user: UserRef) -> str | None:
        """A member's name in the server, or the own name of somebody who is not there (any more)."""
        member = await self._asked(Route("GET", "/guilds/{guild}/members/{user}", {"guild": guild, "user": user.id}))
        person = member.get("user") if member is not None else await self._asked(_user_route(user))
        own = person if isinstance(person, Mapping) else {}
        names = ((member or {}).get("nick"), own.get("global_name"), own.get("username"))
        return next((str(name) for name in names if name), None)

    async def _channel(self, guild: str, channel: ChannelRef) -> _Called:
        """A thread that has been archived: Discord tells of all other channels by itself.

        Not one of another server, and no private one: their names are not for everybody here.
        """
        found = await self._asked(Route("GET", "/channels/{channel}", {"channel": channel.id})) or {}
        if found.get("guild_id") != guild or found.get("type") not in _OPEN_THREADS or not found.get("name"):
            return None, None
        return str(found["name"]), str(found.get("parent_id"))

    async def _asked(self, route: Route) -> Mapping[str, Json] | None:
        """The object that Discord answers with; None for one that is not there, or not for us."""
        try:
            answer = await self._rest.call(replace(route, max_wait=0.0))
        except Refused as error:
            _log.debug("name refused", status=error.status, code=error.code)
            return None
        return answer if isinstance(answer, Mapping) else None

    async def named(self, guild: str, names: Iterable[str]) -> Mapping[str, UserRef]:
        """Those of `names` that exactly one member has, as nickname, display name or user name. Bots count too."""
        searches: dict[str, set[str]] = {}
        for name in names:
            if wanted := folded(name):
                searches.setdefault(wanted.split(" ")[0].rstrip(".,:;!?)]}'\"…") or wanted, set()).add(wanted)
        found: dict[str, UserRef] = {}
        for query, wanted_names in searches.items():
            members = await self._members(guild, query[:_LONGEST_QUERY])
            for wanted in wanted_names:
                matching = [user for user, called in members if wanted in called]
                if len(matching) == 1:
                    found[wanted] = UserRef(Platform.DISCORD, matching[0])
        return found

    async def _members(self, guild: str, query: str) -> _Members:
        known = self._found.get((guild, query))
        if known is not None and self._clock.monotonic() - known[0] < _REMEMBERED_SECONDS:
            return known[1]
        route = Route("GET", "/guilds/{guild}/members/search", {"guild": guild}, max_wait=0.0)
        try:
            answer = await self._rest.call(route, query={"query": query, "limit": str(_MOST)})
        except (Limited, Unanswered) as error:
            # Whoever makes up names must not be able to make everybody in the server wait.
            _log.info("members not searched", guild=guild, reason=str(error))
            return ()
        except Refused as error:
            # Remembered as well: refusals are counted against us.
            _log.warning("members must not be searched", guild=guild, reason=str(error))
            answer = None
        listed = [item for item in answer if isinstance(item, Mapping)] if isinstance(answer, list) else []
        # Where not everybody was listed, nobody can be told to be the only one.
        members = tuple(map(_member, listed)) if len(listed) < _MOST else ()
        self._found[guild, query] = (self._clock.monotonic(), members)
        self._found.move_to_end((guild, query))
        if len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)
        return members


def _user_route(user: UserRef) -> Route:
    return Route("GET", "/users/{user}", {"user": user.id})


def _member(item: Mapping[str, Json]) -> tuple[str, frozenset[str]]:
    user = item["user"]
    names = (item.get("nick"), user.get("global_name"), user.get("username"))
    return str(user["id"]), frozenset(folded(str(name)) for name in names if name)
