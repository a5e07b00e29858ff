"""Where uploaded files are kept, and the signed URLs of those that are attachments."""

import hashlib
import hmac
import itertools
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from relay.sandbox.world.models import Attachment, StoredFile

CHUNK = 256 * 1024
MEDIA_PREFIX = "/media"


class Readable(Protocol):
    """A part of a multipart body, or anything read like one."""

    async def read_chunk(self, size: int = ...) -> bytes:
        """The next bytes, empty at the end."""
        ...


class FileStore:
    """Files by number, in a temporary directory that is removed when the server stops.

    It is made inside `parent`, by default the system's directory for temporary files.
    """

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
        """All files that are kept now."""
        return sorted(Path(self._directory.name).iterdir())

    def _new_path(self) -> Path:
        return Path(self._directory.name) / str(next(self._numbers))


class UrlSigner:
    """Makes and checks signed, expiring URLs of attachments; each time a message is read, its URLs are signed again.

    https://discord.com/developers/docs/reference#signed-attachment-cdn-urls: `ex` and `is` are hexadecimal seconds,
    `hm` is the signature. `origin` is set once the server knows its port; `lifetime` in seconds.
    """

    def __init__(self, clock: Callable[[], float], lifetime: float = 86_400) -> None:
        self.origin = "http://127.0.0.1"
        self.lifetime = lifetime
        self._clock = clock
        self._secret = secrets.token_bytes(32)

    def expire_all(self) -> None:
        """From now on, no URL that was handed out before is good."""
        self._secret = secrets.token_bytes(32)

    def url(self, attachment: Attachment) -> str:
        """A fresh URL."""
        return f"{self.origin}{self._signed(_path(attachment))}"

    def proxy_url(self, attachment: Attachment) -> str:
        """A fresh URL of the media proxy, which on Discord is another host."""
        return f"{self.origin}{MEDIA_PREFIX}{self._signed(_path(attachment))}"

    def renew(self, url: str) -> str | None:
        """A fresh URL of what `url` points to; None when it is no URL of an attachment here."""
        parts = urlsplit(url)
        origin = urlsplit(self.origin)
        path = parts.path.removeprefix(MEDIA_PREFIX)
        if parts.netloc != origin.netloc or not path.startswith("/attachments/"):
            return None
        prefix = MEDIA_PREFIX if path != parts.path else ""
        return f"{self.origin}{prefix}{self._signed(path)}"

    def valid(self, path: str, query: Mapping[str, str]) -> bool:
        """Whether the signature fits the path, still quoted, and has not expired."""
        issued, expires, signature = query.get("is", ""), query.get("ex", ""), query.get("hm", "")
        if not hmac.compare_digest(self._signature(path, expires, issued).encode(), signature.encode()):
            return False
        return self._clock() < int(expires, 16)

    def _signed(self, path: str) -> str:
        now = self._clock()
        expires, issued = f"{int(now + self.lifetime):x}", f"{int(now):x}"
        return f"{path}?ex={expires}&is={issued}&hm={self._signature(path, expires, issued)}&"

    def _signature(self, path: str, expires: str, issued: str) -> str:
        return hmac.new(self._secret, f"{path}|{expires}|{issued}".encode(), hashlib.sha256).hexdigest()


def _path(attachment: Attachment) -> str:
    return f"/attachments/{attachment.channel_id}/{attachment.id}/{quote(attachment.filename)}"
