"""What a bot's account can see and do, asked of Discord's API: for `relay check`, and to choose channels from.

No gateway: it would count against the day's limit of sessions, and the daemon may be connected.
"""

import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import MISSING, ApiError, ErrorCode, Limited, Refused, translate_read_errors
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.gateway.connection import PORTAL, token_refused
from relay.adapters.discord.identifiers import is_snowflake
from relay.adapters.discord.permissions import (
    BAN_MEMBERS,
    COPY_CHANNEL_ID,
    DIRECT_KINDS,
    DIRECT_MESSAGE,
    LET_IT_SEE,
    MANAGE_WEBHOOKS,
    SEND_IN_THREADS,
    SEND_MESSAGES,
    VOICE_KINDS,
    blocked,
    denied_to,
    held_in,
    how_to_allow,
    invite_link,
    is_for_adults,
    locked,
    missing,
    not_mirrored,
    shortcoming,
)
from relay.adapters.discord.webhooks import Webhooks
from relay.config.settings import DISCORD_API, DiscordSettings
from relay.core.clock import SystemClock
from relay.core.moderation.age_marks import mismatch
from relay.core.operations.findings import Finding, VisibleChannel
from relay.core.ports import Clock
from relay.domain.ids import MessageRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list
from relay.domain.pair import Pair

# What other programs take a proxy from.
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_GUILDS_A_PAGE = 200
_CATEGORY = 4
_MOST_WEBHOOKS = 15
_TRIES = 3
# As bridges call their webhooks.
_BRIDGE = re.compile("matrix|mautrix|bridge", re.IGNORECASE)
# https://docs.discord.com/developers/resources/channel#channel-object-channel-types: those that can be mirrored.
_KINDS = {0: "text channel", 2: "voice channel", 5: "announcement channel", 13: "stage channel"}
_THREADS = {10: "thread", 11: "thread", 12: "private thread"}
_FORUMS = {15: "forum", 16: "media channel"}
_OTHER_KINDS = {_CATEGORY: "category", 14: "directory", **_FORUMS}
# https://docs.discord.com/developers/resources/application#application-object-application-flags: each for bots in many
# servers, whom Discord has verified, and for others.
_MESSAGE_CONTENT = 1 << 18 | 1 << 19
_MEMBERS = 1 << 14 | 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Guild:
    """A server, and what the bot is there."""

    document: Json
    # Of the bot.
    roles: frozenset[str]
    timed_out: bool
    channels: Mapping[str, Json]

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.document.get("name") or self.document.get("id"))


@dataclass(frozen=True, slots=True)
class _Found:
    """A channel that the bot can see."""

    # As lines of `relay check` begin.
    subject: str
    channel: Json
    # Whose permissions count: the channel itself, or that of a thread.
    home: Json
    # The bot's permissions there, as bits.
    held: int
    # What the channel denies the bot by an entry about itself.
    denied: int
    in_thread: bool
    # Why it cannot be mirrored, with the remedy.
    problem: str | None
    for_adults: bool


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class DiscordSurvey:
    """Implements `core.operations.findings.Survey`."""

    settings: DiscordSettings
    clock: Clock = field(default_factory=SystemClock)
    # Seconds for each request.
    timeout: float = 10.0
    # What to do with a new token where Discord refuses this one: "paste it"; "": as the daemon says it.
    with_new_token: str = ""
    _rest: RestClient = field(init=False)
    _me: Json = field(init=False, default_factory=dict)
    # The application's ID; the bot's own until that is known. Both are the same, except for very old bots.
    _application: str = field(init=False, default="")
    _guilds: tuple[Guild, ...] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._rest = RestClient(
            token=self.settings.token.get_secret_value(),
            token_source=self.settings.token.source,
            api_url=self.settings.api_url,
            clock=self.clock,
            limits=RateLimits(self.clock),
            timeout=self.timeout,
        )

    async def close(self) -> None:
        """See `Survey.close`."""
        await self._rest.close()

    @property
    def invite(self) -> str:
        """The link under which the bot can be invited; "" until `account` has found out whose it is."""
        return invite_link(self._application) if self._application else ""

    @property
    def name(self) -> str:
        """What people call the bot; "" until `account` has found it out."""
        return str(self._me.get("username") or "")

    @property
    def usable(self) -> bool:
        """See `Survey.usable`. A bot that is in no server sees no channel, which is said once."""
        return bool(self._guilds)

    async def author_name(self, message: MessageRef, user: str) -> str:
        """What people call the author of a message there, and how they find them. Raises `ApiError`."""
        ids = {"channel": message.channel.id, "message": message.id, "user": user}
        try:
            channel = await self._ask(Route("GET", "/channels/{channel}", ids))
            ids["guild"] = str(channel.get("guild_id") or "")
            member = await self._ask(Route("GET", "/guilds/{guild}/members/{user}", ids))
            author = as_dict(member.get("user"))
        except Refused:  # has left, or is a webhook
            member, author = (
                {},
                as_dict((await self._ask(Route("GET", "/channels/{channel}/messages/{message}", ids))).get("author")),
            )
        handle = str(author.get("username") or "")
        name = str(member.get("nick") or author.get("global_name") or handle)
        return name if name.casefold() == handle.casefold() else f"{name}, {handle}"

    # --- The account --------------------------------------------------------------------------------------

    async def account(self) -> Sequence[Finding]:
        """See `Survey.account`."""
        found: list[Finding] = []
        try:
            found.append(await self._token())
            if found[-1].state != "wrong":
                found += await self._portal()
                found += await self._servers()
        except ApiError as error:
            found.append(Finding("Discord", "wrong", str(error), self._unanswered()))
        return found

    def _unanswered(self) -> str:
        official = DISCORD_API
        where = "" if self.settings.api_url == official else ", correct [discord] api_url"
        proxy = next((f" without a proxy ({name} is not used)" for name in _PROXIES if os.environ.get(name)), "")
        return f"try again in a moment; if it stays so, see that this machine may connect to the internet{proxy}{where}"

    async def _token(self) -> Finding:
        try:
            self._me = as_dict(await self._ask(Route("GET", "/users/@me", {})))
        except Refused as error:
            if error.status == 401:
                refused = token_refused(self._rest, self.with_new_token)
                return Finding("the bot's token", "wrong", refused.reason, refused.remedy)
            if error.unexplained:
                return self._no_discord()
            raise
        if not is_snowflake(self._user):
            return self._no_discord()
        self._application = self._user
        return Finding("the bot's token", "ok", f"it is {self._me.get('username')}'s")

    def _no_discord(self) -> Finding:
        words = f"what answers at {self.settings.api_url} is not Discord's API"
        return Finding("Discord", "wrong", words, "correct [discord] api_url, or leave it out")

    @property
    def _user(self) -> str:
        return str(self._me.get("id", ""))

    async def _portal(self) -> list[Finding]:
        """What is set in the developer portal."""
        try:
            application = await self._ask(Route("GET", "/applications/@me", {}))
        except Refused:
            return []  # Another server that speaks Discord's API.
        self._application = str(application.get("id") or self._application)
        flags = application.get("flags") or 0
        page = f"{PORTAL}/{self._application}/bot"
        found = [
            Finding("Message Content Intent", "ok", "it is on")
            if flags & _MESSAGE_CONTENT
            else Finding(
                "Message Content Intent",
                "wrong",
                "it is off, and so the bot may not read what people write",
                f"turn it on under Privileged Gateway Intents at {page}",
            )
        ]
        if self.settings.members_intent and not flags & _MEMBERS:
            words = "it is off, and [discord] members_intent asks for it: Discord will refuse the bot"
            remedy = f"turn it on under Privileged Gateway Intents at {page}, or remove members_intent"
            found.append(Finding("Server Members Intent", "wrong", words, remedy))
        if application.get("interactions_endpoint_url"):
            words = "it is set, and so Discord sends /relay there instead of to the relay"
            remedy = f"empty it at {PORTAL}/{self._application}/information"
            found.append(Finding("Interactions Endpoint URL", "note", words, remedy))
        return found

    async def _servers(self) -> list[Finding]:
        await self._load_guilds()
        if not self._guilds:
            return [Finding("the bot's servers", "wrong", "the bot is in no server", f"invite it: {self.invite}")]
        names = ", ".join(guild.name for guild in self._guilds)
        found = [Finding("the bot's servers", "ok", names)]
        for guild in self._guilds:
            if guild.timed_out:
                remedy = "ask a moderator to remove its time-out"
                found.append(Finding(guild.name, "wrong", "the bot is timed out there and may not write", remedy))
        return found

    @property
    def clock_skew(self) -> float | None:
        """By how many seconds our clock is ahead of Discord's; None before the first answer."""
        return self._rest.time.skew()

    # --- Its channels -------------------------------------------------------------------------------------

    async def channels(self) -> Sequence[VisibleChannel]:
        """See `Survey.channels`: of all servers, without categories and threads."""
        found: list[VisibleChannel] = []
        for guild in await self.guilds():
            sections = {name: one for name, one in guild.channels.items() if one.get("type") == _CATEGORY}
            listed = [one for one in guild.channels.values() if one.get("type") in _KINDS.keys() | _FORUMS.keys()]
            found += [self._visible(guild, one, sections) for one in sorted(listed, key=partial(_order, sections))]
        return found

    async def guilds(self) -> tuple[Guild, ...]:
        """The servers that the bot is in. Raises `DeliveryError`."""
        with translate_read_errors("of the bot's servers"):
            return await self._load_guilds()

    async def _load_guilds(self) -> tuple[Guild, ...]:
        if self._guilds is None:
            if not self._user:
                self._me = await self._ask(Route("GET", "/users/@me", {}))
                self._application = self._application or self._user
            self._guilds = tuple([await self._guild(str(one["id"])) for one in await self._guild_list()])
        return self._guilds

    async def _guild_list(self) -> list[Json]:
        found: list[Json] = []
        after = "0"
        while True:
            query = {"limit": str(_GUILDS_A_PAGE), "after": after}
            page = await self._ask(Route("GET", "/users/@me/guilds", {}), query=query)
            found += page
            if len(page) < _GUILDS_A_PAGE:
                return found
            after = str(page[-1]["id"])

    async def _guild(self, guild: str) -> Guild:
        ids = {"guild": guild}
        document = await self._ask(Route("GET", "/guilds/{guild}", ids))
        member = await self._ask(Route("GET", "/guilds/{guild}/members/{user}", ids | {"user": self._user}))
        channels = await self._ask(Route("GET", "/guilds/{guild}/channels", ids))
        until = member.get("communication_disabled_until")
        return Guild(
            document=document,
            roles=frozenset(map(str, member.get("roles") or ())),
            timed_out=isinstance(until, str) and until > self.clock.now().isoformat(),
            channels={str(channel["id"]): channel for channel in as_list(channels)},
        )

    async def _ask(self, route: Route, *, query: Mapping[str, str] | None = None) -> Any:
        """One request, which waits while Discord limits the bot. Raises `ApiError`."""
        for _ in range(_TRIES):
            try:
                return await self._rest.call(route, query=query)
            except Limited as error:
                await self.clock.sleep(error.retry_after)
        return await self._rest.call(route, query=query)

    def _held(self, guild: Guild, channel: Json) -> int:
        return held_in(guild.document, channel, guild.roles, self._user, timed_out=guild.timed_out)

    def _visible(self, guild: Guild, channel: Json, sections: Mapping[str, Json]) -> VisibleChannel:
        section = sections.get(str(channel.get("parent_id")))
        return VisibleChannel(
            address=str(channel["id"]),
            name=f"#{channel.get('name')}",
            place=guild.name,
            section="" if section is None else str(section.get("name")),
            kind=_kind(channel),
            topic=channel.get("topic") or "",
            nsfw=is_for_adults(guild.document) or bool(channel.get("nsfw")),
            problem=_unusable(channel)
            or blocked(
                f"#{channel.get('name')}",
                self._held(guild, channel),
                in_voice=channel.get("type") in VOICE_KINDS,
                denied=denied_to(self._user, channel),
            ),
        )

    # --- The pairs' channels ------------------------------------------------------------------------------

    async def pairs(self, pairs: Sequence[Pair]) -> AsyncIterator[Finding]:
        """See `Survey.pairs`. What is about a server is told once."""
        listed = set[str]()
        for pair in pairs:
            address = next((side.value for side in pair.sides if side.platform is Platform.DISCORD), None)
            if address is None:
                continue
            of_server: list[Finding] = []
            try:
                found = await self._channel(address, pair)
                if pair.policy.follow_bans:
                    of_server = await self._bans(address, listed)
            except ApiError as error:
                found = [Finding(f"channel {address}", "wrong", str(error), self._unanswered())]
            for finding in found:
                yield replace(finding, pair=pair.name)
            for finding in of_server:
                yield finding

    async def _bans(self, address: str, listed: set[str]) -> list[Finding]:
        """Whether the bot may list the bans of the server of a channel; nothing about one that is `listed` already."""
        guild, _ = self._listed(address)
        if guild is None or str(guild.document["id"]) in listed:
            return []
        listed.add(str(guild.document["id"]))
        subject = f"bans of {guild.name}"
        try:
            await self._ask(
                Route("GET", "/guilds/{guild}/bans", {"guild": str(guild.document["id"])}), query={"limit": "1"}
            )
        except Refused as error:
            if error.code not in MISSING:
                raise
            words = f"without {BAN_MEMBERS.name}, {BAN_MEMBERS.without}"
            remedy = f"give the bot's role {BAN_MEMBERS.name}, with which the relay only lists them"
            return [Finding(subject, "wrong", words, remedy)]
        return [Finding(subject, "ok", "they can be listed")]

    async def operators(self, address: str) -> Finding:
        """See `Survey.operators`: the bot itself writes there, not through a webhook."""
        try:
            found = await self._found(address)
        except ApiError as error:
            return Finding(f"[operators] channel {address}", "wrong", str(error), self._unanswered())
        if isinstance(found, Finding):
            return replace(found, subject=f"[operators] {found.subject}")
        name, subject = f"#{found.home.get('name')}", f"[operators] {found.subject}"
        if (problem := found.problem) is not None:
            return Finding(subject, "wrong", *_split(problem))
        needed = SEND_IN_THREADS if found.in_thread else SEND_MESSAGES
        if missing(found.held, (needed,)):
            return Finding(subject, "wrong", f"the bot may not write in {name}", how_to_allow([needed], found.denied))
        return Finding(subject, "ok", "the bot may write there")

    async def _channel(self, address: str, pair: Pair) -> list[Finding]:
        one = await self._found(address)
        if isinstance(one, Finding):
            return [one]
        if one.problem is not None:
            return [Finding(one.subject, "wrong", *_split(one.problem))]
        lacking = shortcoming(f"#{one.home.get('name')}", one.held, in_thread=one.in_thread, denied=one.denied)
        found = [] if lacking is None else [Finding(one.subject, "note", *_split(lacking))]
        found += await self._webhooks(one.subject, str(one.home.get("id")), one.held)
        if (differs := mismatch(pair, {Platform.DISCORD: one.for_adults})) is not None:
            # The line begins with its name.
            words = differs.words.replace(f"channel {address}", "it")
            found.append(Finding(one.subject, "wrong", words, differs.remedy))
        if not found:
            kind = f"age-restricted {_kind(one.channel)}" if one.for_adults else _kind(one.channel)
            found.append(Finding(one.subject, "ok", f"{kind}, all permissions are there"))
        return found

    async def _found(self, address: str) -> "_Found | Finding":
        """The channel, or why there is none for us. Raises `ApiError`."""
        subject = f"channel {address}"
        guild, channel = self._listed(address)
        if channel is None:
            if (mistaken := self._mistaken(address)) is not None:
                return Finding(subject, "wrong", mistaken, COPY_CHANNEL_ID)
            try:
                channel = await self._ask(Route("GET", "/channels/{channel}", {"channel": address}))
            except Refused as error:
                if (name := await self._person(address)) is not None:
                    return Finding(
                        subject, "wrong", f"it is the ID of {name}'s account, not of a channel", COPY_CHANNEL_ID
                    )
                return self._refused(subject, error)
            guild = next(
                (one for one in self._guilds or () if str(one.document["id"]) == channel.get("guild_id")), None
            )
        if channel.get("type") in DIRECT_KINDS:
            return Finding(subject, "wrong", f"it is {DIRECT_MESSAGE}", COPY_CHANNEL_ID)
        if guild is None:
            return Finding(subject, "wrong", "it is in no server that the bot is in", f"invite it: {self.invite}")
        in_thread = channel.get("type") in _THREADS
        home = guild.channels.get(str(channel.get("parent_id")), {}) if in_thread else channel
        held = self._held(guild, home)
        denied = denied_to(self._user, home)
        problem = _unusable(channel) or blocked(
            f"#{home.get('name')}",
            held,
            in_thread=in_thread,
            in_voice=channel.get("type") in VOICE_KINDS,
            denied=denied,
        )
        if problem is None and as_dict(channel.get("thread_metadata")).get("locked"):
            problem = locked(str(channel.get("name")), held)
        adults = is_for_adults(guild.document) or bool(home.get("nsfw"))
        return _Found(
            f"#{channel.get('name')} on {guild.name}", channel, home, held, denied, in_thread, problem, adults
        )

    def _listed(self, address: str) -> tuple[Guild | None, Json | None]:
        for guild in self._guilds or ():
            if address in guild.channels:
                return guild, guild.channels[address]
        return None, None

    def _mistaken(self, address: str) -> str | None:
        """What else the ID belongs to; None if that is not known."""
        if address in {self._user, self._application}:
            return "it is the ID of the bot itself, not of a channel"
        for guild in self._guilds or ():
            if str(guild.document.get("id")) == address:
                return f"it is the ID of the server {guild.name}, not of a channel"
            for role in as_list(guild.document.get("roles")):
                if str(role.get("id")) == address:
                    return f"it is the ID of the role {role.get('name')}, not of a channel"
        return None

    async def _person(self, address: str) -> str | None:
        """Whose account has this ID; None if nobody's has."""
        try:
            return (
                str((await self._ask(Route("GET", "/users/{user}", {"user": address}))).get("username") or "") or None
            )
        except Refused:
            return None

    def _refused(self, subject: str, error: Refused) -> Finding:
        if error.code in MISSING:
            words = "the bot may not see it, or is not in its server"
            remedy = f"{LET_IT_SEE}; add the bot to a private thread; into another server, invite it: {self.invite}"
            return Finding(subject, "wrong", words, remedy)
        if error.code == ErrorCode.UNKNOWN_CHANNEL or error.unexplained or error.status == 404:
            words = "there is no such channel, or the bot is not in its server"
            return Finding(subject, "wrong", words, f"correct discord_channel, or invite the bot: {self.invite}")
        raise error

    async def _webhooks(self, subject: str, channel: str, held: int) -> Sequence[Finding]:
        if missing(held, (MANAGE_WEBHOOKS,)):
            return []  # `shortcoming` tells.
        try:
            listed = await self._ask(Route("GET", "/channels/{channel}/webhooks", {"channel": channel}))
        except Refused:
            return []
        hooks = Webhooks(self._rest, _keep_nothing)
        hooks.set_owner(self._application, self._user)
        ours = [item for item in as_list(listed) if hooks.is_ours(as_dict(item))]
        if ours or len(listed) < _MOST_WEBHOOKS:
            return list(_others(subject, listed, ours))
        return [Finding(subject, "note", *_split(_webhooks_full(subject)))]


def _webhooks_full(channel: str) -> str:
    """That there is no room for the relay's own webhook, with the remedy."""
    return (
        f"all {_MOST_WEBHOOKS} webhooks of the channel are taken, so that people's names cross as text in front of "
        f"what they say: delete one that nobody uses (settings of {channel.partition(' ')[0]}, Integrations, Webhooks)"
    )


async def _keep_nothing(_: str, __: tuple[str, ...]) -> None:
    """A survey uses no webhook, and so there is nothing to keep."""


def _others(subject: str, listed: Sequence[Json], ours: Sequence[Json]) -> Iterator[Finding]:
    """Webhooks of what may be another bridge."""
    for item in listed:
        name = str(item.get("name") or "")
        if item not in ours and _BRIDGE.search(name):
            words = f"another bridge may be at work there: it has a webhook called {name!r}"
            yield Finding(
                subject, "note", words, "if it bridges the same room, turn it off: each message would cross twice"
            )


def _unusable(channel: Json) -> str | None:
    """Why a channel of its type cannot be mirrored, with the remedy; None if it can."""
    if channel.get("type") in _KINDS.keys() | _THREADS.keys():
        return None
    others = "one of its posts" if channel.get("type") in _FORUMS else "a thread"
    return not_mirrored(str(channel.get("name")), _kind(channel), others)


def _kind(channel: Json) -> str:
    kinds = _KINDS | _THREADS | _OTHER_KINDS
    return kinds.get(int(channel.get("type") or 0), "channel of a type that the relay does not know")


def _split(problem: str) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    words, _, remedy = problem.rpartition(": ")
    return (words, remedy) if words else (problem, "")


def _order(sections: Mapping[str, Json], channel: Json) -> tuple[int, int, int]:
    section = sections.get(str(channel.get("parent_id")))
    return (
        -1 if section is None else int(section.get("position") or 0),
        int(channel.get("position") or 0),
        int(channel["id"]) if is_snowflake(channel.get("id")) else 0,
    )
