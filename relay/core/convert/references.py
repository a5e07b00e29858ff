"""What a text refers to, found on the other side: people by their name, paired channels, the copies of messages.

`wanted` and `unnamed` say what to look up, `resolved` and `named` put in what was found. `core.delivery.lookups`
makes the look-ups in between, when the message is delivered: what it points at has crossed by then.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from relay.domain.ids import ChannelRef, MessageRef, UserRef
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import expand_inline, map_inline, walk

# An @ inside a word is not a mention (an e-mail address, for example).
_AT = re.compile(r"(?<![\w@/.])@(?=\w)")
_WORDS = re.compile(r"\S+(?: \S+)*")
_PUNCTUATION = ".,:;!?)]}'\"…"
_MAX_NAME_LENGTH = 100
_MAX_NAMES = 10
"""How many names of one message are looked up: each may cost a request."""

_MAX_USERS = 50
"""How many mentioned people of one text are looked up among those with linked accounts; that costs no request."""

_MAX_ROLES = 3
"""How many roles of one text call those who have them: each may cost requests."""

_MAX_PLACES = 100
"""How many @ in one text are compared with the names that were found."""

# These mean everybody, never one person.
_EVERYBODY = frozenset({"everyone", "here", "room"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a text refers to: names as written; people, roles, channels and messages of its own side."""

    names: frozenset[str] = frozenset()
    users: frozenset[UserRef] = frozenset()
    roles: frozenset[str] = frozenset()
    channels: frozenset[ChannelRef] = frozenset()
    messages: frozenset[MessageRef] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of it on the other side: people by `folded` name, and messages with their links."""

    people: Mapping[str, UserRef] = field(default_factory=dict)
    # The accounts of the same people over there, by those that are mentioned.
    linked: Mapping[UserRef, UserRef] = field(default_factory=dict)
    # Those who have a role, by its ID.
    roles: Mapping[str, tuple[UserRef, ...]] = field(default_factory=dict)
    channels: Mapping[ChannelRef, ChannelRef] = field(default_factory=dict)
    messages: Mapping[MessageRef, tuple[MessageRef, str]] = field(default_factory=dict)


def folded(name: str) -> str:
    """`name` without the differences that do not matter for mentions: case and white space."""
    return " ".join(name.casefold().split())


def unnamed(text: n.RichText) -> tuple[UserRef | ChannelRef, ...]:
    """The people and channels in `text` whose names have to be looked up."""
    found: dict[UserRef | ChannelRef, None] = {}
    for node in walk(text.blocks):
        match node:
            case n.UserMention(user, known=False):
                found[user] = None
            case n.ChannelMention(channel, known=False):
                found[channel] = None
        if len(found) == _MAX_NAMES:
            break
    return tuple(found)


def named(text: n.RichText, names: Mapping[UserRef | ChannelRef, str]) -> n.RichText:
    """`text` with the names that were looked up for it."""

    def settle(node: n.Inline) -> n.Inline:
        match node:
            case n.UserMention(user, known=False) if user in names:
                return replace(node, name=names[user], known=True)
            case n.ChannelMention(channel, known=False) if channel in names:
                return replace(node, name=names[channel], known=True)
            case _:
                return node

    return map_inline(text, settle)


def wanted(text: n.RichText, *, typed: bool = True) -> Wanted:
    """What has to be looked up for `text`. `typed`: people may be mentioned by typing @ and a name."""
    names: dict[str, None] = {}
    users: dict[UserRef, None] = {}
    roles: dict[str, None] = {}
    channels: set[ChannelRef] = set()
    messages: set[MessageRef] = set()
    places = 0

    for node in walk(text.blocks, closed=(n.Link, n.MessageLink, n.ChannelMention)):
        match node:
            case n.UserMention(user, name, known):
                if len(users) < _MAX_USERS:
                    users[user] = None
                if known and places < _MAX_NAMES:
                    places += 1
                    names[name] = None
            case n.RoleMention(_, role) if role and len(roles) < _MAX_ROLES:
                roles[role] = None
            case n.Text(words) if typed:
                for place in _AT.finditer(words):
                    if places >= _MAX_NAMES:
                        break
                    places += 1
                    names.update((name, None) for name, _ in _readings(words, place.end()))
            case n.ChannelMention(channel):
                channels.add(channel)
            case n.MessageLink(message):
                messages.add(message)
    return Wanted(
        names=frozenset(name for name in names if folded(name) not in _EVERYBODY),
        users=frozenset(users),
        roles=frozenset(roles),
        channels=frozenset(channels),
        messages=frozenset(messages),
    )


def resolved(text: n.RichText, found: Found, *, typed: bool = True) -> n.RichText:
    """`text` with each reference replaced by what was found; what was not found stays as it is."""

    def settle(node: n.Inline) -> tuple[n.Inline, ...] | None:
        match node:
            case n.UserMention(user) if user in found.linked:
                return (replace(node, user=found.linked[user]),)
            case n.RoleMention(_, role) if found.roles.get(role):
                return (replace(node, users=found.roles[role]),)
            case n.UserMention(_, name, True) if (called := found.people.get(folded(name))) is not None:
                return (replace(node, user=called),)
            case n.Text(text) if typed and found.people:
                return tuple(_with_people(text, found.people))
            case n.ChannelMention(channel, _, url, children):
                if channel in found.channels:
                    return (replace(node, channel=found.channels[channel]),)
                return (n.Link(url, children or (n.Text(url),)),) if url else (node,)
            case n.MessageLink(message):
                copy, url = found.messages.get(message, (message, node.url))
                return (replace(node, message=copy, url=url),)
            case n.Link():
                return (node,)
            case _:
                return None

    return expand_inline(text, settle)


def _with_people(text: str, people: Mapping[str, UserRef]) -> Iterator[n.Inline]:
    start = 0
    for place in islice(_AT.finditer(text), _MAX_PLACES):
        if place.start() < start:
            continue
        for name, end in _readings(text, place.end()):
            if (user := people.get(folded(name))) is not None:
                if place.start() > start:
                    yield n.Text(text[start : place.start()])
                yield n.UserMention(user, name)
                start = end
                break
    if start < len(text):
        yield n.Text(text[start:])


def _readings(text: str, start: int) -> Iterator[tuple[str, int]]:
    """The names of one or more words that `start` may be the beginning of, the longest first, each with its end."""
    match = _WORDS.match(text, start, min(len(text), start + _MAX_NAME_LENGTH))
    if match is None:
        return
    words = match.group()
    seen = set()
    while words:
        for name in (words, words.rstrip(_PUNCTUATION)):
            if name and name not in seen:
                seen.add(name)
                yield name, start + len(name)
        words = words.rpartition(" ")[0]
