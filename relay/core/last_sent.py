"""What our own messages say, as far as is remembered: an edit that would change nothing need not be sent.

In core because both adapters need it, and they never import each other.
"""

import hashlib
from collections import OrderedDict


class LastSent:
    """The last `most` messages of ours, each by the hash of what the platform has accepted for it.

    Only what was certainly carried out counts: forget a message before you change it, and put it once that has been
    accepted. An answer that may belong to an earlier try does not count.
    """

    def __init__(self, most: int = 2_000) -> None:
        self._most = most
        self._hashes: OrderedDict[str, bytes] = OrderedDict()

    def put(self, message: str, body: str) -> None:
        """`message` says `body` now."""
        self._hashes[message] = _hash(body)
        self._hashes.move_to_end(message)
        if len(self._hashes) > self._most:
            self._hashes.popitem(last=False)

    def forget(self, message: str) -> None:
        """It is not certain what `message` will say."""
        self._hashes.pop(message, None)

    def says(self, message: str, body: str) -> bool:
        """Whether `message` says just that; False where it is not remembered."""
        return self._hashes.get(message) == _hash(body)


def _hash(body: str) -> bytes:
    return hashlib.blake2b(body.encode("utf-8", "replace"), digest_size=16).digest()
