"""What a homeserver has lost that was restored from a backup: noticed, and read on from behind what it still has.

Such a homeserver counts events anew from the backup on. It takes the token that it gave before, and tells nothing of
what is said until its count has come that far again.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import is_token_refusal
from relay.adapters.matrix.cursors import LastTold
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.inbound.events import is_message, timestamp
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.sync.backfill import after_last
from relay.adapters.matrix.sync.update import RoomUpdate
from relay.core.ports import OnRecord
from relay.domain.events import HistorySkipped
from relay.domain.ids import ChannelRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list

# How many messages on record a homeserver may have lost, and one before them is still found.
_ON_RECORD = 500


# --- Whether it was restored ----------------------------------------------------------------------------------


async def was_restored(api: Api, told: LastTold, since: str, rooms: frozenset[str], *, counts_anew: bool) -> bool:
    """Whether the homeserver has lost the last event that it told us of, and goes on without it.

    That takes two signs. It does not know the event: nor does it know one whose time to be kept is over, or of a room
    that we are out of. And it has a later event before the token `since`, or `counts_anew` (`went_back`): alone, that
    may be no more than a number for an event that could not be stored. `rooms`: that we have read up to the token.
    Raises `Refused` or `Unreachable` where the homeserver does not answer now.
    """
    try:
        if await has_event(api, told.room_id, told.event_id):
            return False
        joined = as_list((await api.call("GET", "joined_rooms")).get("joined_rooms"))
        if told.room_id not in joined or counts_anew:
            return told.room_id in joined
        for room_id in sorted(rooms.intersection(room for room in joined if isinstance(room, str))):
            if await _newest_before(api, room_id, since) > told.latest:
                return True
    except Refused as refused:
        if _is_for_now(refused):
            raise
    except Unreachable as error:
        # Something in front of the homeserver answers, and may do so for ever: that must not stop the sync.
        if not error.answered:
            raise
    return False


async def _newest_before(api: Api, room_id: str, token: str) -> datetime:
    """When the last event of a room before a token was written; long ago if we are not told."""
    query = {"dir": "b", "from": token, "limit": "1"}
    try:
        answer = await api.call("GET", "rooms", room_id, "messages", query=query)
    except Refused as refused:
        if _is_for_now(refused):
            raise
        return timestamp(0)
    written = [timestamp(as_dict(event).get("origin_server_ts")) for event in as_list(answer.get("chunk"))]
    return max(written, default=timestamp(0))


async def has_event(api: Api, room_id: str, event_id: str) -> bool:
    """Whether the homeserver has an event. True as well where it says neither. Raises `Refused` or `Unreachable`."""
    try:
        await api.call("GET", "rooms", room_id, "event", event_id)
    except Refused as refused:
        if _is_for_now(refused):
            raise
        return refused.code != "M_NOT_FOUND"
    return True


def _is_for_now(refused: Refused) -> bool:
    """Whether a refusal says nothing of what was asked. Without a code it is a proxy's; others may last for ever."""
    return not refused.code or refused.status == 429 or is_token_refusal(refused)


# --- Where it is read on --------------------------------------------------------------------------------------


async def resume_after_record(
    api: Api, accounts: OwnAccounts, update: RoomUpdate, inbox: RetryingInbox, *, limited: bool
) -> None:
    """The token was lost: read a room from the last message on record, of those that the homeserver still knows."""
    channel = ChannelRef(Platform.MATRIX, update.room_id)
    known = await inbox.last_originals(channel, _ON_RECORD)
    timeline, found = update.timeline, False
    if not known:
        # Received messages are not on record any more, so nobody can tell them from missed ones.
        update.timeline = []
        if any(is_message(event) and not accounts.is_own(str(event.get("sender"))) for event in timeline):
            update.extras.append(HistorySkipped(channel, None))
    else:
        update.last_on_record = known[0].ref.id
        ids = {one.ref.id for one in known}
        update.timeline, found = after_last(timeline, lambda event: event.get("event_id") in ids)
        if not found:
            last = await _newest_kept(api, known) if limited else None
            if last is None:
                # It has lost all of them. What it still has is older, and may never have been meant to cross.
                update.extras.append(HistorySkipped(channel, None))
            update.starts = partial(_is_or_precedes, last, known[0])
            update.timeline, found = after_last(timeline, update.starts)
    for event in timeline[: len(timeline) - len(update.timeline)]:
        update.state.apply(event)
    if limited and known and not found:
        update.since = ""


async def _newest_kept(api: Api, known: Sequence[OnRecord]) -> OnRecord | None:
    """The newest of these messages, newest first, that the homeserver still has; None if it has none.

    Or one a little older: it is asked for the first, second, fourth … of them. What is read twice is recognised.
    """
    number = 0
    while number < len(known):
        if await has_event(api, known[number].ref.channel.id, known[number].ref.id):
            return known[number]
        number = number + 1 if number == len(known) - 1 else min(2 * number + 1, len(known) - 1)
    return None


def _is_or_precedes(kept: OnRecord | None, newest: OnRecord, event: Json) -> bool:
    """Whether an event is the message that the homeserver has kept; if there is none, older than what it has lost."""
    if kept is not None:
        return event.get("event_id") == kept.ref.id
    return timestamp(event.get("origin_server_ts")) <= newest.written_at
