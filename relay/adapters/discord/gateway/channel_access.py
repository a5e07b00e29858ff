"""What the bot may do in a channel; or why it cannot be mirrored, and what to do about that."""

from dataclasses import dataclass, field

import discord

from relay.adapters.discord.gateway.guild_cache import DeclaredThread, GuildCache
from relay.adapters.discord.permissions import (
    ATTACH_FILES,
    COPY_CHANNEL_ID,
    LET_IT_SEE,
    MANAGE_MESSAGES,
    MANAGE_WEBHOOKS,
    blocked,
    how_to_allow,
    locked,
    not_mirrored,
)
from relay.logs import get_logger

_log = get_logger(__name__)

_Writable = discord.TextChannel | discord.VoiceChannel | discord.StageChannel


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
    # Only adults may read it.
    age_restricted: bool = False
    # What the channel denies the bot by an entry about itself, as bits.
    denied: int = 0

    def notes(self, *, webhooks_full: bool) -> list[str]:
        """What the bot may not do in the channel, which works without it: sentences with the remedy."""
        lacking = [] if self.may_use_webhooks else [MANAGE_WEBHOOKS]
        if (lacking or webhooks_full) and not self.may_attach:
            lacking.append(ATTACH_FILES)
        if not self.may_delete:
            lacking.append(MANAGE_MESSAGES)
        ways = [how_to_allow([one], self.denied, "the bot's role") for one in lacking]
        notes = [f"Without {one.name} {one.without}: {way}." for one, way in zip(lacking, ways, strict=True)]
        if webhooks_full and self.may_use_webhooks:
            why = "The channel has as many webhooks as Discord allows"
            notes.insert(0, f"{why}, so {MANAGE_WEBHOOKS.without}: delete one that nobody uses.")
        return notes


@dataclass(slots=True)
class BotAccess:
    """Judges by what Discord has told of the servers. No I/O."""

    guilds: GuildCache
    # The channels for which a missing Manage Messages was logged.
    _warned: set[str] = field(init=False, default_factory=set)

    def of(self, channel: str) -> ChannelAccess | str | None:
        """What the bot may do in a channel; or why it cannot be mirrored, with the remedy; None if unknown yet."""
        if not (channel.isascii() and channel.isdecimal() and channel[0] != "0"):
            return f"{channel!r} is no channel ID: {COPY_CHANNEL_ID}"
        self.guilds.guild_of(channel)  # remembered for links
        if (thread := self.guilds.thread(channel)) is not None:
            return self._of_thread(thread)
        found = self.guilds.channel(channel)
        if found is None:
            return self._absent(channel) if self.guilds.have_arrived() else None
        if self.guilds.is_hidden(channel):
            return f"the bot may not see {channel}: {LET_IT_SEE}"
        if not isinstance(found, _Writable):
            kind = str(found.type).replace("_", " ")
            others = "one of its posts" if found.type is discord.ChannelType.forum else "a thread"
            return not_mirrored(found.name, kind, others)
        guild = found.guild
        if self.guilds.has_outage(guild):
            return (
                f"Discord says that the server of #{found.name} has an outage" if self.guilds.have_arrived() else None
            )
        may = found.permissions_for(guild.me)
        denied = _denied(found)
        in_voice = not isinstance(found, discord.TextChannel)
        if (problem := blocked(f"#{found.name}", may.value, in_voice=in_voice, denied=denied)) is not None:
            return problem
        self._warn_about_deletions(channel, found.name, may_delete=may.manage_messages)
        return ChannelAccess(
            guild=str(guild.id),
            may_use_webhooks=may.manage_webhooks,
            may_send=may.send_messages,
            may_delete=may.manage_messages,
            max_file_size=guild.filesize_limit,
            may_attach=may.attach_files,
            age_restricted=bool(self.guilds.age_restricted(channel)),
            denied=denied,
        )

    def unseen(self, channel: str) -> str:
        """What to do about a channel that exists, and that Discord does not show to the bot."""
        if not self.guilds.guilds():
            return self._absent(channel)
        return (
            f"the bot may not see {channel}: invite it to its server with {self.guilds.invite_link()}, "
            "or add it to the thread, if it is a private one"
        )

    def _absent(self, channel: str) -> str:
        """Why there is no such channel, with the remedy: what else the ID belongs to, or how the bot is invited."""
        guilds, invite = self.guilds.guilds(), self.guilds.invite_link()
        if not guilds:
            return f"the bot is in no server: invite it with {invite}"
        for guild in guilds:
            if channel == str(guild.id):
                return f"{channel} is the ID of the server {guild.name}, not of a channel: {COPY_CHANNEL_ID}"
            if (role := guild.get_role(int(channel))) is not None:
                return f"{channel} is the ID of the role {role.name}, not of a channel: {COPY_CHANNEL_ID}"
        if any(map(self.guilds.has_outage, guilds)):
            return f"there is no channel {channel} for now: Discord says that a server of the bot has an outage"
        return (
            f"there is no channel {channel}, or the bot is not in its server: "
            f"correct discord_channel, or invite the bot with {invite}"
        )

    def _of_thread(self, thread: DeclaredThread) -> ChannelAccess | str | None:
        """`of` for a declared thread: the permissions are those of its channel."""
        guild = self.guilds.guild(thread.guild)
        parent = guild.get_channel(int(thread.parent)) if guild is not None else None
        if guild is None or parent is None or self.guilds.has_outage(guild):
            return f"the channel of the thread #{thread.name} cannot be seen" if self.guilds.have_arrived() else None
        if self.guilds.is_hidden(thread.parent):
            return f"the bot may not see the channel of the thread #{thread.name}: {LET_IT_SEE}"
        may = parent.permissions_for(guild.me)
        denied = _denied(parent)
        if (problem := blocked(f"#{parent.name}", may.value, in_thread=True, denied=denied)) is not None:
            return problem
        if thread.locked and (problem := locked(thread.name, may.value)) is not None:
            return problem
        return ChannelAccess(
            guild=str(guild.id),
            # Webhooks cannot post in a locked thread.
            may_use_webhooks=may.manage_webhooks and not thread.locked,
            may_send=may.send_messages_in_threads,
            may_delete=may.manage_messages,
            max_file_size=guild.filesize_limit,
            may_attach=may.attach_files,
            parent=thread.parent,
            private=thread.private,
            age_restricted=bool(self.guilds.age_restricted(thread.parent)),
            denied=denied,
        )

    def may_list_webhooks(self, guild: str) -> bool:
        """Whether the bot may list all webhooks of a server."""
        found = self.guilds.guild(guild)
        if found is None or self.guilds.has_outage(found):
            return False
        return found.me.guild_permissions.manage_webhooks

    def _warn_about_deletions(self, channel: str, name: str, *, may_delete: bool) -> None:
        if may_delete:
            self._warned.discard(channel)
        elif channel not in self._warned:
            self._warned.add(channel)
            _log.warning(
                "discord messages of others cannot be deleted",
                channel=channel,
                name=name,
                remedy=f"give the bot's role {MANAGE_MESSAGES.name} there",
            )


def _denied(channel: discord.abc.GuildChannel) -> int:
    """What a channel denies the bot by an entry about itself. Not `channel.overwrites`: see `channel_permissions`."""
    return next((one.deny for one in channel._overwrites if one.id == channel.guild.me.id), 0)
