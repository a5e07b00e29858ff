"""Files that were encrypted before the upload, in an unencrypted room: the message has the key beside the address.

https://spec.matrix.org/latest/client-server-api/#sending-encrypted-attachments. In the core, the key and all else that
is needed to read the file are in the fragment of its address. A file is passed on only after its hash was checked.
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

_VERSION = "v2"
_ALGORITHM = "A256CTR"
# For a file whose size is not announced. An announced size has been checked before.
_MOST = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileKey:
    """What is needed to decrypt a file."""

    key: bytes
    iv: bytes
    sha256: bytes

    def __repr__(self) -> str:
        return "FileKey(…)"


def encrypted_source(file: Any) -> MediaRef | str:
    """The address of an `EncryptedFile` with its key; or why it cannot be read, in words that follow "that"."""
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
    parts = {name: value for name, value in given.items() if isinstance(value, str)}
    if _key(parts) is None:
        return "is encrypted with a broken key"
    return MediaRef(Platform.MATRIX, f"{uri}#{urlencode(parts)}")


def read_source(locator: str) -> tuple[str, FileKey | None]:
    """The address of a file, and its key if it is encrypted. The address is "" if the key is invalid."""
    uri, mark, fragment = locator.partition("#")
    if not mark:
        return uri, None
    key = _key({name: values[0] for name, values in parse_qs(fragment).items()})
    return (uri if key is not None else ""), key


def _key(parts: dict[str, str]) -> FileKey | None:
    found = {name: _decoded(parts.get(name, "")) for name in ("key", "iv", "sha256")}
    if [len(found[name]) for name in ("key", "iv", "sha256")] != [32, 16, 32]:
        return None
    return FileKey(**found)


def _decoded(text: str) -> bytes:
    """Unpadded Base64 in either alphabet: the key is in the URL-safe one, the rest in the standard one."""
    try:
        standard = text.rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


async def decrypted(chunks: AsyncIterator[bytes], key: FileKey, file: TemporaryFile) -> AsyncIterator[bytes]:
    """The decrypted file, once all of `chunks` are in `file` and their hash is right.

    Raises `Permanent` if it is not.
    """
    counter = Counter.new(64, prefix=key.iv[:8], initial_value=int.from_bytes(key.iv[8:], "big"))
    cipher, digest = AES.new(key.key, AES.MODE_CTR, counter=counter), hashlib.sha256()

    def take(chunk: bytes) -> bytes:
        digest.update(chunk)
        return cipher.decrypt(chunk)

    try:
        async for chunk in chunks:
            if file.size + len(chunk) > _MOST:
                raise Permanent("too large to be decrypted")
            await file.write(await asyncio.to_thread(take, chunk))
    except OverflowError:
        raise Permanent("not what its sender encrypted") from None
    if digest.digest() != key.sha256:
        raise Permanent("not what its sender encrypted")
    async for piece in file.chunks():
        yield piece
