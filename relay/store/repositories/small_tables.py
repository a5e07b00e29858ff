"""The small tables, each of which is looked up by a key: one class for each protocol of the core."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from sqlalchemy import (
    BindParameter,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from relay.core.people.storage import AvatarRecord
from relay.core.ports import Cursor
from relay.domain.commands import Digest
from relay.domain.ids import ChannelAddress, ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.store import codec
from relay.store.portable import insert, seconds_now
from relay.store.tables import AnyText, avatar, channel_id, cursor, key_value, lane, media_cache, once_key
from relay.store.tables import address as address_table
from relay.store.tables import digest as digest_table
from relay.store.transaction import Transaction

# --- What is known beforehand -------------------------------------------------------------------------------

_NAMES = "names "
"""So the keys of what `AuthorNames` keeps begin: much, which no start needs."""

_OF_THE_COMMAND_LINE = "backfill "
"""So the keys begin that the command line may write at any moment."""

MOST_KNOWN = 1000
_ALL_VALUES = (
    select(cursor.c.platform.label("platform"), cursor.c.stream.label("name"), cursor.c.position.label("value"))
    .union_all(
        select(literal_column("''", AnyText()), key_value.c.name, key_value.c.value).where(
            ~key_value.c.name.startswith(_NAMES)
        )
    )
    .limit(MOST_KNOWN + 1)
)


@dataclass(slots=True)
class KnownValues:
    """All cursors and named values as they were at one moment, for a while: a start asks for them one by one.

    Only who holds the lease may have them, since nobody else writes any then. What this process writes, or tries to, is
    known no longer.
    """

    # By platform ("" for a named value) and name; None: nothing is known.
    _values: dict[tuple[str, str], str] | None = field(init=False, default=None)
    _changed: set[tuple[str, str]] = field(init=False, default_factory=set)

    async def read(self, transaction: Transaction) -> None:
        """Read them, unless there are too many. Nothing may be written meanwhile."""
        rows = await transaction.all(_ALL_VALUES, {})
        self._changed.clear()
        self._values = {(row.platform, row.name): str(row.value) for row in rows} if len(rows) <= MOST_KNOWN else None

    def forget(self) -> None:
        """Know nothing."""
        self._values = None

    def has(self, platform: str, name: str) -> bool:
        """Whether it is known what is there, or that nothing is."""
        is_kept = self._values is not None and (platform, name) not in self._changed
        return is_kept and not name.startswith((_NAMES, _OF_THE_COMMAND_LINE))

    def get(self, platform: str, name: str) -> str | None:
        """What is there."""
        return None if self._values is None else self._values.get((platform, name))

    def change(self, platform: str, name: str) -> None:
        """Somebody is about to write it."""
        if self._values is not None:
            self._changed.add((platform, name))


# --- Cursors ----------------------------------------------------------------------------------------------

_GET_CURSOR = select(cursor.c.position).where(
    cursor.c.platform == bindparam("of_platform"), cursor.c.stream == bindparam("of_stream")
)
_CURSOR_BEGAN = select(cursor.c.began).where(
    cursor.c.platform == bindparam("of_platform"), cursor.c.stream == bindparam("of_stream")
)
_cursor_insert = insert(cursor).values({name: bindparam(name) for name in ("platform", "stream", "position", "began")})
_PUT_CURSOR = _cursor_insert.or_update(
    "platform",
    "stream",
    position=_cursor_insert.new.position,
    began=case((cursor.c.began == "", _cursor_insert.new.began), else_=cursor.c.began),
)


@dataclass(slots=True)
class WaitingCursors:
    """The cursors that are written with the next transaction: see `core.storage.Store.put_later`."""

    # The latest of each stream.
    latest: dict[tuple[Platform, str], Cursor] = field(init=False, default_factory=dict)
    # Those that a transaction has taken along which has not ended.
    _under_way: set[Cursor] = field(init=False, default_factory=set)

    def put(self, cursors: Iterable[Cursor]) -> None:
        """These are the latest of their streams."""
        self.latest.update(((it.platform, it.stream), it) for it in cursors)

    def take(self) -> Sequence[Cursor]:
        """Those that no transaction has taken along. Say what became of them: `written`, or `failed`."""
        taken = [it for it in self.latest.values() if it not in self._under_way]
        self._under_way.update(taken)
        return taken

    def written(self, taken: Iterable[Cursor]) -> None:
        """These are on disk. Later ones of their streams still wait."""
        self._under_way.difference_update(taken)
        for it in taken:
            if self.latest.get((it.platform, it.stream)) is it:
                del self.latest[it.platform, it.stream]

    def failed(self, taken: Iterable[Cursor], replaced: Iterable[Cursor]) -> None:
        """Neither these are on disk, nor what replaced the others: the next transaction takes them."""
        self._under_way.difference_update(taken)
        for it in replaced:
            self.latest.setdefault((it.platform, it.stream), it)


@dataclass(slots=True)
class SqlCursors:
    """`core.storage.Cursors`: how far each stream has been read."""

    transaction: Transaction
    waiting: WaitingCursors
    known: KnownValues
    # Those that waited, and do not any longer, because this transaction has later ones.
    replaced: list[Cursor] = field(init=False, default_factory=list)
    # Those that waited, and are written with this transaction.
    taken: Sequence[Cursor] = field(init=False, default=())

    async def get(self, platform: Platform, stream: str) -> str | None:
        """See `Cursors.get`."""
        if (waiting := self.waiting.latest.get((platform, stream))) is not None:
            return waiting.position
        if self.known.has(platform, stream):
            return self.known.get(platform, stream)
        row = await self.transaction.first(_GET_CURSOR, {"of_platform": platform, "of_stream": stream})
        return None if row is None else str(row.position)

    async def began(self, platform: Platform, stream: str) -> str | None:
        """See `Cursors.began`."""
        row = await self.transaction.first(_CURSOR_BEGAN, {"of_platform": platform, "of_stream": stream})
        return (row.began or None) if row is not None else None

    async def put(self, cursor: Cursor) -> None:
        """See `Cursors.put`."""
        if (earlier := self.waiting.latest.pop((cursor.platform, cursor.stream), None)) is not None:
            self.replaced.append(earlier)
        await self._write(cursor)

    async def take_waiting(self) -> None:
        """Write those that wait."""
        self.taken = self.waiting.take()
        for waiting in self.taken:
            await self._write(waiting)

    def ended(self, *, committed: bool) -> None:
        """The transaction has ended."""
        if committed:
            self.waiting.written(self.taken)
        else:
            self.waiting.failed(self.taken, self.replaced)

    async def _write(self, cursor: Cursor) -> None:
        self.known.change(cursor.platform, cursor.stream)
        began = None if cursor.resumes else cursor.position
        values = {
            "platform": cursor.platform,
            "stream": cursor.stream,
            "position": cursor.position,
            "began": began,
        }
        await self.transaction.defer(_PUT_CURSOR, values)


# --- Addresses --------------------------------------------------------------------------------------------

_a = address_table.c
_l = lane.c
_ALL_ADDRESSES = select(address_table)
_address_is = and_(_a.platform == bindparam("of_platform"), _a.value == bindparam("of_value"))
_GET_ADDRESS = select(_a.channel).where(_address_is)
_address_in_use = exists().where(
    _l.waiting + _l.dead > 0,
    or_(
        and_(_l.source_platform == _a.platform, _l.source_channel == _a.channel),
        and_(
            _l.destination_platform == _a.platform,
            _l.destination_channel == _a.channel,
        ),
    ),
)
_FORGET_ADDRESS = delete(address_table).where(_address_is, ~_address_in_use)
_address_insert = insert(address_table).values({name: bindparam(name) for name in ("platform", "value", "channel")})
_BIND_ADDRESS = _address_insert.or_update(
    "platform", "value", channel=_address_insert.new.channel, where=_a.channel != _address_insert.new.channel
)


@dataclass(slots=True)
class SqlChannels:
    """`core.storage.Channels`: which channel each declared address stood for when it was last opened."""

    transaction: Transaction

    async def get(self, address: ChannelAddress) -> ChannelRef | None:
        """See `Channels.get`."""
        row = await self.transaction.first(_GET_ADDRESS, _of_address(address))
        return None if row is None else ChannelRef(address.platform, row.channel)

    async def known(self) -> Mapping[ChannelAddress, ChannelRef]:
        """See `Channels.known`."""
        found = {}
        for row in await self.transaction.all(_ALL_ADDRESSES, {}):
            if row.platform not in frozenset(Platform):
                continue  # one that this relay does not know
            platform = Platform(row.platform)
            found[ChannelAddress(platform, row.value)] = ChannelRef(platform, row.channel)
        return found

    async def bind(self, address: ChannelAddress, channel: ChannelRef) -> None:
        """See `Channels.bind`."""
        values = {"platform": address.platform, "value": address.value, "channel": channel.id}
        await self.transaction.defer(_BIND_ADDRESS, values)

    async def forget(self, address: ChannelAddress) -> None:
        """See `Channels.forget`."""
        await self.transaction.defer(_FORGET_ADDRESS, _of_address(address))


def _of_address(address: ChannelAddress) -> dict[str, str]:
    return {"of_platform": address.platform, "of_value": address.value}


# --- Copies that several originals share ------------------------------------------------------------------

_digest_is = and_(digest_table.c.channel_id == channel_id("of_"), digest_table.c.native_id == bindparam("of_id"))
_GET_DIGEST = select(digest_table.c.command).where(_digest_is)
_FORGET_DIGEST = delete(digest_table).where(_digest_is)
_PUT_DIGEST = (
    insert(digest_table)
    .values(channel_id=channel_id("of_"), native_id=bindparam("of_id"), command=bindparam("command"))
    .or_replace()
    .inline()
)


@dataclass(slots=True)
class SqlDigests:
    """`core.storage.Digests`: the messages in a shared copy. An edit of one of them posts all of them again."""

    transaction: Transaction

    async def get(self, copy: MessageRef) -> Digest | None:
        """See `Digests.get`."""
        row = await self.transaction.first(_GET_DIGEST, _of_digest(copy))
        if row is None:
            return None
        command = codec.decode(row.command)
        if not isinstance(command, Digest):
            raise ValueError(f"no shared copy: {command.kind}")
        return command

    async def put(self, copy: MessageRef, digest: Digest) -> None:
        """See `Digests.put`."""
        await self.transaction.record_channel(copy.channel)
        await self.transaction.defer(_PUT_DIGEST, {**_of_digest(copy), "command": codec.encode(digest)})

    async def forget(self, copy: MessageRef) -> None:
        """See `Digests.forget`."""
        await self.transaction.defer(_FORGET_DIGEST, _of_digest(copy))


def _of_digest(copy: MessageRef) -> dict[str, str]:
    return {"of_platform": copy.platform, "of_channel": copy.channel.id, "of_id": copy.id}


# --- Uploaded pictures ------------------------------------------------------------------------------------

_GET_PICTURE = select(media_cache.c.copy_locator).where(
    and_(
        media_cache.c.platform == bindparam("of_platform"),
        media_cache.c.locator == bindparam("of_locator"),
        media_cache.c.copy_platform == bindparam("on_platform"),
    )
)
_PUT_PICTURE = (
    insert(media_cache)
    .values(
        {name: bindparam(name) for name in ("platform", "locator", "copy_platform", "copy_locator")}
        | {"used": seconds_now()}
    )
    .or_replace()
    .inline()
)


@dataclass(slots=True)
class SqlMediaCache:
    """`core.storage.MediaCache`: where pictures that many messages show (emoji, avatars) have been uploaded to."""

    transaction: Transaction

    async def get(self, source: MediaRef, destination: Platform) -> MediaRef | None:
        """See `MediaCache.get`."""
        row = await self.transaction.first(
            _GET_PICTURE, {"of_platform": source.platform, "of_locator": source.locator, "on_platform": destination}
        )
        return None if row is None else MediaRef(destination, row.copy_locator)

    async def put(self, source: MediaRef, copy: MediaRef) -> None:
        """See `MediaCache.put`."""
        await self.transaction.defer(
            _PUT_PICTURE,
            {
                "platform": source.platform,
                "locator": source.locator,
                "copy_platform": copy.platform,
                "copy_locator": copy.locator,
            },
        )


# --- Avatars ----------------------------------------------------------------------------------------------

_v = avatar.c
_is_owned = and_(_v.copy_platform == bindparam("on_platform"), _v.user_platform != "")
_newest_avatars = select(avatar).where(_is_owned).order_by(_v.used.desc(), _v.user_id, _v.source)
_KNOWN_AVATARS = _newest_avatars.limit(bindparam("most"))
_PUT_AVATAR = (
    insert(avatar)
    .values({column.name: bindparam(column.name) for column in _v if column is not _v.used})
    .values(used=seconds_now())
    .or_replace()
    .inline()
)
_avatar_of = and_(_v.user_platform == bindparam("of_platform"), _v.user_id == bindparam("of_user"))
_USE_AVATAR = (
    update(avatar)
    .where(_v.copy_platform == bindparam("on_platform"), _avatar_of, _v.source == bindparam("of_source"))
    .values(used=seconds_now())
)
_OLD_AVATARS = _newest_avatars.offset(bindparam("most"))
_FORGET_AVATAR = delete(avatar).where(
    _v.copy_platform == bindparam("on_platform"), _avatar_of, _v.source == bindparam("of_source")
)
_FORGET_COPY = delete(avatar).where(_v.copy_platform == bindparam("on_platform"), _v.copy_id == bindparam("of_copy"))
_others = avatar.alias("others")
_is_shared = exists().where(
    _others.c.copy_platform == _v.copy_platform,
    _others.c.copy_id == _v.copy_id,
    _others.c.user_platform != "",
    or_(_others.c.user_platform != _v.user_platform, _others.c.user_id != _v.user_id),
)
_DISOWN = (
    insert(avatar)
    .from_select(
        ["copy_platform", "user_platform", "user_id", "source", "name", "copy_id", "used"],
        select(
            _v.copy_platform,
            literal_column("''"),
            literal_column("''"),
            _v.copy_id,
            func.max(_v.name),
            _v.copy_id,
            literal_column("0"),
        )
        .where(_avatar_of, ~_is_shared)
        .group_by(_v.copy_platform, _v.copy_id),
    )
    .or_replace()
)
_FORGET_USER = delete(avatar).where(_avatar_of)
_UNOWNED = select(_v.copy_id).where(_v.copy_platform == bindparam("on_platform"), _v.user_platform == "")


@dataclass(slots=True)
class SqlAvatars:
    """`core.storage.Avatars`: which pictures of people stand on the other side."""

    transaction: Transaction

    async def known(self, platform: Platform, most: int) -> Sequence[AvatarRecord]:
        """See `Avatars.known`."""
        rows = await self.transaction.all(_KNOWN_AVATARS, {"on_platform": platform, "most": most})
        return [
            AvatarRecord(
                UserRef(Platform(row.user_platform), row.user_id),
                row.source,
                row.name,
                MediaRef(platform, row.copy_id),
                row.used,
            )
            for row in rows
            if row.user_platform in frozenset(Platform)
        ]

    async def put(self, record: AvatarRecord) -> None:
        """See `Avatars.put`."""
        values = {
            "copy_platform": record.copy.platform,
            "user_platform": record.user.platform,
            "user_id": record.user.id,
            "source": record.source,
            "name": record.name,
            "copy_id": record.copy.locator,
        }
        await self.transaction.defer(_PUT_AVATAR, values)

    async def use(self, records: Sequence[AvatarRecord]) -> None:
        """See `Avatars.use`."""
        for record in records:
            await self.transaction.defer(_USE_AVATAR, _of_avatar(record.copy.platform, record.user, record.source))

    async def trim(self, platform: Platform, most: int) -> None:
        """See `Avatars.trim`."""
        for row in await self.transaction.all(_OLD_AVATARS, {"on_platform": platform, "most": most}):
            values = {"of_platform": row.user_platform, "of_user": row.user_id, "of_source": row.source}
            await self.transaction.defer(_FORGET_AVATAR, {"on_platform": platform, **values})

    async def forget_copy(self, copy: MediaRef) -> None:
        """See `Avatars.forget_copy`."""
        await self.transaction.defer(_FORGET_COPY, {"on_platform": copy.platform, "of_copy": copy.locator})

    async def disown(self, user: UserRef) -> None:
        """See `Avatars.disown`."""
        values = {"of_platform": user.platform, "of_user": user.id}
        await self.transaction.defer(_DISOWN, values)
        await self.transaction.defer(_FORGET_USER, values)

    async def unowned(self, platform: Platform) -> Sequence[MediaRef]:
        """See `Avatars.unowned`."""
        rows = await self.transaction.all(_UNOWNED, {"on_platform": platform})
        return [MediaRef(platform, row.copy_id) for row in rows]


def _of_avatar(platform: Platform, user: UserRef, source: str) -> dict[str, str]:
    return {"on_platform": platform, "of_platform": user.platform, "of_user": user.id, "of_source": source}


# --- Once-only keys and key values -----------------------------------------------------------------------------

# Earlier versions claimed a key for a pair: `?` and its name in place of a channel. That counts for every channel.
_claimed_by_pair = exists().where(
    once_key.c.platform == bindparam("platform"), once_key.c.key == bindparam("key"), once_key.c.channel.startswith("?")
)
_now = seconds_now()
# A key that is still claimed is still in use: pruning keeps it.
_USE_KEY = (
    update(once_key)
    .where(
        once_key.c.platform == bindparam("of_platform"),
        once_key.c.key == bindparam("of_key"),
        once_key.c.used < _now - 3600,
    )
    .values(used=_now)
)
_CLAIM_KEY = (
    insert(once_key)
    .from_select(
        ["platform", "key", "channel", "used"],
        select(*(bindparam(name, type_=AnyText()) for name in ("platform", "key", "channel")), _now).where(
            ~_claimed_by_pair
        ),
    )
    .or_ignore()
    .returning(once_key.c.key)
)
_GET_VALUE = select(key_value.c.value).where(key_value.c.name == bindparam("of_name"))


@lru_cache(16)
def _get_values(number: int) -> Select[tuple[str, str]]:
    names: list[BindParameter[str]] = [bindparam(f"name{place}") for place in range(number)]
    return select(key_value.c.name, key_value.c.value).where(key_value.c.name.in_(names))


_value_insert = insert(key_value).values({name: bindparam(name) for name in ("name", "value")})
_PUT_VALUE = _value_insert.or_replace()


@dataclass(slots=True)
class SqlOnceKeys:
    """`core.storage.OnceKeys`: keys that can be claimed once, for notices that are posted only once."""

    transaction: Transaction

    async def claim(self, destination: ChannelRef, key: str) -> bool:
        """See `OnceKeys.claim`."""
        values = {"platform": destination.platform, "key": key, "channel": destination.id}
        await self.transaction.defer(_USE_KEY, {"of_platform": destination.platform, "of_key": key})
        return await self.transaction.first(_CLAIM_KEY, values) is not None


@dataclass(slots=True)
class SqlKeyValues:
    """`core.storage.KeyValues`: named values."""

    transaction: Transaction
    known: KnownValues = field(default_factory=KnownValues)

    async def get(self, name: str) -> str | None:
        """See `KeyValues.get`."""
        if self.known.has("", name):
            return self.known.get("", name)
        row = await self.transaction.first(_GET_VALUE, {"of_name": name})
        return None if row is None else str(row.value)

    async def several(self, *names: str) -> Sequence[str | None]:
        """See `KeyValues.several`."""
        if all(self.known.has("", name) for name in names):
            return [self.known.get("", name) for name in names]
        values = {f"name{number}": name for number, name in enumerate(names)}
        found = {row.name: str(row.value) for row in await self.transaction.all(_get_values(len(names)), values)}
        return [found.get(name) for name in names]

    async def put(self, name: str, value: str) -> None:
        """See `KeyValues.put`."""
        self.known.change("", name)
        await self.transaction.defer(_PUT_VALUE, {"name": name, "value": value})
