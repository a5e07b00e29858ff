"""Permissions and overwrites: https://discord.com/developers/docs/topics/permissions."""

from collections.abc import Iterable
from enum import IntFlag

from relay.sandbox.world.models import Channel, Guild


class Permission(IntFlag):
    """The bits that the sandbox knows; the others exist in `ALL` only."""

    KICK_MEMBERS = 1 << 1
    BAN_MEMBERS = 1 << 2
    ADMINISTRATOR = 1 << 3
    MANAGE_CHANNELS = 1 << 4
    MANAGE_GUILD = 1 << 5
    ADD_REACTIONS = 1 << 6
    VIEW_AUDIT_LOG = 1 << 7
    VIEW_CHANNEL = 1 << 10
    SEND_MESSAGES = 1 << 11
    SEND_TTS_MESSAGES = 1 << 12
    MANAGE_MESSAGES = 1 << 13
    EMBED_LINKS = 1 << 14
    ATTACH_FILES = 1 << 15
    READ_MESSAGE_HISTORY = 1 << 16
    MENTION_EVERYONE = 1 << 17
    USE_EXTERNAL_EMOJIS = 1 << 18
    CONNECT = 1 << 20
    CHANGE_NICKNAME = 1 << 26
    MANAGE_NICKNAMES = 1 << 27
    MANAGE_ROLES = 1 << 28
    MANAGE_WEBHOOKS = 1 << 29
    MANAGE_GUILD_EXPRESSIONS = 1 << 30
    USE_APPLICATION_COMMANDS = 1 << 31
    MANAGE_THREADS = 1 << 34
    CREATE_PUBLIC_THREADS = 1 << 35
    CREATE_PRIVATE_THREADS = 1 << 36
    USE_EXTERNAL_STICKERS = 1 << 37
    SEND_MESSAGES_IN_THREADS = 1 << 38
    SEND_VOICE_MESSAGES = 1 << 46
    SEND_POLLS = 1 << 49
    PIN_MESSAGES = 1 << 51
    ALL = (1 << 53) - 1


NONE = Permission(0)
EVERYONE = (
    Permission.VIEW_CHANNEL
    | Permission.SEND_MESSAGES
    | Permission.EMBED_LINKS
    | Permission.ATTACH_FILES
    | Permission.READ_MESSAGE_HISTORY
    | Permission.ADD_REACTIONS
    | Permission.USE_EXTERNAL_EMOJIS
    | Permission.USE_EXTERNAL_STICKERS
    | Permission.CREATE_PUBLIC_THREADS
    | Permission.CREATE_PRIVATE_THREADS
    | Permission.SEND_MESSAGES_IN_THREADS
    | Permission.SEND_VOICE_MESSAGES
    | Permission.SEND_POLLS
    | Permission.CHANGE_NICKNAME
    | Permission.CONNECT
    | Permission.USE_APPLICATION_COMMANDS
)
# What a relay is given when it is invited.
BOT = EVERYONE | Permission.MANAGE_WEBHOOKS | Permission.MANAGE_MESSAGES

# What is left to a member who is timed out:
# https://discord.com/developers/docs/topics/permissions#permissions-for-timed-out-members
TIMED_OUT = Permission.VIEW_CHANNEL | Permission.READ_MESSAGE_HISTORY

# Their text chat is for those who may join them.
VOICE = frozenset({2, 13})

# Without SEND_MESSAGES these have no effect:
# https://discord.com/developers/docs/topics/permissions#implicit-permissions
_NEED_SEND = (
    Permission.MENTION_EVERYONE | Permission.SEND_TTS_MESSAGES | Permission.ATTACH_FILES | Permission.EMBED_LINKS
)


def parse(names: Iterable[str]) -> Permission:
    """The bits of names such as `MANAGE_WEBHOOKS`. Raises `KeyError` for a name that is not one."""
    bits = NONE
    for name in names:
        bits |= Permission[name]
    return bits


def in_guild(guild: Guild, user_id: int) -> Permission:
    """What a member may do in the whole guild; nothing for anybody else."""
    member = guild.members.get(user_id)
    if member is None:
        return NONE
    if guild.owner_id == user_id:
        return Permission.ALL
    bits = Permission(guild.roles[guild.id].permissions)
    for role_id in member.roles:
        bits |= Permission(guild.roles[role_id].permissions)
    return Permission.ALL if bits & Permission.ADMINISTRATOR else bits


def in_channel(guild: Guild, user_id: int, channel: Channel) -> Permission:
    """What a member may do in a channel. For a thread, `channel` is the channel that it belongs to."""
    bits = in_guild(guild, user_id)
    member = guild.members.get(user_id)
    if member is None or bits & Permission.ADMINISTRATOR:
        return bits
    everyone = channel.overwrites.get(guild.id)
    if everyone is not None:
        bits = (bits & ~Permission(everyone.deny)) | Permission(everyone.allow)
    allow = deny = NONE
    for role_id in member.roles:
        overwrite = channel.overwrites.get(role_id)
        if overwrite is not None:
            allow |= Permission(overwrite.allow)
            deny |= Permission(overwrite.deny)
    bits = (bits & ~deny) | allow
    own = channel.overwrites.get(user_id)
    if own is not None:
        bits = (bits & ~Permission(own.deny)) | Permission(own.allow)
    if not bits & Permission.VIEW_CHANNEL:
        return NONE
    if channel.type in VOICE and not bits & Permission.CONNECT:
        return Permission.VIEW_CHANNEL
    return bits if bits & Permission.SEND_MESSAGES else bits & ~_NEED_SEND
