"""What the bot sees of its servers: channels, threads, permissions, names. A reading glass over discord.py's picture.

No I/O. The picture is as fresh as the last dispatch, and gone until the next READY has been followed by the guilds.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import discord
import structlog

from relay.adapters.discord.api.client import Json
from relay.adapters.discord.identifiers import is_snowflake
from relay.adapters.discord.markup import NameLookup
from relay.core.ports import Clock
from relay.domain.ids import MediaRef, Platform
from relay.domain.text.nodes import CustomEmoji

_log = structlog.get_logger(__name__)

# How long after READY guilds may take to arrive before a channel counts as not there.
_GUILDS_ARRIVE = 5.0
_REMEMBERED_NAMES = 5_000
_REMEMBERED_THREADS = 20_000
_PRIVATE_THREAD = 12

# What may have changed who can do what where.
CHANGES = frozenset(
    {
        "GUILD_CREATE",
        "GUILD_UPDATE",
        "GUILD_DELETE",
        "GUILD_ROLE_CREATE",
        "GUILD_ROLE_UPDATE",
        "GUILD_ROLE_DELETE",
        "GUILD_MEMBER_UPDATE",
        "CHANNEL_CREATE",
        "CHANNEL_UPDATE",
        "CHANNEL_DELETE",
    }
)
_Writable = discord.TextChannel | discord.VoiceChannel | discord.StageChannel
_THREAD_TYPES = frozenset({10, 11, 12})
_VIEW = discord.Permissions(view_channel=True).value


@dataclass(frozen=True, slots=True)
class ChannelAccess:
    """A channel that can be mirrored, and what the bot may do in it."""

    guild: str
    # The bot may make webhooks there, and post through them.
    may_use_webhooks: bool
    # It may post messages itself.
    may_send: bool
    # It may delete what others posted.
    may_delete: bool
    # In bytes.
    max_file_size: int
    # It may post files itself.
    may_attach: bool = True
    # The channel of a thread, or the forum of a post: its webhooks are used.
    parent: str | None = None
    # A thread of which only its members hear what is said there.
    private: bool = False


@dataclass(frozen=True, slots=True)
class _Thread:
    """A thread that is declared as a side of a pair: a channel of its own, and none of its parent's threads."""

    name: str
    guild: str
    parent: str
    private: bool
    locked: bool


class GuildCache:
    """The servers of the current session."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._client: discord.Client | None = None
        self._awaited: set[str] = set()
        self._since = 0.0
        self._parents: OrderedDict[str, str] = OrderedDict()
        self._private: OrderedDict[str, str] = OrderedDict()
        self._nicknames: OrderedDict[tuple[str, str], str | None] = OrderedDict()
        self._unmoderated: set[str] = set()
        self._declared: frozenset[str] = frozenset()
        self._archived: dict[str, _Thread] = {}

    def declare(self, channels: frozenset[str]) -> None:
        """These are the declared channels from now on; threads among them are no longer their parents' threads."""
        self._declared = channels
        self._archived = {thread: known for thread, known in self._archived.items() if thread in channels}

    def is_declared(self, channel: str) -> bool:
        """Whether a channel or thread is a side of a pair of its own."""
        return channel in self._declared

    def session_started(self, client: discord.Client) -> None:
        """Look at a new session's picture from now on."""
        self._client = client
        self._since = self._clock.monotonic()
        self._archived.clear()

    def observe(self, event: str, data: Mapping[str, Json]) -> None:
        """Take in what discord.py does not keep: which guilds are awaited, and threads that have gone to sleep."""
        match event:
            case "READY":
                self._awaited = {guild["id"] for guild in data["guilds"]}
            case "GUILD_CREATE":
                self._awaited.discard(data["id"])
                for thread in data.get("threads") or ():
                    self._thread(thread)
            case "GUILD_DELETE":
                self._awaited.discard(data["id"])
            case "THREAD_CREATE" | "THREAD_UPDATE":
                self._thread(data)
            case "THREAD_DELETE":
                self._archived.pop(str(data["id"]), None)
            case "THREAD_LIST_SYNC":
                for thread in data.get("threads") or ():
                    self._thread(thread)
            case "MESSAGE_CREATE" if "guild_id" in data and "member" in data and "webhook_id" not in data:
                self.remember_nickname(data["guild_id"], data["author"]["id"], data["member"].get("nick"))

    def parent_of(self, channel: str) -> str | None:
        """The channel that a thread belongs to; None for what is no known thread, or a private or declared one."""
        return None if channel in self._declared else self._parents.get(channel)

    def private_parent_of(self, channel: str) -> str | None:
        """The channel that a private thread belongs to: what is said there is not for everybody in the channel."""
        return None if channel in self._declared else self._private.get(channel)

    def threads_of(self, channel: str) -> dict[str, str | None] | None:
        """The open threads of a channel and the last message of each; None for a channel that has no threads."""
        found = self._channel(channel)
        if not isinstance(found, discord.TextChannel):
            return None
        return {
            str(thread.id): _text(thread.last_message_id)
            for thread in found.threads
            if not thread.is_private() and str(thread.id) not in self._declared
        }

    def settled(self) -> bool:
        """Whether all guilds have arrived, or have had the time to."""
        if self._client is None:
            return False
        return not self._awaited or self._clock.monotonic() - self._since > _GUILDS_ARRIVE

    def find(self, channel: str) -> ChannelAccess | str | None:
        """The channel; or why it cannot be mirrored, with the remedy; None while that cannot be told."""
        if not (channel.isascii() and channel.isdecimal() and channel[0] != "0"):
            return f"{channel!r} is no channel ID: copy it with Discord's developer mode (right click, Copy Channel ID)"
        found = self._channel(channel)
        thread = _known(found) if isinstance(found, discord.Thread) else self._archived.get(channel)
        if thread is not None:
            return self._thread_access(thread)
        if found is None:
            absent = f"there is no channel {channel}, or the bot is not in its server: correct the ID or invite the bot"
            return absent if self.settled() else None
        if not isinstance(found, _Writable):
            kind = str(found.type).replace("_", " ")
            others = "one of its posts" if found.type is discord.ChannelType.forum else "a thread"
            return f"#{found.name} is a {kind}, which cannot be mirrored: name a text channel, or {others}"
        guild = found.guild
        # Both happen while a server is having an outage.
        if guild.unavailable or guild.get_member(self._own_id()) is None:
            return f"Discord says that the server of #{found.name} has an outage" if self.settled() else None
        may = found.permissions_for(guild.me)
        if not may.view_channel:
            return f"the bot may not see #{found.name}: give its role View Channel there"
        if not may.read_message_history:
            return f"the bot may not read the history of #{found.name}: give its role Read Message History there"
        if not may.manage_webhooks and not may.send_messages:
            return f"the bot may not write in #{found.name}: give its role Manage Webhooks and Send Messages there"
        self._mind_moderation(channel, found.name, may_moderate=may.manage_messages)
        return ChannelAccess(
            guild=str(guild.id),
            may_use_webhooks=may.manage_webhooks,
            may_send=may.send_messages,
            may_delete=may.manage_messages,
            max_file_size=guild.filesize_limit,
            may_attach=may.attach_files,
        )

    def _thread_access(self, thread: _Thread) -> ChannelAccess | str | None:
        """A declared thread: permissions are those of the channel that it belongs to."""
        guild = self._client.get_guild(int(thread.guild)) if self._client is not None else None
        parent = guild.get_channel(int(thread.parent)) if guild is not None else None
        if guild is None or parent is None or guild.unavailable or guild.get_member(self._own_id()) is None:
            return f"the channel of the thread #{thread.name} cannot be seen" if self.settled() else None
        may = parent.permissions_for(guild.me)
        if not may.view_channel:
            return f"the bot may not see #{parent.name}: give its role View Channel there"
        if not may.read_message_history:
            return f"the bot may not read the history of #{parent.name}: give its role Read Message History there"
        if not may.manage_webhooks and not may.send_messages_in_threads:
            needed = "Manage Webhooks and Send Messages in Threads"
            return f"the bot may not write in threads of #{parent.name}: give its role {needed} there"
        if thread.locked and not may.manage_threads:
            return f"the thread #{thread.name} is locked: unlock it, or give the bot's role Manage Threads there"
        return ChannelAccess(
            guild=str(guild.id),
            # Through a webhook nobody writes in a locked thread.
            may_use_webhooks=may.manage_webhooks and not thread.locked,
            may_send=may.send_messages_in_threads,
            may_delete=may.manage_messages,
            max_file_size=guild.filesize_limit,
            may_attach=may.attach_files,
            parent=thread.parent,
            private=thread.private,
        )

    def learn(self, thread: Mapping[str, Json]) -> bool:
        """Take in a thread that the API tells of, because it was archived; whether it is one."""
        if thread.get("type") not in _THREAD_TYPES:
            return False
        self._thread(thread)
        return True

    def is_about_declared(self, event: str, data: Mapping[str, Json]) -> bool:
        """Whether an event may change what is known of a declared thread."""
        if not event.startswith("THREAD_"):
            return False
        return event == "THREAD_LIST_SYNC" or str(data.get("id")) in self._declared

    def _mind_moderation(self, channel: str, name: str, *, may_moderate: bool) -> None:
        if may_moderate:
            self._unmoderated.discard(channel)
        elif channel not in self._unmoderated:
            self._unmoderated.add(channel)
            _log.warning(
                "discord messages of others cannot be deleted",
                channel=channel,
                name=name,
                remedy="give the bot's role Manage Messages there",
            )

    def guild_of(self, channel: str) -> str | None:
        """The server of a channel."""
        found = self._guild(channel)
        return None if found is None else str(found.id)

    def surveyable(self, guild: str) -> bool:
        """Whether the bot may look at all webhooks of a server at once."""
        found = self._client.get_guild(int(guild)) if self._client is not None else None
        if found is None or found.get_member(self._own_id()) is None:
            return False
        return found.me.guild_permissions.manage_webhooks

    # --- Names --------------------------------------------------------------------------------------------

    def own_names(self, channel: str) -> frozenset[str]:
        """What the bot is called where a channel is: its nickname, its display name, its user name."""
        guild = self._guild(channel)
        me = None if guild is None else guild.get_member(self._own_id())
        return frozenset() if me is None else frozenset(filter(None, (me.nick, me.global_name, me.name)))

    def remember_nickname(self, guild: str, user: str, nickname: str | None) -> None:
        """Somebody's name in a server; None for somebody who has no other there."""
        self._nicknames[guild, user] = nickname
        self._nicknames.move_to_end((guild, user))
        if len(self._nicknames) > _REMEMBERED_NAMES:
            self._nicknames.popitem(last=False)

    def knows_nickname(self, guild: str, user: str) -> bool:
        """Whether `nickname` can tell."""
        return (guild, user) in self._nicknames

    def nickname(self, guild: str, user: str) -> str | None:
        """Somebody's name in a server, if they are known to have one."""
        return self._nicknames.get((guild, user))

    def may_name(self, source: str, channel: str) -> bool | None:
        """Whether everybody who reads `source` may know what `channel` is called; None for one that is not known.

        As on Discord, a name is for those who may view the channel: what is said in `source` crosses, and whoever
        reads it elsewhere has no roles here.
        """
        if channel == source:
            return True
        if self._is_private_thread(channel):
            return False
        shown, here = self._seen_through(channel), self._seen_through(source)
        if shown is None:
            return False if channel in self._declared else None
        return is_open(shown) if here is None else readers_see(here, shown)

    def names(self, guild: str, source: str) -> Callable[[Mapping[str, Json]], NameLookup]:
        """Makes the look-ups for the mentions in a message that is said in `source`, or in a thread there."""
        found = self._client.get_guild(int(guild)) if self._client is not None else None

        def role(role_id: str) -> str | None:
            known = found.get_role(int(role_id)) if found is not None else None
            return None if known is None else known.name.removeprefix("@")

        def channel(channel_id: str) -> str | None:
            known = found.get_channel_or_thread(int(channel_id)) if found is not None else None
            return None if known is None else known.name

        def home(channel_id: str) -> str:
            return self.parent_of(channel_id) or channel_id

        def for_message(message: Mapping[str, Json]) -> NameLookup:
            told = message.get("resolved") or {}
            people = {**(told.get("users") or {}), **{one["id"]: one for one in message.get("mentions") or ()}}
            # Of other servers, for the most part: a message that was followed from there tells them. Everybody may
            # view those (https://docs.discord.com/developers/resources/message#message-object).
            channels = {one["id"]: one for one in message.get("mention_channels") or ()}
            chosen = told.get("channels") or {}
            roles = told.get("roles") or {}

            def user(user_id: str) -> str | None:
                person = people.get(user_id)
                nickname = self.nickname(guild, user_id)
                if person is None:
                    return nickname
                member = person.get("member") or (told.get("members") or {}).get(user_id) or {}
                return str(member.get("nick") or nickname or person.get("global_name") or person["username"])

            def told_role(role_id: str) -> str | None:
                return role(role_id) or _name(roles.get(role_id))

            def told_channel(channel_id: str) -> str | None:
                allowed = self.may_name(source, channel_id)
                if allowed is None:
                    return _name(channels.get(channel_id)) or told_thread(chosen.get(channel_id) or {})
                return channel(channel_id) if allowed else None

            def told_thread(thread: Mapping[str, Json]) -> str | None:
                is_open_thread = thread.get("type") in _THREAD_TYPES - {_PRIVATE_THREAD}
                return _name(thread) if is_open_thread and self.may_name(source, str(thread.get("parent_id"))) else None

            def hidden(channel_id: str) -> bool:
                return self.may_name(source, channel_id) is False

            return NameLookup(user=user, role=told_role, channel=told_channel, hidden=hidden, home=home)

        return for_message

    def emoji(self, channel: str, name: str) -> CustomEmoji | None:
        """The emoji of that name of a channel's server, if it has one that anybody may use there, webhooks too.

        https://docs.discord.com/developers/resources/emoji#emoji-object: not those that are kept for some roles, that
        another service manages, or that the server has lost with its boosts. Of two with one name, the older one.
        """
        found = self._guild(channel)
        called = [one for one in found.emojis if one.name == name] if found is not None else []
        usable = [one for one in called if one.available and not one.managed and not one.roles]
        return _emoji(min(usable, key=lambda one: one.id)) if usable else None

    # --- The picture --------------------------------------------------------------------------------------

    def _channel(self, channel: str) -> discord.abc.GuildChannel | discord.Thread | None:
        found = self._client.get_channel(int(channel)) if self._client is not None else None
        return None if isinstance(found, discord.abc.PrivateChannel) else found

    def _guild(self, channel: str) -> discord.Guild | None:
        found, archived = self._channel(channel), self._archived.get(channel)
        if found is not None:
            return found.guild
        return self._client.get_guild(int(archived.guild)) if self._client is not None and archived else None

    def _seen_through(self, channel: str) -> discord.abc.GuildChannel | None:
        """The channel whose permissions say who may view a channel: of a thread the one that it belongs to."""
        found = self._channel(channel)
        if found is None:
            archived = self._archived.get(channel)
            parent = self._parents.get(channel) if archived is None else archived.parent
            found = None if parent is None else self._channel(parent)
        elif isinstance(found, discord.Thread):
            found = found.guild.get_channel(found.parent_id)
        return None if isinstance(found, discord.Thread) else found

    def _is_private_thread(self, channel: str) -> bool:
        found, archived = self._channel(channel), self._archived.get(channel)
        if isinstance(found, discord.Thread):
            return found.is_private()
        return channel in self._private or (archived is not None and archived.private)

    def _own_id(self) -> int:
        return self._client.user.id if self._client is not None and self._client.user is not None else 0

    def _thread(self, thread: Mapping[str, Json]) -> None:
        parent = thread.get("parent_id")
        if parent is None:
            return
        parents = self._private if thread.get("type") == _PRIVATE_THREAD else self._parents
        parents[thread["id"]] = parent
        if thread["id"] in self._declared and is_snowflake(parent) and is_snowflake(thread.get("guild_id")):
            self._archived[thread["id"]] = _Thread(
                name=str(thread.get("name", thread["id"])),
                guild=str(thread["guild_id"]),
                parent=str(parent),
                private=thread.get("type") == _PRIVATE_THREAD,
                locked=bool((thread.get("thread_metadata") or {}).get("locked")),
            )
        if len(parents) > _REMEMBERED_THREADS:
            parents.popitem(last=False)


def _known(thread: discord.Thread) -> _Thread:
    parent = str(thread.parent_id)
    return _Thread(thread.name, str(thread.guild.id), parent, thread.is_private(), thread.locked)


def _emoji(found: discord.Emoji) -> CustomEmoji:
    return CustomEmoji(found.name, str(found.id), MediaRef(Platform.DISCORD, found.url), found.animated)


def _name(found: Mapping[str, Json] | None) -> str | None:
    return str(found["name"]) if found and found.get("name") else None


def _text(snowflake: int | None) -> str | None:
    return None if snowflake is None else str(snowflake)


# --- Who may view a channel, and so know its name -----------------------------------------------------------
#
# https://docs.discord.com/developers/topics/permissions#permission-overwrites: what counts are a channel's own
# overwrites; a category's are copied into the channels that are synchronised with it.


def is_open(channel: discord.abc.GuildChannel) -> bool:
    """Whether @everyone of the server may view a channel."""
    everyone = channel.guild.get_role(channel.guild.id)
    return everyone is not None and channel.permissions_for(everyone).view_channel


def readers_see(source: discord.abc.GuildChannel, channel: discord.abc.GuildChannel) -> bool:
    """Whether whoever may view `source` may view `channel`, of whatever roles they are.

    Sufficient, not necessary: each overwrite that lets somebody into `source` does so in `channel`, and each that
    keeps somebody out of `channel` keeps them out of `source`.
    """
    if is_open(channel):
        return True
    if source.guild != channel.guild:
        return False
    everyone_here, allowed_here, denied_here = _overwrites(source)
    everyone_there, allowed_there, denied_there = _overwrites(channel)
    return everyone_here <= everyone_there and allowed_here <= allowed_there and denied_there <= denied_here


def _overwrites(channel: discord.abc.GuildChannel) -> tuple[int, set[int], set[int]]:
    """What @everyone's overwrite says (1: may view, 0: as elsewhere, -1: may not), and which others allow and deny."""
    everyone = 0
    allowed: set[int] = set()
    denied: set[int] = set()
    # `overwrites` takes 6 ms for a hundred of them, and one message may mention ninety channels.
    for overwrite in channel._overwrites:
        allows, denies = overwrite.allow & _VIEW, overwrite.deny & _VIEW
        if overwrite.id == channel.guild.id:
            everyone = 1 if allows else -1 if denies else 0
        elif allows:
            allowed.add(overwrite.id)
        elif denies:
            denied.add(overwrite.id)
    return everyone, allowed, denied
