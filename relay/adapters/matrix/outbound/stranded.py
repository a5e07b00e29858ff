"""What the relay posted in a room behind its tombstone is posted again in the room that has replaced it.

Until sync tells of an upgrade, the relay goes on in the old room. Where it has the power to write there, the homeserver
takes that, and nobody reads it.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable

from relay.adapters.matrix.api.client import Refused, Unreachable
from relay.adapters.matrix.identifiers import is_event_id
from relay.adapters.matrix.inbound.events import is_by_hand
from relay.adapters.matrix.outbound.sender import MessageSender, delivery_error
from relay.adapters.matrix.rooms.state import TOMBSTONE
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.errors import ActionNeeded, Permanent, TargetGone, Transient, Unsupported
from relay.logs import get_logger

_log = get_logger(__name__)

_PAGES, _PAGE = 100, 100
# Of accounts that are asked for by name: a homeserver, or what stands before it, takes no address of any length.
_MOST_SENDERS = 50
# Trying again later would change nothing.
_REFUSED = (ActionNeeded, Permanent, TargetGone, Unsupported)


async def post_again(
    sender: MessageSender, room_id: str, successor: str, patient: bool
) -> dict[MessageRef, MessageRef]:
    """Post it in the same order, by the same accounts; where each message is then. Raises `Transient`.

    If not `patient`, a message with which the homeserver fails stays where it is: the others must not wait for ever.

    All of it can be repeated: a message has the same transaction ID each time. Where the homeserver tells the one that
    it was sent with, it is that one, so that a lane that does not know whether it was sent finds it in the new room.
    """
    here, there = ChannelRef(Platform.MATRIX, room_id), ChannelRef(Platform.MATRIX, successor)
    posted: dict[str, str] = {}
    for event in await _stranded(sender, room_id, successor):
        event_id = as_string(event.get("event_id"))
        key = as_string(as_dict(event.get("unsigned")).get("transaction_id")) or _key("r", event_id)
        try:
            again = await sender.post_again(event, _content(event, posted), here, there, key)
            if again.id == event_id:
                # Nothing was posted: this homeserver (continuwuity, tuwunel) knows the ID in whatever room.
                again = await sender.post_again(event, _content(event, posted), here, there, _key("r", event_id))
        except (*_REFUSED, Transient) as error:
            is_refused = isinstance(error, _REFUSED)
            if isinstance(error, Transient) and not is_refused and (patient or not error.failed):
                raise
            _log.warning("not posted again", room=room_id, event_id=event_id, new=successor, reason=str(error))
            continue
        posted[event_id] = again.id
    if posted:
        _log.info("posted again in the replacement", room=room_id, new=successor, messages=len(posted))
    return {MessageRef(here, before): MessageRef(there, now) for before, now in posted.items()}


async def take_back(sender: MessageSender, messages: Iterable[MessageRef]) -> None:
    """Remove from the old room what is in the new one. What stays goes when its original is deleted.

    Raises `Transient`.
    """
    for message in messages:
        try:
            await sender.delete(message, _key("t", message.id))
        except _REFUSED as error:
            _log.info("not taken back", room=message.channel.id, event_id=message.id, reason=str(error))


async def _stranded(sender: MessageSender, room_id: str, successor: str) -> list[Json]:
    """What our accounts said behind the tombstone, the oldest first, with the words of the last edit."""
    found: list[Json] = []
    edits: dict[str, Json] = {}
    try:
        async for event in _newest_first(sender, room_id):
            content = as_dict(event.get("content"))
            if _is_tombstone(event) and content.get("replacement_room") == successor:
                return found[::-1]
            if not content or "state_key" in event or not _is_ours(event, sender):
                continue
            relation = as_dict(content.get("m.relates_to"))
            if relation.get("rel_type") == "m.replace":
                edits.setdefault(as_string(relation.get("event_id")), as_dict(content.get("m.new_content")))
            elif is_event_id(event_id := as_string(event.get("event_id"))):
                found.append(event | {"content": _edited(content, edits.get(event_id))})
    except _REFUSED as error:
        reason = str(error)
    else:
        reason = "its tombstone is not among the last events"
    # Without it, all that is in the room might be taken for stranded.
    remedy = "look there for the last messages that crossed"
    _log.warning(
        "what crossed behind a tombstone stays there", room=room_id, new=successor, reason=reason, remedy=remedy
    )
    return []


async def _newest_first(sender: MessageSender, room_id: str) -> AsyncIterator[Json]:
    wanted: dict[str, list[str]] = {"types": ["m.room.message", TOMBSTONE]}
    # Not what others go on to say there, where nobody keeps them from it: there may be any number of that.
    senders = {sender.api.user_id, sender.rooms.state(room_id).upgrader}
    if sender.ghosts.made is not None:
        senders.update(await sender.ghosts.made.inside(ChannelRef(Platform.MATRIX, room_id)))
    if len(senders) <= _MOST_SENDERS:
        wanted["senders"] = sorted(senders)
    query: dict[str, str | list[str]] = {"dir": "b", "limit": str(_PAGE), "filter": json.dumps(wanted)}
    for _ in range(_PAGES):
        try:
            page = await sender.api.call("GET", "rooms", room_id, "messages", query=query)
        except Unreachable as error:
            raise Transient(str(error), failed=error.answered) from error
        except Refused as refused:
            raise delivery_error(refused, sender.api.user_id) from refused
        for event in as_list(page.get("chunk")):
            yield as_dict(event)
        if not page.get("end"):
            return
        query["from"] = str(page["end"])


def _is_tombstone(event: Json) -> bool:
    """Not what has only its type: another homeserver lets its members send that where they may write."""
    return event.get("type") == TOMBSTONE and event.get("state_key") == ""


def _is_ours(event: Json, sender: MessageSender) -> bool:
    me, account = sender.api.user_id, as_string(event.get("sender"))
    return sender.ghosts.accounts.is_ghost(account) or (account == me and not is_by_hand(event, me))


def _edited(content: Json, edit: Json | None) -> Json:
    """What a message says now; an edit leaves its relations as they are."""
    if not edit:
        return content
    return edit | {key: content[key] for key in ("m.relates_to",) if key in content}


def _content(event: Json, posted: dict[str, str]) -> Json:
    """The same words. What they answer is in the new room only where it was posted again."""
    content = {key: value for key, value in as_dict(event.get("content")).items() if key != "m.relates_to"}
    relation = as_dict(as_dict(event.get("content")).get("m.relates_to"))
    answered = posted.get(as_string(as_dict(relation.get("m.in_reply_to")).get("event_id")))
    return content if answered is None else content | {"m.relates_to": {"m.in_reply_to": {"event_id": answered}}}


def _key(prefix: str, event_id: str) -> str:
    return prefix + hashlib.sha256(event_id.encode()).hexdigest()[:20]
