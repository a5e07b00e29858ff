"""Where uploaded files lie: a temporary directory that goes when the server does."""

import itertools
import tempfile
from pathlib import Path
from typing import Protocol

from relay.sandbox.world.models import StoredFile

CHUNK = 256 * 1024


class Readable(Protocol):
    """A part of a multipart body, or anything read like one."""

    async def read_chunk(self, size: int = ...) -> bytes:
        """The next bytes, empty at the end."""
        ...


class FileStore:
    """Files by number, in a directory of their own inside `parent` (the system's for temporary files by default)."""

    def __init__(self, parent: Path | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="relay-sandbox-", dir=parent)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Remove everything."""
        self._directory.cleanup()

    def put(self, data: bytes) -> StoredFile:
        """Keep some bytes."""
        path = self._new_path()
        path.write_bytes(data)
        return StoredFile(path, len(data))

    def put_zeros(self, size: int) -> StoredFile:
        """A file of `size` zero bytes that takes no room on the disk."""
        path = self._new_path()
        with path.open("wb") as file:
            file.truncate(size)
        return StoredFile(path, size)

    async def receive(self, source: Readable, most: int) -> tuple[StoredFile | None, int]:
        """Read to the end, and keep it unless it is larger than `most` bytes; with its size."""
        path = self._new_path()
        size = 0
        with path.open("wb") as file:
            while chunk := await source.read_chunk(CHUNK):
                size += len(chunk)
                if size <= most:
                    file.write(chunk)
        if size > most:
            path.unlink()
            return None, size
        return StoredFile(path, size), size

    def remove(self, file: StoredFile) -> None:
        """Forget a file."""
        file.path.unlink(missing_ok=True)

    def listing(self) -> list[Path]:
        """What lies there now."""
        return sorted(Path(self._directory.name).iterdir())

    def _new_path(self) -> Path:
        return Path(self._directory.name) / str(next(self._numbers))
