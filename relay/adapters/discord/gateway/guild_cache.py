"""What the bot sees of its servers: channels, threads and names, and who may view what, from discord.py's cache.

What the bot itself may do in a channel is judged in `channel_access.py`. No I/O. The cache is as fresh as the last
dispatch. After a READY it is empty until the guilds have arrived.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import discord

from relay.adapters.discord.gateway.channel_permissions import is_open, may_call, may_see, readers_see
from relay.adapters.discord.identifiers import Shard, channel_url, is_snowflake, jump_url, shard_of
from relay.adapters.discord.markup import NameLookup
from relay.adapters.discord.permissions import CHANNEL_OBFUSCATED, invite_link, is_for_adults
from relay.core.ports import ChannelInfo, Clock
from relay.core.recent import Recent
from relay.domain.ids import MediaRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list
from relay.domain.text.nodes import CustomEmoji
from relay.errors import Transient
from relay.logs import get_logger

_log = get_logger(__name__)

# Seconds after READY in which the guilds may arrive. After that, a channel that is not there does not exist.
_GUILDS_TIMEOUT = 5.0
_NICKNAMES, _THREADS, _HOMES = 2 * 1024 * 1024, 4 * 1024 * 1024, 1024 * 1024
"""Bytes of what is remembered: nicknames and pictures, channels of threads (each kind), servers of channels."""

_PRIVATE_THREAD = 12
_NOBODY = (None, None)

# The events that may change permissions.
PERMISSION_EVENTS = frozenset(
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
# Those that may change what people know a channel by.
_DESCRIBING_EVENTS = (PERMISSION_EVENTS - {"GUILD_MEMBER_UPDATE"}) | {"THREAD_CREATE", "THREAD_UPDATE", "THREAD_DELETE"}
_OF_CHANNELS = frozenset({"GUILD_CREATE", "CHANNEL_CREATE", "CHANNEL_UPDATE", "CHANNEL_DELETE"})
_THREAD_TYPES = frozenset({10, 11, 12})


@dataclass(frozen=True, slots=True)
class DeclaredThread:
    """A thread that is in a pair itself. It is treated as a channel, and not as a thread of its parent."""

    name: str
    guild: str
    parent: str
    private: bool
    locked: bool


@dataclass(slots=True, eq=False)
class _Session:
    """One shard's."""

    client: discord.Client
    # When it began, on the monotonic clock.
    since: float
    # The guilds that READY announced and that have not arrived yet.
    awaited: set[str] = field(default_factory=set)


@dataclass(slots=True)
class GuildCache:
    """The servers of the current sessions, one for each shard."""

    clock: Clock
    _shards: int = field(init=False, default=1)
    _sessions: dict[int, _Session] = field(init=False, default_factory=dict)
    # The server of each channel that was asked about: it never changes, and a new session begins without any.
    _homes: Recent[str, str] = field(init=False, default_factory=lambda: Recent(_HOMES))
    # The channel of each thread, of public and of private ones.
    _parents: Recent[str, str] = field(init=False, default_factory=lambda: Recent(_THREADS))
    _private_parents: Recent[str, str] = field(init=False, default_factory=lambda: Recent(_THREADS))
    # Servers that are for adults as a whole, of which discord.py does not tell.
    _adult_guilds: set[str] = field(init=False, default_factory=set)
    # The nickname of a member, and the hash of the picture that they have in that server only.
    _members: Recent[tuple[str, str], tuple[str | None, str | None]] = field(
        init=False, default_factory=lambda: Recent(_NICKNAMES)
    )
    _declared: frozenset[str] = field(init=False, default=frozenset())
    # Declared threads that are archived, or may be.
    _declared_threads: dict[str, DeclaredThread] = field(init=False, default_factory=dict)
    # Asked for each second: to work out who may view a channel takes a tenth of a millisecond.
    _described: dict[str, ChannelInfo] = field(init=False, default_factory=dict)
    # Channels that the bot may not see: it is told only that they are there.
    _hidden: set[str] = field(init=False, default_factory=set)
    # Asked for each message.
    _age_restricted: dict[str, bool | None] = field(init=False, default_factory=dict)

    def declare(self, channels: frozenset[str]) -> None:
        """Set the declared channels. Threads among them no longer count as threads of their parents."""
        self._declared = channels
        self._described.clear()
        self._age_restricted.clear()
        self._declared_threads = {
            thread: known for thread, known in self._declared_threads.items() if thread in channels
        }

    def is_declared(self, channel: str) -> bool:
        """Whether a channel or thread is in a pair itself."""
        return channel in self._declared

    def divided(self, shards: int) -> None:
        """See `Listener` in `connection.py`. What the sessions before told of is no longer true of any."""
        self._shards = shards
        self._sessions.clear()
        self._forget_channels()

    def session_started(self, client: discord.Client, shard: Shard) -> None:
        """Use the cache of a new session from now on, for what is in its shard."""
        self._sessions[shard.number] = _Session(client, self.clock.monotonic())
        kept = {channel: one for channel, one in self._declared_threads.items() if not shard.covers(one.guild)}
        self._declared_threads = kept
        self._forget_channels()

    def _forget_channels(self) -> None:
        self._described.clear()
        self._age_restricted.clear()

    def update(self, event: str, data: Json) -> None:
        """Remember what discord.py does not keep: the guilds that have not arrived, nicknames, and archived threads."""
        if event in ("GUILD_CREATE", "GUILD_UPDATE"):
            (self._adult_guilds.add if is_for_adults(data) else self._adult_guilds.discard)(str(data["id"]))
        if event in _DESCRIBING_EVENTS:
            self._forget_channels()
        self._note_hidden(event, data)
        match event:
            case "READY":
                for guild in data["guilds"]:
                    if (session := self._session(str(guild["id"]))) is not None:
                        session.awaited.add(str(guild["id"]))
            case "GUILD_CREATE":
                self._has_arrived(str(data["id"]))
                for thread in data.get("threads") or ():
                    self._remember_thread(thread)
            case "GUILD_DELETE":
                self._has_arrived(str(data["id"]))
            case "THREAD_CREATE" | "THREAD_UPDATE":
                self._remember_thread(data)
            case "THREAD_DELETE":
                self._declared_threads.pop(str(data["id"]), None)
            case "THREAD_LIST_SYNC":
                for thread in data.get("threads") or ():
                    self._remember_thread(thread)
            case "MESSAGE_CREATE":
                self._remember_message(data)

    def _note_hidden(self, event: str, data: Json) -> None:
        if event not in _OF_CHANNELS:
            return
        told = as_list(data.get("channels")) if event == "GUILD_CREATE" else [data]
        for channel in map(as_dict, told):
            flags = channel.get("flags")
            hidden = isinstance(flags, int) and flags & CHANNEL_OBFUSCATED and event != "CHANNEL_DELETE"
            (self._hidden.add if hidden else self._hidden.discard)(str(channel.get("id")))

    def is_hidden(self, channel: str) -> bool:
        """Whether the bot may not see a channel of its servers. Nothing else that is known of it is true."""
        return channel in self._hidden

    def parent_of(self, channel: str) -> str | None:
        """The channel of a thread. None for a private or declared thread, and for what is not a known thread."""
        return None if channel in self._declared else self._parents.get(channel)

    def private_parent_of(self, channel: str) -> str | None:
        """The channel of a private thread, in which not everybody in the channel may read."""
        return None if channel in self._declared else self._private_parents.get(channel)

    def threads_of(self, channel: str) -> dict[str, str | None] | None:
        """The active public threads of a channel, each with its last message, None for an unknown one.

        None where there can be no threads.
        """
        found = self.channel(channel)
        if not isinstance(found, discord.TextChannel):
            return None
        return {
            str(thread.id): _text(thread.last_message_id)
            for thread in found.threads
            if not thread.is_private() and str(thread.id) not in self._declared
        }

    def have_arrived(self) -> bool:
        """Whether all guilds of all shards have arrived, or have had the time to."""
        late = self.clock.monotonic() - _GUILDS_TIMEOUT
        arrived = (not session.awaited or session.since < late for session in self._sessions.values())
        return len(self._sessions) == self._shards and all(arrived)

    def remember_thread(self, thread: Json) -> bool:
        """Remember an archived thread, which only the API tells of. False if it is not a thread."""
        if thread.get("type") not in _THREAD_TYPES:
            return False
        self._remember_thread(thread)
        return True

    def is_about_declared(self, event: str, data: Json) -> bool:
        """Whether an event is about a declared thread."""
        if not event.startswith("THREAD_"):
            return False
        return event == "THREAD_LIST_SYNC" or str(data.get("id")) in self._declared

    def thread(self, channel: str) -> DeclaredThread | None:
        """A declared thread, archived or not."""
        found = self.channel(channel)
        return _declared_thread(found) if isinstance(found, discord.Thread) else self._declared_threads.get(channel)

    def guilds(self) -> Sequence[discord.Guild]:
        """The servers that the bot is in."""
        return [guild for session in self._sessions.values() for guild in session.client.guilds]

    def guild(self, guild: str) -> discord.Guild | None:
        """A server, as far as Discord has told of it."""
        session = self._session(guild)
        return None if session is None else session.client.get_guild(int(guild))

    def shard_of(self, guild: str) -> int:
        """The number of the shard that a server is in."""
        return shard_of(guild, self._shards)

    def may_be_in(self, shard: Shard, channel: str) -> bool:
        """Whether a channel is in a shard; true for one of no known server."""
        home = self._homes.get(channel) or self.guild_of(channel)
        return home is None or shard.covers(home)

    def has_outage(self, guild: discord.Guild) -> bool:
        """Whether a server cannot be looked at now. While it has an outage, it is so marked, or nobody is in it."""
        return guild.unavailable or guild.get_member(self._own_id()) is None

    def guild_of(self, channel: str) -> str | None:
        """The server of a channel."""
        found = self._guild(channel)
        if found is None:
            return None
        self._homes[channel] = home = str(found.id)
        return home

    def link(self, channel: str, where: str, message: str) -> str:
        """A link that opens a message in a channel, or in `where`, a thread there; "" for a channel of no known server.

        Raises `Transient` while Discord may be about to tell of it: each try of a copy is to say the same.
        """
        home = self._homes.get(channel) or self.told_of(channel)
        return "" if home is None else jump_url(home, where, message)

    def told_of(self, channel: str) -> str | None:
        """As `guild_of`. Raises `Transient` while Discord may be about to tell of it."""
        home = self.guild_of(channel)
        if home is None and not self.have_arrived():
            raise Transient("Discord has not told of its servers yet")
        return home

    def invite_link(self) -> str:
        """The link under which the bot can be invited into a server."""
        # Both IDs are the same, except for very old bots.
        application = next((session.client.application_id for session in self._sessions.values()), None)
        return invite_link(str(application or self._own_id()))

    # --- For the operator ---------------------------------------------------------------------------------

    def describe(self, channel: str) -> ChannelInfo | None:
        """What people know a channel by; None while the gateway has not told of it."""
        if (known := self._described.get(channel)) is None and (known := self._describe(channel)) is not None:
            self._described[channel] = known
        return known

    def _describe(self, channel: str) -> ChannelInfo | None:
        if self.is_hidden(channel):
            return None
        found, thread, guild = self.channel(channel), self._declared_threads.get(channel), self._guild(channel)
        name = found.name if found is not None else None if thread is None else thread.name
        if name is None or guild is None:
            return None
        shown = self._permission_channel(channel)
        public = shown is not None and is_open(shown) and not self._is_private_thread(channel)
        topic = " ".join((getattr(found, "topic", None) or "").split())
        url = channel_url(str(guild.id), channel)
        nsfw = bool(self.age_restricted(channel))
        return ChannelInfo(f"#{name}", place=guild.name, topic=topic, link=url, public=public, nsfw=nsfw)

    def age_restricted(self, channel: str) -> bool | None:
        """Whether only adults may read a channel; None while the gateway has not told of it."""
        if channel not in self._age_restricted:
            self._age_restricted[channel] = self._is_age_restricted(channel)
        return self._age_restricted[channel]

    def _is_age_restricted(self, channel: str) -> bool | None:
        # A thread has no mark of its own: that of its channel counts.
        shown = self._permission_channel(channel)
        if shown is None or shown.guild.unavailable or self.is_hidden(str(shown.id)):
            return None
        return str(shown.guild.id) in self._adult_guilds or bool(getattr(shown, "nsfw", False))

    # --- Names --------------------------------------------------------------------------------------------

    def own_names(self, channel: str) -> frozenset[str]:
        """The bot's names in the server of a channel: nickname, display name and user name."""
        guild = self._guild(channel)
        me = None if guild is None else guild.get_member(self._own_id())
        return frozenset() if me is None else frozenset(filter(None, (me.nick, me.global_name, me.name)))

    def remember_nickname(self, guild: str, user: str, nickname: str | None, picture: str | None = None) -> None:
        """Remember somebody's nickname and picture in a server; None: they have none."""
        self._members[guild, user] = nickname, picture

    def knows_nickname(self, guild: str, user: str) -> bool:
        """Whether it is known which nickname somebody has, if any."""
        return (guild, user) in self._members

    def nickname(self, guild: str, user: str) -> str | None:
        """Somebody's nickname in a server, if it is known that they have one."""
        return self._members.get((guild, user), _NOBODY)[0]

    def picture(self, guild: str, user: str) -> str | None:
        """The hash of somebody's picture in a server, if it is known that they have one."""
        return self._members.get((guild, user), _NOBODY)[1]

    def may_name(self, source: str, channel: str) -> bool | None:
        """Whether everybody who reads `source` may know the name of `channel`; None for an unknown channel.

        On Discord, only those who may view a channel see its name. On the other platform nobody has roles, and
        everybody there reads what is said in `source`.
        """
        if channel == source:
            return True
        if self._is_private_thread(channel):
            return False
        shown, here = self._permission_channel(channel), self._permission_channel(source)
        if shown is None:
            return False if channel in self._declared else None
        return is_open(shown) if here is None else readers_see(here, shown)

    def name_lookup(self, guild: str, source: str) -> Callable[[Json], NameLookup]:
        """Returns what makes the look-ups for the mentions in one message in `source`, or in a thread there."""
        found = self.guild(guild)

        def role(role_id: str) -> str | None:
            known = found.get_role(int(role_id)) if found is not None else None
            return None if known is None else known.name.removeprefix("@")

        def channel(channel_id: str) -> str | None:
            known = found.get_channel_or_thread(int(channel_id)) if found is not None else None
            return None if known is None else known.name

        def home(channel_id: str) -> str:
            return self.parent_of(channel_id) or channel_id

        def for_message(message: Json) -> NameLookup:
            resolved = message.get("resolved") or {}
            people = {**(resolved.get("users") or {}), **{one["id"]: one for one in message.get("mentions") or ()}}
            # Mostly channels of other servers, in messages of announcement channels that are followed there. Everybody
            # may view those (https://docs.discord.com/developers/resources/message#message-object).
            channels = {one["id"]: one for one in message.get("mention_channels") or ()}
            chosen = resolved.get("channels") or {}
            roles = resolved.get("roles") or {}

            def user(user_id: str) -> str | None:
                person = people.get(user_id)
                nickname = self.nickname(guild, user_id)
                if person is None:
                    return nickname
                member = person.get("member") or (resolved.get("members") or {}).get(user_id) or {}
                return str(member.get("nick") or nickname or person.get("global_name") or person["username"])

            def resolved_role(role_id: str) -> str | None:
                return role(role_id) or _name(roles.get(role_id))

            def resolved_channel(channel_id: str) -> str | None:
                allowed = self.may_name(source, channel_id)
                if allowed is None:
                    return _name(channels.get(channel_id)) or resolved_thread(chosen.get(channel_id) or {})
                return channel(channel_id) if allowed else None

            def resolved_thread(thread: Json) -> str | None:
                is_open_thread = thread.get("type") in _THREAD_TYPES - {_PRIVATE_THREAD}
                return _name(thread) if is_open_thread and self.may_name(source, str(thread.get("parent_id"))) else None

            def calls(role_id: str) -> bool:
                return found is not None and self._calls_role(found, source, role_id, message)

            def hidden(channel_id: str) -> bool:
                return self.may_name(source, channel_id) is False

            return NameLookup(
                user=user, role=resolved_role, channel=resolved_channel, hidden=hidden, calls=calls, home=home
            )

        return for_message

    def _calls_role(self, guild: discord.Guild, source: str, role_id: str, message: Json) -> bool:
        """Whether a message notifies those who have a role: everybody may do that, or its author may in that channel.

        The history does not tell which roles an author has: then only what everybody may do counts.
        """
        role = guild.get_role(int(role_id))
        if role is None or role.is_default() or role_id not in map(str, message.get("mention_roles") or ()):
            return False
        author, member = message.get("author") or {}, message.get("member") or {}
        if role.mentionable or str(author.get("id")) == str(guild.owner_id):
            return True
        roles = {int(one) for one in member.get("roles") or () if is_snowflake(one)}
        channel = self._permission_channel(source)
        return channel is not None and may_call(channel, roles, str(author.get("id")))

    def may_view(self, channel: str, member: Json) -> bool:
        """Whether a member of its server may read a channel. In a private thread, that cannot be told."""
        shown, user = self._permission_channel(channel), str((member.get("user") or {}).get("id"))
        if shown is None or self._is_private_thread(channel):
            return False
        if user == str(shown.guild.owner_id):
            return True
        roles = {int(one) for one in member.get("roles") or () if is_snowflake(one)}
        return may_see(shown, roles, user)

    def emoji(self, channel: str, name: str) -> CustomEmoji | None:
        """The emoji of that name in a channel's server, if everybody may use it there, webhooks too.

        https://docs.discord.com/developers/resources/emoji#emoji-object: not one that only some roles may use, that
        another service manages, or that the server has lost with its boosts. Of two with the same name, the older one.
        """
        found = self._guild(channel)
        called = [one for one in found.emojis if one.name == name] if found is not None else []
        usable = [one for one in called if one.available and not one.managed and not one.roles]
        return _emoji(min(usable, key=lambda one: one.id)) if usable else None

    # --- The cache --------------------------------------------------------------------------------------

    def channel(self, channel: str) -> discord.abc.GuildChannel | discord.Thread | None:
        """A channel, or a thread that is not archived."""
        number = int(channel)
        for session in self._sessions.values():
            if (found := session.client.get_channel(number)) is not None:
                return None if isinstance(found, discord.abc.PrivateChannel) else found
        return None

    def _session(self, guild: str) -> _Session | None:
        return self._sessions.get(self.shard_of(guild))

    def _has_arrived(self, guild: str) -> None:
        if (session := self._session(guild)) is not None:
            session.awaited.discard(guild)

    def _guild(self, channel: str) -> discord.Guild | None:
        found, archived = self.channel(channel), self._declared_threads.get(channel)
        if found is not None:
            return found.guild
        return None if archived is None else self.guild(archived.guild)

    def _permission_channel(self, channel: str) -> discord.abc.GuildChannel | None:
        """The channel whose permissions tell who may view a channel: for a thread, its parent."""
        found = self.channel(channel)
        if found is None:
            archived = self._declared_threads.get(channel)
            parent = self._parents.get(channel) if archived is None else archived.parent
            found = None if parent is None else self.channel(parent)
        elif isinstance(found, discord.Thread):
            found = found.guild.get_channel(found.parent_id)
        return None if isinstance(found, discord.Thread) else found

    def _is_private_thread(self, channel: str) -> bool:
        found, archived = self.channel(channel), self._declared_threads.get(channel)
        if isinstance(found, discord.Thread):
            return found.is_private()
        return channel in self._private_parents or (archived is not None and archived.private)

    def _own_id(self) -> int:
        users = (session.client.user for session in self._sessions.values())
        return next((user.id for user in users if user is not None), 0)

    def _remember_message(self, message: Json) -> None:
        """Remember its author's nickname and picture, and that it is the last one of its thread."""
        channel, author, member = message.get("channel_id"), message.get("author"), message.get("member")
        user = author.get("id") if isinstance(author, dict) and "webhook_id" not in message else None
        if is_snowflake(user) and isinstance(member, dict) and "guild_id" in message:
            self.remember_nickname(str(message["guild_id"]), str(user), member.get("nick"), member.get("avatar"))
        if channel in self._parents and is_snowflake(message.get("id")):
            thread = self.channel(str(channel))
            if isinstance(thread, discord.Thread) and thread.last_message_id is not None:
                thread.last_message_id = max(thread.last_message_id, int(message["id"]))

    def forget_last_messages(self, is_concerned: Callable[[str], bool]) -> None:
        """Forget which message is the last of each thread in these servers: some may not have been dispatched."""
        for guild in self.guilds():
            if is_concerned(str(guild.id)):
                for thread in guild.threads:
                    thread.last_message_id = None

    def _remember_thread(self, thread: Json) -> None:
        parent = thread.get("parent_id")
        if parent is None:
            return
        parents = self._private_parents if thread.get("type") == _PRIVATE_THREAD else self._parents
        parents[thread["id"]] = parent
        if thread["id"] in self._declared and is_snowflake(parent) and is_snowflake(thread.get("guild_id")):
            self._declared_threads[thread["id"]] = DeclaredThread(
                name=str(thread.get("name", thread["id"])),
                guild=str(thread["guild_id"]),
                parent=str(parent),
                private=thread.get("type") == _PRIVATE_THREAD,
                locked=bool((thread.get("thread_metadata") or {}).get("locked")),
            )


def _declared_thread(thread: discord.Thread) -> DeclaredThread:
    parent = str(thread.parent_id)
    return DeclaredThread(thread.name, str(thread.guild.id), parent, thread.is_private(), thread.locked)


def _emoji(found: discord.Emoji) -> CustomEmoji:
    return CustomEmoji(found.name, str(found.id), MediaRef(Platform.DISCORD, found.url), found.animated)


def _name(found: Json | None) -> str | None:
    return str(found["name"]) if found and found.get("name") else None


def _text(snowflake: int | None) -> str | None:
    return None if snowflake is None else str(snowflake)
