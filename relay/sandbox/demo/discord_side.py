"""Discord in the demo: a guild with one channel, two people, a bot that is not ours, and the relay's application."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from relay.sandbox.demo.seen import Byline, Cast, File, Json, Kind, Quoted, Refusal, Seen, Tally
from relay.sandbox.drafts import Upload, read_draft
from relay.sandbox.errors import ApiError
from relay.sandbox.models import Channel, Message, User
from relay.sandbox.render_message import message as render_message
from relay.sandbox.server import SandboxServer

if TYPE_CHECKING:
    from collections.abc import Iterator

GUILD = "Tidewater"
CHANNEL = "general"
CAST = (Cast("mira", "Mira"), Cast("jonas", "Jonas"))
BOT = "Buildbot"
_EXCERPT = 140


class DiscordSide:
    """The guild on `server`, which runs. `changed` is called whenever something happened."""

    def __init__(self, server: SandboxServer, changed: Callable[[], None]) -> None:
        self._server = server
        self._state = server.state
        self._people = {one.key: self._state.add_user(one.key, display_name=one.name) for one in CAST}
        self._keys = {user.id: key for key, user in self._people.items()}
        owner = self._people[CAST[0].key]
        self.guild = self._state.add_guild(GUILD, owner)
        for user in self._people.values():
            if user is not owner:
                self._state.add_member(self.guild, user)
        self.app = self._state.add_application("relay")
        self._state.add_bot(self.guild, self.app)
        self._bot = self._state.add_application(BOT)
        self._state.add_bot(self.guild, self._bot)
        self.channel = self._state.add_channel(self.guild, CHANNEL, topic="The Discord side of the demo")
        self._state.listeners.append(lambda _: changed())

    @property
    def cast(self) -> Sequence[Cast]:
        """Who can speak."""
        return CAST

    def names(self) -> Json:
        """How the page resolves mentions: display names and channel names by ID."""
        return {
            "users": {str(user.id): user.global_name or user.username for user in self._state.users.values()},
            "channels": {str(channel.id): channel.name for channel in self.guild.channels.values()},
        }

    # --- What is seen -------------------------------------------------------------------------------------

    def seen(self) -> list[Seen]:
        """The channel now, oldest first."""
        return [self._seen(self.channel.messages[item]) for item in self.channel.order]

    async def read(self) -> list[Seen]:
        """The same: the sandbox is in this process, and what it shows is what is."""
        return self.seen()

    def _seen(self, message: Message) -> Seen:
        raw = render_message(self._state, message)
        thread = self._state.channels.get(message.id)
        return Seen(
            id=str(message.id),
            order=message.id,
            at=_milliseconds(raw["timestamp"]),
            author=self._byline(message, raw),
            kind=self._kind(message, raw),
            body=_words(raw),
            reply=_quoted(raw),
            edited_at=_milliseconds(raw["edited_timestamp"]) if raw["edited_timestamp"] else None,
            files=tuple(_file(file) for file in raw["attachments"]),
            reactions=tuple(Tally(item["emoji"]["name"], item["count"]) for item in raw.get("reactions", ())),
            thread=None if thread is None else self._replies(thread),
            raw=raw,
        )

    def _replies(self, thread: Channel) -> tuple[Seen, ...]:
        return tuple(self._seen(thread.messages[item]) for item in thread.order if thread.messages[item].type != 21)

    def _byline(self, message: Message, raw: Json) -> Byline:
        author = raw["author"]
        return Byline(
            author.get("global_name") or author["username"],
            self._keys.get(message.author_id) if message.webhook_id is None else None,
            bool(author.get("bot")),
        )

    def _kind(self, message: Message, raw: Json) -> Kind:
        if message.webhook_id is not None and message.application_id == self.app.id:
            return "copy"
        if message.author_id == self.app.user.id:
            return "notice"
        return "bot" if raw["author"].get("bot") else "person"

    # --- What people do -----------------------------------------------------------------------------------

    async def say(self, who: str, body: str, html: str = "", *, reply_to: str | None = None) -> str:
        """Write, as one of the cast."""
        return self._post(self.channel, self._person(who), {"content": body}, reply_to)

    def say_as_bot(self, body: str) -> str:
        """Write, as the bot that is not ours; the message's ID."""
        return self._post(self.channel, self._bot.user, {"content": body}, None)

    async def edit(self, who: str, target: str, body: str, html: str = "") -> None:
        """Change one's own message."""
        with _refusals():
            draft = read_draft({"content": body}, {})
            self._server.messages.edit(self.channel, self._message(target), self._person(who).id, draft)

    async def delete(self, who: str, target: str) -> None:
        """Delete a message."""
        with _refusals():
            self._server.messages.delete(self.channel, self._message(target), self._person(who).id)

    def bulk_delete(self, targets: Sequence[str]) -> None:
        """Delete many at once, as the guild's owner."""
        with _refusals():
            self._server.messages.bulk_delete(self.channel, list(map(int, targets)), self.guild.owner_id)

    async def react(self, who: str, target: str, key: str) -> None:
        """React with an emoji."""
        with _refusals():
            self._server.reactions.add(self.channel, self._message(target), self._person(who), key)

    async def thread(self, who: str, root: str, body: str, html: str = "") -> str:
        """Write in the thread on a message, which is opened when there is none."""
        with _refusals():
            start = self._message(root)
            opened = self._state.channels.get(start.id)
            if opened is None:
                name = (start.content or "Thread")[:40]
                opened = self._server.threads.open_on(self.channel, start, self._person(who), name)
            return self._post(opened, self._person(who), {"content": body}, None)

    async def attach(self, who: str, name: str, data: bytes, content_type: str, caption: str) -> str:
        """Send a file."""
        upload = Upload(name, content_type, self._server.files.put(data))
        return self._post(self.channel, self._person(who), {"content": caption}, None, {0: upload})

    async def picture(self, key: str) -> tuple[bytes, str] | None:
        """See `Side.picture`."""
        found = self._state.attachments.get(int(key)) if key.isdecimal() else None
        if found is None:
            return None
        return await asyncio.to_thread(found.file.path.read_bytes), found.content_type or ""

    def _post(
        self,
        channel: Channel,
        author: User,
        body: Json,
        reply_to: str | None,
        uploads: Mapping[int, Upload] | None = None,
    ) -> str:
        with _refusals():
            if reply_to is not None:
                body = body | {"message_reference": {"message_id": reply_to}}
            return str(self._server.messages.post(channel, author, read_draft(body, uploads or {})).id)

    def _person(self, who: str) -> User:
        if who not in self._people:
            raise Refusal(f"nobody here is called {who}")
        return self._people[who]

    def _message(self, target: str) -> Message:
        if not target.isascii() or not target.isdigit():
            raise Refusal("there is no such message")
        return self._state.message(self.channel, int(target))


@contextmanager
def _refusals() -> "Iterator[None]":
    try:
        yield
    except ApiError as error:
        raise Refusal(f"Discord: {_first_mistake(error.errors) or error.message} ({error.code})") from error


def _first_mistake(errors: Json | None) -> str:
    """The first sentence of Discord's nested report on a form."""
    while errors:
        if found := errors.get("_errors"):
            return str(found[0]["message"])
        errors = next(iter(errors.values()))
    return ""


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def _file(raw: Json) -> File:
    is_picture = str(raw.get("content_type", "")).startswith("image/")
    return File(raw["filename"], raw["size"], str(raw["id"]) if is_picture else "")


def _words(raw: Json) -> str:
    """The text; of a message without one, that of its embeds."""
    parts = [raw["content"]]
    for embed in raw["embeds"]:
        parts += [part for part in (embed.get("title"), embed.get("description")) if part]
    return "\n".join(filter(None, parts))


def _quoted(raw: Json) -> Quoted | None:
    if raw["type"] != 19:
        return None
    target = raw.get("referenced_message")
    if target is None:
        return Quoted(str(raw["message_reference"]["message_id"]), "", "")
    author = target["author"]
    return Quoted(target["id"], author.get("global_name") or author["username"], target["content"][:_EXCERPT])
