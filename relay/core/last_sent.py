"""What our own messages say, as far as is remembered: an edit that would change nothing need not be sent."""

import hashlib
from collections import OrderedDict


class Standing:
    """The last `most` messages of ours, each by the hash of what the platform has accepted for it.

    Only what was certainly carried out counts: forget a message before it is changed, and put it once it has been. An
    answer that may belong to an earlier try does not say that.
    """

    def __init__(self, most: int = 2_000) -> None:
        self._most = most
        self._hashes: OrderedDict[str, bytes] = OrderedDict()

    def put(self, message: str, said: str) -> None:
        """`message` says `said` now."""
        self._hashes[message] = _hash(said)
        self._hashes.move_to_end(message)
        if len(self._hashes) > self._most:
            self._hashes.popitem(last=False)

    def forget(self, message: str) -> None:
        """Nobody knows what `message` is going to say."""
        self._hashes.pop(message, None)

    def says(self, message: str, said: str) -> bool:
        """Whether `message` says just that; False where it is not remembered."""
        return self._hashes.get(message) == _hash(said)


def _hash(said: str) -> bytes:
    return hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=16).digest()
