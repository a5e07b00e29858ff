"""What a connection asks for at its start: its compression and its IDENTIFY; and the close codes of what is wrong."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from relay.sandbox.world import render
from relay.sandbox.world.dispatch import ALL_INTENTS, Intent, Shard
from relay.sandbox.world.models import Application, Guild, Json
from relay.sandbox.world.state import State

# After these a session is over: https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway
FATAL = frozenset({4004, 4006, 4007, 4009, 4010, 4011, 4012, 4013, 4014})
REASONS = {
    4000: "Unknown error.",
    4001: "Unknown opcode.",
    4002: "Error while decoding payload.",
    4003: "Not authenticated.",
    4004: "Authentication failed.",
    4005: "Already authenticated.",
    4006: "Session is no longer valid.",
    4007: "Invalid seq.",
    4008: "You are being rate limited.",
    4009: "Session timed out.",
    4010: "Invalid shard.",
    4011: "Sharding required.",
    4012: "Invalid API version.",
    4013: "Invalid intent(s).",
    4014: "Disallowed intent(s).",
}


class Closed(Exception):
    """The connection is to be closed with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(REASONS.get(code, str(code)))
        self.code = code


@dataclass(frozen=True, slots=True)
class Identify:
    """Who identifies, for which events, and of which guilds: https://discord.com/developers/docs/events/gateway#sharding."""

    app: Application
    intents: Intent
    shard: Shard


def check_identify(state: State, data: Any, guilds_per_shard: int) -> Identify:
    """What is asked for. Raises `Closed` with 4002, 4004, 4010, 4011, 4013 or 4014."""
    if not isinstance(data, dict) or not isinstance(data.get("properties"), dict):
        raise Closed(4002)
    app = state.application_of(str(data.get("token", "")).removeprefix("Bot "))
    if app is None:
        raise Closed(4004)
    shard = _shard(data.get("shard", [0, 1]))
    if shard is None:
        raise Closed(4010)
    if len(state.guilds_of(app.user.id, shard)) > guilds_per_shard:
        raise Closed(4011)
    intents = data.get("intents")
    if isinstance(intents, bool) or not isinstance(intents, int) or intents & ~int(ALL_INTENTS) or intents < 0:
        raise Closed(4013)
    enabled = {
        Intent.GUILD_MEMBERS: app.members,
        Intent.GUILD_PRESENCES: app.presences,
        Intent.MESSAGE_CONTENT: app.message_content,
    }
    if any(intents & intent and not allowed for intent, allowed in enabled.items()):
        raise Closed(4014)
    return Identify(app, Intent(intents), shard)


def members_chunk(guild: Guild, data: Json) -> Json:
    """The answer to opcode 8: the members asked for by ID or by the start of their names."""
    wanted = data.get("user_ids")
    if wanted is not None:
        ids = [int(item) for item in (wanted if isinstance(wanted, list) else [wanted])]
        members = [guild.members[item] for item in ids if item in guild.members]
        missing = [str(item) for item in ids if item not in guild.members]
    else:
        prefix = str(data.get("query") or "").lower()
        members = [m for m in guild.members.values() if m.user.username.lower().startswith(prefix)]
        members = members[: data.get("limit") or len(members)]
        missing = []
    chunk: Json = {
        "guild_id": str(guild.id),
        "members": [render.member(member) for member in members],
        "chunk_index": 0,
        "chunk_count": 1,
        "not_found": missing,
    }
    return chunk | ({"nonce": data["nonce"]} if data.get("nonce") else {})


def _shard(given: Any) -> Shard | None:
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(item, int) for item in given):
        return None
    number, total = given
    return Shard(number, total) if 0 <= number < total else None


# --- Compression ------------------------------------------------------------------------------------------


class Compressor(Protocol):
    """One stream for a whole connection, flushed after each payload.

    https://discord.com/developers/docs/events/gateway#transport-compression
    """

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
    """`compress=zstd-stream`."""

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
