"""Who may view a channel, and so know its name. Pure, over discord.py's picture.

https://docs.discord.com/developers/topics/permissions#permission-overwrites: what counts are a channel's own
overwrites; a category's are copied into the channels that are synchronised with it.
"""

import discord

_VIEW = discord.Permissions(view_channel=True).value


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
