"""A chat platform in memory, to which `memory_adapter.py` leads.

Two kinds, after the two kinds there are: one whose stream replays from a cursor and whose sends carry an idempotency
key (`replays=True`), and one whose live stream starts anew with each connection, whose history has to be read, and
whose sends carry no key, so that a suspect one has to be looked for (`replays=False`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from relay.core.moderation.ports import Decision
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.events import (
    Event,
    FeatureUsed,
    MemberBanned,
    MemberUnbanned,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
)
from relay.domain.ids import ChannelRef, MessageRef, PlaceRef, Platform, ThreadRef, UserRef
from relay.domain.names import REPLY_ARROW
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import CopyNotEditable, Permanent, TargetGone

RELAY = "relay"
"""The name of the relay's own account on every such platform."""

GHOST = "ghost of "
"""Before a person's name: the account that the relay has for them on a platform with ghosts."""

PAGE = 20
"""Messages in a page of history."""


@dataclass(slots=True)
class Message:
    """A message as its platform keeps it. `key` is the idempotency key that its author sent it under."""

    ref: MessageRef
    author: Author
    content: Content
    created_at: datetime
    edited_at: datetime | None = None
    reply_to: MessageRef | None = None
    deleted: bool = False
    key: str = ""
    shown_as: str = ""

    @property
    def text(self) -> str:
        """Its words."""
        return plain_text(self.content.text)


@dataclass(slots=True)
class MemoryPlatform:
    """The platform itself: what its servers know. People use it directly, the relay through `MemoryAdapter`.

    `moderates`: whether the relay may remove what others wrote; None: it must not even try.
    """

    platform: Platform
    now: Callable[[], datetime]
    messages: dict[MessageRef, Message] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)
    reactions: list[tuple[MessageRef, str]] = field(default_factory=list)
    listeners: list["asyncio.Queue[int]"] = field(default_factory=list)
    numbers: int = 0
    edits: dict[MessageRef, list[tuple[MessageRef, Content, datetime]]] = field(default_factory=dict)
    moderates: bool | None = None
    last_delivery: Delivery | None = None
    # Who of the other side is in which channel, by an account of their own: whoever has said something.
    members: set[tuple[ChannelRef, UserRef]] = field(default_factory=set)
    wants_everybody: set[ChannelRef] = field(default_factory=set)
    # Who has left.
    departed: set[str] = field(default_factory=set)
    # Who is banned from a channel, by name.
    bans: dict[ChannelRef, set[str]] = field(default_factory=dict)
    # Who banned whom from where and why, or lifted that, where that is told.
    decisions: dict[tuple[str, str, bool], Decision] = field(default_factory=dict)
    # Channels for adults, and what is set when that changes.
    restricted: set[ChannelRef] = field(default_factory=set)
    mark_listeners: list[asyncio.Event] = field(default_factory=list)
    # Whether a copy that is to be edited has just lost what posted it (its webhook). Then nobody can edit it any more.
    orphans: Callable[[], bool] = lambda: False
    orphaned: set[MessageRef] = field(default_factory=set)
    # Whether what posted such a copy is back now, when it is to be edited; and of which copies that is so.
    returns: Callable[[], bool] = lambda: False
    returned: set[MessageRef] = field(default_factory=set)
    # Where the stream replays: under a key that has been used nothing is deleted any more, as with a homeserver.
    deletion_keys: set[str] = field(default_factory=set)
    # Who may read a channel, by name.
    readers: dict[ChannelRef, list[str]] = field(default_factory=dict)

    def channel(self, name: str) -> ChannelRef:
        """The channel of that name; it need not be made first."""
        return ChannelRef(self.platform, name)

    def person(self, name: str, *, is_self: bool = False) -> Author:
        """A person of that name."""
        return Author(UserRef(self.platform, name), name, is_self=is_self, is_bot=is_self)

    def say(
        self,
        channel: ChannelRef,
        who: str,
        what: str | Content,
        *,
        reply_to: MessageRef | None = None,
        thread: ThreadRef | None = None,
    ) -> MessageRef:
        """A person writes a message. One that begins with `!relay` is a command where the stream replays."""
        content = Content(RichText.plain(what)) if isinstance(what, str) else what
        message = self._make(channel, self.person(who), content, reply_to)
        self._happen(replace(created(message), thread=thread))
        return message.ref

    def edit(self, ref: MessageRef, what: str | Content, *, by: str | None = None) -> None:
        """The author (or somebody who should not) edits a message."""
        message = self.messages[ref]
        author = message.author if by is None else self.person(by)
        content = what if isinstance(what, Content) else Content(RichText.plain(what))
        versions = self.edits.setdefault(ref, [(ref, message.content, message.created_at)])
        edit = MessageRef(ref.channel, f"{ref.id}-{len(self.log)}")
        if by is None:
            versions.append((edit, content, self.now()))
            self.messages[ref] = replace(message, content=content, edited_at=self.now())
        is_command = plain_text(content.text).startswith("!relay ") and self.platform is Platform.MATRIX
        self._happen(MessageEdited(ref, author, content, self.now(), edit=edit, is_command=is_command))

    def take_back(self, ref: MessageRef, number: int) -> None:
        """The author takes an edit back, the first being 1: the last of the others is shown."""
        versions = self.edits[ref]
        edit, *_ = versions.pop(number)
        _, content, _ = versions[-1]
        self.messages[ref] = replace(self.messages[ref], content=content)
        self._happen(MessageDeleted(edit))

    def delete(self, ref: MessageRef, *, by_self: bool = False) -> None:
        """Somebody, or the relay, deletes a message."""
        self.messages[ref] = replace(self.messages[ref], deleted=True)
        self._happen(MessageDeleted(ref, by_self=by_self))

    def react(self, channel: ChannelRef) -> None:
        """Somebody uses what cannot cross."""
        self._happen(FeatureUsed(channel, "reaction"))

    def shown(self, channel: ChannelRef) -> list[Message]:
        """What a reader of the channel sees, in order."""
        return [message for message in self.messages.values() if message.ref.channel == channel and not message.deleted]

    # --- What the relay does ------------------------------------------------------------------------------

    def post(self, delivery: Delivery) -> MessageRef:
        """The relay posts."""
        return self.post_as(delivery, RELAY)

    def post_as(self, delivery: Delivery, account: str) -> MessageRef:
        """The relay posts, as one of its accounts."""
        self.last_delivery = delivery
        author = self.person(account, is_self=True)
        shown_as = delivery.author.name if delivery.author else RELAY
        message = self._make(delivery.channel, author, delivery.content, delivery.reply_to, delivery.key, shown_as)
        self._happen(
            MessageCreated(message.ref, author, delivery.content, message.created_at, reply_to=delivery.reply_to)
        )
        return message.ref

    def change(self, target: MessageRef, content: Content) -> None:
        """The relay edits one of its own."""
        message = self._own(target)
        if self.orphans():
            self.orphaned.add(target)
        if target in self.orphaned and self.returns():
            self.returned.add(target)
        if target in self.orphaned - self.returned:
            raise CopyNotEditable("what posted it is gone")
        self.messages[target] = replace(message, content=content, edited_at=self.now())
        self._happen(MessageEdited(target, message.author, content, self.now()))

    def remove(self, target: MessageRef) -> None:
        """The relay deletes one of its own, or anybody's where it is a moderator."""
        if self.moderates is None:
            self._own(target)
        message = self.messages.get(target)
        if message is None or message.deleted:
            raise TargetGone("no such message")
        if not message.author.is_self and not self.moderates:
            raise Permanent("the relay is no moderator")
        self.delete(target, by_self=True)

    def by_key(self, channel: ChannelRef, key: str, account: str = RELAY) -> MessageRef | None:
        """What an account sent under an idempotency key: it counts for a channel and account, as with a homeserver."""
        there = (message for message in self.messages.values() if message.ref.channel == channel)
        return next((one.ref for one in there if one.key == key and one.author.user.id == account), None)

    def _own(self, target: MessageRef) -> Message:
        message = self.messages.get(target)
        if message is None or message.deleted:
            raise TargetGone("no such message")
        if not message.author.is_self:
            raise AssertionError("the relay touched a message that is not its own")
        return message

    def _make(
        self,
        channel: ChannelRef,
        author: Author,
        content: Content,
        reply_to: MessageRef | None,
        key: str = "",
        shown_as: str = "",
    ) -> Message:
        self.numbers += 1
        ref = MessageRef(channel, f"{self.numbers:06}")
        message = Message(ref, author, content, self.now(), reply_to=reply_to, key=key, shown_as=shown_as)
        self.messages[ref] = message
        return message

    def ban(self, channel: ChannelRef, who: str, *, live: bool = True, **more: bool) -> None:
        """A moderator bans somebody. Not `live`: nobody is told, because the relay is away, or it got lost."""
        self.bans.setdefault(channel, set()).add(who)
        if live:
            place = PlaceRef(self.platform, channel.id)
            self._happen(MemberBanned(place, UserRef(self.platform, who), **more))

    def unban(self, channel: ChannelRef, who: str, *, live: bool = True) -> None:
        """The ban is lifted."""
        self.bans[channel].remove(who)
        if live:
            self._happen(MemberUnbanned(PlaceRef(self.platform, channel.id), UserRef(self.platform, who)))

    def restrict(self, channel: ChannelRef, restricted: bool = True) -> None:
        """A moderator marks a channel as for adults, or takes the mark away."""
        (self.restricted.add if restricted else self.restricted.discard)(channel)
        for listener in self.mark_listeners:
            listener.set()

    def _happen(self, event: Event) -> None:
        self.log.append(event)
        for listener in self.listeners:
            listener.put_nowait(len(self.log) - 1)


def own_words(content: Content) -> Content:
    """What it says without the line that quotes what it answers."""
    first, rest = content.text.blocks[:1], content.text.blocks[1:]
    is_reply = bool(rest) and plain_text(RichText(first)).startswith(REPLY_ARROW)
    return replace(content, text=RichText(rest)) if is_reply else content


def created(message: Message) -> MessageCreated:
    words = message.text.split()
    is_command = words[:1] == ["!relay"] and message.ref.platform is Platform.MATRIX
    return MessageCreated(
        message.ref,
        message.author,
        message.content,
        message.created_at,
        reply_to=message.reply_to,
        edited_at=message.edited_at,
        command=tuple(words[1:]) if is_command else None,
    )
