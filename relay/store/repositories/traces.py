"""What is on record of one message, for `relay explain`: from the message map and the outbox.

Nothing is written for what crosses: the times and the reasons are in rows that are written anyway. Only what is left
out on arrival gets a row of its own, which is much smaller than that of a message.

People ask for a message by its ID, without its channel. There are few channels, and each is one search in an index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, and_, bindparam, func, or_, select, union

from relay.core.storage import Copy, CopyTrace, EntryTrace, LeftOut, MessageTrace
from relay.domain.commands import Digest
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.store.portable import contains, insert, seconds_now
from relay.store.repositories.message_map import original_of
from relay.store.repositories.outbox import entry_of, lane_of
from relay.store.tables import (
    DIGEST_BEGINS,
    EPOCH,
    AnyText,
    EntryState,
    NativeId,
    channel,
    message,
    message_copy,
    message_edit,
    once_key,
    outbox,
)
from relay.store.tables import lane as lane_table
from relay.store.transaction import Transaction

_PLATFORMS = frozenset(map(str, Platform))
_MOST_ENTRIES = 1_000

_id = bindparam("native_id", type_=NativeId())
_any_channel = select(channel.c.id)


def _known_as(table: Table, message_id: ColumnElement[int]) -> Select[int]:
    return select(message_id.label("id")).where(table.c.channel_id.in_(_any_channel), table.c.native_id == _id)


_NUMBERS = (
    union(
        _known_as(message, message.c.id),
        _known_as(message_copy, message_copy.c.message_id),
        _known_as(message_edit, message_edit.c.message_id),
    )
    .order_by("id")
    .limit(100)
)
_MESSAGE = (
    select(message, channel.c.platform.label("platform"), channel.c.native_id.label("channel"))
    .join(channel, channel.c.id == message.c.channel_id)
    .where(message.c.id == bindparam("message_id"))
)
_c = message_copy.c
_COPIES = (
    select(
        _c.part,
        _c.superseded,
        _c.native_id,
        _c.sent_at,
        _c.retries,
        channel.c.platform.label("platform"),
        channel.c.native_id.label("channel"),
    )
    .join(channel, channel.c.id == _c.channel_id)
    .where(_c.message_id == bindparam("message_id"))
    .order_by(_c.channel_id, _c.superseded, _c.part)
)
_o, _l = outbox.c, lane_table.c
_source = bindparam("source", type_=AnyText())
_there = outbox.alias()
_AHEAD = (
    select(func.count())
    .where(
        _there.c.lane_id == _o.lane_id,
        _there.c.state == EntryState.WAITING.value,
        _there.c.position < _o.position,
    )
    .correlate(outbox)
    .scalar_subquery()
)
# The row of a digest names only its first message.
_ALL_ENTRIES = (
    select(
        _l.source_platform,
        _l.source_channel,
        _l.destination_platform,
        _l.destination_channel,
        _o.id,
        _o.queued_at,
        _o.command,
        _o.source_platform.label("about_platform"),
        _o.source_channel.label("about_channel"),
        _o.source_id.label("about_id"),
        _o.state,
        _o.reason,
        _o.died_at,
        _AHEAD.label("ahead"),
    )
    .join_from(outbox, lane_table, _l.id == _o.lane_id)
    .where(
        or_(
            _o.source_id == _source,
            and_(func.substr(_o.command, 1, len(DIGEST_BEGINS)) == DIGEST_BEGINS, contains(_o.command, _source)),
        )
    )
    .order_by(_o.id)
    .limit(_MOST_ENTRIES)
)
_ENTRIES = _ALL_ENTRIES.where(
    _o.lane_id.in_(
        select(_l.id).where(
            or_(
                and_(_l.source_platform == bindparam("platform"), _l.source_channel == bindparam("channel")),
                and_(_l.destination_platform == bindparam("platform"), _l.destination_channel == bindparam("channel")),
            )
        )
    )
)
# Messages that were left out without a row in the map are among the keys that are used once: these are forgotten after
# the same time, and say nothing of who wrote the message.
_LEAVE_OUT = (
    insert(once_key)
    .values(
        platform=bindparam("platform"),
        key=bindparam("key"),
        channel=bindparam("channel"),
        used=seconds_now(),
    )
    .or_ignore()
    .inline()
)
_LEFT_OUT = select(once_key).where(
    once_key.c.platform == bindparam("platform"),
    once_key.c.key >= bindparam("first"),
    once_key.c.key < bindparam("last"),
)


def _key(native_id: str, feature: str) -> str:
    return f"left out {native_id} {feature}"


@dataclass(slots=True)
class SqlTraces:
    """`core.storage.Traces`."""

    transaction: Transaction

    async def leave_out(self, ref: MessageRef, feature: str) -> None:
        """See `Traces.leave_out`."""
        values = {"platform": ref.platform, "key": _key(ref.id, feature), "channel": ref.channel.id}
        await self.transaction.defer(_LEAVE_OUT, values)

    async def left_out(self, native_id: str) -> Sequence[LeftOut]:
        """See `Traces.left_out`."""
        first = _key(native_id, "")
        found = []
        for platform in Platform:
            values = {"platform": platform, "first": first, "last": f"{first}{chr(0x10FFFF)}"}
            for row in await self.transaction.all(_LEFT_OUT, values):
                ref = MessageRef(ChannelRef(platform, row.channel), native_id)
                at = EPOCH + timedelta(seconds=row.used if isinstance(row.used, int) else 0)
                found.append(LeftOut(ref, row.key.removeprefix(first), at))
        return found

    async def messages(self, native_id: str) -> Sequence[MessageTrace]:
        """See `Traces.messages`."""
        found = []
        for row in await self.transaction.all(_NUMBERS, {"native_id": native_id}):
            known = await self.transaction.first(_MESSAGE, {"message_id": row.id})
            if known is not None and known.platform in _PLATFORMS:
                copies = await self.transaction.all(_COPIES, {"message_id": row.id})
                found.append(_trace(known, copies))
        return found

    async def entries(self, native_id: str, channel: ChannelRef | None = None) -> Sequence[EntryTrace]:
        """See `Traces.entries`."""
        if channel is None:
            rows = await self.transaction.all(_ALL_ENTRIES, {"source": native_id})
        else:
            place = {"platform": channel.platform, "channel": channel.id}
            rows = await self.transaction.all(_ENTRIES, {"source": native_id, **place})
        found = [_entry(row) for row in rows if lane_of(row) is not None]
        return [trace for trace in found if _is_about(trace, native_id)]


def _trace(row: Row[Any], copies: Sequence[Row[Any]]) -> MessageTrace:
    channel_ref = ChannelRef(Platform(row.platform), row.channel)
    return MessageTrace(
        original_of(row, channel_ref),
        tuple(_copy(row.id, copy) for copy in copies if copy.platform in _PLATFORMS),
        received_at=row.received_at,
        deleted_at=row.deleted_at,
        left_out_why=row.left_out_why,
    )


def _copy(message_id: int, row: Row[Any]) -> CopyTrace:
    ref = MessageRef(ChannelRef(Platform(row.platform), row.channel), row.native_id)
    part, superseded = (number if isinstance(number, int) else 0 for number in (row.part, row.superseded))
    return CopyTrace(Copy(message_id, part, ref, superseded), row.sent_at, row.retries or 0)


def _is_about(trace: EntryTrace, native_id: str) -> bool:
    """Whether a digest has the message in it; its text may contain anything."""
    command = trace.entry.command
    return not isinstance(command, Digest) or any(item.source.id == native_id for item in command.items)


def _entry(row: Row[Any]) -> EntryTrace:
    lane = lane_of(row)
    assert lane is not None  # noqa: S101 - `entries` has looked
    if row.state == EntryState.DEAD:
        return EntryTrace(entry_of(row, lane), None, row.reason or "", row.died_at or EPOCH)
    return EntryTrace(entry_of(row, lane), row.ahead)
