"""Everything that exists in the sandbox, in memory, and how it comes to exist. No network here.

What happens to it is told to the listeners as `Dispatch`es, in order.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable

from relay.sandbox import errors
from relay.sandbox.world import permissions as rules
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Dispatch, Intent, Shard, Viewer
from relay.sandbox.world.files import UrlSigner
from relay.sandbox.world.models import (
    Application,
    Attachment,
    AuditEntry,
    Channel,
    Emoji,
    FetchedAvatar,
    Guild,
    Json,
    Member,
    Message,
    Overwrite,
    Role,
    Snowflakes,
    Sticker,
    StoredFile,
    User,
    Webhook,
)
from relay.sandbox.world.permissions import Permission

Listener = Callable[[Dispatch], None]


def new_token(user_id: int) -> str:
    """A bot token in the form of Discord's."""
    head = base64.urlsafe_b64encode(str(user_id).encode()).decode().rstrip("=")
    return f"{head}.{secrets.token_urlsafe(4)}.{secrets.token_urlsafe(28)}"


class State:
    """`clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.snowflakes = Snowflakes(clock)
        self.signer = UrlSigner(clock)
        self.users: dict[int, User] = {}
        self.applications: dict[int, Application] = {}
        self.guilds: dict[int, Guild] = {}
        self.channels: dict[int, Channel] = {}
        self.webhooks: dict[int, Webhook] = {}
        # Channels that a user was told of without their names.
        self._hidden: set[tuple[int, int]] = set()
        self.attachments: dict[int, Attachment] = {}
        self.stickers: dict[int, Sticker] = {}
        self.emojis: dict[int, Emoji] = {}
        self.avatars: dict[str, str | StoredFile] = {}
        self.fetched_avatars: dict[str, FetchedAvatar] = {}  # by URL
        self.fetch_avatar: Callable[[str], None] | None = None  # starts fetching the picture at a URL
        self.listeners: list[Listener] = []

    # --- Look-ups -----------------------------------------------------------------------------------------

    def user(self, user_id: int) -> User:
        """A user. Raises Unknown User."""
        if user_id not in self.users:
            raise errors.unknown("User")
        return self.users[user_id]

    def guild(self, guild_id: int) -> Guild:
        """A guild. Raises Unknown Guild."""
        if guild_id not in self.guilds:
            raise errors.unknown("Guild")
        return self.guilds[guild_id]

    def guilds_of(self, user_id: int, shard: Shard = Shard()) -> list[Guild]:  # noqa: B008 - immutable
        """The guilds that somebody is in, as far as a shard covers them."""
        return [guild for guild in self.guilds.values() if user_id in guild.members and shard.covers(guild.id)]

    def channel(self, channel_id: int) -> Channel:
        """A channel or thread. Raises Unknown Channel."""
        if channel_id not in self.channels:
            raise errors.unknown("Channel")
        return self.channels[channel_id]

    def message(self, channel: Channel, message_id: int) -> Message:
        """A message of a channel. Raises Unknown Message."""
        if message_id not in channel.messages:
            raise errors.unknown("Message")
        return channel.messages[message_id]

    def webhook(self, webhook_id: int) -> Webhook:
        """A webhook. Raises Unknown Webhook."""
        if webhook_id not in self.webhooks:
            raise errors.unknown("Webhook")
        return self.webhooks[webhook_id]

    def sticker(self, sticker_id: int) -> Sticker:
        """A sticker. Raises Unknown Sticker."""
        if sticker_id not in self.stickers:
            raise errors.unknown("Sticker")
        return self.stickers[sticker_id]

    def find_message(self, reference: Json) -> Message | None:
        """The message that a `message_reference` points to; None if it was deleted."""
        channel = self.channels.get(int(reference["channel_id"]))
        return None if channel is None else channel.messages.get(int(reference.get("message_id", 0)))

    def application_of(self, token: str) -> Application | None:
        """The application whose bot token this is."""
        given = token.encode()
        apps = self.applications.values()
        return next((app for app in apps if secrets.compare_digest(app.token.encode(), given)), None)

    def guild_permissions(self, guild: Guild, user_id: int) -> Permission:
        """What a member may do in the guild as such."""
        return rules.in_guild(guild, user_id)

    def owner_of(self, app: Application) -> User:
        """Who registered an application: the owner of the first guild that it is in, else its own user."""
        guild = next((guild for guild in self.guilds.values() if app.user.id in guild.members), None)
        return app.user if guild is None else self.users[guild.owner_id]

    def parent(self, channel: Channel) -> Channel:
        """The channel whose permissions count: a thread's is the one that it belongs to."""
        return channel if channel.thread is None or channel.parent_id is None else self.channels[channel.parent_id]

    def permissions(self, user_id: int, channel: Channel) -> Permission:
        """What a user may do in a channel or thread."""
        guild = self.guilds[channel.guild_id]
        bits = rules.in_channel(guild, user_id, self.parent(channel))
        member = guild.members.get(user_id)
        if member is not None and member.timed_out_until > self.clock() and not bits & Permission.ADMINISTRATOR:
            bits &= rules.TIMED_OUT
        hidden = channel.type == 12 and channel.thread is not None and user_id not in channel.thread.members
        return rules.NONE if hidden and not bits & Permission.MANAGE_THREADS else bits

    def require(self, user_id: int, channel: Channel, needed: Permission) -> Permission:
        """What a user may do in a channel.

        Raises Missing Access where the channel cannot be seen, or is a voice channel that cannot be joined; Missing
        Permissions unless all of `needed` is granted.
        """
        granted = self.permissions(user_id, channel)
        if not granted & Permission.VIEW_CHANNEL or (
            needed & Permission.CONNECT and not self.can_read(user_id, channel)
        ):
            raise errors.missing_access()
        needed &= ~Permission.CONNECT
        if granted & needed != needed:
            raise errors.missing_permissions()
        return granted

    def can_view(self, user_id: int, channel: Channel) -> bool:
        """Whether a user sees a channel."""
        return bool(self.permissions(user_id, channel) & Permission.VIEW_CHANNEL)

    def shown(self, channel: Channel, user_id: int | None) -> Json:
        """A channel as the gateway tells a user of it; a category is seen by who sees a channel in it."""
        inside = [one for one in self.guilds[channel.guild_id].channels.values() if one.parent_id == channel.id]
        if user_id is None or any(self.can_view(user_id, one) for one in (channel, *inside)):
            self._hidden.discard((user_id or 0, channel.id))
            return render.channel(channel)
        self._hidden.add((user_id, channel.id))
        return render.hidden_channel(channel)

    def _tell_channel(self, event: str, channel: Channel, user_id: int | None = None) -> None:
        def body(viewer: Viewer) -> Json:
            return self.shown(channel, viewer.user_id)

        self.emit(Dispatch(event, Intent.GUILDS, channel.guild_id, body, None, user_id))

    def _reveal(self, guild: Guild) -> None:
        """Whoever may view a channel now is told of it."""
        for user_id, channel_id in sorted(self._hidden):
            channel = guild.channels.get(channel_id)
            if channel is not None and user_id in guild.members and self.can_view(user_id, channel):
                self._tell_channel("CHANNEL_UPDATE", channel, user_id)

    def can_read(self, user_id: int, channel: Channel) -> bool:
        """Whether a user sees what is said in a channel: in a voice channel, only who may join it does."""
        needed = Permission.VIEW_CHANNEL | (Permission.CONNECT if channel.type in rules.VOICE else rules.NONE)
        return self.permissions(user_id, channel) & needed == needed

    # --- Events -------------------------------------------------------------------------------------------

    def emit(self, dispatch: Dispatch) -> None:
        """Give a dispatch to all listeners."""
        for listener in tuple(self.listeners):
            listener(dispatch)

    def audit(self, guild: Guild, action: int, user_id: int, target_id: int, reason: str | None) -> None:
        """Write into a guild's audit log, and tell the bots that may read it.

        https://discord.com/developers/docs/events/gateway-events#guild-audit-log-entry-create
        """
        entry = AuditEntry(self.snowflakes.next(), action, user_id, target_id, reason)
        guild.audit_log.append(entry)
        body = render.audit_entry(entry) | {"guild_id": str(guild.id)}
        for member in guild.members.values():
            may = self.guild_permissions(guild, member.user.id) & Permission.VIEW_AUDIT_LOG
            if member.user.bot and may:
                told, event = member.user.id, "GUILD_AUDIT_LOG_ENTRY_CREATE"
                self.emit(Dispatch(event, Intent.GUILD_MODERATION, guild.id, lambda _: dict(body), None, told))

    def emit_fixed(
        self, event: str, intents: Intent, guild_id: int, body: Json, channel: Channel | None = None
    ) -> None:
        """Emit an event whose body is the same for every viewer."""

        def render_fixed(viewer: Viewer) -> Json:
            return dict(body)

        self.emit(Dispatch(event, intents, guild_id, render_fixed, channel))

    # --- Creating ---------------------------------------------------------------------------------------

    def add_user(self, name: str, *, display_name: str | None = None, bot: bool = False) -> User:
        """A person, or the user of a bot."""
        user_id = self.snowflakes.next()
        discriminator = f"{user_id % 9999 + 1:04}" if bot else "0"
        self.users[user_id] = User(user_id, name, display_name, bot, discriminator=discriminator)
        return self.users[user_id]

    def add_application(self, name: str) -> Application:
        """A bot with its token. It is in no guild yet."""
        user = self.add_user(name, bot=True)
        self.applications[user.id] = Application(user.id, name, user, new_token(user.id))
        return self.applications[user.id]

    def add_guild(self, name: str, owner: User) -> Guild:
        """A guild without channels."""
        guild = Guild(self.snowflakes.next(), name, owner.id)
        guild.roles[guild.id] = Role(guild.id, "@everyone", rules.EVERYONE, position=0)
        self.guilds[guild.id] = guild
        self.add_member(guild, owner)
        return guild

    def add_member(self, guild: Guild, user: User, *, nick: str | None = None) -> Member:
        """A user joins a guild."""
        member = guild.members[user.id] = Member(user, self.clock(), nick)
        self.tell_member("GUILD_MEMBER_ADD", guild, member)
        return member

    def add_bot(self, guild: Guild, app: Application, granted: Permission = rules.BOT) -> Member:
        """A bot is invited: it gets a managed role of its own with what it was granted."""
        role = self.add_role(guild, app.name, granted, managed_by=app.id)
        member = guild.members[app.user.id] = Member(app.user, self.clock(), roles=[role.id])
        self.tell_availability(guild, app.user.id)
        self.tell_member("GUILD_MEMBER_ADD", guild, member)
        return member

    def add_role(
        self, guild: Guild, name: str, granted: Permission, *, mentionable: bool = False, managed_by: int | None = None
    ) -> Role:
        """A role that nobody has yet."""
        position = len(guild.roles)
        role = Role(self.snowflakes.next(), name, granted, mentionable, position, managed_by=managed_by)
        guild.roles[role.id] = role
        body = {"guild_id": str(guild.id), "role": render.role(role)}
        self.emit_fixed("GUILD_ROLE_CREATE", Intent.GUILDS, guild.id, body)
        return role

    def add_channel(self, guild: Guild, name: str, *, kind: int = 0, topic: str | None = None) -> Channel:
        """A channel that everybody may use."""
        channel = Channel(self.snowflakes.next(), guild.id, name, kind, topic=topic, position=len(guild.channels))
        guild.channels[channel.id] = self.channels[channel.id] = channel
        self._tell_channel("CHANNEL_CREATE", channel)
        return channel

    def add_emoji(self, guild: Guild, name: str, file: StoredFile, *, animated: bool = False) -> Emoji:
        """An emoji of a guild."""
        emoji = Emoji(self.snowflakes.next(), name, animated, file)
        guild.emojis[emoji.id] = self.emojis[emoji.id] = emoji
        body = {"guild_id": str(guild.id), "emojis": [render.emoji(item) for item in guild.emojis.values()]}
        self.emit_fixed("GUILD_EMOJIS_UPDATE", Intent.GUILD_EXPRESSIONS, guild.id, body)
        return emoji

    def add_application_emoji(
        self, app: Application, name: str, file: StoredFile, uploader: User, *, animated: bool = False
    ) -> Emoji:
        """An emoji of an application. No event tells of it."""
        emoji = Emoji(self.snowflakes.next(), name, animated, file, uploader)
        app.emojis[emoji.id] = self.emojis[emoji.id] = emoji
        return emoji

    def remove_application_emoji(self, app: Application, emoji: Emoji) -> None:
        """Delete an emoji of an application, and its picture."""
        del app.emojis[emoji.id], self.emojis[emoji.id]
        emoji.file.path.unlink(missing_ok=True)

    def add_sticker(self, guild: Guild, name: str, kind: int, file: StoredFile, *, description: str = "") -> Sticker:
        """A sticker of a guild; `kind` is its format."""
        sticker = Sticker(self.snowflakes.next(), name, kind, file, description, name, guild.id)
        guild.stickers[sticker.id] = self.stickers[sticker.id] = sticker
        body = {"guild_id": str(guild.id), "stickers": [render.sticker(item) for item in guild.stickers.values()]}
        self.emit_fixed("GUILD_STICKERS_UPDATE", Intent.GUILD_EXPRESSIONS, guild.id, body)
        return sticker

    def remember_avatar(self, source: str | StoredFile) -> str:
        """The hash of a picture, by which `/avatars/…` finds it again; `source` a file or a foreign URL."""
        name = source if isinstance(source, str) else str(source.path)
        digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        self.avatars[digest] = source
        if isinstance(source, str) and self.fetch_avatar is not None:
            self.fetch_avatar(source)
        return digest

    # --- Changing -----------------------------------------------------------------------------------------

    def set_overwrite(self, channel: Channel, overwrite: Overwrite) -> None:
        """Allow and deny something in one channel."""
        channel.overwrites[overwrite.id] = overwrite
        self.channel_changed(channel)

    def clear_overwrite(self, channel: Channel, target_id: int) -> None:
        """Back to the guild's rules."""
        channel.overwrites.pop(target_id, None)
        self.channel_changed(channel)

    def channel_changed(self, channel: Channel) -> None:
        """Announce that a channel or thread has changed."""
        if channel.thread is None:
            self._tell_channel("CHANNEL_UPDATE", channel)
        else:
            self.emit_fixed("THREAD_UPDATE", Intent.GUILDS, channel.guild_id, render.channel(channel), channel)

    def delete_channel(self, channel: Channel) -> None:
        """Delete a channel with its threads and webhooks."""
        guild = self.guilds[channel.guild_id]
        for thread in [item for item in guild.threads.values() if item.parent_id == channel.id]:
            del guild.threads[thread.id], self.channels[thread.id]
        for hook in [item for item in self.webhooks.values() if item.channel_id == channel.id]:
            del self.webhooks[hook.id]
        del guild.channels[channel.id], self.channels[channel.id]
        self.emit_fixed("CHANNEL_DELETE", Intent.GUILDS, guild.id, render.channel(channel))

    def role_changed(self, guild: Guild, role: Role) -> None:
        """Announce that a role has changed."""
        body = {"guild_id": str(guild.id), "role": render.role(role)}
        self.emit_fixed("GUILD_ROLE_UPDATE", Intent.GUILDS, guild.id, body)
        self._reveal(guild)

    def tell_member(self, event: str, guild: Guild, member: Member) -> None:
        """Announce a new or changed member."""
        body = render.member(member) | {"guild_id": str(guild.id)}
        self.emit_fixed(event, Intent.GUILD_MEMBERS, guild.id, body)
        self._reveal(guild)

    def tell_availability(self, guild: Guild, user_id: int) -> None:
        """Tell one bot that a guild is available, or unavailable in an outage."""

        def body(viewer: Viewer) -> Json:
            if guild.available:
                return self.full_guild(guild, user_id)
            return {"id": str(guild.id), "unavailable": True}

        event = "GUILD_CREATE" if guild.available else "GUILD_DELETE"
        self.emit(Dispatch(event, Intent.GUILDS, guild.id, body, None, user_id))

    def full_guild(self, guild: Guild, user_id: int) -> Json:
        """`GUILD_CREATE` as a bot gets it: its own member, and the threads it may see."""
        threads = [t for t in guild.threads.values() if t.thread and not t.thread.archived]
        return render.guild(guild) | {
            "joined_at": render.iso(guild.members[user_id].joined_at),
            "large": len(guild.members) > 250,
            "unavailable": False,
            "member_count": len(guild.members),
            "voice_states": [],
            "members": [render.member(guild.members[user_id])],
            "channels": [self.shown(item, user_id) for item in guild.channels.values()],
            "threads": [render.channel(item) for item in threads if self.can_view(user_id, item)],
            "presences": [],
            "stage_instances": [],
            "guild_scheduled_events": [],
            "soundboard_sounds": [],
        }
