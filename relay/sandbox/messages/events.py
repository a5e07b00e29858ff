"""Publishing, listing and removing messages, pins and typing, and the events of all these, without any checks.

What Discord checks before anything is written or changed is in `messages.py`.
"""

from bisect import bisect_left, insort
from typing import Literal

from relay.sandbox.messages.render import message as render_message
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Dispatch, Intent, Viewer
from relay.sandbox.world.models import Attachment, Channel, Json, Message, User, timestamp_of
from relay.sandbox.world.state import State

EPHEMERAL = 1 << 6  # only the person who used a command sees the message
_MESSAGES = Intent.GUILD_MESSAGES
Anchor = Literal["before", "after", "around"]


class MessageEvents:
    """The messages of a `State`, without checks of permissions."""

    def __init__(self, state: State) -> None:
        self.state = state

    def system(self, channel: Channel, author: User, kind: int, **fields: object) -> Message:
        """A message that Discord itself writes, of type `kind`; `fields` are attributes of `Message`."""
        message_id = self.state.snowflakes.next()
        message = Message(message_id, channel.id, author.id, "", timestamp_of(message_id), kind)
        for name, value in fields.items():
            setattr(message, name, value)
        self.publish(channel, message)
        return message

    def publish(self, channel: Channel, message: Message) -> None:
        """Put a finished message into its channel and tell everybody."""
        channel.messages[message.id] = message
        insort(channel.order, message.id)
        channel.last_message_id = channel.order[-1]
        if channel.thread is not None:
            channel.thread.total_sent += 1
            if channel.thread.archived:  # a new message opens an archived thread again
                channel.thread.archived = False
                self.state.channel_changed(channel)
        self.emit("MESSAGE_CREATE", channel, message)

    def remove(self, channel: Channel, ids: list[int], *, bulk: bool = False) -> None:
        """Take messages away and tell everybody."""
        for message_id in ids:
            message = channel.messages.pop(message_id)
            for attachment in (*message.attachments, *message.snapshot_attachments):
                self.release(attachment)
            del channel.order[bisect_left(channel.order, message_id)]
        where: Json = {"channel_id": str(channel.id), "guild_id": str(channel.guild_id)}
        if bulk:
            body = where | {"ids": [str(item) for item in ids]}
            self.state.emit_fixed("MESSAGE_DELETE_BULK", _MESSAGES, channel.guild_id, body, channel)
            return
        for message_id in ids:
            body = where | {"id": str(message_id)}
            self.state.emit_fixed("MESSAGE_DELETE", _MESSAGES, channel.guild_id, body, channel)

    def release(self, attachment: Attachment) -> None:
        attachment.holders -= 1
        if not attachment.holders:
            del self.state.attachments[attachment.id]
            attachment.file.path.unlink(missing_ok=True)

    def pin(self, channel: Channel, message: Message, user: User) -> None:
        """Pin a message; Discord says so in the channel."""
        if message.pinned_at is not None:
            return
        message.pinned_at = channel.last_pin_at = self.state.clock()
        self._pins_changed(channel)
        self.emit("MESSAGE_UPDATE", channel, message)
        self.system(channel, user, 6, reference={"type": 0} | where(channel, message))

    def unpin(self, channel: Channel, message: Message) -> None:
        """Unpin a message."""
        message.pinned_at = None
        self._pins_changed(channel)
        self.emit("MESSAGE_UPDATE", channel, message)

    def _pins_changed(self, channel: Channel) -> None:
        body = {
            "guild_id": str(channel.guild_id),
            "channel_id": str(channel.id),
            "last_pin_timestamp": render.iso_or_none(channel.last_pin_at),
        }
        self.state.emit_fixed("CHANNEL_PINS_UPDATE", Intent.GUILDS, channel.guild_id, body, channel)

    def typing(self, channel: Channel, user: User) -> None:
        """Somebody starts typing."""
        body = {
            "channel_id": str(channel.id),
            "guild_id": str(channel.guild_id),
            "user_id": str(user.id),
            "timestamp": int(self.state.clock()),
            "member": render.member(self.state.guilds[channel.guild_id].members[user.id]),
        }
        self.state.emit_fixed("TYPING_START", Intent.GUILD_MESSAGE_TYPING, channel.guild_id, body, channel)

    def page(self, channel: Channel, limit: int, anchor: tuple[Anchor, int] | None) -> list[Message]:
        """A page of history, newest first, as `GET /channels/{id}/messages` gives it."""
        order = channel.order
        if anchor is None:
            ids = order[-limit:]
        else:
            side, at = anchor
            here = bisect_left(order, at)
            if side == "before":
                ids = order[max(0, here - limit) : here]
            elif side == "after":
                first = here + (here < len(order) and order[here] == at)
                ids = order[first : first + limit]
            else:
                first = max(0, here - limit // 2)
                ids = order[first : first + limit]
        return [channel.messages[message_id] for message_id in reversed(ids)]

    def emit(self, event: str, channel: Channel, message: Message, *, nonce: bool | None = None) -> None:
        """Emit an event of a message. Its nonce is sent with its creation only; no event tells of ephemeral ones."""
        if message.flags & EPHEMERAL:
            return
        with_nonce = event == "MESSAGE_CREATE" if nonce is None else nonce

        def body(viewer: Viewer) -> Json:
            return self.gateway_body(channel, message, viewer, nonce=with_nonce)

        self.state.emit(Dispatch(event, _MESSAGES, channel.guild_id, body, channel))

    def gateway_body(self, channel: Channel, message: Message, viewer: Viewer, *, nonce: bool) -> Json:
        """A message with what only the gateway adds: the guild, and the author and the mentioned as members."""
        body = render_message(self.state, message, viewer)
        body["guild_id"] = str(channel.guild_id)
        body["channel_type"] = channel.type
        if nonce and message.nonce is not None:
            body["nonce"] = message.nonce
        members = self.state.guilds[channel.guild_id].members
        if message.author_id in members:
            body["member"] = render.member(members[message.author_id], with_user=False)
        for mentioned in body["mentions"]:
            member = members.get(int(mentioned["id"]))
            if member is not None:
                mentioned["member"] = render.member(member, with_user=False)
        return body


def where(channel: Channel, message: Message) -> Json:
    """Which message, as events and references name it."""
    return {"channel_id": str(channel.id), "message_id": str(message.id), "guild_id": str(channel.guild_id)}
