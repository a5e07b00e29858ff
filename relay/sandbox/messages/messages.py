"""Writing, editing and deleting messages, with all that Discord checks. Raises `ApiError`s; no network here."""

from collections.abc import Callable

from relay.sandbox import errors
from relay.sandbox.messages.drafts import HAS_SNAPSHOT, SUPPRESS_EMBEDS, VOICE_MESSAGE, Draft, NewFile
from relay.sandbox.messages.events import EPHEMERAL, MessageEvents
from relay.sandbox.messages.media import describe
from relay.sandbox.messages.mentions import MESSAGE_DEFAULT, WEBHOOK_DEFAULT, resolve
from relay.sandbox.messages.render import message as render_message
from relay.sandbox.world import render
from relay.sandbox.world.models import (
    Application,
    Attachment,
    Channel,
    Json,
    Message,
    Pinged,
    User,
    Webhook,
    timestamp_of,
)
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.state import State

TEXT_CHANNELS = frozenset({0, 2, 5, 10, 11, 12, 13})
NONCE_SECONDS = 300
FOURTEEN_DAYS = 14 * 86_400
_SPOILER_FLAG = 1 << 3
_NOT_SYSTEM = frozenset({0, 19, 20, 23})

Finish = Callable[[Message], None]


class Messages(MessageEvents):
    """Creates, edits and deletes messages as Discord lets its users do."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._nonces: dict[tuple[int, str], tuple[float, Message]] = {}

    # --- Creating -----------------------------------------------------------------------------------------

    def post(self, channel: Channel, author: User, draft: Draft, finish: Finish | None = None) -> Message:
        """A message of a person or a bot, with everything that Discord checks. `finish` may still change it."""
        self._check_may_post(channel, author.id, draft)
        earlier = self._same_nonce(author.id, draft)
        if earlier is not None:
            return earlier
        message = self._make(channel, author.id, draft)
        self._reply_or_forward(message, author.id, draft)
        self._check_not_empty(message, draft)
        may_everyone = bool(self.state.permissions(author.id, channel) & Permission.MENTION_EVERYONE)
        message.pinged = self._pinged(channel, message, draft, everyone=may_everyone)
        if draft.nonce is not None:
            key = author.id, str(draft.nonce)
            self._nonces.pop(key, None)
            self._nonces[key] = (self.state.clock(), message)
        if finish is not None:
            finish(message)
        self.publish(channel, message)
        return message

    def post_as_webhook(
        self,
        channel: Channel,
        hook: Webhook,
        draft: Draft,
        username: str | None,
        avatar_url: str | None,
        finish: Finish | None = None,
    ) -> Message:
        """A message of a webhook, under a name and picture of its choice."""
        self._check_channel(channel)
        message = self._make(channel, hook.id, draft)
        self._check_not_empty(message, draft)
        message.webhook_id = hook.id
        message.application_id = hook.application_id
        message.webhook_avatar_url = avatar_url
        name = username or hook.name
        picture = self.state.remember_avatar(avatar_url) if avatar_url else hook.avatar
        author = User(hook.id, name, bot=True, avatar=picture, discriminator="0000")
        message.webhook_author = render.user(author)
        message.pinged = self._pinged(channel, message, draft, everyone=True)
        if finish is not None:
            finish(message)
        self.publish(channel, message)
        return message

    def post_as_application(
        self, channel: Channel, app: Application, draft: Draft, finish: Finish, *, may_be_empty: bool = False
    ) -> Message:
        """An application's answer to an interaction, for which it needs no permission.

        Where `finish` makes it an `EPHEMERAL` one, it is in no channel, and nobody is notified.
        """
        self._check_channel(channel)
        message = self._make(channel, app.user.id, draft)
        if not may_be_empty:
            self._check_not_empty(message, draft)
        message.webhook_id = message.application_id = app.id
        finish(message)
        if not message.flags & EPHEMERAL:
            message.pinged = self._pinged(channel, message, draft, everyone=False)
            self.publish(channel, message)
        return message

    def _check_channel(self, channel: Channel) -> None:
        if channel.type not in TEXT_CHANNELS:
            raise errors.ApiError(400, 50008, "Cannot send messages in a non-text channel")

    def _check_may_post(self, channel: Channel, user_id: int, draft: Draft) -> None:
        self.state.require(user_id, channel, Permission.CONNECT)
        self._check_channel(channel)
        send = Permission.SEND_MESSAGES if channel.thread is None else Permission.SEND_MESSAGES_IN_THREADS
        needed = send
        if draft.files:
            needed |= Permission.ATTACH_FILES
        if draft.embeds:
            needed |= Permission.EMBED_LINKS
        if draft.poll:
            needed |= Permission.SEND_POLLS
        if draft.flags & VOICE_MESSAGE:
            needed |= Permission.SEND_VOICE_MESSAGES
        if draft.tts:
            needed |= Permission.SEND_TTS_MESSAGES
        granted = self.state.require(user_id, channel, needed)
        if channel.thread is not None and channel.thread.locked and not granted & Permission.MANAGE_THREADS:
            raise errors.thread_locked()
        for sticker_id in draft.sticker_ids:
            self.state.sticker(sticker_id)

    def _same_nonce(self, author_id: int, draft: Draft) -> Message | None:
        if draft.nonce is None or not draft.enforce_nonce:
            return None
        now = self.state.clock()
        while self._nonces and now - next(iter(self._nonces.values()))[0] >= NONCE_SECONDS:
            del self._nonces[next(iter(self._nonces))]
        known = self._nonces.get((author_id, str(draft.nonce)))
        return known[1] if known is not None else None

    def _make(self, channel: Channel, author_id: int, draft: Draft) -> Message:
        for attachment_id in draft.keep or {}:
            raise errors.no_such_attachment(attachment_id)
        message_id = self.state.snowflakes.next()
        return Message(
            id=message_id,
            channel_id=channel.id,
            author_id=author_id,
            content=draft.content,
            created_at=timestamp_of(message_id),
            flags=draft.flags,
            tts=draft.tts,
            nonce=draft.nonce,
            embeds=draft.embeds,
            components=draft.components,
            attachments=[self.attach(channel, file) for file in draft.files],
            sticker_ids=draft.sticker_ids,
            poll=self._open_poll(draft.poll),
        )

    def attach(self, channel: Channel, file: NewFile) -> Attachment:
        """The attachment that an uploaded file becomes."""
        found = describe(file.upload.file.path, file.filename, file.upload.content_type)
        spoiler = file.spoiler or file.filename.startswith("SPOILER_")
        attachment = Attachment(
            id=self.state.snowflakes.next(),
            channel_id=channel.id,
            filename=file.filename,
            file=file.upload.file,
            content_type=found.content_type,
            title=file.title,
            description=file.description,
            width=found.width,
            height=found.height,
            duration_secs=file.duration_secs,
            waveform=file.waveform,
            flags=_SPOILER_FLAG if spoiler else 0,
        )
        self.state.attachments[attachment.id] = attachment
        return attachment

    def _open_poll(self, asked: Json | None) -> Json | None:
        if asked is None:
            return None
        poll = dict(asked)
        return poll | {"expiry": render.iso(self.state.clock() + poll.pop("duration") * 3600)}

    def _check_not_empty(self, message: Message, draft: Draft) -> None:
        if draft.is_empty() and not message.snapshots:
            raise errors.empty_message()

    def _reply_or_forward(self, message: Message, author_id: int, draft: Draft) -> None:
        asked = draft.reference
        if asked is None:
            return
        channel = self.state.channel(asked["channel_id"] or message.channel_id)
        target = channel.messages.get(asked["message_id"])
        granted = self.state.permissions(author_id, channel)
        if not granted & Permission.READ_MESSAGE_HISTORY:
            raise errors.ApiError(400, 160002, "Cannot reply without permission to read message history")
        if asked["type"] == 1:
            self._forward(message, channel, target, draft)
        elif channel.id != message.channel_id:
            message_text = "Cannot reply to a message in another channel"
            raise errors.form_error("message_reference", "MESSAGE_REFERENCE_CANNOT_CROSS_CHANNEL", message_text)
        elif target is None:
            if asked["fail_if_not_exists"]:
                raise errors.form_error("message_reference", "REPLIES_UNKNOWN_MESSAGE", "Unknown message")
            return
        elif target.type not in {0, 7, 8, 9, 10, 11, 18, 19, 20, 21, 23, 24, 31, 46}:
            code, text = "REPLIES_CANNOT_REPLY_TO_SYSTEM_MESSAGE", "Cannot reply to a system message"
            raise errors.form_error("message_reference", code, text)
        else:
            message.type = 19
        message.reference = {
            "type": asked["type"],
            "message_id": str(asked["message_id"]),
            "channel_id": str(channel.id),
            "guild_id": str(channel.guild_id),
        }

    def _forward(self, message: Message, channel: Channel, target: Message | None, draft: Draft) -> None:
        if target is None:
            raise errors.form_error("message_reference", "REPLIES_UNKNOWN_MESSAGE", "Unknown message")
        if not draft.is_empty():
            code, text = "MESSAGE_FORWARD_CANNOT_HAVE_CONTENT", "Forwarded messages cannot have additional content"
            raise errors.form_error("message_reference", code, text)
        message.flags |= HAS_SNAPSHOT
        whole = render_message(self.state, target, nested=True)
        # The author is not among these: https://discord.com/developers/docs/resources/message#message-snapshot-object
        names = ("type", "content", "embeds", "timestamp", "edited_timestamp", "flags", "mentions", "mention_roles")
        snapshot = {name: whole[name] for name in (*names, "components", "sticker_items") if name in whole}
        message.snapshots = [snapshot]
        message.snapshot_attachments = list(target.attachments)
        for attachment in target.attachments:
            attachment.holders += 1

    def _pinged(self, channel: Channel, message: Message, draft: Draft, *, everyone: bool) -> Pinged:
        default = WEBHOOK_DEFAULT if message.webhook_id is not None else MESSAGE_DEFAULT
        guild = self.state.guilds[channel.guild_id]
        target = self.state.find_message(message.reference) if message.type == 19 and message.reference else None
        return resolve(
            message.content,
            draft.allowed if draft.allowed is not None else default,
            users=self.state.users,
            roles={role.id for role in guild.roles.values() if everyone or role.mentionable},
            may_ping_everyone=everyone,
            replied_to=target.author_id if target is not None else None,
        )

    # --- Editing ------------------------------------------------------------------------------------------

    def edit(self, channel: Channel, message: Message, user_id: int, draft: Draft) -> None:
        """An edit by a person or a bot."""
        granted = self.state.permissions(user_id, channel)
        if not granted & Permission.VIEW_CHANNEL:
            raise errors.missing_access()
        if message.author_id != user_id:
            if not (draft.given and draft.given <= {"flags"}):
                raise errors.not_the_author()
            if not granted & Permission.MANAGE_MESSAGES:
                raise errors.missing_permissions()
        if message.type not in _NOT_SYSTEM:
            raise errors.system_message()
        if channel.thread is not None and channel.thread.archived:
            raise errors.thread_archived()
        self.apply_edit(channel, message, draft, everyone=bool(granted & Permission.MENTION_EVERYONE))

    def apply_edit(self, channel: Channel, message: Message, draft: Draft, *, everyone: bool = True) -> None:
        """Change what the draft names, and tell everybody. Who was notified is computed again."""
        attachments = self._kept(message, draft) + [self.attach(channel, file) for file in draft.files]
        content = draft.content if "content" in draft.given else message.content
        embeds = draft.embeds if "embeds" in draft.given else message.embeds
        components = draft.components if "components" in draft.given else message.components
        rest = message.sticker_ids or message.poll or message.snapshots
        if not (content or embeds or attachments or components or rest):
            raise errors.empty_message()
        message.content, message.embeds, message.components = content, embeds, components
        message.attachments = attachments
        if "flags" in draft.given:
            message.flags = (message.flags & ~SUPPRESS_EMBEDS) | (draft.flags & SUPPRESS_EMBEDS)
        if draft.given & {"content", "allowed_mentions"}:
            message.pinged = self._pinged(channel, message, draft, everyone=everyone)
        if draft.given - {"flags"} or draft.files:
            message.edited_at = self.state.clock()
        self.emit("MESSAGE_UPDATE", channel, message)

    def _kept(self, message: Message, draft: Draft) -> list[Attachment]:
        if draft.keep is None:
            return list(message.attachments)
        present = {item.id: item for item in message.attachments}
        for attachment_id, description in draft.keep.items():
            if attachment_id not in present:
                raise errors.no_such_attachment(attachment_id)
            present[attachment_id].description = description or present[attachment_id].description
        for item in message.attachments:
            if item.id not in draft.keep:
                self.release(item)
        return [item for item in message.attachments if item.id in draft.keep]

    # --- Deleting -----------------------------------------------------------------------------------------

    def delete(self, channel: Channel, message: Message, user_id: int) -> None:
        """A deletion by a person or a bot."""
        own = message.author_id == user_id
        self.state.require(user_id, channel, Permission.VIEW_CHANNEL if own else Permission.MANAGE_MESSAGES)
        if channel.thread is not None and channel.thread.archived:
            raise errors.thread_archived()
        self.remove(channel, [message.id])

    def bulk_delete(self, channel: Channel, ids: list[int], user_id: int) -> None:
        """Many at once; what does not exist is passed over, as Discord does."""
        self.state.require(user_id, channel, Permission.MANAGE_MESSAGES)
        oldest = self.state.clock() - FOURTEEN_DAYS
        if any(timestamp_of(message_id) < oldest for message_id in ids):
            raise errors.too_old_to_bulk_delete()
        self.remove(channel, [item for item in ids if item in channel.messages], bulk=True)
