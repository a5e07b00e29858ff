"""Files that were encrypted before they were uploaded, in a room that is not: their key stands beside their address.

https://spec.matrix.org/latest/client-server-api/#sending-encrypted-attachments. The key travels in the fragment of the
file's address, as everything else that it takes to read it. Nothing of a file goes further before its hash is right.
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode

from Crypto.Cipher import AES
from Crypto.Util import Counter

from relay.adapters.matrix.identifiers import parse_mxc
from relay.core.offload import TemporaryFile
from relay.domain.ids import MediaRef, Platform
from relay.errors import Permanent

Json = dict[str, Any]

_VERSION = "v2"
_ALGORITHM = "A256CTR"
# On disk, for a file whose size nobody tells; where one is told, it was looked at before this.
_MOST = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Key:
    """What a file is read with."""

    key: bytes
    iv: bytes
    sha256: bytes

    def __repr__(self) -> str:
        return "Key(…)"


def encrypted_source(file: Any) -> MediaRef | str:
    """The address of an `EncryptedFile`, with its key in it; or why it cannot be read, in words that follow "that"."""
    if not isinstance(file, dict) or parse_mxc(uri := str(file.get("url"))) is None:
        return "cannot be read"
    if file.get("v") != _VERSION:
        return "is encrypted in a way that the relay does not know"
    jwk, hashes = file.get("key"), file.get("hashes")
    if not isinstance(jwk, dict) or not isinstance(hashes, dict) or jwk.get("kty") != "oct":
        return "is encrypted without a key"
    if jwk.get("alg", _ALGORITHM) != _ALGORITHM:
        return "is encrypted in a way that the relay does not know"
    given = {"key": jwk.get("k"), "iv": file.get("iv"), "sha256": hashes.get("sha256")}
    words = {name: value for name, value in given.items() if isinstance(value, str)}
    if _key(words) is None:
        return "is encrypted with a broken key"
    return MediaRef(Platform.MATRIX, f"{uri}#{urlencode(words)}")


def read_source(locator: str) -> tuple[str, Key | None]:
    """The address of a file, and its key where it is encrypted. The address is "" where the key is none."""
    uri, mark, fragment = locator.partition("#")
    if not mark:
        return uri, None
    key = _key({name: values[0] for name, values in parse_qs(fragment).items()})
    return (uri if key is not None else ""), key


def _key(words: dict[str, str]) -> Key | None:
    found = {name: _decoded(words.get(name, "")) for name in ("key", "iv", "sha256")}
    if [len(found[name]) for name in ("key", "iv", "sha256")] != [32, 16, 32]:
        return None
    return Key(**found)


def _decoded(words: str) -> bytes:
    """Base64 without padding, in either alphabet: keys are written in the one, all else in the other."""
    try:
        standard = words.rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


async def decrypted(chunks: AsyncIterator[bytes], key: Key, spool: TemporaryFile) -> AsyncIterator[bytes]:
    """What `chunks` say, once all of them are in `spool` and are what their sender encrypted.

    Raises `Permanent` where they are not.
    """
    counter = Counter.new(64, prefix=key.iv[:8], initial_value=int.from_bytes(key.iv[8:], "big"))
    cipher, digest = AES.new(key.key, AES.MODE_CTR, counter=counter), hashlib.sha256()

    def take(chunk: bytes) -> bytes:
        digest.update(chunk)
        return cipher.decrypt(chunk)

    try:
        async for chunk in chunks:
            if spool.size + len(chunk) > _MOST:
                raise Permanent("too large to be decrypted")
            await spool.write(await asyncio.to_thread(take, chunk))
    except OverflowError:
        raise Permanent("not what its sender encrypted") from None
    if digest.digest() != key.sha256:
        raise Permanent("not what its sender encrypted")
    async for piece in spool.chunks():
        yield piece
