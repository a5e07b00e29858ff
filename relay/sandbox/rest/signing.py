"""Signed, expiring URLs of attachments.

https://discord.com/developers/docs/reference#signed-attachment-cdn-urls: `ex` and `is` are hexadecimal seconds, `hm` is
the signature. An attachment's URL is signed anew each time the message is read.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlsplit

from relay.sandbox.world.models import Attachment

MEDIA_PREFIX = "/media"


class UrlSigner:
    """Makes and checks the URLs. `origin` is set once the server knows its port; `lifetime` in seconds."""

    def __init__(self, clock: Callable[[], float], lifetime: float) -> None:
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
