"""Mentions, emoji, timestamps and links to messages, from Discord's markdown and to it.

https://discord.com/developers/docs/reference#message-formatting
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.names import visible
from relay.domain.text import nodes as n

_URL = re.compile(r"https?://[^\s<]++", re.IGNORECASE)
WEB = re.compile(r"https?://[^\s/]", re.IGNORECASE)
# What a masked link may lead to besides (https://github.com/wingio/plugins/issues/49).
CONTACT = re.compile(r"(?:mailto|tel|sms):[^\s/]", re.IGNORECASE)
# What clients refuse to show as the words of a link: addresses, and invitations without `https://`.
_LABEL_URL = re.compile(r"https?://[^\s<]{2}|discord(?:app)?\.(?:com|gg|gift|new)/\w", re.IGNORECASE)
_JUMP = re.compile(
    r"https?://(?:(?:ptb|canary)\.)?discord(?:app)?\.com/channels/(?:\d{1,20}|@me)/(\d{1,20})(?:/(\d{1,20}))?/?"
)
_ANGLE = re.compile(
    r"<(?:@!?(?P<user>\d{1,20})|@&(?P<role>\d{1,20})|#(?P<channel>\d{1,20})"
    r"|(?-i:(?P<animated>a?):(?P<emoji>\w{1,64}):(?P<emoji_id>\d{1,20}))"
    r"|(?-i:t:(?P<at>-?\d{1,13})(?::(?P<style>[tTdDfFsSR]))?)"
    r"|/(?P<command>[^\s:<>][^:<>\n]{0,100}):\d{1,20}"
    r"|id:(?P<page>customize|browse|guide|home|linked-roles)(?::\d{1,20})?"
    r"|(?P<url>https?://[^\s<>]++)|(?P<mail>mailto:[^\s<>]++|[^\s<>@]{1,64}+@[^\s<>@.]++\.[^\s<>@]++)"
    r"|(?:tel:|sms:)?(?P<phone>\+\d[\d ().-]{2,30}+))>",
    re.ASCII | re.IGNORECASE,
)
_GUILD_PAGES = {
    "customize": "Channels & Roles",
    "browse": "Browse Channels",
    "guide": "Server Guide",
    "home": "Server Guide",
    "linked-roles": "Linked Roles",
}
_SNOWFLAKE = re.compile(r"\d{1,20}", re.ASCII)
_EMOJI = re.compile(r"<a?:\w{1,64}:\d{1,20}>", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

HIDDEN_CHANNEL = "#private-channel"
"""Shown for a channel that not everybody may see. Discord's clients show "No Access" to those who may not."""


def _emoji_url(emoji_id: str, animated: bool) -> str:
    """Where Discord's CDN keeps a custom emoji: https://discord.com/developers/docs/reference#image-formatting."""
    return f"https://cdn.discordapp.com/emojis/{emoji_id}.{'gif' if animated else 'png'}"


@dataclass(frozen=True, slots=True)
class NameLookup:
    """What the parser has to look up. A name is None where it is unknown."""

    # The names of a user, a role and a channel, by ID.
    user: Callable[[str], str | None] = lambda _: None
    role: Callable[[str], str | None] = lambda _: None
    channel: Callable[[str], str | None] = lambda _: None
    # Whether somebody who reads the message may not see a channel, so that nothing is told about it.
    hidden: Callable[[str], bool] = lambda _: False
    # Whether the message calls those who have a role.
    calls: Callable[[str], bool] = lambda _: False
    # The paired channel of a channel: for a thread, its parent.
    home: Callable[[str], str] = lambda channel: channel
    # The address of a custom emoji, by its ID and whether it is animated.
    emoji_url: Callable[[str, bool], str] = _emoji_url


def url_at(source: str, position: int) -> str:
    """The bare URL that clients see at `position`, "" if there is none.

    Without punctuation at its end, and without closing parentheses that are not opened in it.
    """
    match = _URL.match(source, position)
    if match is None:
        return ""
    url = match.group().rstrip(".,:;\"']")
    surplus = url.count(")") - url.count("(")
    while surplus > 0 and url.endswith(")"):
        cut = min(surplus, len(url) - len(url.rstrip(")")))
        url = url[: len(url) - cut]
        surplus -= cut
    return url if WEB.match(url) else ""


def link(url: str, children: tuple[n.Inline, ...], names: NameLookup, *, preview: bool = True) -> n.Inline:
    """A link. One to a channel or message of Discord becomes a mention or a link to the message's copy."""
    jump = _JUMP.fullmatch(url)
    if jump and names.hidden(jump[1]):
        return n.Link(url, children, preview)
    bare = children == (n.Text(url),)
    if jump and jump[2]:
        message = MessageRef(ChannelRef(Platform.DISCORD, names.home(jump[1])), jump[2])
        return n.MessageLink(message, url, () if bare else children)
    if jump and (name := names.channel(jump[1])) is not None:
        shown = (n.Text(f"#{name}"),) if bare else children
        return n.ChannelMention(ChannelRef(Platform.DISCORD, jump[1]), name, url, shown)
    return n.Link(url, children, preview)


def shows_address(label: str) -> bool:
    """Whether clients refuse these words for a link, because they are an address; also one with hidden characters.

    Clients take zero-width spaces out before they look. With others an address would be shown that is not the link's.
    """
    return bool(_LABEL_URL.search(label) or _LABEL_URL.search(visible(label)))


def read_angle(source: str, position: int, names: NameLookup) -> tuple[n.Inline, int] | None:
    """The reference or address in angle brackets at `position`, and where it ends; None if there is none."""
    match = _ANGLE.match(source, position)
    if match is None:
        return None
    found = match.groupdict()
    node: n.Inline | None = None
    if user := found["user"]:
        name = names.user(user)
        node = n.UserMention(UserRef(Platform.DISCORD, user), name or "unknown-user", known=name is not None)
    elif role := found["role"]:
        node = n.RoleMention(names.role(role) or "unknown-role", role if names.calls(role) else "")
    elif channel := found["channel"]:
        name = names.channel(channel)
        node = n.ChannelMention(ChannelRef(Platform.DISCORD, channel), name or "unknown", known=name is not None)
        if names.hidden(channel):
            node = n.Text(HIDDEN_CHANNEL)
    elif emoji := found["emoji"]:
        animated = bool(found["animated"])
        image = MediaRef(Platform.DISCORD, names.emoji_url(found["emoji_id"], animated))
        node = n.CustomEmoji(emoji, found["emoji_id"], image, animated)
    elif at := found["at"]:
        node = _timestamp(int(at), found["style"] or "f")
    elif command := found["command"]:
        node = n.Text(f"/{command}")
    elif page := found["page"]:
        node = n.Text(_GUILD_PAGES[page.lower()])
    elif url := found["url"]:
        node = link(url, (n.Text(url),), names, preview=False) if WEB.match(url) else None
    elif mail := found["mail"]:
        address = mail.removeprefix("mailto:")
        node = n.Link(f"mailto:{address}", (n.Text(address),), preview=False)
    elif phone := found["phone"]:
        node = n.Text(phone)
    return None if node is None else (node, match.end())


def read_broadcast(source: str, position: int) -> tuple[n.Inline, int] | None:
    """@everyone or @here at `position`, and where it ends; None if neither is there."""
    if source.startswith("@everyone", position):
        return n.BroadcastMention("everyone"), position + len("@everyone")
    if source.startswith("@here", position):
        return n.BroadcastMention("here"), position + len("@here")
    return None


def _timestamp(seconds: int, style: str) -> n.Timestamp | None:
    try:
        return n.Timestamp(_EPOCH + timedelta(seconds=seconds), style)
    except OverflowError:  # clients show a date that is out of range as it was typed
        return None


# --- To Discord ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReferenceCodes:
    """What references become on Discord. None where they are to be shown as plain words."""

    # The ID to mention.
    user: Callable[[n.UserMention], str | None] = lambda _: None
    role: Callable[[n.RoleMention], str | None] = lambda _: None
    channel: Callable[[n.ChannelMention], str | None] = lambda _: None
    # The address of the message's copy.
    message: Callable[[n.MessageLink], str | None] = lambda _: None
    # The code of an emoji that the guild has: `<:name:id>`.
    emoji: Callable[[n.CustomEmoji], str | None] = lambda _: None
    # Whether @everyone and @here are to notify.
    broadcast: bool = False


def reference_code(node: n.Inline, codes: ReferenceCodes) -> str | None:
    """The code that Discord shows as a mention, emoji or date; None if there is none for this node."""
    match node:
        case n.UserMention():
            return _code("<@{}>", codes.user(node))
        case n.RoleMention():
            return _code("<@&{}>", codes.role(node))
        case n.ChannelMention():
            return _code("<#{}>", codes.channel(node))
        case n.CustomEmoji():
            code = codes.emoji(node)
            return code if code and _EMOJI.fullmatch(code) else None
        case n.BroadcastMention(scope):
            return f"@{scope}" if codes.broadcast else None
        case n.Timestamp(at, style):
            return f"<t:{int(at.timestamp())}:{style}>" if style in tuple("tTdDfFsSR") else f"<t:{int(at.timestamp())}>"
        case _:
            return None


def _code(form: str, found: str | None) -> str | None:
    return form.format(found) if found and _SNOWFLAKE.fullmatch(found) else None


def reference_name(node: n.Inline) -> n.Inline:
    """A reference by its name, where Discord has no code for it."""
    match node:
        case n.UserMention(_, name) | n.RoleMention(name):
            return n.Text(f"@{name}")
        case n.ChannelMention(_, name):
            return n.Text(f"#{name}")
        case n.BroadcastMention(scope):
            return n.Text(f"@{scope}")
        case n.CustomEmoji(name):
            return n.Text(f":{name}:")
        case n.InlineImage(alt):
            return n.Text(alt or "image")
        case _:
            return node
