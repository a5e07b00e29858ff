"""Files as clients encrypt them: https://spec.matrix.org/latest/client-server-api/#sending-encrypted-attachments."""

import base64
import hashlib
from typing import Any

from Crypto.Cipher import AES
from Crypto.Util import Counter

KEY, IV = bytes(range(32)), bytes(range(8)) + bytes(8)


def encrypted(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """`data` encrypted, and what an event says beside its address."""
    cipher = AES.new(KEY, AES.MODE_CTR, counter=Counter.new(64, prefix=IV[:8], initial_value=0))
    secret = cipher.encrypt(data)
    key = base64.urlsafe_b64encode(KEY).decode().rstrip("=")
    return secret, {
        "v": "v2",
        "key": {"kty": "oct", "key_ops": ["encrypt", "decrypt"], "alg": "A256CTR", "k": key, "ext": True},
        "iv": base64.b64encode(IV).decode().rstrip("="),
        "hashes": {"sha256": base64.b64encode(hashlib.sha256(secret).digest()).decode().rstrip("=")},
    }
