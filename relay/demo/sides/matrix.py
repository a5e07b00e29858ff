"""Matrix in the demo: one room on a homeserver of our own, two people in it, and the relay's account."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import aiohttp

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import MatrixError, Person, Shown, shown
from relay.demo.portraits import portrait, relay_picture
from relay.demo.sides import matrix_view as view
from relay.demo.sides.base import (
    ActionRefused,
    Appearance,
    DisplayedMessage,
    Kind,
    MessageAuthor,
    OutgoingFile,
    Participant,
    Quoted,
    ReactionCount,
)
from relay.domain.jsontext import Json
from relay.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIAS = "general"
NAME = "Tidewater: general"
PARTICIPANTS = (Participant("ines", "Ines"), Participant("yusuf", "Yusuf"))
SECOND = Participant("jonas", "Jonas’ phone")
"""The account here of somebody who is on Discord, too."""

RELAY = "relay"
_SYNC_MS = 25_000
_EXCERPT = 140
_COMMAND = re.compile(r"!relay\b")
_MEDIA = re.compile(r"(?!\.)[\w.:-]+/[\w-]+", re.ASCII)

_log = get_logger(__name__)


class MatrixSide:
    """The room on `homeserver`, which runs; an async context manager. `changed` is called when something happened.

    `ghost_prefix`: what the names of accounts begin with that stand for people of Discord; None without such accounts.
    """

    def __init__(self, homeserver: Homeserver, changed: Callable[[], None], ghost_prefix: str | None = None) -> None:
        self._homeserver = homeserver
        self._ghost_prefix = ghost_prefix
        self._changed = changed
        self._stack = AsyncExitStack()
        self._people: dict[str, Person] = {}
        self._events: dict[str, Json] = {}
        self._members: dict[str, Json] = {}
        self._since = ""
        self.room = ""
        self.relay_token = ""

    async def __aenter__(self) -> Self:
        """Make the accounts and the room."""
        self.relay_token = await self._homeserver.register(RELAY, displayname=RELAY)
        async with Person(self._homeserver.url, self.relay_id, self.relay_token) as bot:
            await bot.set_avatar(relay_picture(), "image/png")
        for one in (*PARTICIPANTS, SECOND):
            token = await self._homeserver.register(one.key, displayname=one.name)
            person = Person(self._homeserver.url, self._id(one.key), token)
            self._people[one.key] = await self._stack.enter_async_context(person)
            # Before they join: the room is told of them once, with their picture.
            await person.set_avatar(portrait(one.key), "image/png")
        host, *guests = self._people.values()
        self.room = await host.create_room(NAME, alias=ALIAS)
        for guest in guests:
            await guest.join(self.room)
        await self._sync(timeout=0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def participants(self) -> Sequence[Participant]:
        """Who can speak."""
        return PARTICIPANTS

    @property
    def alias(self) -> str:
        """The room's whole alias."""
        return f"#{ALIAS}:{self._homeserver.server_name}"

    @property
    def relay_id(self) -> str:
        """The relay's own user ID."""
        return self._id(RELAY)

    def _id(self, localpart: str) -> str:
        return f"@{localpart}:{self._homeserver.server_name}"

    # --- What is seen -------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Keep up with the room until cancelled."""
        while True:
            try:
                await self._sync(timeout=_SYNC_MS)
            except (aiohttp.ClientError, TimeoutError, MatrixError) as error:
                _log.warning("the demo lost sight of the room; looking again", error=type(error).__name__)
                await asyncio.sleep(1)

    async def _sync(self, timeout: int) -> None:
        query = {"timeout": str(timeout), "filter": json.dumps(_filter(self.room))}
        query |= {"since": self._since} if self._since else {}
        reader = self._people[PARTICIPANTS[0].key]
        answer = await reader.call("GET", "client/v3/sync", query=query)
        self._since = answer["next_batch"]
        joined = answer.get("rooms", {}).get("join", {}).get(self.room)
        if joined is None:
            return
        for event in (*joined["state"]["events"], *joined["timeline"]["events"]):
            if event["type"] == "m.room.member":
                self._members[event["state_key"]] = event["content"]
        if joined["timeline"].get("limited"):
            self._events = {event["event_id"]: event for event in await reader.events(self.room)}
        for event in joined["timeline"]["events"]:
            self._events[event["event_id"]] = event
            # https://spec.matrix.org/latest/client-server-api/#redactions: `redacts` moved into the content.
            target = event["content"].get("redacts") or event.get("redacts")
            if event["type"] == "m.room.redaction" and target in self._events:
                self._events[target] = self._events[target] | {"content": {}}
        self._changed()

    def seen(self) -> list[DisplayedMessage]:
        """The room now, from the live events, oldest first."""
        return self._assemble(list(self._events.values()))

    async def read(self) -> list[DisplayedMessage]:
        """The room, read again from the homeserver."""
        return self._assemble(await self._people[PARTICIPANTS[0].key].events(self.room))

    def _assemble(self, events: Sequence[Json]) -> list[DisplayedMessage]:
        order = {event["event_id"]: number for number, event in enumerate(events)}
        edits = _edit_times(events)
        tallies = _tallies(events)
        visible = [item for item in shown(view.as_messages(events)) if not item.redacted]
        by_id = {item.event_id: item for item in visible}
        replies: dict[str, list[DisplayedMessage]] = {}
        found: list[tuple[Shown, DisplayedMessage]] = []
        for item in visible:
            reply = None if item.reply_to is None else self._quoted(item.reply_to, by_id)
            seen = DisplayedMessage(
                id=item.event_id,
                order=order[item.event_id],
                at=item.at,
                author=self._byline(item),
                kind=self._kind(item),
                body=view.body(item),
                html=item.formatted_body,
                emote=item.msgtype == "m.emote",
                reply=reply,
                edited_at=edits.get((item.event_id, item.sender)),
                files=view.files(item),
                cards=view.cards(item, events),
                reactions=tallies.get(item.event_id, ()),
                plain=self._plain(item, by_id),
                raw=item.content,
            )
            found.append((item, seen))
            if item.thread is not None:
                replies.setdefault(item.thread, []).append(seen)
        return [_with_thread(seen, replies.get(item.event_id)) for item, seen in found if item.thread is None]

    def _byline(self, item: Shown) -> MessageAuthor:
        if item.name and item.sender == self.relay_id:
            profile = item.content[view.PROFILE]
            return MessageAuthor(item.name, badge=f"via {RELAY}", avatar=_key(profile.get("avatar_url")))
        return self._member(item.sender)

    def _member(self, user_id: str) -> MessageAuthor:
        """Somebody in the room, under their own name and picture."""
        key = next((one.key for one in PARTICIPANTS if self._id(one.key) == user_id), None)
        member = self._members.get(user_id, {})
        return MessageAuthor(member.get("displayname") or user_id, key, avatar=_key(member.get("avatar_url")))

    def avatar(self, who: str) -> str:
        """The key of a participant's picture."""
        return self._member(self.id_of(who)).avatar

    def _plain(self, item: Shown, by_id: Mapping[str, Shown]) -> Appearance | None:
        """The message where per-message profiles are not known: as all clients of Element have it."""
        answered = by_id.get(item.reply_to or "")
        if not item.name and not (answered and answered.name):
            return None
        reply = None if item.reply_to is None else self._quoted(item.reply_to, by_id, plain=True)
        # What the specification does not name is left out of a text's HTML.
        html = item.formatted_body.replace("<strong data-mx-profile-fallback>", "<strong>")
        return Appearance(self._member(item.sender), view.body(item, plain=True), html, reply)

    def _kind(self, item: Shown) -> Kind:
        if item.sender == self.relay_id:
            return "copy" if item.name else "notice"
        if self._ghost_prefix is not None and item.sender.startswith(f"@{self._ghost_prefix}"):
            return "copy"
        return "command" if _COMMAND.match(item.body) else "person"

    def _quoted(self, target: str, by_id: Mapping[str, Shown], *, plain: bool = False) -> Quoted:
        item = by_id.get(target)
        if item is None:
            return Quoted(target, "", "")
        author = self._member(item.sender) if plain else self._byline(item)
        return Quoted(target, author.name, view.excerpt(item, plain=plain)[:_EXCERPT])

    # --- What people do -----------------------------------------------------------------------------------

    async def say(self, who: str, body: str, html: str = "", *, reply_to: str | None = None) -> str:
        """Write, as a participant."""
        relation = {"m.relates_to": {"m.in_reply_to": {"event_id": reply_to}}} if reply_to else {}
        with _refusals():
            return await self._person(who).send(self.room, _text(body, html) | relation)

    async def edit(self, who: str, target: str, body: str, html: str = "") -> None:
        """Replace the words of one's own message."""
        with _refusals():
            await self._person(who).edit(self.room, target, body, html)

    async def delete(self, who: str, target: str) -> None:
        """Redact a message."""
        with _refusals():
            await self._person(who).redact(self.room, target)

    async def react(self, who: str, target: str, key: str) -> None:
        """React with an emoji."""
        with _refusals():
            await self._person(who).react(self.room, target, key)

    async def thread(self, who: str, root: str, body: str, html: str = "") -> str:
        """Write in the thread whose root is `root`."""
        fallback = {"is_falling_back": True, "m.in_reply_to": {"event_id": root}}
        relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": root, **fallback}}
        with _refusals():
            return await self._person(who).send(self.room, _text(body, html) | relation)

    async def attach(
        self, who: str, files: Sequence[OutgoingFile], body: str = "", html: str = "", *, reply_to: str | None = None
    ) -> str:
        """Send each file in a message of its own; the words, and what is answered, belong to the first."""
        first = ""
        person = self._person(who)
        with _refusals():
            most = (await person.call("GET", "client/v1/media/config")).get("m.upload.size")
            if most is not None and any(len(file.data) > most for file in files):
                raise ActionRefused(f"Matrix: the homeserver takes files of at most {most >> 20} MiB")
            uris = [await person.upload(file.data, file.content_type, file.name) for file in files]
            for file, uri in zip(files, uris, strict=True):
                content = view.file_content(file, uri)
                if not first:
                    content |= _text(body, html) | {"msgtype": content["msgtype"]} if body else {}
                    content |= {"m.relates_to": {"m.in_reply_to": {"event_id": reply_to}}} if reply_to else {}
                sent = await person.send(self.room, content)
                first = first or sent
        return first

    async def send(self, who: str, content: Json, kind: str = "m.room.message") -> str:
        """Send an event of any content; its ID."""
        with _refusals():
            return await self._person(who).send(self.room, content, kind)

    async def upload(self, who: str, data: bytes, content_type: str) -> str:
        """Upload a file; its `mxc://` URI."""
        with _refusals():
            return await self._person(who).upload(data, content_type)

    def id_of(self, who: str) -> str:
        """The user ID of a participant."""
        return self._person(who).user_id

    async def file(self, key: str) -> tuple[bytes, str] | None:
        """See `Side.file`."""
        if _MEDIA.fullmatch(key) is None:
            return None
        try:
            return await next(iter(self._people.values())).download(f"mxc://{key}")
        except (MatrixError, aiohttp.ClientError, TimeoutError):
            return None

    def _person(self, who: str) -> Person:
        if who not in self._people:
            raise ActionRefused(f"nobody here is called {who}")
        return self._people[who]


@contextmanager
def _refusals() -> "Iterator[None]":
    try:
        yield
    except MatrixError as error:
        raise ActionRefused(f"Matrix: {error}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ActionRefused(f"Matrix: the homeserver does not answer ({type(error).__name__})") from error


def _key(uri: object) -> str:
    """The key for `Side.file`."""
    return uri.removeprefix("mxc://") if isinstance(uri, str) else ""


def _filter(room: str) -> Json:
    nothing: Json = {"types": []}
    return {
        "presence": nothing,
        "account_data": nothing,
        "room": {"rooms": [room], "timeline": {"limit": 100}, "ephemeral": nothing, "account_data": nothing},
    }


def _text(body: str, html: str) -> Json:
    formatted = {"format": "org.matrix.custom.html", "formatted_body": html} if html and html != body else {}
    return {"msgtype": "m.text", "body": body, "m.mentions": {}} | formatted


def _with_thread(seen: DisplayedMessage, replies: list[DisplayedMessage] | None) -> DisplayedMessage:
    return seen if replies is None else replace(seen, thread=tuple(replies))


def _edit_times(events: Sequence[Json]) -> dict[tuple[str, str], int]:
    """When each message was last edited by each sender."""
    found: dict[tuple[str, str], int] = {}
    for event in events:
        relation = event["content"].get("m.relates_to", {})
        if relation.get("rel_type") == "m.replace":
            key = (relation["event_id"], event["sender"])
            found[key] = max(found.get(key, 0), event["origin_server_ts"])
    return found


def _tallies(events: Sequence[Json]) -> dict[str, tuple[ReactionCount, ...]]:
    counts: dict[str, dict[str, int]] = {}
    for event in events:
        relation = event["content"].get("m.relates_to", {})
        if event["type"] == "m.reaction" and relation.get("rel_type") == "m.annotation":
            keys = counts.setdefault(relation["event_id"], {})
            keys[relation["key"]] = keys.get(relation["key"], 0) + 1
    return {target: tuple(ReactionCount(key, count) for key, count in keys.items()) for target, keys in counts.items()}
