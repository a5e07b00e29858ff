"""People on Matrix: a small client for the demo, the tests and the benchmarks, and what they would see.

It speaks the client-server API (https://spec.matrix.org/latest/client-server-api/) over aiohttp, on purpose with
nothing in common with the relay's own adapter: it is the other opinion about what stands in a room.
"""

import asyncio
import io
import itertools
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from relay.domain.jsontext import Json

_NOTHING: Json = {"types": []}
_ROOMS: Json = {"timeline": {"limit": 1}, "state": _NOTHING, "ephemeral": _NOTHING, "account_data": _NOTHING}
_NOTHING_BUT_NEWS = json.dumps({"presence": _NOTHING, "account_data": _NOTHING, "room": _ROOMS})


class MatrixError(Exception):
    """The homeserver said no. `code` is its `errcode`."""

    def __init__(self, status: int, body: Json) -> None:
        self.status = status
        self.code = str(body.get("errcode", ""))
        super().__init__(f"{status} {self.code}: {body.get('error', '')}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as a client shows it: with its latest edit, or as redacted (then with no words).

    `name` is the per-message profile's display name, "" without one. `reply_to` and `thread` are event IDs.
    `content` is the content that is shown (`m.new_content` of the latest edit); `at` is in milliseconds.
    """

    event_id: str
    sender: str
    name: str
    body: str
    formatted_body: str
    msgtype: str
    at: int
    content: Json
    reply_to: str | None = None
    thread: str | None = None
    redacted: bool = False
    edits: int = 0


class Person:
    """One account. Use as `async with`; each call waits out the homeserver's rate limits and raises `MatrixError`."""

    def __init__(self, homeserver_url: str, user_id: str, access_token: str) -> None:
        self.user_id = user_id
        self._url = homeserver_url.rstrip("/")
        self._token = access_token
        self._session: aiohttp.ClientSession | None = None
        self._run = secrets.token_hex(4)
        self._counter = itertools.count()
        # Up to where `listen` has heard; empty before it has.
        self.heard = ""

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._token}"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self, method: str, path: str, body: Json | None = None, *, query: dict[str, str] | None = None
    ) -> Json:
        """Any endpoint: `path` behind `/_matrix/`, already percent-encoded."""
        if self._session is None:
            raise RuntimeError("use `async with`")
        payload = None if method == "GET" else (body or {})
        while True:
            async with self._session.request(
                method, f"{self._url}/_matrix/{path}", json=payload, params=query
            ) as answer:
                result: Json = await answer.json(content_type=None)
            if answer.status == 429:
                await asyncio.sleep(int(result.get("retry_after_ms", 1000)) / 1000)
            elif answer.status != 200:
                raise MatrixError(answer.status, result)
            else:
                return result

    async def _client(
        self, method: str, *parts: str, body: Json | None = None, query: dict[str, str] | None = None
    ) -> Json:
        path = "/".join(quote(part, safe="") for part in parts)
        return await self.call(method, f"client/v3/{path}", body, query=query)

    # --- Rooms --------------------------------------------------------------------------------------------

    async def create_room(
        self,
        name: str = "",
        *,
        alias: str = "",
        public: bool = True,
        invite: Iterable[str] = (),
        encrypted: bool = False,
        version: str = "",
        power: dict[str, int] | None = None,
    ) -> str:
        """Make a room and return its ID. `alias` is the localpart; `power` gives levels to users by ID."""
        body: Json = {"preset": "public_chat" if public else "private_chat", "invite": list(invite)}
        body |= {"name": name} if name else {}
        body |= {"room_alias_name": alias} if alias else {}
        body |= {"room_version": version} if version else {}
        if power:
            body["power_level_content_override"] = {"users": power}
        if encrypted:
            content = {"algorithm": "m.megolm.v1.aes-sha2"}
            body["initial_state"] = [{"type": "m.room.encryption", "state_key": "", "content": content}]
        return str((await self._client("POST", "createRoom", body=body))["room_id"])

    async def set_alias(self, alias: str, room: str) -> None:
        """Let a whole alias (`#name:server`) name `room`, taking it from the room that it named before."""
        try:
            await self._client("PUT", "directory", "room", alias, body={"room_id": room})
        except MatrixError as refused:
            if refused.status != 409:
                raise
            await self._client("DELETE", "directory", "room", alias)
            await self._client("PUT", "directory", "room", alias, body={"room_id": room})

    async def join(self, room: str) -> str:
        """Join by ID or alias, and return the room's ID."""
        return str((await self._client("POST", "join", room))["room_id"])

    async def leave(self, room: str) -> None:
        """Leave."""
        await self._client("POST", "rooms", room, "leave")

    async def invite(self, room: str, user_id: str) -> None:
        """Invite somebody."""
        await self._client("POST", "rooms", room, "invite", body={"user_id": user_id})

    async def kick(self, room: str, user_id: str) -> None:
        """Kick somebody."""
        await self._client("POST", "rooms", room, "kick", body={"user_id": user_id})

    async def ban(self, room: str, user_id: str) -> None:
        """Ban somebody."""
        await self._client("POST", "rooms", room, "ban", body={"user_id": user_id})

    async def unban(self, room: str, user_id: str) -> None:
        """Lift a ban."""
        await self._client("POST", "rooms", room, "unban", body={"user_id": user_id})

    async def set_state(self, room: str, kind: str, content: Json, state_key: str = "") -> str:
        """Set a piece of the room's state."""
        return str((await self._client("PUT", "rooms", room, "state", kind, state_key, body=content))["event_id"])

    async def state(self, room: str, kind: str, state_key: str = "") -> Json:
        """Read a piece of the room's state."""
        return await self._client("GET", "rooms", room, "state", kind, state_key)

    async def set_power(self, room: str, **changes: Any) -> None:
        """Change keys of the room's power levels (`users_default=…`, `events_default=…`, `users={…}`)."""
        levels = await self.state(room, "m.room.power_levels")
        await self.set_state(room, "m.room.power_levels", levels | changes)

    async def members(self, room: str) -> frozenset[str]:
        """Who is in the room."""
        return frozenset((await self._client("GET", "rooms", room, "joined_members"))["joined"])

    # --- Messages -----------------------------------------------------------------------------------------

    async def send(self, room: str, content: Json, kind: str = "m.room.message") -> str:
        """Send an event of any content, and return its ID."""
        transaction = f"{self._run}.{next(self._counter)}"
        answer = await self._client("PUT", "rooms", room, "send", kind, transaction, body=content)
        return str(answer["event_id"])

    async def text(self, room: str, body: str, *, msgtype: str = "m.text", extra: Json | None = None) -> str:
        """Send plain text. `extra` goes into the content as it is."""
        return await self.send(room, {"msgtype": msgtype, "body": body} | (extra or {}))

    async def html(self, room: str, body: str, formatted_body: str, *, msgtype: str = "m.text") -> str:
        """Send text with HTML beside it."""
        return await self.text(room, body, msgtype=msgtype, extra=_formatted(formatted_body))

    async def reply(self, room: str, target: str, body: str) -> str:
        """Reply to an event."""
        return await self.text(room, body, extra={"m.relates_to": {"m.in_reply_to": {"event_id": target}}})

    async def edit(self, room: str, target: str, body: str, formatted_body: str = "") -> str:
        """Replace the words of one's own message."""
        new = {"msgtype": "m.text", "body": body} | (_formatted(formatted_body) if formatted_body else {})
        relation = {"rel_type": "m.replace", "event_id": target}
        return await self.text(room, f"* {body}", extra={"m.new_content": new, "m.relates_to": relation})

    async def redact(self, room: str, target: str, reason: str = "") -> str:
        """Redact an event."""
        transaction = f"{self._run}.{next(self._counter)}"
        body = {"reason": reason} if reason else {}
        answer = await self._client("PUT", "rooms", room, "redact", target, transaction, body=body)
        return str(answer["event_id"])

    async def react(self, room: str, target: str, key: str = "👍") -> str:
        """React to an event."""
        relation = {"rel_type": "m.annotation", "event_id": target, "key": key}
        return await self.send(room, {"m.relates_to": relation}, "m.reaction")

    async def thread(self, room: str, root: str, body: str) -> str:
        """Write in the thread whose root is `root`."""
        fallback = {"is_falling_back": True, "m.in_reply_to": {"event_id": root}}
        return await self.text(
            room, body, extra={"m.relates_to": {"rel_type": "m.thread", "event_id": root, **fallback}}
        )

    async def typing(self, room: str, typing: bool = True) -> None:
        """Say that one is typing, for half a minute."""
        body: Json = {"typing": typing} | ({"timeout": 30_000} if typing else {})
        await self._client("PUT", "rooms", room, "typing", self.user_id, body=body)

    async def read(self, room: str, event: str) -> None:
        """Leave a read receipt."""
        await self._client("POST", "rooms", room, "receipt", "m.read", event)

    async def set_avatar(self, data: bytes, content_type: str) -> str:
        """Have a picture from now on; its `mxc://` URI."""
        uri = await self.upload(data, content_type)
        await self._client("PUT", "profile", self.user_id, "avatar_url", body={"avatar_url": uri})
        return uri

    async def upload(self, data: bytes, content_type: str, name: str = "") -> str:
        """Upload a file and return its `mxc://` URI."""
        if self._session is None:
            raise RuntimeError("use `async with`")
        url = f"{self._url}/_matrix/media/v3/upload"
        headers = {"Content-Type": content_type}
        params = {"filename": name} if name else {}
        async with self._session.post(url, data=io.BytesIO(data), headers=headers, params=params) as answer:
            result: Json = await answer.json(content_type=None)
            if answer.status != 200:
                raise MatrixError(answer.status, result)
        return str(result["content_uri"])

    async def download(self, uri: str) -> tuple[bytes, str]:
        """A file behind an `mxc://` URI, and its type."""
        if self._session is None:
            raise RuntimeError("use `async with`")
        url = f"{self._url}/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        async with self._session.get(url) as answer:
            if answer.status != 200:
                raise MatrixError(answer.status, await answer.json(content_type=None))
            return await answer.read(), answer.content_type

    # --- What a client shows ------------------------------------------------------------------------------

    async def events(self, room: str) -> list[Json]:
        """Every event of the room's timeline that this person may see, oldest first."""
        return (await self.timeline(room))[0]

    async def timeline(self, room: str) -> tuple[list[Json], str]:
        """The same, and the position behind it, from which to read on."""
        found: list[Json] = []
        position: dict[str, str] = {}
        newest = ""
        while True:
            page = await self._client("GET", "rooms", room, "messages", query={"dir": "b", "limit": "500"} | position)
            newest = newest or page["start"]
            found += page["chunk"]
            # Nothing is before the room's creation.
            if not page.get("end") or not page["chunk"] or found[-1]["type"] == "m.room.create":
                return found[::-1], newest
            position = {"from": page["end"]}

    async def listen(self, heard: str, *, seconds: float) -> str:
        """Wait until something happens in a room of theirs that was not `heard` yet, but no longer; up to where it was.

        At first it returns at once.
        """
        query = {"filter": _NOTHING_BUT_NEWS, "timeout": str(int(seconds * 1000))} | ({"since": heard} if heard else {})
        self.heard = str((await self._client("GET", "sync", query=query))["next_batch"])
        return self.heard

    async def messages(self, room: str) -> list[Shown]:
        """The room's messages as a client shows them, oldest first, with edits and redactions applied."""
        return shown(await self.events(room))


def shown(events: Iterable[Json]) -> list[Shown]:
    """Apply edits and redactions to a timeline (oldest first), as a client does.

    An edit counts if it comes from the author of what it edits; the newest wins. A redacted edit has lost its
    relation: it stands there as a redacted message of its own
    (https://spec.matrix.org/latest/client-server-api/#event-replacements).
    """
    timeline = [event for event in events if event["type"] in {"m.room.message", "m.sticker"}]
    edits: dict[str, list[Json]] = {}
    for event in timeline:
        relation = event["content"].get("m.relates_to", {})
        if relation.get("rel_type") == "m.replace":
            edits.setdefault(relation["event_id"], []).append(event)
    return [
        _show(event, edits.get(event["event_id"], []))
        for event in timeline
        if event["content"].get("m.relates_to", {}).get("rel_type") != "m.replace"
    ]


def _show(event: Json, edits: list[Json]) -> Shown:
    original: Json = event["content"]
    redacted = not original
    valid = [edit for edit in edits if edit["sender"] == event["sender"] and not redacted]
    latest = max(valid, key=lambda edit: (edit["origin_server_ts"], edit["event_id"]), default=None)
    content: Json = latest["content"].get("m.new_content", {}) if latest else original
    relation = original.get("m.relates_to", {})
    is_thread = relation.get("rel_type") == "m.thread"
    fallback = is_thread and relation.get("is_falling_back", False)
    return Shown(
        event_id=event["event_id"],
        sender=event["sender"],
        name=content.get("com.beeper.per_message_profile", {}).get("displayname", ""),
        body=content.get("body", ""),
        formatted_body=content.get("formatted_body", ""),
        msgtype=content.get("msgtype", ""),
        at=event["origin_server_ts"],
        content=content,
        reply_to=None if fallback else relation.get("m.in_reply_to", {}).get("event_id"),
        thread=relation["event_id"] if is_thread else None,
        redacted=redacted,
        edits=len(valid),
    )


def _formatted(formatted_body: str) -> Json:
    return {"format": "org.matrix.custom.html", "formatted_body": formatted_body}
