"""The permissions that the bot needs: by the names that Discord's settings show, and what each is for.

Everything that speaks of permissions takes them from here: the invite link, the channels' problems, `relay check`.
https://docs.discord.com/developers/topics/permissions
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from relay.domain.jsontext import Json, as_list


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission."""

    # As Discord's settings call it in English.
    name: str
    bit: int
    # What happens without it, in words that follow "without it".
    without: str


VIEW_CHANNEL = Permission("View Channel", 1 << 10, "the channel cannot be mirrored")
SEND_MESSAGES = Permission("Send Messages", 1 << 11, "the relay cannot say by itself what did not cross")
MANAGE_MESSAGES = Permission("Manage Messages", 1 << 13, "the relay cannot delete what other people and bots posted")
ATTACH_FILES = Permission("Attach Files", 1 << 15, "the bot itself cannot post files")
READ_HISTORY = Permission("Read Message History", 1 << 16, "the channel cannot be mirrored")
CONNECT = Permission("Connect", 1 << 20, "the channel cannot be mirrored")
MANAGE_WEBHOOKS = Permission("Manage Webhooks", 1 << 29, "people's names cross as text in front of what they say")
ADD_REACTIONS = Permission("Add Reactions", 1 << 6, "a message that failed cannot be marked for its author")
SEND_IN_THREADS = Permission("Send Messages in Threads", 1 << 38, "the bot itself cannot post in threads")
MANAGE_THREADS = Permission("Manage Threads", 1 << 34, "nothing can be posted in locked threads")

BAN_MEMBERS = Permission("Ban Members", 1 << 2, "bans that are made while the relay is away are not seen")
VIEW_AUDIT_LOG = Permission("View Audit Log", 1 << 7, "no bans are seen")

NO_BANS = (
    f"the bans of this server cannot be listed: give the bot's role {BAN_MEMBERS.name}, which it reads them with "
    f"({VIEW_AUDIT_LOG.name} alone shows the relay those that are made while it runs)"
)

# What the invite link asks for, in the order in which people should read it.
INVITED = (
    VIEW_CHANNEL,
    READ_HISTORY,
    SEND_MESSAGES,
    MANAGE_WEBHOOKS,
    SEND_IN_THREADS,
    ATTACH_FILES,
    ADD_REACTIONS,
    MANAGE_MESSAGES,
)

COPY_CHANNEL_ID = (
    "right-click the channel in Discord and take Copy Channel ID, which shows with Developer Mode (Settings, Advanced)"
)

DIRECT_MESSAGE = "a direct message with the bot, and no channel of a server"
# https://docs.discord.com/developers/resources/channel#channel-object-channel-types: of one person, and of several.
DIRECT_KINDS = frozenset({1, 3})

# What the gateway tells of a channel that the bot may not see: its type and place. Discord leaves it out of lists.
# https://docs.discord.com/developers/change-log#channel-obfuscation-for-users-and-bots
CHANNEL_OBFUSCATED = 1 << 17

# Voice and stage channels, whose text chat is read by who may join them:
# https://docs.discord.com/developers/resources/message#get-channel-messages
VOICE_KINDS = frozenset({2, 13})

# https://docs.discord.com/developers/resources/guild#guild-object-guild-age-restriction-level
_ADULT_LEVELS = frozenset({1, 3})  # EXPLICIT, AGE_RESTRICTED
_ADMINISTRATOR = 1 << 3
_ALL = (1 << 53) - 1
# What is left to a member who is timed out.
_TIMED_OUT = VIEW_CHANNEL.bit | READ_HISTORY.bit


def invite_link(application: str) -> str:
    """The address under which somebody who manages a server can invite the bot, with the permissions that it needs."""
    permissions = sum(needed.bit for needed in INVITED)
    return f"https://discord.com/oauth2/authorize?scope=bot&permissions={permissions}&client_id={application}"


def named(permissions: Iterable[Permission]) -> str:
    """Permissions by their names: "Manage Webhooks and Send Messages"."""
    *first, last = [one.name for one in permissions]
    return f"{', '.join(first)} and {last}" if first else last


def missing(held: int, needed: Iterable[Permission] = INVITED) -> tuple[Permission, ...]:
    """Which permissions are not among the bits `held`."""
    return tuple(one for one in needed if not held & one.bit)


def how_to_allow(lacking: Sequence[Permission], denied: int, whose: str = "its role", where: str = "there") -> str:
    """How the bot gets what it lacks in a channel. `denied`: what the channel's entry about the bot itself denies."""
    if any(one.bit & denied for one in lacking):
        # It goes before all roles.
        what = f"{named(lacking)} {where} (Edit Channel, Permissions)"
        return f"allow the bot itself {what}, where its own entry denies that"
    return f"give {whose} {named(lacking)} {where}"


LET_IT_SEE = (
    f"give its role {VIEW_CHANNEL.name} there, or the bot itself where an entry of its own denies that (Edit Channel, "
    "Permissions)"
)


def not_mirrored(name: str, kind: str, others: str) -> str:
    """That a channel of this kind cannot be mirrored, with the remedy: another channel, or one of the `others`."""
    by = "by its ID (Copy Channel ID, Copy Thread ID)"
    return f"#{name} is a {kind}, which cannot be mirrored: name a text channel, or {others}, {by}"


def blocked(channel: str, held: int, *, in_thread: bool = False, in_voice: bool = False, denied: int = 0) -> str | None:
    """Why the bot cannot mirror a channel with these permissions there, with the remedy; None if it can.

    `channel`: its name. `in_thread`: it is one of its threads that is mirrored. `in_voice`: it is one of `VOICE_KINDS`.
    `denied`: see `how_to_allow`.
    """
    if not held & VIEW_CHANNEL.bit:
        return f"the bot may not see {channel}: {how_to_allow([VIEW_CHANNEL], denied)}"
    if in_voice and not held & CONNECT.bit:
        return (
            f"the bot may not read the chat of {channel}, which only those may read who may join it: "
            f"{how_to_allow([CONNECT], denied)}"
        )
    if not held & READ_HISTORY.bit:
        return f"the bot may not read the history of {channel}: {how_to_allow([READ_HISTORY], denied)}"
    writing = (MANAGE_WEBHOOKS, SEND_IN_THREADS if in_thread else SEND_MESSAGES)
    if len(missing(held, writing)) == len(writing):
        where = f"in threads of {channel}" if in_thread else f"in {channel}"
        return f"the bot may not write {where}: {how_to_allow(writing, denied)}"
    return None


def locked(thread: str, held: int) -> str | None:
    """Why the bot cannot mirror a locked thread with these permissions in its channel; None if it can."""
    if held & MANAGE_THREADS.bit:
        return None
    return f"the thread #{thread} is locked: unlock it, or give the bot's role {MANAGE_THREADS.name} there"


def shortcoming(channel: str, held: int, *, in_thread: bool = False, denied: int = 0) -> str | None:
    """What the relay cannot do in a channel that it mirrors for lack of permissions, with the remedy; None if nothing.

    As in `blocked`. In a thread, Send Messages counts for nothing.
    """
    lacking = [one for one in missing(held) if not (in_thread and one is SEND_MESSAGES)]
    if not lacking:
        return None
    without = "; ".join(f"without {one.name}, {one.without}" for one in lacking)
    how = how_to_allow(lacking, denied, "the bot's role", f"in {channel}")
    return f"{without}: {how}"


def denied_to(user: str, channel: Json) -> int:
    """The bits that a channel's entry about this member itself denies, from Discord's JSON."""
    overwrites = as_list(channel.get("permission_overwrites"))
    return next((_bits(one.get("deny")) for one in overwrites if str(one.get("id")) == user), 0)


def held_in(guild: Json, channel: Json, roles: Collection[str], user: str, *, timed_out: bool = False) -> int:
    """The bits that a member with these roles has in a channel, from Discord's JSON; for a thread: of its channel.

    As they were granted: some have no effect without Send Messages, and giving that alone is enough then.

    https://docs.discord.com/developers/topics/permissions#permission-overwrites
    """
    if str(guild.get("owner_id")) == user:
        return _ALL
    everyone = str(guild.get("id"))
    bits = 0
    for role in as_list(guild.get("roles")):
        if str(role.get("id")) in roles or str(role.get("id")) == everyone:
            bits |= _bits(role.get("permissions"))
    if bits & _ADMINISTRATOR:
        return _ALL
    overwrites = {str(one.get("id")): one for one in as_list(channel.get("permission_overwrites"))}
    for step in ((everyone,), tuple(roles), (user,)):
        found = [overwrites[one] for one in step if one in overwrites]
        for overwrite in found:
            bits &= ~_bits(overwrite.get("deny"))
        for overwrite in found:
            bits |= _bits(overwrite.get("allow"))
    if not bits & VIEW_CHANNEL.bit:
        return 0
    return bits & _TIMED_OUT if timed_out else bits


def _bits(value: object) -> int:
    return int(value) if isinstance(value, str | int) and str(value).isdecimal() else 0


def is_for_adults(guild: Json) -> bool:
    """Whether only adults may read anything in a server, whatever its channels are marked as.

    https://docs.discord.com/developers/resources/guild#guild-object: Discord, or its owner, decides that.
    """
    return bool(guild.get("nsfw")) or guild.get("nsfw_level") in _ADULT_LEVELS
