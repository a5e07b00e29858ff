"""Deliveries to requests, and what the homeserver says against them to errors of ours: here and nowhere else."""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.identifiers import is_event_id
from relay.adapters.matrix.inbound.events import moment
from relay.adapters.matrix.media import MediaRepository
from relay.adapters.matrix.outbound.compose import (
    Pictures,
    UploadedFile,
    compose,
    edit_content,
    file_content,
    fingerprint,
)
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.core.last_sent import LastSent
from relay.core.offload import Conversions
from relay.core.ports import Clock, Delivery
from relay.domain.ids import ChannelRef, MessageRef
from relay.domain.jsontext import Json, as_list
from relay.domain.text.nodes import CustomEmoji
from relay.domain.text.rewrite import walk, weight
from relay.errors import ActionNeeded, CopyNotEditable, DeliveryError, Permanent, RateLimited, TargetGone, Transient

_log = structlog.get_logger(__name__)

_FAILED = "❌"
# Synapse remembers a transaction ID for a day.
_REMEMBERED = timedelta(hours=20)
_PAGES_SEARCHED = 20
_CLOCKS_DIFFER = timedelta(hours=1)
_LONGEST_AGE = 10**15  # In milliseconds.


class MessageSender:
    """Sends, edits and redacts. Safe to repeat: the transaction ID is the delivery's key, with an edit's words."""

    def __init__(
        self,
        api: Api,
        rooms: DeclaredRooms,
        media: MediaRepository,
        clock: Clock,
        token_refused: Callable[[], None],
        conversions: Conversions,
    ) -> None:
        self._conversions = conversions
        self._api = api
        self._media = media
        self._rooms = rooms
        self._clock = clock
        self._token_refused = token_refused
        self._last_sent = LastSent()

    async def send(self, delivery: Delivery) -> MessageRef:
        """See `Adapter.send`."""
        room_id = self._writable(delivery.channel)
        delivery, pictures = await self._illustrated(delivery)
        content = await self._composed(delivery, None, pictures)
        if delivery.suspect and (found := await self._earlier_try(delivery, content)) is not None:
            return MessageRef(delivery.channel, found)
        if delivery.suspect and delivery.last_try:
            raise Permanent("the homeserver fails at it every time, while it takes other messages")
        if delivery.content.attachments:
            uploaded = await self._media.upload(delivery.content.attachments[0], delivery.key, delivery.sender)
            content = await self._composed(delivery, uploaded, pictures)
        try:
            event_id = await self._put(room_id, content, delivery.key)
        except TargetGone:
            if delivery.thread is not None or delivery.reply_to is None:
                raise
            # What it answers is not known here: the words matter more.
            content.pop("m.relates_to", None)
            event_id = await self._put(room_id, content, delivery.key)
        if not delivery.suspect:
            # Where an earlier try was carried out, the answer names its event, which may say something else.
            self._last_sent.put(event_id, _said(content))
        return MessageRef(delivery.channel, event_id)

    async def edit(self, target: MessageRef, delivery: Delivery) -> None:
        """See `Adapter.edit`. The room may be one that was declared before, or has been replaced."""
        room_id = await self._changeable(delivery.channel)
        # A homeserver takes an edit of a redacted message without a word, and keeps its text.
        event = await self.event(target)
        if event is None:
            raise TargetGone(f"{target.id} is not there any more")
        if event.get("sender") != self._api.user_id:
            # Homeservers take an edit of somebody else's message without a word, and nobody is shown it.
            raise CopyNotEditable("another account of the relay posted it")
        file = file_content(delivery, event["content"])
        if file is None:
            raise CopyNotEditable("it stands with another file, which no edit can change")
        delivery, pictures = await self._illustrated(delivery)
        content = await self._composed(delivery, None, pictures) | file
        content["body"] = content["body"] or content.get("filename", "")
        said = _said(content)
        if self._last_sent.says(target.id, said):
            return
        self._last_sent.forget(target.id)
        # Under the transaction ID of an earlier try, which may have said something else, nothing would change.
        key = f"{delivery.key}.{hashlib.sha256(said.encode()).hexdigest()[:20]}"
        await self._put(room_id, edit_content(target, content), key)
        self._last_sent.put(target.id, said)

    async def delete(self, target: MessageRef, key: str) -> None:
        """See `Adapter.delete`."""
        await self._call("PUT", "rooms", target.channel.id, "redact", target.id, key, body={})

    async def mark_failed(self, source: MessageRef) -> bool:
        """React to a message that did not cross. False where we may not."""
        state = self._rooms.state(source.channel.id)
        if self._rooms.send_blocker(source.channel.id) or not state.may_send(self._api.user_id, "m.reaction"):
            return False
        relation = {"rel_type": "m.annotation", "event_id": source.id, "key": _FAILED}
        key = "f" + hashlib.sha256(source.id.encode()).hexdigest()[:20]
        try:
            await self._put(source.channel.id, {"m.relates_to": relation}, key, kind="m.reaction")
        except (ActionNeeded, Permanent):
            # Permanent: the reaction is there already (M_DUPLICATE_ANNOTATION), or reactions are not allowed.
            return False
        return True

    async def event(self, ref: MessageRef) -> Json | None:
        """An event; None if it is redacted. Raises `TargetGone` where it is unknown, or hidden: nobody tells which."""
        event = await self._call("GET", "rooms", ref.channel.id, "event", ref.id)
        unsigned = event.get("unsigned")
        redacted = isinstance(unsigned, dict) and "redacted_because" in unsigned
        return None if redacted or not event.get("content") else event

    async def load_member(self, room_id: str, user_id: str) -> None:
        """Learn the name of a member of whom nothing has been heard since the start. It is not worth waiting for."""
        state = self._rooms.state(room_id)
        if state.knows_member(user_id):
            return
        try:
            content = await self._call("GET", "rooms", room_id, "state", "m.room.member", user_id)
        except DeliveryError as error:
            _log.info("member not named", room=room_id, reason=str(error))
        else:
            state.apply({"type": "m.room.member", "state_key": user_id, "content": content})

    async def _composed(self, delivery: Delivery, uploaded: UploadedFile | None, pictures: Pictures) -> Json:
        return await self._conversions.run(weight(delivery.content), compose, delivery, uploaded, pictures)

    async def _illustrated(self, delivery: Delivery) -> tuple[Delivery, Pictures]:
        """The delivery with its author's avatar, and where the emoji in it stand."""
        sources = [node.source for node in walk(delivery.content.text.blocks) if isinstance(node, CustomEmoji)]
        pictures = await self._media.pictures(sources)
        if delivery.author is not None:
            delivery = replace(delivery, author=await self._media.author(delivery.author))
        return delivery, pictures

    def _writable(self, channel: ChannelRef) -> str:
        # Asked before each send: into an encrypted room not a word may go in clear.
        problem = self._rooms.send_blocker(channel.id)
        if problem is not None:
            raise ActionNeeded(problem.rstrip("."))
        return channel.id

    async def _changeable(self, channel: ChannelRef) -> str:
        if self._rooms.find(channel.id) is not None:
            return self._writable(channel)
        try:
            await self._call("GET", "rooms", channel.id, "state", "m.room.encryption", "")
        except TargetGone:
            return channel.id
        raise ActionNeeded(f"{channel.id} is encrypted by now")

    async def _put(self, room_id: str, content: Json, key: str, kind: str = "m.room.message") -> str:
        answer = await self._call("PUT", "rooms", room_id, "send", kind, key, body=content)
        event_id = answer.get("event_id")
        if not isinstance(event_id, str) or not is_event_id(event_id):
            raise Transient("the homeserver did not say which event it made", ambiguous=True, failed=True)
        return event_id

    async def _earlier_try(self, delivery: Delivery, content: Json) -> str | None:
        """The event that an earlier try made, where the homeserver may have forgotten its transaction ID."""
        if delivery.queued_at is None:
            return None
        now = self._clock.now()
        if timedelta() <= now - delivery.queued_at < _REMEMBERED and not delivery.last_try:
            return None  # a clock that was set back says nothing
        wanted = fingerprint(content)
        ours = json.dumps({"senders": [self._api.user_id], "types": ["m.room.message"]})
        query: dict[str, str | list[str]] = {"dir": "b", "limit": "100", "filter": ours}
        for _ in range(_PAGES_SEARCHED):
            page = await self._call("GET", "rooms", delivery.channel.id, "messages", query=query)
            for event in as_list(page.get("chunk")):
                if delivery.after is not None and event.get("event_id") == delivery.after.id:
                    return None
                said = event.get("content") or {}
                if fingerprint(said) == wanted and "m.new_content" not in said:
                    found = MessageRef(delivery.channel, str(event["event_id"]))
                    if not await delivery.on_record(found):
                        _log.info("adopted an earlier try", event_id=found.id)
                        return found.id
                if delivery.after is None and _age(event, now) > now - delivery.queued_at + _CLOCKS_DIFFER:
                    return None
            if not page.get("end"):
                return None
            query["from"] = str(page["end"])
        return None

    async def _call(
        self,
        method: str,
        *path: str,
        body: Json | None = None,
        query: dict[str, str | list[str]] | None = None,
    ) -> Json:
        try:
            return await self._api.call(method, *path, body=body, query=query)
        except Unreachable as error:
            raise Transient(str(error), ambiguous=error.sent, failed=error.answered) from error
        except Refused as refused:
            if is_token_refusal(refused):
                self._token_refused()
            if refused.code == "M_FORBIDDEN" and path[0] == "rooms":
                raise await self._forbidden(path[1], refused) from refused
            raise translate(refused, self._api.user_id) from refused

    async def _forbidden(self, room_id: str, refused: Refused) -> DeliveryError:
        """Whether it is us who may not write in the room, or only this (a spam checker, a policy server)."""
        problem = self._rooms.send_blocker(room_id)
        if problem is not None:
            return ActionNeeded(problem.rstrip("."))
        me = self._api.user_id
        state = copy.copy(self._rooms.state(room_id))
        try:
            # What the last sync told may be a moment old.
            member = await self._state_event(room_id, "m.room.member", me)
            power = await self._state_event(room_id, "m.room.power_levels", "")
        except Unreachable as error:
            return Transient(str(error), failed=error.answered)
        except Refused as unknown:
            return translate(unknown, me)
        state.apply({"type": "m.room.power_levels", "state_key": "", "content": power})
        if member.get("membership") != "join" or not state.may_send(me):
            return translate(refused, me)
        # Our own messages can be redacted as a rule; where the room forbids that, it must not hold up what follows.
        return Permanent(f"the homeserver forbids it ({refused.reason or refused.code})")

    async def _state_event(self, room_id: str, kind: str, key: str) -> Json:
        """The content of an event of the room's state; empty where there is none."""
        try:
            return await self._api.call("GET", "rooms", room_id, "state", kind, key)
        except Refused as refused:
            if refused.code != "M_NOT_FOUND":
                raise
            return {}


def _said(content: Json) -> str:
    """What a message says, wherever it stands."""
    return json.dumps({key: value for key, value in content.items() if key != "m.relates_to"}, sort_keys=True)


def _age(event: Json, now: datetime) -> timedelta:
    """How old an event is by the homeserver's clock; by ours where it does not say."""
    unsigned = event.get("unsigned")
    age = unsigned.get("age") if isinstance(unsigned, dict) else None
    if isinstance(age, int) and not isinstance(age, bool) and abs(age) < _LONGEST_AGE:
        return timedelta(milliseconds=age)
    return now - moment(event.get("origin_server_ts"))


def translate(refused: Refused, me: str) -> DeliveryError:
    """An error of the homeserver as one of ours (https://spec.matrix.org/latest/client-server-api/#standard-error-response)."""
    reason = refused.reason or refused.code or f"status {refused.status}"
    if refused.status == 429:
        return RateLimited("the homeserver asks for patience", retry_after=refused.retry_after)
    if is_token_refusal(refused):
        return Transient("the homeserver refuses the access token")
    if refused.status >= 500 or refused.status == 408:
        return Transient(
            f"the homeserver failed ({reason})", retry_after=refused.retry_after, ambiguous=True, failed=True
        )
    if refused.status == 403:
        return ActionNeeded(f"the homeserver forbids it ({reason}): let {me} into the room and allow it to write there")
    # What Synapse says of a relation to an event that it does not have, with no code of its own.
    if refused.code == "M_NOT_FOUND" or "unknown event" in reason.lower():
        return TargetGone(reason)
    if refused.code == "M_UNRECOGNIZED":
        # The request did not get to where requests of its kind are answered: nothing against this message.
        return Transient(f"the homeserver does not know such a request ({reason})", failed=True)
    return Permanent(f"the homeserver refuses it ({reason})")
