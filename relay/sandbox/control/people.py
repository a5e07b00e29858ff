"""Control: what people say and do. Every method is also `POST /_sandbox/<name>`; IDs may be numbers or strings."""

from relay.sandbox.control.base import ControlBase, Id
from relay.sandbox.interactions.commands import render_command
from relay.sandbox.messages.drafts import Draft
from relay.sandbox.messages.events import EPHEMERAL
from relay.sandbox.messages.messages import Finish
from relay.sandbox.world import render
from relay.sandbox.world.models import Json, Message


class TalkControl(ControlBase):
    """Messages, threads, reactions, polls, commands.

    A file is `{"filename", and one of "data" (base64), "zeros" (a size), "upload" (from /_sandbox/uploads)}`, with
    `content_type`, `title`, `description`, `spoiler`, `width`, `height`, `duration_secs` and `waveform` as wanted.
    """

    def say(
        self,
        channel: Id,
        author: Id,
        content: str = "",
        *,
        reply_to: Id | None = None,
        forward: Json | None = None,
        attachments: list[Json] | None = None,
        embeds: list[Json] | None = None,
        stickers: list[Id] | None = None,
        poll: Json | None = None,
        components: list[Json] | None = None,
        allowed_mentions: Json | None = None,
        flags: int = 0,
        raw: Json | None = None,
    ) -> Json:
        """A person, or another bot, writes; a channel may be a thread. What Discord would refuse is refused.

        `forward`: `{"channel", "message"}`. `poll`: as in Discord's API. `raw`: fields of the message object that
        replace what the sandbox makes of it, for what no other argument can say (`type`, `embeds` of type `article`).
        Returns the message, with `pinged`.
        """
        body: Json = {
            "content": content,
            "embeds": embeds,
            "components": components,
            "sticker_ids": [str(item) for item in stickers or []],
            "poll": poll,
            "allowed_mentions": allowed_mentions,
            "flags": flags,
        }
        if reply_to is not None:
            body["message_reference"] = {"message_id": str(reply_to)}
        if forward is not None:
            body["message_reference"] = {
                "type": 1,
                "message_id": str(forward["message"]),
                "channel_id": str(forward["channel"]),
            }
        where = self._channel(channel)
        draft = self._draft({k: v for k, v in body.items() if v is not None}, attachments or [])
        message = self._parts.messages.post(
            where, self._user(author), draft, finish=_finisher(self, attachments or [], raw)
        )
        return self._view(message)

    def say_many(self, channel: Id, author: Id, contents: list[str]) -> list[str]:
        """One message for each text, at once. Returns their IDs."""
        where, user = self._channel(channel), self._user(author)
        given = frozenset({"content"})
        return [str(self._parts.messages.post(where, user, Draft(given=given, content=text)).id) for text in contents]

    def say_as_webhook(
        self,
        webhook: Id,
        content: str = "",
        *,
        username: str | None = None,
        avatar_url: str | None = None,
        embeds: list[Json] | None = None,
        attachments: list[Json] | None = None,
        thread: Id | None = None,
        raw: Json | None = None,
    ) -> Json:
        """A webhook posts. Returns the message."""
        hook = self._state.webhook(int(webhook))
        where = self._channel(thread if thread is not None else hook.channel_id)
        draft = self._draft({"content": content, "embeds": embeds or []}, attachments or [])
        finish = _finisher(self, attachments or [], raw)
        return self._view(self._parts.messages.post_as_webhook(where, hook, draft, username, avatar_url, finish=finish))

    def say_as_system(self, channel: Id, user: Id, type: int, content: str = "", raw: Json | None = None) -> Json:  # noqa: A002
        """Discord writes: `type` 7 joined, 8 boosted, 6 pinned, … Returns the message."""
        author = self._user(user)
        message = self._parts.messages.system(
            self._channel(channel), author, type, content=content, extra=dict(raw or {})
        )
        return self._view(message)

    def edit(
        self,
        channel: Id,
        message: Id,
        content: str | None = None,
        embeds: list[Json] | None = None,
        attachments: list[Json] | None = None,
        keep: list[Id] | None = None,
    ) -> Json:
        """The author edits. Returns the message.

        `attachments` are added, as bots may; of those that are there only `keep` stay, all by default.
        """
        where, target = self._message(channel, message)
        body: Json = {}
        if content is not None:
            body["content"] = content
        if embeds is not None:
            body["embeds"] = embeds
        if keep is not None:
            body["attachments"] = [{"id": str(item)} for item in keep]
        draft = self._draft(body, attachments or [])
        if target.webhook_id is None:
            self._parts.messages.edit(where, target, target.author_id, draft)
        else:
            self._parts.messages.apply_edit(where, target, draft)
        return self._view(target)

    def unfurl(self, channel: Id, message: Id, embeds: list[Json]) -> Json:
        """Discord adds previews of links: an update that is no edit. Returns the message."""
        where, target = self._message(channel, message)
        target.embeds = target.embeds + embeds
        self._parts.messages.emit("MESSAGE_UPDATE", where, target)
        return self._view(target)

    def delete(self, channel: Id, message: Id) -> None:
        """A message is deleted, by anybody who may."""
        where, target = self._message(channel, message)
        self._parts.messages.remove(where, [target.id])

    def bulk_delete(self, channel: Id, messages: list[Id]) -> None:
        """A moderation bot deletes many at once."""
        where = self._channel(channel)
        ids = [int(item) for item in messages if int(item) in where.messages]
        self._parts.messages.remove(where, ids, bulk=True)

    def react(self, channel: Id, message: Id, user: Id, emoji: str, on: bool = True) -> None:
        """Put an emoji (`👍`, or `name:id`) under a message, or take it away."""
        where, target = self._message(channel, message)
        if on:
            self._parts.reactions.add(where, target, self._user(user), emoji)
        else:
            self._parts.reactions.remove(where, target, int(user), emoji)

    def typing(self, channel: Id, user: Id) -> None:
        """Somebody starts typing."""
        self._parts.messages.typing(self._channel(channel), self._user(user))

    def pin(self, channel: Id, message: Id, user: Id, on: bool = True) -> None:
        """Pin a message, which Discord announces; or unpin it."""
        where, target = self._message(channel, message)
        if on:
            self._parts.messages.pin(where, target, self._user(user))
        else:
            self._parts.messages.unpin(where, target)

    def vote(self, channel: Id, message: Id, user: Id, answer: int) -> None:
        """Vote in a poll."""
        where, target = self._message(channel, message)
        self._parts.reactions.vote(where, target, self._user(user), answer)

    def end_poll(self, channel: Id, message: Id) -> None:
        """The poll's time is over: its result is final, and announced."""
        self._parts.reactions.end_poll(*self._message(channel, message))

    def open_thread(self, channel: Id, user: Id, name: str, message: Id | None = None, private: bool = False) -> Json:
        """A thread, on a message or without one. Returns it; say something in it with its ID as the channel."""
        where, opener = self._channel(channel), self._user(user)
        if message is not None:
            target = self._state.message(where, int(message))
            return render.channel(self._parts.threads.open_on(where, target, opener, name))
        return render.channel(self._parts.threads.open(where, opener, name, 12 if private else 11))

    def open_post(self, forum: Id, user: Id, name: str, content: str) -> Json:
        """A post in a forum (a channel of type 15). Returns it; say something in it with its ID as the channel."""
        where, opener = self._channel(forum), self._user(user)
        return render.channel(self._parts.threads.post(where, opener, name, Draft(content=content)))

    def join_thread(self, thread: Id, user: Id, joined: bool = True) -> None:
        """Become a member of a thread, or leave it."""
        where, person = self._channel(thread), self._user(user)
        if joined:
            self._parts.threads.join(where, person)
        else:
            self._parts.threads.leave(where, person)

    def archive_thread(self, thread: Id, archived: bool = True, locked: bool | None = None) -> Json:
        """Archive a thread or open it again. Returns it."""
        where = self._channel(thread)
        self._parts.threads.archive(where, archived=archived, locked=locked)
        return render.channel(where)

    # --- Commands -----------------------------------------------------------------------------------------

    def use_command(
        self,
        channel: Id,
        user: Id,
        command: str,
        options: Json | None = None,
        *,
        bot: Id | None = None,
        raw: Json | None = None,
    ) -> Json:
        """A person uses a slash command: `relay link` with `{"account": "@me:server"}`. Returns it as `interaction`.

        What Discord's client would not let them send is refused. `bot`: whose command, if several have one of that
        name. `raw`: parts of the interaction's `data` that are sent otherwise.
        """
        made = self._parts.interactions.use(
            self._channel(channel),
            self._user(user),
            command,
            options or {},
            bot=None if bot is None else int(bot),
            raw=raw,
        )
        return self.interaction(made.id)

    def use_unknown_command(self, channel: Id, user: Id, bot: Id, data: Json) -> Json:
        """A person's client still shows a command that the bot has no longer: `data` is sent as it is."""
        app = self._state.applications[int(bot)]
        made = self._parts.interactions.send(app, self._channel(channel), self._user(user), data)
        return self.interaction(made.id)

    def interaction(self, interaction: Id) -> Json:
        """What the person who used a command sees, private answers too.

        `state` is `waiting` (up to three seconds), `thinking` (the bot asked for patience), `answered` or `failed`
        ("The application did not respond"). `messages` are the answers, each with `private`. The journal tells of each
        change as `SANDBOX_INTERACTION`.
        """
        found = self._parts.interactions.get(int(interaction))
        took = None if found.answered_at is None else found.answered_at - found.created_at
        return {
            "id": str(found.id),
            "bot": str(found.application_id),
            "channel_id": str(found.channel_id),
            "user_id": str(found.user_id),
            "command": found.command,
            "state": self._parts.interactions.outcome(found),
            "seconds": took,
            "messages": [self._view(item) | {"private": bool(item.flags & EPHEMERAL)} for item in found.messages],
        }

    def commands(self, bot: Id, guild: Id | None = None) -> list[Json]:
        """The commands that a bot has registered: global ones, or those of a guild."""
        app = self._state.applications[int(bot)]
        wanted = None if guild is None else int(guild)
        return [render_command(command) for command in app.commands.values() if command.guild_id == wanted]

    # --- Reading ------------------------------------------------------------------------------------------

    def messages(self, channel: Id, after: Id = 0) -> list[Json]:
        """All messages of a channel or thread, oldest first, each with `pinged`."""
        where = self._channel(channel)
        return [self._view(where.messages[item]) for item in where.order if item > int(after)]

    def message(self, channel: Id, message: Id) -> Json:
        """One message."""
        return self._view(self._message(channel, message)[1])


_ATTRIBUTES = frozenset({"type", "embeds", "flags", "components", "content", "tts", "poll"})


def _finisher(control: ControlBase, attachments: list[Json], raw: Json | None) -> Finish:
    def finish(message: Message) -> None:
        control.correct(message.attachments, attachments)
        for name, value in (raw or {}).items():
            if name in _ATTRIBUTES:
                setattr(message, name, value)
            else:
                message.extra[name] = value

    return finish
