"""Which message is a copy of which: the tables `message`, `message_copy` and `message_edit`.

Every look-up is one search in an index, so that its cost does not grow with the map
(`tests/benchmarks/map_lookup.py`). Statements are built once: SQLAlchemy then finds their SQL by identity.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    UnaryExpression,
    and_,
    bindparam,
    delete,
    exists,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql.operators import custom_op

from relay.core.storage import SUPERSEDED, Copy, Original
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.store.session import Session
from relay.store.tables import message, message_copy, message_edit

_m = message.c
_c = message_copy.c

_is_message = and_(
    _m.platform == bindparam("ref_platform"),
    _m.channel == bindparam("ref_channel"),
    _m.native_id == bindparam("ref_id"),
)
_is_copy = and_(
    _c.platform == bindparam("ref_platform"),
    _c.channel == bindparam("ref_channel"),
    _c.native_id == bindparam("ref_id"),
)
_message_there = and_(_m.platform == bindparam("platform"), _m.channel == bindparam("channel"))
_copy_there = and_(_c.platform == bindparam("platform"), _c.channel == bindparam("channel"))


def _aside(column: ColumnElement[str]) -> ColumnElement[str]:
    """The column under a `+`, which keeps SQLite from searching by it: https://www.sqlite.org/optoverview.html.

    Without statistics it would take an index of two columns, all copies of a channel, over one that names the message.
    """
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


_copy_filtered = and_(_aside(_c.platform) == bindparam("platform"), _aside(_c.channel) == bindparam("channel"))
_message_filtered = and_(_aside(_m.platform) == bindparam("platform"), _aside(_m.channel) == bindparam("channel"))

_given = (_m.platform, _m.channel, _m.native_id, _m.author, _m.created_at, _m.reply_to)
_ADD = (
    insert(message)
    .from_select(
        [column.name for column in _given],
        select(*(bindparam(column.name, type_=column.type) for column in _given)).where(
            ~exists().where(
                _c.platform == bindparam("platform"),
                _c.channel == bindparam("channel"),
                _c.native_id == bindparam("native_id"),
            )
        ),
    )
    .on_conflict_do_nothing()
    .returning(_m.id)
)
_FIND = select(message).where(_is_message)
_MARK_EDITED = update(message).where(_m.id == bindparam("message_id")).values(edited_at=bindparam("at"))
_MARK_DELETED = update(message).where(_m.id == bindparam("message_id")).values(deleted=True)
_IS_COPY = select(_c.id).where(_is_copy).limit(1)
_COPIES = select(message_copy).where(_c.message_id == bindparam("message_id"), _copy_filtered).order_by(_c.part, _c.id)
# REPLACE rather than an update: the row's ID rises, and the copy is the last one recorded.
_RECORD = (
    insert(message_copy)
    .prefix_with("OR REPLACE")
    .values({name: bindparam(name) for name in ("message_id", "part", "platform", "channel", "native_id")})
    .inline()
)
_FORGET = delete(message_copy).where(
    _c.message_id == bindparam("message_id"),
    _c.part == bindparam("of_part"),
    _is_copy,
)
_first_copy = (
    select(_c.native_id.label("native_id"))
    .join(message, _m.id == _c.message_id)
    .where(_is_message, _copy_filtered)
    .order_by(_c.part, _c.id)
    .limit(1)
    .subquery()
)
_last_original = (
    select(_m.native_id.label("native_id"))
    .join(message_copy, _m.id == _c.message_id)
    .where(_is_copy, _message_filtered)
    .order_by(_m.id.desc())
    .limit(1)
    .subquery()
)
_COUNTERPART = union_all(
    select(_first_copy.c.native_id, literal(0).label("rank")),
    select(_last_original.c.native_id, literal(1).label("rank")),
).order_by("rank")
_LAST_COPY = select(_c.native_id).where(_copy_there, _c.part < SUPERSEDED).order_by(_c.id.desc()).limit(1)
_SHARING = select(message).join(message_copy, _m.id == _c.message_id).where(_is_copy).order_by(_m.id).distinct()
_e = message_edit.c
_RECORD_EDIT = (
    insert(message_edit)
    .values({name: bindparam(name) for name in ("platform", "channel", "native_id", "message_id")})
    .on_conflict_do_nothing()
)
_EDITED_BY = (
    select(message)
    .join(message_edit, _m.id == _e.message_id)
    .where(
        _e.platform == bindparam("ref_platform"),
        _e.channel == bindparam("ref_channel"),
        _e.native_id == bindparam("ref_id"),
    )
)
_RECENT = (
    select(message)
    .where(_message_there, _m.created_at >= bindparam("since"), _m.deleted.is_(False))
    .order_by(_m.created_at.desc(), _m.id.desc())
    .limit(bindparam("at_most"))
)


class SqlMessageMap:
    """`core.storage.MessageMap`, and what reconciliation and batches ask of it besides."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(
        self, ref: MessageRef, author: UserRef, created_at: datetime, reply_to: MessageRef | None
    ) -> int | None:
        """Remember an original; None if it was known, or is a copy.

        Of `reply_to` only the ID is kept: its channel is `ref`'s.
        """
        row = await self._session.first(
            _ADD,
            {
                "platform": ref.platform,
                "channel": ref.channel.id,
                "native_id": ref.id,
                "author": author.id,
                "created_at": created_at,
                "reply_to": reply_to.id if reply_to else None,
            },
        )
        return None if row is None else int(row.id)

    async def find(self, ref: MessageRef) -> Original | None:
        """The original that `ref` is; None if it is none."""
        row = await self._session.first(_FIND, _of_ref(ref))
        return None if row is None else _original(row)

    async def mark_edited(self, message_id: int, edited_at: datetime) -> None:
        """Remember the latest edit."""
        await self._session.later(_MARK_EDITED, {"message_id": message_id, "at": edited_at})

    async def mark_deleted(self, message_id: int) -> None:
        """Remember that the original is gone."""
        await self._session.later(_MARK_DELETED, {"message_id": message_id})

    async def record_edit(self, edit: MessageRef, message_id: int) -> None:
        """Remember that `edit` is an edit of an original."""
        values = {**_of_channel(edit.channel), "native_id": edit.id, "message_id": message_id}
        await self._session.later(_RECORD_EDIT, values)

    async def edited_by(self, edit: MessageRef) -> Original | None:
        """The original that `edit` is an edit of; None if it is none."""
        row = await self._session.first(_EDITED_BY, _of_ref(edit))
        return None if row is None else _original(row)

    async def is_copy(self, ref: MessageRef) -> bool:
        """Whether we made it."""
        return await self._session.first(_IS_COPY, _of_ref(ref)) is not None

    async def copies(self, message_id: int, channel: ChannelRef) -> tuple[Copy, ...]:
        """The copies of an original in a channel, by part."""
        rows = await self._session.all(_COPIES, {"message_id": message_id, **_of_channel(channel)})
        return tuple(Copy(row.message_id, row.part, MessageRef(channel, row.native_id)) for row in rows)

    async def record_copy(self, copy: Copy) -> None:
        """Remember a copy; a replay of the same (message, channel, part) replaces it."""
        await self._session.later(
            _RECORD,
            {
                "message_id": copy.message_id,
                "part": copy.part,
                "platform": copy.ref.platform,
                "channel": copy.ref.channel.id,
                "native_id": copy.ref.id,
            },
        )

    async def forget_copy(self, copy: Copy) -> None:
        """The copy is gone from its platform. One that was replaced meanwhile stays."""
        await self._session.later(
            _FORGET,
            {"message_id": copy.message_id, "of_part": copy.part, **_of_ref(copy.ref)},
        )

    async def counterpart(self, ref: MessageRef, channel: ChannelRef) -> MessageRef | None:
        """The first copy in `channel` of an original, or the (last) original in `channel` of a copy."""
        row = await self._session.first(_COUNTERPART, {**_of_ref(ref), **_of_channel(channel)})
        return None if row is None else MessageRef(channel, row.native_id)

    async def last_copy(self, channel: ChannelRef) -> MessageRef | None:
        """The copy that was recorded last in `channel`."""
        row = await self._session.first(_LAST_COPY, _of_channel(channel))
        return None if row is None else MessageRef(channel, row.native_id)

    async def sharing(self, copy: MessageRef) -> tuple[Original, ...]:
        """The originals that stand in `copy`, in the order in which they were routed; empty if it is no copy."""
        return tuple(map(_original, await self._session.all(_SHARING, _of_ref(copy))))

    async def recent(self, channel: ChannelRef, since: datetime, limit: int) -> tuple[Original, ...]:
        """The last `limit` originals of `channel` written at or after `since` and not deleted, oldest first."""
        rows = await self._session.all(_RECENT, {**_of_channel(channel), "since": since, "at_most": limit})
        return tuple(_original(row) for row in reversed(rows))


def _of_ref(ref: MessageRef) -> dict[str, Any]:
    return {"ref_platform": ref.platform, "ref_channel": ref.channel.id, "ref_id": ref.id}


def _of_channel(channel: ChannelRef) -> dict[str, Any]:
    return {"platform": channel.platform, "channel": channel.id}


def _original(row: Row[Any]) -> Original:
    channel = ChannelRef(Platform(row.platform), row.channel)
    return Original(
        id=row.id,
        ref=MessageRef(channel, row.native_id),
        author=UserRef(channel.platform, row.author),
        created_at=row.created_at,
        edited_at=row.edited_at,
        reply_to=MessageRef(channel, row.reply_to) if row.reply_to else None,
        deleted=row.deleted,
    )
