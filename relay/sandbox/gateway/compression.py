"""Transport compression: https://discord.com/developers/docs/events/gateway#transport-compression.

One stream for a whole connection, flushed after each payload.
"""

import zlib
from collections.abc import Callable
from typing import Protocol


class Compressor(Protocol):
    """A stream."""

    def compress(self, text: str) -> bytes:
        """The next payload, complete."""
        ...


class ZlibStream:
    """`compress=zlib-stream`."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj()

    def compress(self, text: str) -> bytes:
        """Ends with 00 00 FF FF."""
        return self._stream.compress(text.encode()) + self._stream.flush(zlib.Z_SYNC_FLUSH)


class ZstdStream:
    """`compress=zstd-stream`. Needs `zstandard`, which a client of Python below 3.14 needs too before it asks."""

    def __init__(self) -> None:
        import zstandard

        self._flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._stream = zstandard.ZstdCompressor().compressobj()

    def compress(self, text: str) -> bytes:
        """One or more blocks of the one frame."""
        return self._stream.compress(text.encode()) + self._stream.flush(self._flush)


def compressor_for(name: str) -> Compressor | None:
    """The stream that a connection asks for; None for none. Raises `KeyError` for one that does not exist."""
    if not name:
        return None
    kinds: dict[str, Callable[[], Compressor]] = {"zlib-stream": ZlibStream, "zstd-stream": ZstdStream}
    return kinds[name]()
