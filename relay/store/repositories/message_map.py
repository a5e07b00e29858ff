"""Which message is a copy of which: the tables `message`, `message_copy` and `message_edit`.

Every look-up is one search in an index, so that its cost does not grow with the map
(`tests/benchmarks/map_lookup.py`). Statements are built once, so that SQLAlchemy does not compile them again.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Executable,
    Row,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    select,
    union_all,
    update,
)

from relay.core.storage import Copy, Original
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.store.portable import insert, milliseconds_now, seconds_now, without_index
from relay.store.tables import channel, channel_id, message, message_copy, message_edit
from relay.store.transaction import Transaction

_PLATFORMS = frozenset(map(str, Platform))

_m = message.c
_c = message_copy.c

_is_message = and_(_m.channel_id == channel_id("ref_"), _m.native_id == bindparam("ref_id"))
_is_copy = and_(_c.channel_id == channel_id("ref_"), _c.native_id == bindparam("ref_id"))
_now = seconds_now()
_exactly_now = milliseconds_now()


_given = (_m.native_id, _m.author, _m.created_at, _m.edited_at, _m.reply_to, _m.from_past)
_ADD = (
    insert(message)
    .from_select(
        ["channel_id", "used", "received_at", *(column.name for column in _given)],
        select(
            channel_id("ref_"),
            _now,
            _exactly_now,
            *(bindparam(f"new_{column.name}", type_=column.type) for column in _given),
        ).where(~exists().where(_is_copy)),
    )
    .or_ignore()
    .returning(_m.id)
)
_USE = (
    update(message)
    .where(
        _m.id.in_(union_all(select(_m.id).where(_is_message).correlate(None), select(_c.message_id).where(_is_copy))),
        _m.used < _now - 3600,
    )
    .values(used=_now)
)
_FIND = select(message).where(_is_message)
_MARK_EDITED = update(message).where(_m.id == bindparam("message_id")).values(edited_at=bindparam("at"), used=_now)
_MARK_DELETED = (
    update(message).where(_m.id == bindparam("message_id")).values(deleted=True, deleted_at=_exactly_now, used=_now)
)
_LEAVE_OUT = (
    update(message)
    .where(_m.id == bindparam("message_id"))
    .values(left_out=bindparam("so"), left_out_why=bindparam("why"))
)
_IS_COPY = select(_c.message_id).where(_is_copy).limit(1)
_COPIES = (
    select(_c.message_id, _c.part, _c.native_id, _c.superseded)
    .where(_c.message_id == bindparam("message_id"), _c.channel_id == channel_id())
    .order_by(_c.superseded, _c.part)
)
_PLACES = (
    select(channel.c.native_id)
    .distinct()
    .join(message_copy, channel.c.id == without_index(_c.channel_id))
    .where(_c.message_id == bindparam("message_id"), channel.c.platform == bindparam("platform"))
)
_RECORD = (
    insert(message_copy)
    .values(
        message_id=bindparam("message_id"),
        channel_id=channel_id("ref_"),
        part=bindparam("part"),
        superseded=0,
        native_id=bindparam("ref_id"),
        sent_at=_exactly_now,
        retries=bindparam("tries"),
    )
    .or_replace()
    .inline()
)
_IN_COPY = select(_c.message_id).where(_is_copy).distinct()
_RECORD_AGAIN = (
    insert(message_copy)
    .from_select(
        ["message_id", "channel_id", "part", "superseded", "native_id", "sent_at", "retries"],
        select(
            _c.message_id,
            channel_id("new_"),
            _c.part - bindparam("less", type_=_c.part.type),
            _c.superseded,
            bindparam("new_id", type_=_c.native_id.type),
            _exactly_now,
            _c.retries,
        ).where(_is_copy),
    )
    .or_replace()
    .inline()
)
_other = message_copy.alias()
_SUPERSEDE = (
    update(message_copy)
    .where(_c.message_id == bindparam("of_message"), _c.part == bindparam("of_part"), _is_copy)
    .values(
        part=bindparam("new_part"),
        superseded=select(func.coalesce(func.max(_other.c.superseded), 0) + 1)
        .where(
            _other.c.message_id == _c.message_id,
            _other.c.channel_id == _c.channel_id,
            _other.c.part == bindparam("new_part"),
        )
        .scalar_subquery(),
    )
    .returning(_c.superseded)
)
_FORGET = delete(message_copy).where(
    _c.message_id == bindparam("message_id"), _c.part == bindparam("of_part"), _is_copy
)
_first_copy = (
    select(_c.native_id.label("native_id"))
    .join(message, _m.id == _c.message_id)
    .where(_is_message, _c.channel_id == channel_id())
    .order_by(_c.superseded, _c.part)
    .limit(1)
    .subquery()
)
_last_original = (
    select(_m.native_id.label("native_id"))
    .join(message_copy, _m.id == _c.message_id)
    .where(_is_copy, without_index(_m.channel_id) == channel_id())
    .order_by(_m.id.desc())
    .limit(1)
    .subquery()
)
_COUNTERPART = union_all(
    select(_first_copy.c.native_id, literal(0).label("rank")),
    select(_last_original.c.native_id, literal(1).label("rank")),
).order_by("rank")
_SHARING = (
    select(message, channel.c.platform.label("platform"), channel.c.native_id.label("channel"))
    .join(message_copy, _m.id == _c.message_id)
    .join(channel, channel.c.id == _m.channel_id)
    .where(_is_copy)
    .order_by(_m.id)
    .distinct()
)
_e = message_edit.c
_RECORD_EDIT = (
    insert(message_edit)
    .values(channel_id=channel_id("ref_"), native_id=bindparam("ref_id"), message_id=bindparam("of_message"))
    .or_ignore()
    .inline()
)
_EDITED_BY = (
    select(message)
    .join(message_edit, _m.id == _e.message_id)
    .where(_e.channel_id == channel_id("ref_"), _e.native_id == bindparam("ref_id"))
)
# The index of the channel would read all of its messages; the index of answers reads a few.
_newest_answers = (
    select(message)
    .where(without_index(_m.channel_id) == channel_id("ref_"), _m.reply_to == bindparam("ref_id"), ~_m.deleted)
    .order_by(_m.id.desc())
    .limit(bindparam("at_most"))
    .subquery()
)
_ANSWERS = select(_newest_answers).order_by(_newest_answers.c.id)
# First the last messages that were routed, then those of them that are young enough: so few rows are read.
# What came by a backfill is looked for by itself: it was routed after younger ones.
_standing, _standing_past = (
    select(message)
    .where(_m.channel_id == channel_id(), ~_m.deleted, is_from_past)
    .order_by(_m.id.desc())
    .limit(bindparam("at_most"))
    .subquery()
    for is_from_past in (~_m.from_past, _m.from_past)
)
_standing_all = union_all(select(_standing), select(_standing_past)).subquery()
_RECENT, _RECENT_WITH_PAST = (
    select(those).where(those.c.created_at >= bindparam("since")).order_by(those.c.created_at, those.c.id)
    for those in (_standing, _standing_all)
)
_WAITING_PAST = (
    select(_standing_past)
    .where(~exists().where(_c.message_id == _standing_past.c.id))
    .order_by(_standing_past.c.created_at, _standing_past.c.id)
)
# By the row's number: an index of authors would cost as much as the rest of the row.
_next_rows = select(_m.id).where(_m.id > bindparam("after")).order_by(_m.id).limit(bindparam("at_most")).subquery()
_NEWEST = select(func.max(_m.id).label("id"))
_RECEIVED_NEXT = select(_m.id, _m.received_at).where(_m.id > bindparam("after")).order_by(_m.id).limit(1)
_LAST_OF_NEXT = select(func.max(_next_rows.c.id).label("id"))
_WRITTEN_BY = (
    select(message, channel.c.native_id.label("channel"))
    .join(channel, channel.c.id == without_index(_m.channel_id))
    .where(
        _m.id > bindparam("after"),
        _m.id <= bindparam("last"),
        _m.author == bindparam("of_author"),
        channel.c.platform == bindparam("platform"),
    )
    .order_by(_m.id)
)
_FORGET_AUTHOR = update(message).where(_m.id == bindparam("message_id")).values(author="")


@dataclass(slots=True)
class SqlMessageMap:
    """`core.storage.MessageMap`."""

    transaction: Transaction

    async def add(
        self,
        ref: MessageRef,
        author: UserRef,
        created_at: datetime,
        reply_to: MessageRef | None,
        *,
        from_past: bool = False,
    ) -> int | None:
        """See `MessageMap.add`.

        Of `reply_to` only the ID is stored: its channel is that of `ref`.
        """
        await self.transaction.record_channel(ref.channel)
        if reply_to is not None:
            await self.transaction.defer(*use_of(reply_to))
        original = Original(0, ref, author, created_at, reply_to=reply_to, from_past=from_past)
        row = await self.transaction.first(*addition_of(original))
        return None if row is None else int(row.id)

    async def find(self, ref: MessageRef) -> Original | None:
        """See `MessageMap.find`."""
        row = await self.transaction.first(_FIND, _of_ref(ref))
        return None if row is None else original_of(row, ref.channel)

    async def mark_edited(self, message_id: int, edited_at: datetime) -> None:
        """See `MessageMap.mark_edited`."""
        await self.transaction.defer(_MARK_EDITED, {"message_id": message_id, "at": edited_at})

    async def mark_deleted(self, message_id: int) -> None:
        """See `MessageMap.mark_deleted`."""
        await self.transaction.defer(_MARK_DELETED, {"message_id": message_id})

    async def leave_out(self, message_id: int, why: str | None) -> None:
        """See `MessageMap.leave_out`."""
        await self.transaction.defer(_LEAVE_OUT, {"message_id": message_id, "so": why is not None, "why": why})

    async def record_edit(self, edit: MessageRef, message_id: int) -> None:
        """See `MessageMap.record_edit`."""
        await self.transaction.defer(_RECORD_EDIT, {**_of_ref(edit), "of_message": message_id})

    async def answers(self, ref: MessageRef, limit: int) -> tuple[Original, ...]:
        """See `MessageMap.answers`."""
        rows = await self.transaction.all(_ANSWERS, {**_of_ref(ref), "at_most": limit})
        return tuple(original_of(row, ref.channel) for row in rows)

    async def edited_by(self, edit: MessageRef) -> Original | None:
        """See `MessageMap.edited_by`."""
        row = await self.transaction.first(_EDITED_BY, _of_ref(edit))
        return None if row is None else original_of(row, edit.channel)

    async def is_copy(self, ref: MessageRef) -> bool:
        """See `MessageMap.is_copy`."""
        return await self.transaction.first(_IS_COPY, _of_ref(ref)) is not None

    async def copies(self, message_id: int, channel: ChannelRef) -> tuple[Copy, ...]:
        """See `MessageMap.copies`."""
        rows = await self.transaction.all(_COPIES, {"message_id": message_id, **_of_channel(channel)})
        return tuple(
            Copy(row.message_id, row.part, MessageRef(channel, row.native_id), row.superseded)
            for row in rows
            # A damaged row names no part.
            if all(isinstance(number, int) and number >= 0 for number in (row.part, row.superseded))
        )

    async def channels_of_copies(self, message_id: int, platform: Platform) -> frozenset[ChannelRef]:
        """See `MessageMap.channels_of_copies`."""
        rows = await self.transaction.all(_PLACES, {"message_id": message_id, "platform": platform})
        return frozenset(ChannelRef(platform, row.native_id) for row in rows)

    async def record_copy(self, copy: Copy, *, retries: int = 0) -> None:
        """See `MessageMap.record_copy`."""
        await self.transaction.record_last_copy(copy.message_id, copy.ref)
        values = {"message_id": copy.message_id, "part": copy.part, "tries": retries, **_of_ref(copy.ref)}
        await self.transaction.defer(_RECORD, values)

    async def record_again(self, copy: MessageRef, again: MessageRef, *, less: int = 0) -> None:
        """See `MessageMap.record_again`."""
        for row in await self.transaction.all(_IN_COPY, _of_ref(copy)):
            await self.transaction.record_last_copy(row.message_id, again)
        new = {"new_platform": again.platform, "new_channel": again.channel.id, "new_id": again.id}
        await self.transaction.defer(_RECORD_AGAIN, {**_of_ref(copy), **new, "less": less})

    async def supersede(self, copy: Copy, *, part: int | None = None) -> Copy:
        """See `MessageMap.supersede`."""
        part = copy.part if part is None else part
        values = {"of_message": copy.message_id, "of_part": copy.part, "new_part": part, **_of_ref(copy.ref)}
        row = await self.transaction.first(_SUPERSEDE, values)
        return replace(copy, part=part, superseded=1 if row is None else row.superseded)

    async def forget_copy(self, copy: Copy) -> None:
        """See `MessageMap.forget_copy`.

        A row whose copy was replaced meanwhile stays.
        """
        await self.transaction.defer(
            _FORGET,
            {"message_id": copy.message_id, "of_part": copy.part, **_of_ref(copy.ref)},
        )

    async def counterpart(self, ref: MessageRef, channel: ChannelRef) -> MessageRef | None:
        """See `MessageMap.counterpart`."""
        row = await self.transaction.first(_COUNTERPART, {**_of_ref(ref), **_of_channel(channel)})
        return None if row is None else MessageRef(channel, row.native_id)

    async def originals_of(self, copy: MessageRef) -> tuple[Original, ...]:
        """See `MessageMap.originals_of`."""
        rows = await self.transaction.all(_SHARING, _of_ref(copy))
        known = [(row, Platform(row.platform)) for row in rows if row.platform in _PLATFORMS]
        return tuple(original_of(row, ChannelRef(platform, row.channel)) for row, platform in known)

    async def recent(
        self, channel: ChannelRef, since: datetime, limit: int, *, with_past: bool = False
    ) -> tuple[Original, ...]:
        """See `MessageMap.recent`."""
        values = {**_of_channel(channel), "since": since, "at_most": limit}
        rows = await self.transaction.all(_RECENT_WITH_PAST if with_past else _RECENT, values)
        return tuple(original_of(row, channel) for row in rows)

    async def waiting_past(self, channel: ChannelRef, limit: int) -> tuple[Original, ...]:
        """See `MessageMap.waiting_past`."""
        rows = await self.transaction.all(_WAITING_PAST, {**_of_channel(channel), "at_most": limit})
        return tuple(original_of(row, channel) for row in rows)

    async def written_by(self, author: UserRef, after: int, limit: int) -> tuple[int, tuple[Original, ...]]:
        """See `MessageMap.written_by`."""
        row = await self.transaction.first(_LAST_OF_NEXT, {"after": after, "at_most": limit})
        if row is None or row.id is None:
            return after, ()
        values = {"after": after, "last": row.id, "of_author": author.id, "platform": author.platform}
        rows = await self.transaction.all(_WRITTEN_BY, values)
        return row.id, tuple(original_of(found, ChannelRef(author.platform, found.channel)) for found in rows)

    async def last_before(self, moment: datetime) -> int:
        """See `MessageMap.last_before`. Rows are in the order of receipt, so twenty looks are enough for a million."""
        newest = await self.transaction.first(_NEWEST, {})
        low, high = 0, (newest.id or 0) if newest is not None else 0
        while low < high:
            middle = (low + high) // 2
            row = await self.transaction.first(_RECEIVED_NEXT, {"after": middle})
            if row is not None and (row.received_at is None or row.received_at < moment):
                low = row.id
            else:
                high = middle
        return low

    async def forget_author(self, message_id: int) -> None:
        """See `MessageMap.forget_author`."""
        await self.transaction.defer(_FORGET_AUTHOR, {"message_id": message_id})


def addition_of(original: Original) -> tuple[Executable, dict[str, Any]]:
    """The statement that adds an original, and returns its ID unless it is known or a copy of ours; its values."""
    values = {
        **_of_ref(original.ref),
        "new_native_id": original.ref.id,
        "new_author": original.author.id,
        "new_created_at": original.created_at,
        "new_edited_at": original.edited_at,
        "new_reply_to": original.reply_to.id if original.reply_to else None,
        "new_from_past": original.from_past,
    }
    return _ADD, values


def use_of(answered: MessageRef) -> tuple[Executable, dict[str, Any]]:
    """The statement that notes that a message is answered, and so still in use; its values."""
    return _USE, _of_ref(answered)


def _of_ref(ref: MessageRef) -> dict[str, Any]:
    return {"ref_platform": ref.platform, "ref_channel": ref.channel.id, "ref_id": ref.id}


def _of_channel(channel: ChannelRef) -> dict[str, Any]:
    return {"platform": channel.platform, "channel": channel.id}


def original_of(row: Row[Any], channel: ChannelRef) -> Original:
    return Original(
        id=row.id,
        ref=MessageRef(channel, row.native_id),
        author=UserRef(channel.platform, row.author),
        created_at=row.created_at,
        edited_at=row.edited_at,
        reply_to=MessageRef(channel, row.reply_to) if row.reply_to else None,
        deleted=row.deleted,
        left_out=row.left_out,
        from_past=row.from_past,
    )
