"""Keeps the names of authors distinct: in one channel, no two people appear under names that look the same.

The first to speak under a name keeps it, as long as they are among those who spoke there recently. Names are saved, so
that nobody can take one over while the relay restarts. The others get a part of their user ID after the name, in
brackets that no member's name can hold.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from relay.core.recent import Recent
from relay.core.storage import UnitOfWork
from relay.domain.content import Author
from relay.domain.ids import ChannelRef, UserRef
from relay.domain.names import (
    MAX_NAME_BYTES,
    MAX_NAME_LENGTH,
    bracketed,
    shortened,
    skeleton,
    visible,
    with_suffix,
    without_relay_signs,
)
from relay.domain.pair import BARE_NAME
from relay.logs import get_logger

_log = get_logger(__name__)

_MAX_NAMES = 300
"""How many names are remembered for a channel."""

_MAX_NAMES_EACH = 5
"""How many of them one account may hold: another bridge's bot has many, and people may change theirs often."""

_MEMORY = 4 * 1024 * 1024
"""Bytes of whom the names of all channels belong to, and as many of what was decided. The store knows the rest."""

_NAME_BYTES = 300
"""Of one name and whom it belongs to: two digests, and their place in the dictionary."""

_MAX_HANDLE_LENGTH = 24
# If two looks share a digest, somebody gets a needless suffix; if two users do, they share a name, which is worse.
_LOOK_BYTES, _USER_BYTES = 5, 8
# Of a user, behind a name that had to be cut.
_SUFFIX_BYTES = 4


# A channel, a user's ID, and the name under which they speak.
_Asked = tuple[ChannelRef, str, str]


class AuthorNames:
    """Decides under which name an author appears."""

    def __init__(self) -> None:
        # Of each channel: digest of a name's look -> digest of the user who has it; the last used at the end.
        self._owners = Recent[ChannelRef, OrderedDict[str, str]](_MEMORY, lambda _, owners: _NAME_BYTES * len(owners))
        # Of those who spoke before the relay came; most are gone, and take no name from anybody of today.
        self._past = Recent[ChannelRef, OrderedDict[str, str]](_MEMORY, lambda _, owners: _NAME_BYTES * len(owners))
        # The name that was decided for a name, and both digests. Valid as long as the user owns that look.
        self._shown = Recent[_Asked, tuple[str, str, str]](_MEMORY)

    async def distinguished(self, uow: UnitOfWork, channel: ChannelRef, author: Author) -> Author:
        """`author`, who speaks in `channel`, with a name that nobody else has there."""
        owners = self._owners.get(channel)
        if owners is None:
            owners = self._owners[channel] = _saved(await uow.key_values.get(_key(channel)))
        asked = (channel, author.user.id, author.name)
        name, is_new = self._remembered(owners, asked), False
        if name is None:
            name, is_new = _decided(owners, author)
            self._shown[asked] = name, _look(name), _user(author)
        if is_new:
            self._owners[channel] = owners  # it is larger now
            await uow.key_values.put(_key(channel), json.dumps(owners, separators=(",", ":")))
        return author if name == author.name else replace(author, name=name)

    async def distinguished_in_past(self, uow: UnitOfWork, channel: ChannelRef, author: Author) -> Author:
        """`author`, who spoke before the relay came, with a name that nobody else has or had: see `distinguished`."""
        past = self._past.get(channel)
        if past is None:
            past = self._past[channel] = _saved(await uow.key_values.get(_past_key(channel)))
        today = self._owners.get(channel)
        if today is None:
            today = self._owners[channel] = _saved(await uow.key_values.get(_key(channel)))
        name, is_new = _decided(past | today, author)
        if is_new:
            past[_look(name)] = user = _user(author)
            _forget(past, user)
            self._past[channel] = past  # it is larger now
            await uow.key_values.put(_past_key(channel), json.dumps(past, separators=(",", ":")))
        return author if name == author.name else replace(author, name=name)

    def forget(self) -> None:
        """Read everything from the store again: a transaction failed in which names may have been given."""
        self._owners.clear()
        self._past.clear()
        self._shown.clear()

    async def forget_person(self, uow: UnitOfWork, channels: Iterable[ChannelRef], user: UserRef) -> None:
        """Nobody has the names that somebody had in these channels. Call `forget` once that is on disk."""
        digest = _digest(user.id, _USER_BYTES)
        for key in (key_of(channel) for channel in channels for key_of in (_key, _past_key)):
            owners = _saved(await uow.key_values.get(key))
            if digest in owners.values():
                left = {look: owner for look, owner in owners.items() if owner != digest}
                await uow.key_values.put(key, json.dumps(left, separators=(",", ":")))

    def _remembered(self, owners: OrderedDict[str, str], asked: _Asked) -> str | None:
        """The name that was decided before, unless somebody else has it now."""
        found = self._shown.get(asked)
        if found is None:
            return None
        name, look, user = found
        if owners.get(look) != user:
            return None
        # Whoever speaks keeps their name, however many others come.
        owners.move_to_end(look)
        return name


def in_template(author: Author, template: str) -> Author:
    """`author` under the name that the operator's template makes: `{name}` and `{handle}` in it are the author's.

    The name alone gives way where both do not fit, never what tells people apart: a name that has to be cut gets a part
    of its user's digest.
    """
    if template == BARE_NAME:
        return author
    # Without spaces: a space is what tells where the name ends.
    handle = shortened(visible(without_relay_signs(author.handle)), max_length=_MAX_HANDLE_LENGTH).replace(" ", "")
    around = template.format(name="", handle=handle)
    room, room_in_bytes = MAX_NAME_LENGTH - len(around), MAX_NAME_BYTES - len(around.encode("utf-8", "replace"))
    name = author.name
    if shortened(name, max_length=room, max_bytes=room_in_bytes) != name:
        suffix = f" {bracketed(_digest(author.user.id, _SUFFIX_BYTES))}"
        size, size_in_bytes = len(suffix), len(suffix.encode())
        name = shortened(name, max_length=room - size, max_bytes=room_in_bytes - size_in_bytes) + suffix
    return replace(author, name=" ".join(template.format(name=name, handle=handle).split()))


def distinct_from_relay(author: Author, own_names: frozenset[str]) -> Author:
    """`author` with a name that does not look like one of the relay's own names there."""
    look = skeleton(author.name)
    if all(skeleton(visible(own)) != look for own in own_names):
        return author
    # Not the handle: somebody else of that name may have it as their suffix.
    return replace(author, name=with_suffix(author.name, bracketed(_identifier(author) or _user(author))))


def _identifier(author: Author) -> str:
    identifier = visible(without_relay_signs(author.user.id.lstrip("@")))
    return identifier if len(identifier) <= 2 * _MAX_HANDLE_LENGTH else ""


def _saved(text: str | None) -> OrderedDict[str, str]:
    """The saved owners; none if they cannot be read."""
    try:
        saved = json.loads(text or "{}")
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict) or not all(isinstance(owner, str) for owner in saved.values()):
        _log.warning("the names of a channel in the store cannot be read")
        return OrderedDict()
    # Earlier versions saved shorter digests of users, and somebody could make up an ID that has the same one.
    return OrderedDict((look, owner) for look, owner in saved.items() if len(owner) == 2 * _USER_BYTES)


def _decided(owners: OrderedDict[str, str], author: Author) -> tuple[str, bool]:
    """The author's name, and whether it is new and has to be saved."""
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
    # A name with commas looks almost like the heading of a message of several people.
    parts = name.split(", ")
    if len(parts) == 1 or all(owners.get(_look(part), user) == user for part in parts):
        yield name
    if handle := shortened(visible(without_relay_signs(author.handle)), max_length=_MAX_HANDLE_LENGTH):
        yield with_suffix(name, bracketed(handle))
    if identifier := _identifier(author):
        yield with_suffix(name, bracketed(identifier))
    yield with_suffix(name, bracketed(user))


def _forget(owners: OrderedDict[str, str], user: str) -> None:
    """Make room: drop the oldest names of a user who has too many, then those of whoever was silent for longest."""
    held = [look for look, owner in owners.items() if owner == user]
    for look in held[:-_MAX_NAMES_EACH]:
        del owners[look]
    while len(owners) > _MAX_NAMES:
        owners.popitem(last=False)


def _key(channel: ChannelRef) -> str:
    return f"names {channel.platform} {channel.id}"


def _past_key(channel: ChannelRef) -> str:
    return f"backfill {_key(channel)}"


def _look(name: str) -> str:
    return _digest(skeleton(name), _LOOK_BYTES)


def _user(author: Author) -> str:
    return _digest(author.user.id, _USER_BYTES)


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
