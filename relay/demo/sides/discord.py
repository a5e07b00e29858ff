"""Discord in the demo: a guild with one channel, two people, a bot that is not ours, and the relay's application."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from relay.demo.portraits import portrait, relay_picture
from relay.demo.sample_files import sample_file
from relay.demo.sides import discord_view as view
from relay.demo.sides.base import (
    ActionRefused,
    DisplayedMessage,
    Kind,
    MessageAuthor,
    OutgoingFile,
    Participant,
    Quoted,
    ReactionCount,
)
from relay.domain.jsontext import Json
from relay.sandbox.errors import ApiError, too_large
from relay.sandbox.messages.drafts import Upload, read_draft
from relay.sandbox.messages.media import describe
from relay.sandbox.messages.render import message as render_message
from relay.sandbox.rest.requests import file_limit
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import Channel, Message, StoredFile, User

if TYPE_CHECKING:
    from collections.abc import Iterator

GUILD = "Tidewater"
CHANNEL = "general"
PARTICIPANTS = (Participant("mira", "Mira"), Participant("jonas", "Jonas"))
BOT = "Buildbot"
FEED = "GitHub"
RELAY = "relay"
_APNG = 2
_COMMANDS_SHOWN = 20
_LONGEST_ID = 20

T = TypeVar("T")


class DiscordSide:
    """The guild on `server`, which runs. `changed` is called whenever something happened."""

    def __init__(self, server: SandboxServer, changed: Callable[[], None]) -> None:
        self._server = server
        self._state = server.state
        self._people = {one.key: self._state.add_user(one.key, display_name=one.name) for one in PARTICIPANTS}
        self._keys = {user.id: key for key, user in self._people.items()}
        for key, user in self._people.items():
            user.avatar = self._state.remember_avatar(server.files.put(portrait(key)))
        owner = self._people[PARTICIPANTS[0].key]
        self.guild = self._state.add_guild(GUILD, owner)
        for user in self._people.values():
            if user is not owner:
                self._state.add_member(self.guild, user)
        self.app = self._state.add_application(RELAY)
        self.app.user.avatar = self._state.remember_avatar(server.files.put(relay_picture()))
        self._state.add_bot(self.guild, self.app)
        self._bot = self._state.add_application(BOT)
        self._state.add_bot(self.guild, self._bot)
        self.channel = self._state.add_channel(self.guild, CHANNEL, topic="The Discord side of the demo")
        self.emoji = {
            name: self._state.add_emoji(self.guild, name, self._stored(file), animated=file.endswith(".gif"))
            for name, file in (("crab", "crab.png"), ("crabdance", "dance.gif"))
        }
        self.sticker = self._state.add_sticker(self.guild, "ahoy", _APNG, self._stored("rocking.png")).id
        self._feed = server.control.create_webhook(self.channel.id, FEED, owner.id)["id"]
        self._used: deque[int] = deque(maxlen=_COMMANDS_SHOWN)
        self._state.listeners.append(lambda _: changed())
        # What comes after the message or the command that it belongs to: pictures, and private answers.
        server.avatars.listener = _both(server.avatars.listener, changed)
        server.interactions.listener = _both(server.interactions.listener, changed)

    @property
    def participants(self) -> Sequence[Participant]:
        """Who can speak."""
        return PARTICIPANTS

    def names(self) -> Json:
        """How the page resolves mentions: display names and channel names by ID."""
        return {
            "users": {str(user.id): user.global_name or user.username for user in self._state.users.values()},
            "channels": {str(channel.id): channel.name for channel in self.guild.channels.values()},
        }

    # --- What is seen -------------------------------------------------------------------------------------

    def seen(self) -> list[DisplayedMessage]:
        """The channel now, oldest first."""
        found = [self._seen(self.channel.messages[item]) for item in self.channel.order]
        answers = [answer for used in self._used for answer in self._answers(used)]
        return sorted(found + answers, key=lambda item: item.order) if answers else found

    async def read(self) -> list[DisplayedMessage]:
        """The same: the sandbox is in this process, and what it shows is what is."""
        return self.seen()

    def _seen(self, message: Message) -> DisplayedMessage:
        raw = render_message(self._state, message)
        thread = self._state.channels.get(message.id)
        return DisplayedMessage(
            id=str(message.id),
            order=message.id,
            at=view.milliseconds(raw["timestamp"]),
            author=self._byline(message, raw),
            kind=self._kind(message, raw),
            body=view.words(raw),
            reply=view.quoted(raw),
            edited_at=view.milliseconds(raw["edited_timestamp"]) if raw["edited_timestamp"] else None,
            files=view.files(raw),
            cards=view.cards(raw),
            reactions=tuple(ReactionCount(item["emoji"]["name"], item["count"]) for item in raw.get("reactions", ())),
            thread=None if thread is None else self._replies(thread),
            raw=raw,
        )

    def _answers(self, used: int) -> "Iterator[DisplayedMessage]":
        """What the person who used a command sees of it."""
        interaction = self._server.interactions.get(used)
        user = self._state.user(interaction.user_id)
        asked = Quoted(str(used), user.global_name or user.username, f"used /{interaction.command}")
        for message in interaction.messages:
            yield replace(self._seen(message), kind="private", reply=asked)
        if self._server.interactions.outcome(interaction) == "failed":
            author = MessageAuthor(RELAY, badge="APP", avatar=self._avatar(self.app.user.avatar))
            body, at = "The application did not respond.", round(interaction.created_at * 1000)
            yield DisplayedMessage(f"{used}-failed", used, at, author, "private", body, reply=asked)

    def _replies(self, thread: Channel) -> tuple[DisplayedMessage, ...]:
        return tuple(self._seen(thread.messages[item]) for item in thread.order if thread.messages[item].type != 21)

    def _byline(self, message: Message, raw: Json) -> MessageAuthor:
        author = raw["author"]
        return MessageAuthor(
            author.get("global_name") or author["username"],
            self._keys.get(message.author_id) if message.webhook_id is None else None,
            "APP" if author.get("bot") else "",
            self._avatar(author["avatar"]),
        )

    def _avatar(self, digest: str | None) -> str:
        """The key of a picture; empty where a webhook named an address at which Discord found none."""
        return f"avatar-{digest}" if digest and self._picture(digest) is not None else ""

    def _picture(self, digest: str) -> StoredFile | None:
        source = self._state.avatars.get(digest)
        if isinstance(source, str):
            fetched = self._state.fetched_avatars.get(source)
            return None if fetched is None else fetched.file
        return source

    def avatar(self, who: str) -> str:
        """The key of a participant's picture."""
        return self._avatar(self._person(who).avatar)

    def _kind(self, message: Message, raw: Json) -> Kind:
        if message.webhook_id is not None and message.application_id == self.app.id:
            return "copy"
        if message.author_id == self.app.user.id:
            return "notice"
        if view.is_system(raw):
            return "system"
        return "bot" if raw["author"].get("bot") else "person"

    # --- What people do -----------------------------------------------------------------------------------

    async def say(self, who: str, body: str, html: str = "", *, reply_to: str | None = None) -> str:
        """Write, as a participant; or use a command, where that is what the words are."""
        if (given := view.slash_command(body, self._commands())) is not None:
            return self._use(who, *given)
        return self._post(self.channel, self._person(who), {"content": body}, reply_to)

    def _commands(self) -> list[Json]:
        own, everywhere = (self._server.control.commands(self.app.id, guild) for guild in (self.guild.id, None))
        return own + everywhere

    def _use(self, who: str, name: str, options: Json) -> str:
        with _refusals():
            used = self._server.control.use_command(self.channel.id, self._person(who).id, name, options)
        self._used.append(int(used["id"]))
        return str(used["id"])

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

    async def attach(
        self, who: str, files: Sequence[OutgoingFile], body: str = "", html: str = "", *, reply_to: str | None = None
    ) -> str:
        """Send files in one message."""
        with _refusals():
            if any(len(file.data) > file_limit(self.guild) for file in files):
                raise too_large()
        uploads = {number: await asyncio.to_thread(self._upload, file) for number, file in enumerate(files)}
        return self._post(self.channel, self._person(who), {"content": body}, reply_to, uploads)

    def _upload(self, file: OutgoingFile) -> Upload:
        # Discord's own clients mark what is to be hidden by its name.
        name = f"SPOILER_{file.name}" if file.spoiler else file.name
        return Upload(name, file.content_type, self._server.files.put(file.data))

    def show(self, who: str, body: str = "", **more: Any) -> str:
        """Write with whatever a client can add to a message: `more` as in `Control.say`; the message's ID."""
        with _refusals():
            return str(self._server.control.say(self.channel.id, self._person(who).id, body, **more)["id"])

    def report(self, embed: Json) -> str:
        """A feed posts an embed; the message's ID."""
        return str(self._server.control.say_as_webhook(self._feed, embeds=[embed])["id"])

    def vote(self, who: str, poll: str, answer: int) -> None:
        """Vote in a poll; its answers are counted from 1."""
        self._server.control.vote(self.channel.id, poll, self._person(who).id, answer)

    def end_poll(self, poll: str) -> str:
        """A poll's time is over; the ID of the message that says so."""
        self._server.control.end_poll(self.channel.id, poll)
        return str(self.channel.order[-1])

    def welcome(self, name: str) -> str:
        """Somebody joins, and Discord says so; the message's ID."""
        user = self._state.add_user(name.lower(), display_name=name)
        self._state.add_member(self.guild, user)
        return str(self._server.control.say_as_system(self.channel.id, user.id, 7)["id"])

    def id_of(self, who: str) -> str:
        """The user ID of a participant."""
        return str(self._person(who).id)

    async def file(self, key: str) -> tuple[bytes, str] | None:
        """See `Side.file`."""
        kind, _, number = key.partition("-")
        if kind == "avatar" and (picture := self._picture(number)) is not None:
            data = await asyncio.to_thread(picture.path.read_bytes)
            return data, describe(picture.path, "avatar", None).content_type or ""
        if not number.isdecimal() or len(number) > _LONGEST_ID:
            return None
        found: tuple[StoredFile, str] | None = None
        if kind == "attachment" and (attachment := self._state.attachments.get(int(number))):
            found = attachment.file, attachment.content_type or ""
        elif kind == "sticker" and (sticker := self._state.stickers.get(int(number))):
            found = sticker.file, "image/png"
        elif kind == "emoji" and (emoji := self._state.emojis.get(int(number))):
            found = emoji.file, "image/gif" if emoji.animated else "image/png"
        return None if found is None else (await asyncio.to_thread(found[0].path.read_bytes), found[1])

    def _stored(self, file: str) -> StoredFile:
        return self._server.files.put(sample_file(file).data)

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
            raise ActionRefused(f"nobody here is called {who}")
        return self._people[who]

    def _message(self, target: str) -> Message:
        if not target.isascii() or not target.isdigit():
            raise ActionRefused("there is no such message")
        return self._state.message(self.channel, int(target))


def _both(noted: Callable[[T], None], changed: Callable[[], None]) -> Callable[[T], None]:
    def note(seen: T) -> None:
        noted(seen)
        changed()

    return note


@contextmanager
def _refusals() -> "Iterator[None]":
    try:
        yield
    except ApiError as error:
        raise ActionRefused(f"Discord: {_first_mistake(error.errors) or error.message} ({error.code})") from error


def _first_mistake(errors: Json | None) -> str:
    """The first sentence of Discord's nested report on a form."""
    while errors:
        if found := errors.get("_errors"):
            return str(found[0]["message"])
        errors = next(iter(errors.values()))
    return ""
