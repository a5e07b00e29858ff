"""What was used last, as much of it as fits into so many bytes.

Bounded by bytes and not by numbers: how long names, addresses and IDs are is up to those who choose them, and how many
there are to how many rooms are paired.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import TypeVar

from relay.domain.text.rewrite import weight

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

_ENTRY = 120
"""Bytes that the dictionary takes for an entry, and for the entry's own weight."""


class Recent(MutableMapping[_K, _V]):
    """A dictionary of at most `most_bytes`, roughly. What was neither set nor read for longest is dropped first.

    `weigh`: the bytes of a key and its value, if not what they hold. A value that changes later has to be set again.
    """

    __slots__ = ("_held", "_most", "_weigh", "size")

    def __init__(self, most_bytes: int, weigh: Callable[[_K, _V], int] | None = None) -> None:
        self._held: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._most = most_bytes
        self._weigh = weigh or _weight
        # Bytes that are taken now.
        self.size = 0

    def __getitem__(self, key: _K) -> _V:
        value, _ = self._held[key]
        self._held.move_to_end(key)
        return value

    def __setitem__(self, key: _K, value: _V) -> None:
        known, size = self._held.pop(key, None), _ENTRY + self._weigh(key, value)
        self._held[key] = value, size
        self.size += size - (known[1] if known is not None else 0)
        while self.size > self._most and len(self._held) > 1:
            _, (_, freed) = self._held.popitem(last=False)
            self.size -= freed

    def __delitem__(self, key: _K) -> None:
        _, freed = self._held.pop(key)
        self.size -= freed

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[_K]:
        # Of a copy: who reads a value moves it.
        return iter(tuple(self._held))

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Drop everything."""
        self._held.clear()
        self.size = 0


def keep(kept: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Put a value last, and drop the first where there are more than `most`: for what is small, whoever chooses it."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _weight(key: Hashable, value: object) -> int:
    return weight((key, value))


class LastSent:
    """What our own messages say, as far as is remembered: an edit that would change nothing need not be sent.

    Each is remembered by the hash of what the platform has accepted for it. Only what was certainly carried out counts:
    forget a message before you change it, and put it once that has been accepted. An answer that may belong to an
    earlier try does not count.
    """

    def __init__(self) -> None:
        self._hashes = Recent[str, bytes](1024 * 1024)

    def put(self, message: str, body: str) -> None:
        """`message` says `body` now."""
        self._hashes[message] = _hash(body)

    def forget(self, message: str) -> None:
        """It is not certain what `message` will say."""
        self._hashes.pop(message, None)

    def says(self, message: str, body: str) -> bool:
        """Whether `message` says just that; False where it is not remembered."""
        return self._hashes.get(message) == _hash(body)


def _hash(body: str) -> bytes:
    return hashlib.blake2b(body.encode("utf-8", "replace"), digest_size=16).digest()
