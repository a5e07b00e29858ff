"""Who of a server goes by a name: asked of Discord, and remembered for a while."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import structlog

from relay.adapters.discord.rest import Json, Limited, Refused, Rest, Route, Unanswered
from relay.core.ports import Clock
from relay.core.references import folded
from relay.domain.ids import Platform, UserRef

_log = structlog.get_logger(__name__)

# https://docs.discord.com/developers/resources/guild#search-guild-members: whose names begin with the query.
_MOST = 100
_LONGEST_QUERY = 100
_REMEMBERED_SECONDS = 300.0
_REMEMBERED = 500
_Members = tuple[tuple[str, frozenset[str]], ...]


class People:
    """Looks members up by name."""

    def __init__(self, rest: Rest, clock: Clock) -> None:
        self._rest = rest
        self._clock = clock
        self._found: OrderedDict[tuple[str, str], tuple[float, _Members]] = OrderedDict()

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
        route = Route("GET", "/guilds/{guild}/members/search", {"guild": guild}, patience=0.0)
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


def _member(item: Mapping[str, Json]) -> tuple[str, frozenset[str]]:
    user = item["user"]
    names = (item.get("nick"), user.get("global_name"), user.get("username"))
    return str(user["id"]), frozenset(folded(str(name)) for name in names if name)
