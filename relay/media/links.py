"""Signed links of the relay's own web server: `/media/<day>/<file>/<signature>/<name>`.

A link is permission to read one file until the day on which it ends. The relay makes one only while it carries out a
command of a pair that names the file (see `core.files.MediaLinks`), so no link leads to what no pair has mirrored. A
link to somebody's picture does not end: their messages show it for as long as they stand.

- `<file>` says which file of which message, encrypted: it can hold the key of a file that came encrypted, and web
  servers log paths.
- `<signature>` is an HMAC over all the rest. A path is compared as it was sent, byte by byte: another spelling of the
  same path is another path.
"""

import base64
import binascii
import hashlib
import hmac
import math
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from Crypto.Cipher import AES

from relay.core.ports import Clock
from relay.core.storage import Store
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform
from relay.domain.names import file_name
from relay.logs import get_logger

ROOT = "/media/"

_log = get_logger(__name__)

_KEY_NAME = "media link key"
# Half of it encrypts, the other half signs.
_KEY_SIZE = 64
_MAC_SIZE = 16  # bytes, of the encryption and of the signature
_DAY = 86400.0
_NEVER = 0
# In Discord's longest message there is room for several such links.
_MAX_LENGTH = 1_000
_MAX_SHOWN_NAME = 40
_PICTURE = "avatar"
_PATH = re.compile(
    rf"{ROOT}(0|[1-9][0-9]{{0,6}})/([A-Za-z0-9_-]{{22,1000}})/([A-Za-z0-9_-]{{22}})/([A-Za-z0-9._-]{{1,60}})"
)


async def link_key(store: Store) -> bytes:
    """The key of the links, made once and kept in the store: another key would end every link."""
    async with store.read() as uow:
        key = _decoded(await uow.key_values.get(_KEY_NAME) or "")
    if len(key) == _KEY_SIZE:
        return key
    if key:
        _log.warning("the key of links to files is damaged; a new one is made, and the links so far lead nowhere")
    key = secrets.token_bytes(_KEY_SIZE)
    async with store.write() as uow:
        await uow.key_values.put(_KEY_NAME, _encoded(key))
    return key


@dataclass(frozen=True, slots=True)
class Linked:
    """What a link leads to."""

    media: MediaRef
    # As every system takes it.
    name: str
    # Whose file it is; None: it is the picture of a person, which is passed on small.
    message: MessageRef | None
    # The link was ours, and has ended.
    expired: bool = False


class SignedLinks:
    """Makes links, and reads them."""

    def __init__(self, *, public_url: str, key: bytes, lifetime: float | None, clock: Clock) -> None:
        """`lifetime`: in seconds, None for ever. `key`: of `link_key`."""
        self._public_url = public_url.rstrip("/")
        self._encrypting, self._signing = key[: _KEY_SIZE // 2], key[_KEY_SIZE // 2 :]
        self._lifetime = lifetime
        self._clock = clock

    def link(self, media: MediaRef, name: str, message: MessageRef, *, since: datetime) -> str | None:
        """See `MediaLinks.link`. None if it would be too long."""
        ends = _NEVER if self._lifetime is None else math.ceil((since.timestamp() + self._lifetime) / _DAY)
        safe = file_name(name, "")
        parts = (media.platform, safe, message.platform, message.channel.id, message.id, media.locator)
        file, shown = self._encrypted("\0".join(parts)), _in_ascii(safe)
        url = f"{self._public_url}{ROOT}{ends}/{file}/{self._signature(str(ends), file, shown)}/{shown}"
        return url if len(url) <= _MAX_LENGTH else None

    def picture(self, media: MediaRef) -> str | None:
        """See `PictureLinks`. None if it would be too long."""
        file = self._encrypted("\0".join((media.platform, "", "", "", "", media.locator)))
        url = f"{self._public_url}{ROOT}{_NEVER}/{file}/{self._signature(str(_NEVER), file, _PICTURE)}/{_PICTURE}"
        return url if len(url) <= _MAX_LENGTH else None

    def read(self, path: str) -> Linked | None:
        """What a path leads to; None if we did not make it."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        ends, file, signature, shown = match.groups()
        if not hmac.compare_digest(signature, self._signature(ends, file, shown)):
            return None
        platform, name, of, channel, message, locator = self._decrypted(file).split("\0", 5)
        if not of:
            return Linked(MediaRef(Platform(platform), locator), _PICTURE, None)
        expired = int(ends) != _NEVER and self._clock.now().timestamp() >= int(ends) * _DAY
        whose = MessageRef(ChannelRef(Platform(of), channel), message)
        return Linked(MediaRef(Platform(platform), locator), name, whose, expired)

    def tag(self, media: MediaRef, *, small: bool = False) -> str:
        """What tells a file, or what was made `small` of it, from every other one, and shows nothing of it."""
        return _encoded(self._hmac(f"{'small' if small else 'tag'}\0{media.platform}\0{media.locator}"))

    def _signature(self, ends: str, file: str, shown: str) -> str:
        return _encoded(self._hmac(f"link\0{ends}\0{file}\0{shown}"))

    def _hmac(self, text: str) -> bytes:
        return hmac.digest(self._signing, text.encode("utf-8", "surrogatepass"), hashlib.sha256)[:_MAC_SIZE]

    # SIV needs no nonce: the same file is encrypted in the same way, so a second try writes the same link.
    # https://www.rfc-editor.org/rfc/rfc5297
    def _encrypted(self, text: str) -> str:
        cipher = AES.new(self._encrypting, AES.MODE_SIV)
        found, mac = cipher.encrypt_and_digest(text.encode("utf-8", "surrogatepass"))
        return _encoded(mac + found)

    def _decrypted(self, text: str) -> str:
        data = _decoded(text)
        cipher = AES.new(self._encrypting, AES.MODE_SIV)
        return cipher.decrypt_and_verify(data[_MAC_SIZE:], data[:_MAC_SIZE]).decode("utf-8", "surrogatepass")


def _in_ascii(name: str) -> str:
    """A name for the end of an address, where people see it: letters, digits and the ending, nothing to be encoded."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (re.sub(r"[^A-Za-z0-9_-]+", "-", part).strip("-") for part in (stem if dot else name, ending))
    shown = stem[:_MAX_SHOWN_NAME].strip("-") or "file"
    return f"{shown}.{ending[:10]}" if dot and ending else shown


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""
