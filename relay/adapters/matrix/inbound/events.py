"""Events of a room, as JSON, to domain events. Pure.

Events of state (names, topics, comings and goings) say nothing and come to nothing; everything else that is not
a message is a `FeatureUsed`.
"""

import re
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from relay.adapters.matrix.identifiers import is_event_id, is_user_id
from relay.adapters.matrix.inbound.content import (
    as_string,
    bridged_profile,
    message_content,
    poll_content,
    poll_end_content,
    sticker_content,
)
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.outbound.compose import permalink
from relay.adapters.matrix.rooms.state import MemberProfile, RoomState
from relay.domain.content import Author, Content
from relay.domain.events import Event, FeatureUsed, MessageCreated, MessageDeleted, MessageEdited
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.names import shortened, visible, with_suffix, without_reply_arrow

Json = dict[str, Any]

_POLL_STARTS = frozenset({"m.poll.start", "org.matrix.msc3381.poll.start"})
_POLL_ENDS = frozenset({"m.poll.end", "org.matrix.msc3381.poll.end"})
_MESSAGES = frozenset({"m.room.message", "m.sticker"}) | _POLL_STARTS | _POLL_ENDS
_FEATURES = {
    "m.reaction": "reaction",
    "m.poll.response": "vote",
    "org.matrix.msc3381.poll.response": "vote",
    "m.room.encrypted": "encryption",
    "m.beacon": "location",
    "org.matrix.msc3672.beacon": "location",
}
_CALLS = ("m.call.", "org.matrix.call.", "org.matrix.msc3401.", "org.matrix.msc4075.", "m.rtc.", "org.matrix.msc4143.")
_VERIFICATION = "m.key.verification."
_VIA = re.compile(r"[(\[{⟨<]\s*via\b", re.IGNORECASE)
_LONGEST_VIA = 32
_NO_ROOMS = NameLookup()


def convert(event: Json, state: RoomState, me: str, rooms: NameLookup = _NO_ROOMS) -> Event | None:
    """What an event of the timeline says; None for nothing.

    `me` is the relay's own user ID; `rooms` knows the IDs and names of other rooms.
    """
    kind, sender, event_id = (as_string(event.get(key)) for key in ("type", "sender", "event_id"))
    content = event.get("content")
    if "state_key" in event or not isinstance(content, dict) or not (kind and sender and event_id):
        return None
    channel = ChannelRef(Platform.MATRIX, state.room_id)
    unreadable = FeatureUsed(channel, "unreadable", user_is_self=sender == me)
    if not (is_event_id(event_id) and is_user_id(sender)):
        return unreadable
    if kind == "m.room.redaction":
        # At the top in rooms up to version 10, in the content from version 11 on.
        target = as_string(content.get("redacts")) or as_string(event.get("redacts"))
        if target and not is_event_id(target):
            return unreadable
        return MessageDeleted(MessageRef(channel, target), by_self=sender == me) if target else None
    if not content or "redacted_because" in _unsigned(event):
        return None
    if kind in _MESSAGES and not _is_verification(content):
        if _is_edit(content) and not _target(_relation(content)):
            return unreadable
        names = replace(rooms, user=state.name_of)
        return _message(event, content, state, names, me)
    return FeatureUsed(channel, _feature(kind, content), user_is_self=sender == me)


def is_message(event: Json) -> bool:
    """Whether an event is one that people would call a message: not an edit, not redacted."""
    content = event.get("content")
    if event.get("type") not in _MESSAGES or not isinstance(content, dict) or not content:
        return False
    return not _is_edit(content)


def latest_edit(event: Json) -> Json | None:
    """The edit of an event that stands, as the homeserver aggregates it; None if there is none."""
    relations = _unsigned(event).get("m.relations")
    edit = relations.get("m.replace") if isinstance(relations, dict) else None
    return edit if isinstance(edit, dict) and edit.get("sender") == event.get("sender") else None


_MOST_TYPING = 100
"""People of a room who are counted as typing; others are not remembered."""


def ephemeral_events(
    section: Json, channel: ChannelRef, me: str, was_typing: frozenset[str]
) -> tuple[list[Event], set[str]]:
    """What the `ephemeral` events of a room come to, and who is typing now.

    Each person who begins to type and each receipt is one `FeatureUsed`.
    """
    found: list[Event] = []
    typing = set(was_typing)
    events = section.get("events")
    for event in events if isinstance(events, list) else []:
        content = event.get("content") if isinstance(event, dict) else None
        if not isinstance(content, dict):
            continue
        if event.get("type") == "m.typing":
            users = content.get("user_ids")
            named = (user for user in users if isinstance(user, str)) if isinstance(users, list) else ()
            typing = set(islice(named, _MOST_TYPING))
            found += [FeatureUsed(channel, "typing") for user in sorted(typing - was_typing - {me})]
        elif event.get("type") == "m.receipt":
            found += [FeatureUsed(channel, "receipt") for user in _readers(content) if user != me]
    return found, typing


def _message(event: Json, content: Json, state: RoomState, names: NameLookup, me: str) -> Event:
    channel = ChannelRef(Platform.MATRIX, state.room_id)
    ref = MessageRef(channel, as_string(event.get("event_id")))
    author = _author(as_string(event.get("sender")), content, state, me)
    at = timestamp(event.get("origin_server_ts"))
    relation = _relation(content)
    related = as_string(relation.get("rel_type"))
    target = _target(relation)
    if related == "m.replace" and target:
        new = content.get("m.new_content")
        said = _content(event, new if isinstance(new, dict) else content, names, ref, me, is_reply=False)
        return MessageEdited(MessageRef(channel, target), author, said, at, edit=ref)
    answered = relation.get("m.in_reply_to")
    answered_id = _target(answered) if isinstance(answered, dict) else ""
    thread = ThreadRef(channel, target) if related == "m.thread" and target else None
    if thread is not None and relation.get("is_falling_back") is True:
        # For clients without threads, every message in one "replies" to the one before it.
        answered_id = ""
    if related == "m.reference" and event.get("type") in _POLL_ENDS:
        answered_id = target
    return MessageCreated(
        ref,
        author,
        _content(event, content, names, ref, me, is_reply=isinstance(answered, dict)),
        at,
        reply_to=MessageRef(channel, answered_id) if answered_id else None,
        thread=thread,
    )


def _content(event: Json, content: Json, names: NameLookup, ref: MessageRef, me: str, *, is_reply: bool) -> Content:
    said = _converted(event, content, names, is_reply=is_reply)
    url = permalink(ref)
    return replace(
        said,
        text=without_reply_arrow(said.text),
        attachments=tuple(replace(attachment, url=url) for attachment in said.attachments),
        # Copies of what people on Discord wrote are ours: who means them names us.
        calls_answered=me in _mentioned(content),
    )


def _mentioned(content: Json) -> list[Any]:
    """Whom a message mentions (https://spec.matrix.org/latest/client-server-api/#user-and-room-mentions)."""
    mentions = content.get("m.mentions")
    users = mentions.get("user_ids") if isinstance(mentions, dict) else None
    return users if isinstance(users, list) else []


def _converted(event: Json, content: Json, names: NameLookup, *, is_reply: bool) -> Content:
    kind = event.get("type")
    if kind == "m.sticker":
        return sticker_content(content)
    if kind in _POLL_STARTS:
        return poll_content(content)
    if kind in _POLL_ENDS:
        return poll_end_content(content)
    return message_content(content, names, is_reply=is_reply)


def _author(user_id: str, content: Json, state: RoomState, me: str) -> Author:
    profile = state.profile(user_id)
    handle = user_id.removeprefix("@").partition(":")[0]
    bridged = bridged_profile(content)
    if bridged is not None:
        # Another bridge's bot speaks for somebody. Whose bot it is stays visible: anybody can write such a profile.
        avatar = MediaRef(Platform.MATRIX, bridged.avatar) if bridged.avatar else None
        via = shortened(visible(profile.name) or handle, most=_LONGEST_VIA, most_bytes=2 * _LONGEST_VIA)
        name = bridged.name if user_id == me else with_suffix(visible(bridged.name) or "somebody", f"(via {via})")
        profile = MemberProfile(name, avatar)
    elif _VIA.search(unicodedata.normalize("NFKC", visible(profile.name))):
        # Nobody may look like somebody whom another bridge brings.
        profile = MemberProfile(with_suffix(visible(profile.name) or handle, f"({handle})"), profile.avatar)
    mentions = content.get("m.mentions")
    # Who says whom it mentions, and does not say the room, only wrote the word.
    meant = not isinstance(mentions, dict) or mentions.get("room") is True
    return Author(
        user=UserRef(Platform.MATRIX, user_id),
        name=profile.name,
        avatar=profile.avatar,
        is_self=user_id == me,
        may_broadcast=meant and state.may_broadcast(user_id),
        handle=handle,
    )


def timestamp(milliseconds: Any) -> datetime:
    """A time stamp of an event. Any server can write any number there; what is no time is the epoch."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _feature(kind: str, content: Json) -> str:
    if kind.startswith(_VERIFICATION) or _is_verification(content):
        return "verification"
    if kind.startswith(_CALLS):
        return "call"
    return _FEATURES.get(kind, "unknown")


def _is_verification(content: Json) -> bool:
    return as_string(content.get("msgtype")).startswith(_VERIFICATION)


def _relation(content: Json) -> Json:
    relation = content.get("m.relates_to")
    return relation if isinstance(relation, dict) else {}


def _is_edit(content: Json) -> bool:
    return as_string(_relation(content).get("rel_type")) == "m.replace"


def _target(relation: Json) -> str:
    """The event that a relation is to; "" for none, and for one that cannot be."""
    target = as_string(relation.get("event_id"))
    return target if is_event_id(target) else ""


def _unsigned(event: Json) -> Json:
    unsigned = event.get("unsigned")
    return unsigned if isinstance(unsigned, dict) else {}


def _readers(content: Json) -> list[str]:
    return sorted(
        user
        for receipts in content.values()
        if isinstance(receipts, dict)
        for users in receipts.values()
        if isinstance(users, dict)
        for user in users
    )
