"""Deliveries become requests, and the homeserver's errors the core's (`delivery_error`): here and nowhere else."""

import copy
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from relay.adapters.matrix.api.client import Api, Identity, Refused, Unreachable
from relay.adapters.matrix.api.firewall import Firewall
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.identifiers import is_event_id
from relay.adapters.matrix.inbound.events import timestamp
from relay.adapters.matrix.media import MediaRepository
from relay.adapters.matrix.outbound.compose import (
    ImageCopies,
    UploadedFile,
    compose,
    edit_content,
    file_content,
    fingerprint,
    is_named,
    with_author,
)
from relay.adapters.matrix.outbound.ghosts import BOT, Ghosts, Speaker
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.core.offload import Conversions
from relay.core.ports import Clock, Delivery
from relay.core.recent import LastSent, Recent
from relay.domain.content import Author
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.jsontext import Json, as_dict, as_list
from relay.domain.text.nodes import CustomEmoji
from relay.domain.text.rewrite import walk, weight
from relay.errors import (
    ActionNeeded,
    CopyNotEditable,
    DeliveryError,
    Permanent,
    Postponed,
    RateLimited,
    TargetGone,
    Transient,
)
from relay.logs import get_logger

# How it is refused to tell us what we ask for.
_NOT_SHOWN = (ActionNeeded, Permanent, TargetGone)
_log = get_logger(__name__)

_FAILED = "❌"
_DONE = "✅"
# Synapse remembers a transaction ID for a day.
_TRANSACTION_ID_REMEMBERED = timedelta(hours=20)
_PAGES_SEARCHED = 20
_PAGES_OF_A_GAP = 200
_CLOCK_SKEW = timedelta(hours=1)
_LONGEST_AGE = 10**15  # In milliseconds.
_UNRECORDED = 16 * 1024 * 1024
"""Bytes of what may be the copy of something, in all rooms. What is dropped is read again; what is in use is held."""

# Tries of a ghost, each after what kept it from speaking was mended, before the bot speaks.
_GHOST_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Unrecorded:
    """A message of ours in a room of which the store knows nothing."""

    id: str
    sender: str
    # The fingerprint of what it said at first, and of its last edit.
    says: tuple[Json, ...]


class _GhostRefused(Exception):
    """The homeserver does not let a ghost do something: it may be out of the room, or not known any more."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused = refused


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MessageSender:
    """Sends, edits and redacts messages.

    All of it can be repeated: the transaction ID is the delivery's key, and for an edit a hash of its content as well.
    """

    api: Api
    rooms: DeclaredRooms
    media: MediaRepository
    ghosts: Ghosts
    # Whether there may be any; else the bot says everything.
    makes_ghosts: bool
    clock: Clock
    # Called when the homeserver refuses the access token.
    token_refused: Callable[[], None]
    conversions: Conversions
    # Since when every request was made with the login of now: another one's transaction IDs may not be known.
    logged_in_since: Callable[[], datetime]
    _last_sent: LastSent = field(init=False, default_factory=LastSent)
    _firewall: Firewall = field(init=False, default_factory=Firewall)
    # By room: what is there of ours since the backup that the store was restored from, and not on record yet.
    _unrecorded: Recent[str, list["_Unrecorded"]] = field(init=False, default_factory=lambda: Recent(_UNRECORDED))

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        room_id = self._check_sendable(delivery.channel)
        wanted = delivery
        if delivery.restored_since is None:
            self._unrecorded.pop(delivery.channel.id, None)  # in order behind the gap: nothing more is looked for
        delivery, images = await self._with_images(delivery)
        if delivery.suspect and (found := await self._find_earlier(delivery, images)) is not None:
            return MessageRef(delivery.channel, found)
        if delivery.suspect and delivery.last_try:
            raise Permanent("the homeserver fails with this message every time, while it takes others")
        uploaded: UploadedFile | None = None
        if delivery.content.attachments:
            uploaded = await self.media.upload(delivery.content.attachments[0], delivery.key, delivery.sender)
        event_id, content = await self._post(room_id, wanted, delivery, uploaded, images)
        if not delivery.suspect:
            # After an earlier attempt, `event_id` may be that attempt's event, with other content.
            self._last_sent.put(event_id, _serialised(content))
        return MessageRef(delivery.channel, event_id)

    async def _post(
        self,
        room_id: str,
        wanted: Delivery,
        delivery: Delivery,
        uploaded: UploadedFile | None,
        images: ImageCopies,
    ) -> tuple[str, Json]:
        """Send a message by its author's ghost, or by the bot where that is not possible."""
        for attempt in range(_GHOST_TRIES + 1):
            speaker = BOT if attempt == _GHOST_TRIES else await self._speaker(room_id, wanted, delivery)
            content = await self._compose(delivery, uploaded, images, named=speaker.named)
            self._check_sendable(delivery.channel)  # a file took its time: the room may be encrypted by now
            try:
                return await self._put_message(room_id, content, delivery, speaker.identity), content
            except _GhostRefused as error:
                if speaker.identity is not None:
                    await self.ghosts.recover(speaker.identity, room_id, error.refused, rejoin=False)
        raise RuntimeError("the bot is no ghost")

    async def _speaker(self, room_id: str, wanted: Delivery, delivery: Delivery) -> Speaker:
        author = delivery.author
        if author is None or not self.makes_ghosts:
            return BOT
        late = author.avatar is None and wanted.author is not None
        return await self.ghosts.speaker(
            room_id,
            author,
            # A system message about somebody is a notice, and so is all that bots write.
            has_spoken=author.is_bot or delivery.content.style != "notice",
            picture_late=late and wanted.author is not None and wanted.author.avatar is not None,
        )

    async def _put_message(self, room_id: str, content: Json, delivery: Delivery, identity: Identity | None) -> str:
        try:
            return await self._put(room_id, content, delivery.key, identity=identity)
        except TargetGone:
            if delivery.thread is not None or delivery.reply_to is None:
                raise
            # The homeserver does not know the message that this one replies to. The text matters more than the reply.
            content.pop("m.relates_to", None)
            return await self._put(room_id, content, delivery.key, identity=identity)

    async def post_again(
        self, event: Json, content: Json, before: ChannelRef, channel: ChannelRef, key: str
    ) -> MessageRef:
        """Post in a room that is not declared yet what one of our accounts said in the one before, as that account.

        Where that is not possible the bot says it, under the name that the account had. Raises as `send` does.
        """
        await self._check_editable(channel)
        account = str(event.get("sender"))
        for _ in range(_GHOST_TRIES):
            identity = await self.ghosts.identity(account)
            if identity is None:
                break  # the bot itself, or a ghost as which we may not act
            try:
                return MessageRef(channel, await self._put(channel.id, content, key, identity=identity))
            except _GhostRefused as error:
                with suppress(Permanent):
                    if await self.ghosts.recover(identity, channel.id, error.refused, rejoin=True):
                        continue
                break
        if account != self.api.user_id and not is_named(content):
            await self.load_member(before.id, account)
            user = self.ghosts.accounts.person(account) or UserRef(Platform.MATRIX, account)
            content = with_author(content, Author(user, self.rooms.state(before.id).profile(account).name))
        return MessageRef(channel, await self._put(channel.id, content, key))

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`. The room may be one that was declared before, or has been replaced."""
        room_id = await self._check_editable(delivery.channel)
        # Asked first, because a homeserver accepts an edit of a redacted message, and keeps the new text.
        event = await self.event(target)
        if event is None:
            raise TargetGone(f"{target.id} is not there any more")
        # Homeservers accept an edit of somebody else's message, but no client shows it.
        identity = await self._poster(event, room_id)
        file = file_content(delivery, event["content"])
        if file is None:
            raise CopyNotEditable("it was posted with another file, which no edit can change")
        delivery, images = await self._with_images(delivery)
        named = identity is None or is_named(event["content"])
        content = await self._compose(delivery, None, images, named=named) | file
        content["body"] = content["body"] or content.get("filename", "")
        serialised = _serialised(content)
        if self._last_sent.says(target.id, serialised):
            return
        self._last_sent.forget(target.id)
        # An earlier attempt may have had other content. With its transaction ID, nothing would change.
        key = f"{delivery.key}.{hashlib.sha256(serialised.encode()).hexdigest()[:20]}"
        edited = edit_content(target, content)
        try:
            await self._put(room_id, edited, key, identity=identity)
        except _GhostRefused as error:
            if identity is None or not await self.ghosts.recover(identity, room_id, error.refused, rejoin=True):
                raise self._not_editable(str(event.get("sender")), room_id) from error
            identity = await self._poster(event, room_id)
            await self._put(room_id, edited, key, identity=identity)
        self._last_sent.put(target.id, serialised)

    async def _poster(self, event: Json, room_id: str) -> Identity | None:
        """Whoever posted a message, to change it as they; None: the bot did. Raises what `_not_editable` says.

        The homeserver knows who posted it, so that is written down nowhere else.
        """
        sender = str(event.get("sender"))
        if sender == self.api.user_id:
            return None
        identity = await self.ghosts.identity(sender)
        if identity is None:
            raise self._not_editable(sender, room_id)
        return identity

    def _not_editable(self, sender: str, room_id: str) -> DeliveryError:
        """Another account posted it, as which we may not act now: it is posted again.

        Not where a ghost posted it that may come back, and the bot could not remove that copy: both would stand there.
        """
        may_remove = self.rooms.state(room_id).may_redact(self.api.user_id)
        if not self.ghosts.accounts.is_ghost(sender) or may_remove:
            return CopyNotEditable("another account of the relay posted it")
        if self.ghosts.is_away(sender):
            return Postponed(f"{sender} posted it, and {self.ghosts.why_away}")
        return Permanent(f"{sender} posted it, as which the relay may not act now")

    async def delete(self, target: MessageRef, key: str) -> None:
        """See `Adapter.delete`. By whoever posted it; the bot alone would need the power to redact."""
        path = ("rooms", target.channel.id, "redact", target.id, key)
        identity, sender = None, ""
        if self.ghosts.accounts.has_ghosts:
            event = await self._call("GET", "rooms", target.channel.id, "event", target.id)
            sender = str(event.get("sender"))
            identity = await self.ghosts.identity(sender)
        try:
            try:
                await self._call("PUT", *path, body={}, identity=identity)
            except _GhostRefused as error:
                await self._delete_without_ghost(target, path, error, identity)
        except Permanent as error:
            if not self.ghosts.is_away(sender):
                raise
            raise Postponed(f"{sender} posted it, and {self.ghosts.why_away}") from error

    async def _delete_without_ghost(
        self, target: MessageRef, path: tuple[str, ...], error: _GhostRefused, identity: Identity | None
    ) -> None:
        """Redact what a ghost posted that is not in the room any more: by the bot, else the ghost comes back for it."""
        room_id = target.channel.id
        try:
            await self._call("PUT", *path, body={})
        except (ActionNeeded, Permanent):
            if identity is None or not await self.ghosts.recover(identity, room_id, error.refused, rejoin=True):
                raise
            try:
                await self._call("PUT", *path, body={}, identity=await self.ghosts.identity(identity.user_id))
            except _GhostRefused as again:
                raise Permanent(str(again)) from again
            finally:
                # Its person may have left; if not, it comes back when it speaks.
                await self.ghosts.leave_at_once(identity, room_id)

    async def mark(self, source: MessageRef, *, done: bool) -> bool:
        """See `Adapter.mark`."""
        state = self.rooms.state(source.channel.id)
        if self.rooms.send_blocker(source.channel.id) or not state.may_send(self.api.user_id, "m.reaction"):
            return False
        relation = {"rel_type": "m.annotation", "event_id": source.id, "key": _DONE if done else _FAILED}
        key = ("d" if done else "f") + hashlib.sha256(source.id.encode()).hexdigest()[:20]
        try:
            await self._put(source.channel.id, {"m.relates_to": relation}, key, kind="m.reaction")
        except (ActionNeeded, Permanent):
            # Permanent: the reaction is there already (M_DUPLICATE_ANNOTATION), or reactions are not allowed.
            return False
        return True

    async def event(self, ref: MessageRef) -> Json | None:
        """An event; None if it is redacted. Raises `TargetGone` if it is unknown or hidden: the answer is the same."""
        event = await self._call("GET", "rooms", ref.channel.id, "event", ref.id)
        redacted = "redacted_because" in as_dict(event.get("unsigned"))
        return None if redacted or not event.get("content") else event

    async def load_member(self, room_id: str, user_id: str) -> None:
        """Learn the name of a member who has not written since the start. Raises `Transient`.

        Where the room's members are not shown to us, because we are out of it for a while: as it is elsewhere.
        """
        state = self.rooms.state(room_id)
        if state.knows_member(user_id):
            return
        try:
            try:
                content = await self._call("GET", "rooms", room_id, "state", "m.room.member", user_id)
            except _NOT_SHOWN:
                content = {**await self._call("GET", "profile", user_id), "membership": "join"}
        except _NOT_SHOWN as error:
            _log.info("member not named", room=room_id, reason=str(error))
        else:
            state.apply({"type": "m.room.member", "state_key": user_id, "content": content})

    async def _compose(
        self, delivery: Delivery, uploaded: UploadedFile | None, images: ImageCopies, *, named: bool = True
    ) -> Json:
        size = weight(delivery.content)
        return await self.conversions.run(size, compose, delivery, uploaded, images, named=named)

    async def _with_images(self, delivery: Delivery) -> tuple[Delivery, ImageCopies]:
        """The delivery with its author's avatar, and where the emoji in it are; both on this homeserver."""
        sources = [node.source for node in walk(delivery.content.text.blocks) if isinstance(node, CustomEmoji)]
        images = await self.media.copies(sources)
        if delivery.author is not None:
            delivery = replace(delivery, author=await self.media.with_avatar(delivery.author))
        return delivery, images

    def _check_sendable(self, channel: ChannelRef) -> str:
        """The ID of the room. Raises `ActionNeeded` if we cannot send there: never unencrypted to an encrypted room."""
        problem = self.rooms.send_blocker(channel.id)
        if problem is not None:
            raise ActionNeeded(problem.rstrip("."))
        return channel.id

    async def _check_editable(self, channel: ChannelRef) -> str:
        if self.rooms.find(channel.id) is not None:
            return self._check_sendable(channel)
        try:
            await self._call("GET", "rooms", channel.id, "state", "m.room.encryption", "")
        except TargetGone:
            return channel.id
        raise ActionNeeded(f"{channel.id} is encrypted by now")

    async def _put(
        self, room_id: str, content: Json, key: str, kind: str = "m.room.message", identity: Identity | None = None
    ) -> str:
        answer = await self._call("PUT", "rooms", room_id, "send", kind, key, body=content, identity=identity)
        event_id = answer.get("event_id")
        if not isinstance(event_id, str) or not is_event_id(event_id):
            raise Transient("the homeserver did not say which event it made", ambiguous=True, failed=True)
        return event_id

    async def _find_earlier(self, delivery: Delivery, images: ImageCopies) -> str | None:
        """The event that is the delivery's already."""
        if delivery.restored_since is not None:
            return await self._find_unrecorded(delivery, images, delivery.restored_since)
        return await self._find_earlier_attempt(delivery, images)

    async def _find_unrecorded(self, delivery: Delivery, images: ImageCopies, since: datetime) -> str | None:
        """The copy of a message that crossed after the backup was made that our store was restored from.

        The first that says the same, or has been edited to.
        """
        known = self._unrecorded.get(delivery.channel.id)
        if known is None:
            known = self._unrecorded[delivery.channel.id] = await self._made_since(delivery, since)
        ghosts = [] if delivery.author is None else self.ghosts.accounts.ghosts_of(delivery.author.user)
        named = fingerprint(await self._compose(delivery, None, images))
        unnamed = fingerprint(await self._compose(delivery, None, images, named=False))
        for event in known:
            says = (named, unnamed) if event.sender in ghosts else (named,)
            if (event.sender in ghosts or event.sender == self.api.user_id) and any(it in says for it in event.says):
                known.remove(event)
                _log.info("copy found that the backup does not know", event_id=event.id)
                return event.id
        return None

    async def _made_since(self, delivery: Delivery, since: datetime) -> list["_Unrecorded"]:
        """The messages of our accounts in a room since a moment that are not on record, oldest first."""
        now = self.clock.now()
        query: dict[str, str | list[str]] = {"dir": "b", "limit": "100"}
        query["filter"] = json.dumps({"types": ["m.room.message"]})
        found: list[_Unrecorded] = []
        edits: dict[str, Json] = {}
        for _ in range(_PAGES_OF_A_GAP):
            page = await self._call("GET", "rooms", delivery.channel.id, "messages", query=query)
            events = as_list(page.get("chunk"))
            for event in events:
                event_id, sender, content = str(event.get("event_id")), str(event.get("sender")), event.get("content")
                if sender != self.api.user_id and not self.ghosts.accounts.is_ghost(sender):
                    continue
                if new := as_dict(as_dict(content).get("m.new_content")):
                    # The newest edit comes first.
                    edits.setdefault(str(as_dict(as_dict(content).get("m.relates_to")).get("event_id")), new)
                elif "body" in as_dict(content) and not await delivery.on_record(
                    MessageRef(delivery.channel, event_id)
                ):
                    says = [as_dict(content), *([edits[event_id]] if event_id in edits else [])]
                    found.append(_Unrecorded(event_id, sender, tuple(map(fingerprint, says))))
            if not page.get("end") or (events and _age(events[-1], now) > now - since + _CLOCK_SKEW):
                break
            query["from"] = str(page["end"])
        return found[::-1]

    async def _find_earlier_attempt(self, delivery: Delivery, images: ImageCopies) -> str | None:
        """The event that an earlier attempt made, if the homeserver may not tell that by the transaction ID.

        It may have forgotten it; or the attempt was made by a ghost and this one is to be made by the bot, or the other
        way round, or before a new login: transaction IDs are known per account and device.
        """
        if delivery.queued_at is None:
            return None
        ghosts = [] if delivery.author is None else self.ghosts.accounts.ghosts_of(delivery.author.user)
        now = self.clock.now()
        is_young = timedelta() <= now - delivery.queued_at < _TRANSACTION_ID_REMEMBERED
        is_young = is_young and delivery.queued_at >= self.logged_in_since()
        if is_young and not ghosts and not delivery.last_try:
            return None  # It still knows the ID. A negative age does not count: the clock was set back.
        named = fingerprint(await self._compose(delivery, None, images))
        unnamed = fingerprint(await self._compose(delivery, None, images, named=False))
        other_words: str | None = None
        async for event in self._posted_since(delivery, [self.api.user_id, *ghosts]):
            content, sender = event["content"], event.get("sender")
            is_same = fingerprint(content) in ((named,) if sender == self.api.user_id else (named, unnamed))
            # What a mention becomes may differ between two tries. With another account, no transaction ID tells.
            is_theirs = bool(ghosts) and (sender in ghosts or is_named(content, delivery.author))
            may_differ = is_theirs and delivery.alone and delivery.after is not None and other_words is None
            if not (is_same or may_differ):
                continue
            found = MessageRef(delivery.channel, str(event["event_id"]))
            if await delivery.on_record(found):
                continue
            if is_same:
                _log.info("earlier try adopted", event_id=found.id)
                return found.id
            other_words = found.id
        if other_words is not None:
            _log.info("earlier try adopted", event_id=other_words)
        return other_words

    async def _posted_since(self, delivery: Delivery, senders: list[str]) -> AsyncIterator[Json]:
        """Messages of these accounts, newest first, back to where an earlier try of `delivery` cannot be."""
        now = self.clock.now()
        # The lane's last copy ends the search, and another ghost may have posted that.
        after = None if delivery.after is None else await self._sender_of(delivery.channel, delivery.after)
        asked = [*senders, after] if after is not None and after not in senders else senders
        own = json.dumps({"senders": asked, "types": ["m.room.message"]})
        query: dict[str, str | list[str]] = {"dir": "b", "limit": "100", "filter": own}
        for _ in range(_PAGES_SEARCHED):
            page = await self._call("GET", "rooms", delivery.channel.id, "messages", query=query)
            for event in as_list(page.get("chunk")):
                if delivery.after is not None and event.get("event_id") == delivery.after.id:
                    return
                since_queued = now - (delivery.queued_at or now)
                if after is None and _age(event, now) > since_queued + _CLOCK_SKEW:
                    return
                content = as_dict(event.get("content"))
                if event.get("sender") in senders and "body" in content and "m.new_content" not in content:
                    yield event
            if not page.get("end"):
                return
            query["from"] = str(page["end"])

    async def _sender_of(self, channel: ChannelRef, message: MessageRef) -> str | None:
        """Who posted a message; None if it is not in that room, which may have replaced another one."""
        try:
            event = await self._call("GET", "rooms", channel.id, "event", message.id)
        except TargetGone:
            return None
        return str(event.get("sender"))

    async def _call(
        self,
        method: str,
        *path: str,
        body: Json | None = None,
        query: dict[str, str | list[str]] | None = None,
        identity: Identity | None = None,
    ) -> Json:
        try:
            return await self.api.call(method, *path, body=body, query=query, identity=identity)
        except Unreachable as error:
            if await self._is_blocked(path, error):
                reason = f"something in front of the homeserver refuses this message (status {error.status})"
                raise Permanent(reason) from error
            raise Transient(str(error), ambiguous=error.sent, failed=error.answered) from error
        except Refused as refused:
            if identity is not None and (refused.status in {401, 403} or refused.code == "M_UNKNOWN_DEVICE"):
                raise _GhostRefused(refused) from refused
            if is_token_refusal(refused):
                self.token_refused()
            if refused.code == "M_FORBIDDEN" and path[0] == "rooms":
                raise await self._forbidden(path[1], refused) from refused
            raise delivery_error(refused, self.api.user_id) from refused

    async def _is_blocked(self, path: tuple[str, ...], error: Unreachable) -> bool:
        """Whether the words of a message are refused by something in front of the homeserver."""
        if path[2:3] != ("send",):
            return False
        typing = (*path[:2], "typing", self.api.user_id)
        return await self._firewall.refuses(
            path[-1], error, lambda: self.api.call("PUT", *typing, body={"typing": False})
        )

    async def _forbidden(self, room_id: str, refused: Refused) -> DeliveryError:
        """Whether we may not write in the room, or only this message is forbidden (a spam checker, a policy server)."""
        me = self.api.user_id
        if self.rooms.find(room_id) is None:
            # It was mirrored before; after an upgrade mostly nobody but moderators may write there.
            return ActionNeeded(f"{me} may not write in {room_id} any more ({refused.reason or refused.code})")
        problem = self.rooms.send_blocker(room_id)
        if problem is not None:
            return ActionNeeded(problem.rstrip("."))
        state = copy.copy(self.rooms.state(room_id))
        try:
            # Asked again, because our state of the room may be a moment old.
            member = await self._state_event(room_id, "m.room.member", me)
            power = await self._state_event(room_id, "m.room.power_levels", "")
        except Unreachable as error:
            return Transient(str(error), failed=error.answered)
        except Refused as unknown:
            return delivery_error(unknown, me)
        state.apply({"type": "m.room.power_levels", "state_key": "", "content": power})
        if member.get("membership") != "join" or not state.may_send(me):
            return delivery_error(refused, me)
        # Usually we may redact our own messages. If the room forbids that, what follows must not wait for it.
        return Permanent(f"the homeserver forbids it ({refused.reason or refused.code})")

    async def _state_event(self, room_id: str, kind: str, key: str) -> Json:
        """The content of a state event; empty if the room has none of that kind."""
        try:
            return await self.api.call("GET", "rooms", room_id, "state", kind, key)
        except Refused as refused:
            if refused.code != "M_NOT_FOUND":
                raise
            return {}


def _serialised(content: Json) -> str:
    """The content of a message without its relations, to compare it with another one."""
    return json.dumps({key: value for key, value in content.items() if key != "m.relates_to"}, sort_keys=True)


def _age(event: Json, now: datetime) -> timedelta:
    """How old an event is, as the homeserver says; else by its time stamp and our clock."""
    age = as_dict(event.get("unsigned")).get("age")
    if isinstance(age, int) and not isinstance(age, bool) and abs(age) < _LONGEST_AGE:
        return timedelta(milliseconds=age)
    return now - timestamp(event.get("origin_server_ts"))


def delivery_error(refused: Refused, me: str) -> DeliveryError:
    """The homeserver's error as one of the core's (https://spec.matrix.org/latest/client-server-api/#standard-error-response)."""
    reason = refused.reason or refused.code or f"status {refused.status}"
    if refused.status == 429:
        return RateLimited("the homeserver limits our requests", retry_after=refused.retry_after)
    if is_token_refusal(refused):
        return Transient("the homeserver refuses the access token")
    if refused.status >= 500 or refused.status == 408:
        return Transient(
            f"the homeserver failed ({reason})", retry_after=refused.retry_after, ambiguous=True, failed=True
        )
    if refused.status == 403:
        return ActionNeeded(f"the homeserver forbids it ({reason}): let {me} into the room and allow it to write there")
    # "unknown event": Synapse's text for a relation to an event that it does not have; it has no code for that.
    if refused.code == "M_NOT_FOUND" or "unknown event" in reason.lower():
        return TargetGone(reason)
    if refused.code == "M_UNRECOGNIZED":
        # For example a proxy sent the request to the wrong place: this says nothing against the message.
        return Transient(f"the homeserver does not know such a request ({reason})", failed=True)
    return Permanent(f"the homeserver refuses it ({reason})")
