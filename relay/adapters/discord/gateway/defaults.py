"""Fields that discord.py requires, filled in where they are missing.

For one missing field, discord.py would fail on a whole guild or session. Discord sends all of them; other servers that
speak its protocol may not.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

from relay.domain.jsontext import Json, as_list

_ALL_PERMISSIONS = str((1 << 53) - 1)
_USER: Json = {"username": "", "discriminator": "0", "avatar": None}
_CHANNEL: Json = {"type": 0, "name": "", "position": 0, "bitrate": 64_000, "user_limit": 0}
_MEMBER: Json = {"roles": (), "flags": 0}
_THREAD: Json = {"owner_id": "0", "name": "", "type": 11, "message_count": 0, "member_count": 0}
_THREAD_METADATA: Json = {
    "archived": False,
    "auto_archive_duration": 1440,
    "archive_timestamp": "2015-01-01T00:00:00+00:00",
}
# A message's stickers bring all that the relay needs. For one odd item of these, the whole guild would be missing.
_NOT_NEEDED = (
    "stickers", "voice_states", "presences", "stage_instances", "guild_scheduled_events", "soundboard_sounds",
)  # fmt: skip


def fill_in_defaults(event: str, data: Any, own_user: str) -> None:
    """Fill in missing fields. `own_user` is the bot's ID."""
    if not isinstance(data, dict):
        return
    match event:
        case "READY":
            _fill(data.setdefault("user", {"id": own_user}), _USER)
            data.setdefault("guilds", [])
            if isinstance(data.get("application"), dict):
                data["application"].setdefault("flags", 0)
        case "GUILD_CREATE" | "GUILD_UPDATE" if not data.get("unavailable"):
            _guild(data, own_user, whole=event == "GUILD_CREATE")
        case "GUILD_EMOJIS_UPDATE":
            data.setdefault("emojis", [])
            _emojis(data)
        case "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE":
            _role(data.get("role"))
        case "CHANNEL_CREATE" | "CHANNEL_UPDATE":
            _channel(data)
        case "THREAD_CREATE" | "THREAD_UPDATE":
            _thread(data)
        case "THREAD_LIST_SYNC":
            data.setdefault("members", [])
            _each(data, "threads", _thread)


def _guild(data: MutableMapping[str, Any], own_user: str, *, whole: bool) -> None:
    _each(data, "roles", _role)
    _each(data, "channels", _channel)
    _each(data, "threads", _thread)
    _each(data, "members", _member)
    _emojis(data)
    for name in _NOT_NEEDED:
        data.pop(name, None)
    if not whole:
        return
    # Without roles nothing is known about permissions: allow everything, and let the platform's answers tell.
    if not data.get("roles"):
        data["roles"] = [{"id": data["id"], "name": "@everyone", "permissions": _ALL_PERMISSIONS}]
    if not any(str(member["user"]["id"]) == own_user for member in data["members"]):
        data["members"].append({"user": {"id": own_user} | _USER} | _MEMBER)


def _each(data: MutableMapping[str, Any], name: str, do: Callable[[Any], None]) -> None:
    # Some servers put `null` into a list, or leave the list out.
    data[name] = [item for item in as_list(data.get(name)) if isinstance(item, dict)]
    for item in data[name]:
        do(item)


def _emojis(data: MutableMapping[str, Any]) -> None:
    if "emojis" not in data:
        return
    _each(data, "emojis", lambda _: None)
    data["emojis"] = [item for item in data["emojis"] if str(item.get("id", "")).isdecimal() and item.get("name")]


def _role(role: Any) -> None:
    if isinstance(role, dict):
        role.setdefault("name", "")


def _channel(channel: MutableMapping[str, Any]) -> None:
    _fill(channel, _CHANNEL)
    if "permission_overwrites" in channel:
        _each(channel, "permission_overwrites", lambda _: None)


def _thread(thread: MutableMapping[str, Any]) -> None:
    _fill(thread, _THREAD)
    thread["thread_metadata"] = _THREAD_METADATA | (thread.get("thread_metadata") or {})


def _member(member: MutableMapping[str, Any]) -> None:
    _fill(member, _MEMBER)
    _fill(member.setdefault("user", {"id": "0"}), _USER)


def _fill(data: MutableMapping[str, Any], defaults: Json) -> None:
    for name, value in defaults.items():
        data.setdefault(name, value)
