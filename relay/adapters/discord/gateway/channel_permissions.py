"""What members may do in a channel, and who may view it, and so may know its name.

https://docs.discord.com/developers/topics/permissions#permission-overwrites: only a channel's own overwrites count.
Those of its category are copied into the channel if it is synchronised.
"""

import discord

from relay.adapters.discord.identifiers import is_snowflake

_VIEW = discord.Permissions(view_channel=True).value
_ADMINISTRATOR = discord.Permissions(administrator=True).value
_MENTION_EVERYONE = discord.Permissions(mention_everyone=True).value


def is_open(channel: discord.abc.GuildChannel) -> bool:
    """Whether @everyone of the server may view a channel."""
    everyone = channel.guild.get_role(channel.guild.id)
    return everyone is not None and channel.permissions_for(everyone).view_channel


def readers_see(source: discord.abc.GuildChannel, channel: discord.abc.GuildChannel) -> bool:
    """Whether everybody who may view `source` may view `channel`, whatever their roles.

    Sufficient, not necessary: each overwrite that lets somebody view `source` must let them view `channel`, and each
    that hides `channel` from somebody must hide `source` from them.
    """
    if is_open(channel):
        return True
    if source.guild != channel.guild:
        return False
    everyone_here, allowed_here, denied_here = _overwrites(source)
    everyone_there, allowed_there, denied_there = _overwrites(channel)
    return everyone_here <= everyone_there and allowed_here <= allowed_there and denied_there <= denied_here


def may_call(channel: discord.abc.GuildChannel, roles: set[int], user: str) -> bool:
    """Whether a member with these roles may mention everyone, and so every role, in a channel."""
    return bool(_permissions(channel, roles, user) & _MENTION_EVERYONE)


def may_see(channel: discord.abc.GuildChannel, roles: set[int], user: str) -> bool:
    """Whether a member with these roles may view a channel."""
    return bool(_permissions(channel, roles, user) & _VIEW)


def _permissions(channel: discord.abc.GuildChannel, roles: set[int], user: str) -> int:
    """What a member with these roles may do in a channel.

    https://docs.discord.com/developers/topics/permissions#permission-overwrites
    """
    guild = channel.guild
    held = [role for role in guild.roles if role.id in roles or role.is_default()]
    permissions = 0
    for role in held:
        permissions |= role.permissions.value
    if permissions & _ADMINISTRATOR:
        return discord.Permissions.all().value
    by_id = {overwrite.id: overwrite for overwrite in channel._overwrites}
    for steps in ((guild.id,), tuple(roles), (int(user),) if is_snowflake(user) else ()):
        found = [by_id[one] for one in steps if one in by_id]
        for overwrite in found:
            permissions &= ~overwrite.deny
        for overwrite in found:
            permissions |= overwrite.allow
    return permissions


def _overwrites(channel: discord.abc.GuildChannel) -> tuple[int, set[int], set[int]]:
    """For viewing: what @everyone's overwrite says (1: allow, 0: nothing, -1: deny); which others allow; which deny."""
    everyone = 0
    allowed: set[int] = set()
    denied: set[int] = set()
    # Not `channel.overwrites`, which takes 6 ms for a hundred of them: one message may mention ninety channels.
    for overwrite in channel._overwrites:
        allows, denies = overwrite.allow & _VIEW, overwrite.deny & _VIEW
        if overwrite.id == channel.guild.id:
            everyone = 1 if allows else -1 if denies else 0
        elif allows:
            allowed.add(overwrite.id)
        elif denies:
            denied.add(overwrite.id)
    return everyone, allowed, denied
