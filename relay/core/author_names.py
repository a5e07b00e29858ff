"""People of one channel told apart by their names: no two of them appear under names that look the same.

Whoever spoke first under a name keeps it, for as long as they are among those who spoke there lately; what it was is in
the store, so that nobody can take it over while the relay restarts. The other gets a part of the user ID after the
name, in brackets that no name of a member can hold.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import structlog

from relay.core.storage import UnitOfWork
from relay.domain.content import Author
from relay.domain.ids import ChannelRef
from relay.domain.names import bracketed, shortened, skeleton, visible, with_suffix, without_relay_signs

_log = structlog.get_logger(__name__)

_MOST_NAMES = 300
"""Names that a channel remembers."""

_MOST_OF_ONE = 5
"""Names that one account may hold there: a bridge's bot and somebody who changes theirs all the time have many."""

_MOST_CHANNELS = 200
_LONGEST_HANDLE = 24
# Two looks that share a digest cost somebody a mark, two users that do would share a name.
_LOOK_BYTES, _USER_BYTES = 5, 8


@dataclass(slots=True)
class _Channel:
    """`owners`: who has the name that looks so, used last at the end.

    `shown`: what has been decided lately, with how it looks; good for as long as the author owns it.
    """

    owners: OrderedDict[str, str]
    shown: OrderedDict[tuple[str, str], tuple[str, str, str]] = field(default_factory=OrderedDict)


class AuthorNames:
    """Decides under which name somebody appears."""

    def __init__(self) -> None:
        self._channels: OrderedDict[ChannelRef, _Channel] = OrderedDict()

    async def told_apart(self, uow: UnitOfWork, channel: ChannelRef, author: Author) -> Author:
        """`author`, who speaks in `channel`, under a name that nobody else has there."""
        known = self._channels.get(channel)
        if known is None:
            known = await self._read(uow, channel)
        self._channels.move_to_end(channel)
        name, is_new = _remembered(known, author), False
        if name is None:
            name, is_new = _decided(known.owners, author)
            known.shown[author.user.id, author.name] = name, _look(name), _user(author)
            if len(known.shown) > _MOST_NAMES:
                known.shown.popitem(last=False)
        if is_new:
            await uow.key_values.put(_place(channel), json.dumps(known.owners, separators=(",", ":")))
        return author if name == author.name else replace(author, name=name)

    def forget(self) -> None:
        """Read again what is in the store: a transaction failed in which names may have been given."""
        self._channels.clear()

    async def _read(self, uow: UnitOfWork, channel: ChannelRef) -> _Channel:
        written = await uow.key_values.get(_place(channel))
        known = self._channels[channel] = _Channel(_saved(written))
        if len(self._channels) > _MOST_CHANNELS:
            self._channels.popitem(last=False)
        return known


def not_the_relay(author: Author, own_names: frozenset[str]) -> Author:
    """`author` under a name that does not look like one under which the relay speaks there itself."""
    look = skeleton(author.name)
    if all(skeleton(visible(own)) != look for own in own_names):
        return author
    # No part of the ID that somebody else of that name may be told apart by.
    return replace(author, name=with_suffix(author.name, bracketed(_identifier(author) or _user(author))))


def _identifier(author: Author) -> str:
    identifier = visible(without_relay_signs(author.user.id.lstrip("@")))
    return identifier if len(identifier) <= 2 * _LONGEST_HANDLE else ""


def _remembered(known: _Channel, author: Author) -> str | None:
    """The name that was decided for an author, unless somebody else has it by now."""
    key = (author.user.id, author.name)
    found = known.shown.get(key)
    if found is None:
        return None
    name, look, user = found
    if known.owners.get(look) != user:
        return None
    # Who speaks keeps the name, however many others come.
    known.shown.move_to_end(key)
    known.owners.move_to_end(look)
    return name


def _saved(text: str | None) -> OrderedDict[str, str]:
    """Who has which name, as the notebook holds it; nothing where it cannot be read."""
    try:
        saved = json.loads(text or "{}")
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict) or not all(isinstance(owner, str) for owner in saved.values()):
        _log.warning("the names of a channel in the store cannot be read")
        return OrderedDict()
    # Earlier versions wrote users in fewer digits, which somebody could find an ID of their own for.
    return OrderedDict((look, owner) for look, owner in saved.items() if len(owner) == 2 * _USER_BYTES)


def _decided(owners: OrderedDict[str, str], author: Author) -> tuple[str, bool]:
    """The author's name, and whether that had to be remembered."""
    user = _user(author)
    name = ""
    for name in _candidates(owners, author, user):
        look = _look(name)
        owner = owners.get(look)
        if owner == user:
            owners.move_to_end(look)
            return name, False
        if owner is None:
            owners[look] = user
            _forget(owners, user)
            return name, True
    return name, False


def _candidates(owners: OrderedDict[str, str], author: Author, user: str) -> Iterator[str]:
    name = shortened(without_relay_signs(visible(author.name) or visible(author.handle) or author.user.id))
    # Almost what a message of both is headed with.
    parts = name.split(", ")
    if len(parts) == 1 or all(owners.get(_look(part), user) == user for part in parts):
        yield name
    if handle := shortened(visible(without_relay_signs(author.handle)), most=_LONGEST_HANDLE):
        yield with_suffix(name, bracketed(handle))
    if identifier := _identifier(author):
        yield with_suffix(name, bracketed(identifier))
    yield with_suffix(name, bracketed(user))


def _forget(owners: OrderedDict[str, str], user: str) -> None:
    """Make room: of whoever has too many names, and then of whoever has been silent for longest."""
    held = [look for look, owner in owners.items() if owner == user]
    for look in held[:-_MOST_OF_ONE]:
        del owners[look]
    while len(owners) > _MOST_NAMES:
        owners.popitem(last=False)


def _place(channel: ChannelRef) -> str:
    return f"names {channel.platform} {channel.id}"


def _look(name: str) -> str:
    return _digest(skeleton(name), _LOOK_BYTES)


def _user(author: Author) -> str:
    return _digest(author.user.id, _USER_BYTES)


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
