"""What a bot's account can see and do, asked of Discord's API: for `relay check`, and to choose channels from.

No gateway: it would count against the day's limit of sessions, and the daemon may be connected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import translate_read_errors
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.permissions import blocked, held_in
from relay.config.settings import DiscordSettings
from relay.core.clock import SystemClock
from relay.core.findings import VisibleChannel
from relay.domain.jsontext import Json

_GUILDS_A_PAGE = 200
_CATEGORY = 4
# https://docs.discord.com/developers/resources/channel#channel-object-channel-types: those that can be mirrored.
KINDS = {0: "text channel", 2: "voice channel", 5: "announcement channel", 13: "stage channel"}
_OTHER_KINDS = {_CATEGORY: "category", 14: "directory", 15: "forum", 16: "media channel"}
THREADS = {10: "thread", 11: "thread", 12: "private thread"}


@dataclass(slots=True, kw_only=True)
class Guild:
    """A server, and what the bot is there."""

    document: Json
    # Of the bot.
    roles: frozenset[str]
    timed_out: bool
    channels: tuple[Json, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.document.get("name", self.document["id"]))


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class DiscordSurvey:
    """Lists what a bot can see."""

    settings: DiscordSettings
    clock: SystemClock = field(default_factory=SystemClock)
    timeout: float = 10.0
    _rest: RestClient = field(init=False)
    _user: str = field(init=False, default="")
    _guilds: tuple[Guild, ...] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._rest = RestClient(
            token=self.settings.token.get_secret_value(),
            api_url=self.settings.api_url,
            clock=self.clock,
            limits=RateLimits(self.clock),
            timeout=self.timeout,
        )

    async def close(self) -> None:
        """See `Survey.close`."""
        await self._rest.close()

    async def channels(self) -> Sequence[VisibleChannel]:
        """See `Survey.channels`: of all servers, without categories and threads."""
        return [
            self._visible(guild, channel, sections)
            for guild in await self.guilds()
            for sections in ({str(one["id"]): one for one in guild.channels if one.get("type") == _CATEGORY},)
            for channel in sorted(guild.channels, key=lambda one: _order(one, sections))
            if channel.get("type") in KINDS or channel.get("type") in _OTHER_KINDS.keys() - {_CATEGORY}
        ]

    async def guilds(self) -> tuple[Guild, ...]:
        """The servers that the bot is in. Raises `DeliveryError`."""
        if self._guilds is None:
            with translate_read_errors("of the bot's servers"):
                if not self._user:
                    self._user = str((await self._rest.call(Route("GET", "/users/@me", {})))["id"])
                self._guilds = tuple([await self._guild(str(one["id"])) for one in await self._guild_list()])
        return self._guilds

    async def _guild_list(self) -> list[Json]:
        found: list[Json] = []
        after = "0"
        while True:
            query = {"limit": str(_GUILDS_A_PAGE), "after": after}
            page = await self._rest.call(Route("GET", "/users/@me/guilds", {}), query=query)
            found += page
            if len(page) < _GUILDS_A_PAGE:
                return found
            after = str(page[-1]["id"])

    async def _guild(self, guild: str) -> Guild:
        ids = {"guild": guild}
        document = await self._rest.call(Route("GET", "/guilds/{guild}", ids))
        member = await self._rest.call(Route("GET", "/guilds/{guild}/members/{user}", ids | {"user": self._user}))
        channels = await self._rest.call(Route("GET", "/guilds/{guild}/channels", ids))
        until = member.get("communication_disabled_until")
        return Guild(
            document=document,
            roles=frozenset(map(str, member.get("roles") or ())),
            timed_out=isinstance(until, str) and until > self.clock.now().isoformat(),
            channels=tuple(channels),
        )

    def held(self, guild: Guild, channel: Json) -> int:
        """The bits of the bot's permissions in a channel."""
        return held_in(guild.document, channel, guild.roles, self._user, timed_out=guild.timed_out)

    def _visible(self, guild: Guild, channel: Json, sections: dict[str, Json]) -> VisibleChannel:
        section = sections.get(str(channel.get("parent_id")))
        return VisibleChannel(
            address=str(channel["id"]),
            name=f"#{channel.get('name')}",
            place=guild.name,
            section="" if section is None else str(section.get("name")),
            kind=_kind(channel),
            topic=channel.get("topic") or "",
            nsfw=bool(channel.get("nsfw")),
            problem=unusable(channel) or blocked(f"#{channel.get('name')}", self.held(guild, channel)),
        )


def unusable(channel: Json) -> str | None:
    """Why a channel of its type cannot be mirrored, with the remedy; None if it can."""
    if channel.get("type") in KINDS.keys() | THREADS.keys():
        return None
    others = "one of its posts" if channel.get("type") in {15, 16} else "a thread"
    return f"#{channel.get('name')} is a {_kind(channel)}, which cannot be mirrored: name a text channel, or {others}"


def _kind(channel: Json) -> str:
    kinds = KINDS | THREADS | _OTHER_KINDS
    return kinds.get(int(channel.get("type") or 0), "channel of a type that the relay does not know")


def _order(channel: Json, sections: dict[str, Json]) -> tuple[int, int, int]:
    section = sections.get(str(channel.get("parent_id")))
    return (
        -1 if section is None else int(section.get("position") or 0),
        int(channel.get("position") or 0),
        int(channel["id"]),
    )
