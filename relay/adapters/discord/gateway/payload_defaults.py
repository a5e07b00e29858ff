"""Fields that discord.py requires in a dispatch, filled in where a server leaves them out.

For one missing field, discord.py would fail on a whole guild or session. Discord sends all of them; other servers that
speak its protocol may not. Pure, but for changing the payload itself.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from relay.adapters.discord.api.client import Json

Payload = MutableMapping[str, Any]

_ALL_PERMISSIONS = str((1 << 53) - 1)
_USER: dict[str, Json] = {"username": "", "discriminator": "0", "avatar": None}
_CHANNEL: Mapping[str, Json] = {"type": 0, "name": "", "position": 0, "bitrate": 64_000, "user_limit": 0}
_MEMBER: dict[str, Json] = {"roles": (), "flags": 0}
_THREAD: Mapping[str, Json] = {"owner_id": "0", "name": "", "type": 11, "message_count": 0, "member_count": 0}
_THREAD_METADATA: dict[str, Json] = {
    "archived": False,
    "auto_archive_duration": 1440,
    "archive_timestamp": "2015-01-01T00:00:00+00:00",
}


def fill_in_defaults(event: str, data: Json, own_user: str) -> None:
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


def _guild(data: Payload, own_user: str, *, whole: bool) -> None:
    _each(data, "roles", _role)
    _each(data, "channels", _channel)
    _each(data, "threads", _thread)
    _each(data, "members", _member)
    _emojis(data)
    # Not needed: a message's stickers bring all that the relay needs.
    data.pop("stickers", None)
    if not whole:
        return
    # Without roles nothing is known about permissions: allow everything, and let the platform's answers tell.
    if not data.get("roles"):
        data["roles"] = [{"id": data["id"], "name": "@everyone", "permissions": _ALL_PERMISSIONS}]
    if not any(str(member["user"]["id"]) == own_user for member in data["members"]):
        data["members"].append({"user": {"id": own_user} | _USER} | _MEMBER)


def _each(data: Payload, name: str, do: Callable[[Json], None]) -> None:
    listed = data.get(name)
    # Some servers put `null` into a list, or leave the list out.
    data[name] = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    for item in data[name]:
        do(item)


def _emojis(data: Payload) -> None:
    if "emojis" not in data:
        return
    _each(data, "emojis", lambda _: None)
    data["emojis"] = [item for item in data["emojis"] if str(item.get("id", "")).isdecimal() and item.get("name")]


def _role(role: Json) -> None:
    if isinstance(role, dict):
        role.setdefault("name", "")


def _channel(channel: Payload) -> None:
    _fill(channel, _CHANNEL)


def _thread(thread: Payload) -> None:
    _fill(thread, _THREAD)
    thread["thread_metadata"] = _THREAD_METADATA | (thread.get("thread_metadata") or {})


def _member(member: Payload) -> None:
    _fill(member, _MEMBER)
    _fill(member.setdefault("user", {"id": "0"}), _USER)


def _fill(data: Payload, defaults: Mapping[str, Json]) -> None:
    for name, value in defaults.items():
        data.setdefault(name, value)
