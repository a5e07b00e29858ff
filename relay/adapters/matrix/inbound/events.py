"""Events of a room, as JSON -> domain events. Pure.

State events (names, topics, joins and leaves) are ignored. Everything else that is not a message is a `FeatureUsed`.
"""

import re
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from relay.adapters.matrix.identifiers import is_event_id, is_user_id, permalink
from relay.adapters.matrix.inbound.content import (
    bridged_profile,
    extensible_message,
    message_content,
    poll_content,
    poll_end_content,
    sticker_content,
)
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.rooms.state import MemberProfile, RoomState, joined_profile
from relay.domain.content import Author, Content
from relay.domain.events import (
    Event,
    Feature,
    FeatureUsed,
    MemberBanned,
    MemberUnbanned,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
    PictureChanged,
)
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, PlaceRef, Platform, ThreadRef, UserRef
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.domain.names import shortened, visible, with_suffix, without_reply_arrow
from relay.domain.text.nodes import ChannelMention, Inline, Link, MessageLink, RichText, Text, UserMention, plain_text
from relay.domain.text.normalise import normalise
from relay.domain.text.rewrite import expand_inline, walk

_POLL_STARTS = frozenset({"m.poll.start", "org.matrix.msc3381.poll.start"})
_POLL_ENDS = frozenset({"m.poll.end", "org.matrix.msc3381.poll.end"})
_EXTENSIBLE = frozenset({"m.message", "org.matrix.msc1767.message"})
_MESSAGES = frozenset({"m.room.message", "m.sticker"}) | _EXTENSIBLE | _POLL_STARTS | _POLL_ENDS
_FEATURES: dict[str, Feature] = {
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
_STAR = re.compile(r"\A *\* ")
_NO_ROOMS = NameLookup()
# In front of a command to the relay.
COMMAND = "!relay"
_MOST_WORDS = 8
_MOST_CALLED = 20  # People whom one reply mentions.
_MOST_TYPING = 100  # People in a room of whom it is remembered that they are typing.


def convert(event: Json, state: RoomState, me: str, rooms: NameLookup = _NO_ROOMS) -> Event | None:
    """The domain event of an event in the timeline; None if it has none.

    `me`: the relay's own user ID. `rooms`: looks up the IDs and names of other rooms, and who is a ghost of the relay.
    """
    kind, sender, event_id = (as_string(event.get(key)) for key in ("type", "sender", "event_id"))
    is_self = _is_self(sender, me, rooms)
    content = event.get("content")
    if "state_key" in event or not isinstance(content, dict) or not (kind and sender and event_id):
        return None
    channel = ChannelRef(Platform.MATRIX, state.room_id)
    unreadable = FeatureUsed(channel, "unreadable", user_is_self=is_self)
    if not (is_event_id(event_id) and is_user_id(sender)):
        return unreadable
    if kind == "m.room.redaction":
        # Homeservers should write both, and not all do. The other place may hold anything: whoever redacts a message of
        # their own could name somebody else's there.
        outside, inside = as_string(event.get("redacts")), as_string(content.get("redacts"))
        target = (inside or outside) if state.redactions_name_inside else (outside or inside)
        if target and not is_event_id(target):
            return unreadable
        return MessageDeleted(MessageRef(channel, target), by_self=is_self) if target else None
    if not content or "redacted_because" in _unsigned(event):
        return None
    if kind in _MESSAGES and not _is_verification(content):
        if is_edit(content) and not _target(_relation(content)):
            return unreadable
        names = replace(rooms, user=state.name_of)
        return _message(event, content, state, names, me)
    return FeatureUsed(channel, _feature(kind, content), user_is_self=is_self)


def convert_latest(event: Json, state: RoomState, me: str, rooms: NameLookup = _NO_ROOMS) -> Event | None:
    """As `convert`. But a message says what it was edited to last, which the homeserver adds to the event itself.

    https://spec.matrix.org/latest/client-server-api/#server-side-aggregation-of-mreplace-relationships
    """
    message, edit = convert(event, state, me, rooms), latest_edit(event)
    edited = None if edit is None else convert(edit, state, me, rooms)
    if isinstance(message, MessageCreated) and isinstance(edited, MessageEdited):
        return replace(message, content=edited.content, edited_at=edited.edited_at, edit=edited.edit)
    return message


def echo(event: Json, channel: ChannelRef, me: str, names: NameLookup) -> MessageCreated | None:
    """What the relay said itself; None for anything else. Nothing of it crosses, so what it says is not read."""
    sender, event_id = as_string(event.get("sender")), as_string(event.get("event_id"))
    is_ours = event.get("type") in _MESSAGES and "state_key" not in event and _is_self(sender, me, names)
    if not is_ours or not is_event_id(event_id):
        return None
    author = Author(UserRef(Platform.MATRIX, sender), name=sender, is_self=True)
    return MessageCreated(MessageRef(channel, event_id), author, Content(), timestamp(event.get("origin_server_ts")))


def is_by_hand(event: Json, me: str) -> bool:
    """Whether somebody has written with the relay's own account: the relay says who speaks, or writes notices."""
    if event.get("sender") != me or event.get("type") not in _MESSAGES or "state_key" in event:
        return False
    content = as_dict(event.get("content"))
    return bool(content) and content.get("msgtype") != "m.notice" and bridged_profile(content) is None


def _is_self(user_id: str, me: str, names: NameLookup) -> bool:
    """Whether a user is the relay's own account, or a ghost of it."""
    return user_id == me or names.person(user_id) is not None


def changed_picture(event: Json, room: ChannelRef, me: str, names: NameLookup) -> PictureChanged | None:
    """What an event says, if it is that a member has another picture from now on."""
    content, user_id = event.get("content"), event.get("state_key")
    if event.get("type") != "m.room.member" or not isinstance(content, dict) or not isinstance(user_id, str):
        return None
    before = joined_profile(user_id, as_dict(_unsigned(event).get("prev_content")))
    after = joined_profile(user_id, content)
    if before is None or after is None or before.avatar == after.avatar:
        return None
    author = Author(
        user=UserRef(Platform.MATRIX, user_id),
        name=after.name,
        avatar=after.avatar,
        is_self=_is_self(user_id, me, names),
        handle=_handle(user_id),
    )
    return PictureChanged(room, author)


def ban_event(event: Json, state: RoomState, user: UserRef) -> MemberBanned | MemberUnbanned | None:
    """What a membership event says about a ban of `user`, whose account it is about; None if nothing."""
    content = event.get("content")
    if not isinstance(content, dict):
        return None
    place = PlaceRef(Platform.MATRIX, state.room_id)
    before = as_dict(_unsigned(event).get("prev_content")).get("membership")
    if content.get("membership") != "ban":
        return MemberUnbanned(place, user) if before == "ban" else None
    # Not every homeserver does it, and none sends redactions for it:
    # https://github.com/matrix-org/matrix-spec-proposals/pull/4293
    asked = any(content.get(key) is True for key in ("redact_events", "org.matrix.msc4293.redact_events"))
    return MemberBanned(place, user, removes_all=asked and state.may_redact(as_string(event.get("sender"))))


def is_message(event: Json) -> bool:
    """Whether people would call an event a message: it is not an edit, and not redacted."""
    content = event.get("content")
    if event.get("type") not in _MESSAGES or not isinstance(content, dict) or not content:
        return False
    return not is_edit(content)


def is_edit(content: Json) -> bool:
    """Whether what an event says is what another one says from then on."""
    return as_string(_relation(content).get("rel_type")) == "m.replace"


def latest_edit(event: Json) -> Json | None:
    """The latest edit of an event, as the homeserver adds it to the event; None if there is none."""
    edit = as_dict(_unsigned(event).get("m.relations")).get("m.replace")
    return edit if isinstance(edit, dict) and edit.get("sender") == event.get("sender") else None


def ephemeral_events(
    section: Json, channel: ChannelRef, me: str, was_typing: frozenset[str]
) -> tuple[list[Event], set[str]]:
    """One `FeatureUsed` for each person who begins to type and for each receipt; and who is typing now.

    `section`: the `ephemeral` part of the room in a sync response.
    """
    found: list[Event] = []
    typing = set(was_typing)
    for event in as_list(section.get("events")):
        content = event.get("content") if isinstance(event, dict) else None
        if not isinstance(content, dict):
            continue
        if event.get("type") == "m.typing":
            users = (user for user in as_list(content.get("user_ids")) if isinstance(user, str))
            typing = set(islice(users, _MOST_TYPING))
            found += [FeatureUsed(channel, "typing") for user in sorted(typing - was_typing - {me})]
        elif event.get("type") == "m.receipt":
            found += [FeatureUsed(channel, "receipt") for user in _readers(content) if user != me]
    return found, typing


def _message(event: Json, content: Json, state: RoomState, names: NameLookup, me: str) -> Event:
    channel = ChannelRef(Platform.MATRIX, state.room_id)
    ref = MessageRef(channel, as_string(event.get("event_id")))
    sender = as_string(event.get("sender"))
    author = _author(sender, content, state, is_self=_is_self(sender, me, names))
    at = timestamp(event.get("origin_server_ts"))
    relation = _relation(content)
    related = as_string(relation.get("rel_type"))
    target = _target(relation)
    if related == "m.replace" and target:
        new = content.get("m.new_content")
        new = {"msgtype": content.get("msgtype")} | new if isinstance(new, dict) else _without_star(content)
        edited = _content(event, new, names, ref, me, is_reply=False)
        is_command = _command(content, edited) is not None
        return MessageEdited(MessageRef(channel, target), author, edited, at, edit=ref, is_command=is_command)
    answered = relation.get("m.in_reply_to")
    answered_id = _target(answered) if isinstance(answered, dict) else ""
    thread = ThreadRef(channel, target) if related == "m.thread" and target else None
    if thread is not None and relation.get("is_falling_back") is True:
        # Not a real reply: for clients without threads, each message in a thread "replies" to the one before it.
        answered_id = ""
    if related == "m.reference" and event.get("type") in _POLL_ENDS:
        answered_id = target
    said = _content(event, content, names, ref, me, is_reply=isinstance(answered, dict))
    return MessageCreated(
        ref,
        author,
        said,
        at,
        reply_to=MessageRef(channel, answered_id) if answered_id else None,
        thread=thread,
        command=_command(content, said),
    )


def _without_star(content: Json) -> Json:
    """An edit that says the new text only as clients that know no edits see it, with a star in front."""
    texts = {key: as_string(content.get(key)) for key in ("body", "formatted_body")}
    return content | {key: _STAR.sub("", text) for key, text in texts.items() if text}


def _command(content: Json, said: Content) -> tuple[str, ...] | None:
    """The words behind `!relay`, with which a message begins; None if it does not.

    Not of bots: they write notices, or for other bridges' people, none of whom may speak for all of them.
    """
    if content.get("msgtype") != "m.text" or said.attachments or bridged_profile(content) is not None:
        return None
    line = plain_text(RichText(said.text.blocks[:1])).lstrip().partition("\n")[0]
    first, *words = line.split(maxsplit=_MOST_WORDS) or [""]
    return tuple(words[: _MOST_WORDS - 1]) if first.casefold() == COMMAND else None


def _content(event: Json, content: Json, names: NameLookup, ref: MessageRef, me: str, *, is_reply: bool) -> Content:
    converted = _converted(event, content, names, is_reply=is_reply)
    url = permalink(ref)
    text = without_reply_arrow(converted.text)
    return replace(
        converted,
        # A reply mentions whom it answers, whether it names them or not.
        text=text if is_reply else _with_mentions(text, content, names, me),
        attachments=tuple(replace(attachment, url=url) for attachment in converted.attachments),
        # The copies of what people on the other side wrote are ours, so a reply to one of them mentions us.
        calls_answered=any(isinstance(user, str) and _is_self(user, me, names) for user in _mentioned(content)),
        calls=_called(content, me, names) if is_reply else (),
    )


def _mentioned(content: Json) -> list[Any]:
    """Whom a message mentions (https://spec.matrix.org/latest/client-server-api/#user-and-room-mentions)."""
    return as_list(as_dict(content.get("m.mentions")).get("user_ids"))


def _with_mentions(text: RichText, content: Json, names: NameLookup, me: str) -> RichText:
    """`text` with the people whom the message mentions, but only names in its words, as clients without HTML do."""
    if not _mentioned(content):
        return text
    there = {node.user for node in walk(text.blocks) if isinstance(node, UserMention)}
    for user_id in _mentioned(content)[:_MOST_CALLED]:
        if not isinstance(user_id, str) or not is_user_id(user_id) or user_id == me:
            continue
        user = names.person(user_id) or UserRef(Platform.MATRIX, user_id)
        if user not in there:
            name = visible(names.user(user_id) or "") or _handle(user_id)
            text = _with_mention(text, UserMention(user, name))
    return text


def _with_mention(text: RichText, mention: UserMention) -> RichText:
    """`text` with `mention` where its name stands first."""
    done = False

    def expand(node: Inline) -> tuple[Inline, ...] | None:
        nonlocal done
        if isinstance(node, Link | MessageLink | ChannelMention):
            return (node,)
        # Most often the name is not there, which is quicker to see without the expression.
        if done or not isinstance(node, Text) or mention.name not in node.text:
            return None
        found = re.search(rf"(?<!\w)@?{re.escape(mention.name)}(?!\w)", node.text)
        if found is None:
            return None
        done = True
        return Text(node.text[: found.start()]), mention, Text(node.text[found.end() :])

    changed = expand_inline(text, expand)
    return normalise(changed) if done else text


def _called(content: Json, me: str, names: NameLookup) -> tuple[UserRef, ...]:
    """Whom a reply mentions besides us."""
    users = [user for user in _mentioned(content)[:_MOST_CALLED] if isinstance(user, str) and is_user_id(user)]
    return tuple(UserRef(Platform.MATRIX, user) for user in dict.fromkeys(users) if not _is_self(user, me, names))


def _converted(event: Json, content: Json, names: NameLookup, *, is_reply: bool) -> Content:
    kind = event.get("type")
    if kind == "m.sticker":
        return sticker_content(content)
    if kind in _POLL_STARTS:
        return poll_content(content)
    if kind in _POLL_ENDS:
        return poll_end_content(content)
    if kind in _EXTENSIBLE:
        content = extensible_message(content)
    return message_content(content, names, is_reply=is_reply)


def _author(user_id: str, content: Json, state: RoomState, *, is_self: bool) -> Author:
    profile = state.profile(user_id)
    handle = _handle(user_id)
    bridged = bridged_profile(content)
    if bridged is not None:
        # Another bridge's bot writes for somebody. Say whose bot it is, because anybody can write such a profile.
        avatar = MediaRef(Platform.MATRIX, bridged.avatar) if bridged.avatar else None
        via = shortened(visible(profile.name) or handle, max_length=_LONGEST_VIA, max_bytes=2 * _LONGEST_VIA)
        name = bridged.name if is_self else with_suffix(visible(bridged.name) or "somebody", f"(via {via})")
        profile = MemberProfile(name, avatar)
    elif _VIA.search(unicodedata.normalize("NFKC", visible(profile.name))):
        # The name looks like that of somebody whom another bridge writes for: add who it really is.
        profile = MemberProfile(with_suffix(visible(profile.name) or handle, f"({handle})"), profile.avatar)
    mentions = content.get("m.mentions")
    # A message that lists its mentions, but not the room, only has the word `@room` in its text.
    meant = not isinstance(mentions, dict) or mentions.get("room") is True
    return Author(
        user=UserRef(Platform.MATRIX, user_id),
        name=profile.name,
        avatar=profile.avatar,
        is_self=is_self,
        may_broadcast=meant and state.may_broadcast(user_id),
        handle=handle,
    )


def _handle(user_id: str) -> str:
    return user_id.removeprefix("@").partition(":")[0]


def timestamp(milliseconds: Any) -> datetime:
    """The time stamp of an event. Any server can write anything there; what is not a time becomes the epoch."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _feature(kind: str, content: Json) -> Feature:
    if kind.startswith(_VERIFICATION) or _is_verification(content):
        return "verification"
    if kind.startswith(_CALLS):
        return "call"
    return _FEATURES.get(kind, "unknown")


def _is_verification(content: Json) -> bool:
    return as_string(content.get("msgtype")).startswith(_VERIFICATION)


def _relation(content: Json) -> Json:
    return as_dict(content.get("m.relates_to"))


def _target(relation: Json) -> str:
    """The ID of the event that a relation is to; "" if there is none, or if it is not an ID."""
    target = as_string(relation.get("event_id"))
    return target if is_event_id(target) else ""


def _unsigned(event: Json) -> Json:
    return as_dict(event.get("unsigned"))


def _readers(content: Json) -> list[str]:
    return sorted(
        user
        for receipts in content.values()
        if isinstance(receipts, dict)
        for users in receipts.values()
        if isinstance(users, dict)
        for user in users
    )
