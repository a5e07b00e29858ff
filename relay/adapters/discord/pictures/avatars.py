"""Pictures of people beside their messages: emoji of our application, whose addresses are public and never expire.

A webhook's message shows the picture at its `avatar_url`, which Discord fetches by itself. So a person's picture is
uploaded once as an emoji of the application (https://docs.discord.com/developers/resources/emoji), under a name that is
made from its bytes: people with the same picture share one, and an upload whose answer was lost is found by its name.
Who has no picture gets letters on a coloured ground. If the operator wants that, pictures are shown from the public
address of the relay itself instead.

Nothing here is waited for: `url` answers at once with what stands, and has the rest made in the background. Discord
limits these routes by itself, sometimes for an hour.
"""

import asyncio
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from relay.adapters.discord.api.client import Method, RestClient, Route
from relay.adapters.discord.api.errors import ApiError, ErrorCode, Limited, Refused, Unanswered
from relay.adapters.discord.gateway.translator import BotIdentity
from relay.adapters.discord.identifiers import created_at, is_snowflake
from relay.adapters.discord.pictures.drawing import Pictures
from relay.adapters.discord.pictures.shelf import (
    MOST_RECORDS,
    MOST_REMEMBERED,
    Emoji,
    Shelf,
    Wanted,
    Wishes,
    emoji_name,
    is_emoji_name,
    letters_of,
    shows_several,
)
from relay.core.clock import wait_at_most
from relay.core.files import Files, PictureLinks
from relay.core.people.storage import AvatarRecord
from relay.core.ports import Clock
from relay.core.recent import keep
from relay.core.storage import Store
from relay.domain.content import Author
from relay.domain.ids import MediaRef, Platform, UserRef
from relay.errors import DeliveryError, Permanent, StoreUnavailable, TargetGone, Transient
from relay.logs import get_logger

_log = get_logger(__name__)

MOST_EMOJI = 2_000
"""Of one application, as Discord has it."""

MOST_AVATARS = 1_900
"""Of them, ours at most: the others are left to the operator."""

_SIDE = 256
_MAX_PICTURE_SIZE = 2 * 1024 * 1024
_FETCH_SECONDS = 20.0
_FETCHES = 3
# Until a picture that could not be had is tried again: of no use; not to be had now.
_USELESS_PAUSE, _AWAY_PAUSE = 24 * 3600.0, 300.0
# Until anything is uploaded again: Discord refuses; there is no answer, at first and at last.
_REFUSED_PAUSE, _SHORT_PAUSE, _LONG_PAUSE = 3600.0, 2.0, 120.0
# After so many failures it may be this picture that Discord cannot take.
_MOST_FAILURES = 5

_SAVE_SECONDS = 60.0
# Writing down when a picture was used last: not for each message.
_USE_SECONDS = 3600.0
_LIST_SECONDS = 6 * 3600.0
_EMOJI = "/applications/{application}/emojis"


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Avatars:
    """Knows the address of a person's picture, and puts pictures there."""

    rest: RestClient
    identity: BotIdentity
    files: Files | None
    pictures: Pictures
    # None: nothing outlives the process.
    store: Store | None
    clock: Clock
    # The server that shows emoji.
    cdn_url: str
    # Seconds after its last use, after which a picture is deleted. None: never.
    kept_for: float | None = None
    # Makes addresses of pictures on our own web server. None: each picture becomes an emoji.
    links: PictureLinks | None = None
    shelf: Shelf = field(init=False, default_factory=Shelf)
    _wishes: Wishes = field(init=False)
    # When a picture that could not be had is tried again (monotonic).
    _retry_at: OrderedDict[str, float] = field(init=False, default_factory=OrderedDict)
    _connected: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # One request at a time, and whatever decides about it.
    _uploading: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _paused_until: float = field(init=False, default=0.0)
    _pause: float = field(init=False, default=_SHORT_PAUSE)
    # When the emoji were listed last (monotonic). None: they have to be listed before the next upload.
    _listed_at: float | None = field(init=False, default=None)
    # The emoji that are not ours.
    _foreign: int = field(init=False, default=0)
    # How many of ours have room, as far as Discord has said.
    _room: int = field(init=False, default=MOST_AVATARS)
    # The emoji that have to be deleted because nobody has them any more.
    _unwanted: set[str] = field(init=False, default_factory=set)
    _delete_now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # What was used and is not on record yet, with the name of its emoji.
    _used: dict[tuple[UserRef, str], str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._wishes = Wishes(self.clock)

    # --- At once ------------------------------------------------------------------------------------------

    def url(self, author: Author) -> str | None:
        """The address of a picture of `author`; None while none stands. What is missing is made in the background."""
        if author.avatar is not None and author.avatar.locator.startswith(("https://", "http://")):
            return author.avatar.locator
        if shows_several(author):
            return None
        if author.avatar is not None and self.links is not None and (url := self.links.picture_link(author.avatar)):
            return url
        if author.avatar is None or self.files is None:
            return self._wished(letters_of(author))
        picture = Wanted(author.user, author.avatar.locator, author.avatar)
        if (found := self._wished(picture)) is not None:
            return found
        if self._is_given_up(picture.source):
            return self._wished(letters_of(author))
        # For one message, or a few: what the person had before, or letters that somebody else has, too.
        before = self.shelf.last.get(author.user.id) or self.shelf.by_source.get(letters_of(author).source)
        return None if before is None else self._address(before)

    def expect(self, author: Author) -> None:
        """Have the picture made of somebody who has had one here, before the next message needs it."""
        if author.user.id in self.shelf.last:
            self.url(author)

    def _wished(self, wanted: Wanted) -> str | None:
        """The address of what is wanted, if it stands. Else it will be made, unless that was given up just now."""
        key = (wanted.user.id, wanted.source)
        name = self.shelf.shown.get(key)
        if name is not None:
            self.shelf.shown.move_to_end(key)
            self.shelf.last[wanted.user.id] = name
            emoji = self.shelf.by_name[name]
            if self._now() - emoji.saved >= _USE_SECONDS:
                self._used[wanted.user, wanted.source] = name
            return self._address(name)
        if not self._is_given_up(wanted.source):
            self._wishes.add(wanted)
        # Somebody else may have the same.
        same = self.shelf.by_source.get(wanted.source)
        return None if same is None else self._address(same)

    def _address(self, name: str) -> str:
        emoji = self.shelf.by_name[name]
        emoji.used = self._now()
        return f"{self.cdn_url}/emojis/{emoji.file}"

    def _is_given_up(self, source: str) -> bool:
        return self.clock.monotonic() < self._retry_at.get(source, 0.0)

    def _give_up(self, source: str, seconds: float) -> None:
        keep(self._retry_at, source, self.clock.monotonic() + seconds, MOST_REMEMBERED)

    def _now(self) -> float:
        return self.rest.time.now().timestamp()

    async def forget(self, user: UserRef) -> None:
        """Forget a person. Pictures that nobody else has are deleted as soon as Discord allows.

        Raises `StoreUnavailable`; then nothing is forgotten.
        """
        self._wishes.forget(user.id)  # first: what is being made of theirs must not be put on record after this
        if self.store is not None:
            async with self.store.write() as uow:
                await uow.avatars.disown(user)
        self._used = {key: name for key, name in self._used.items() if key[0] != user}
        self._unwanted |= {emoji.id for emoji in self.shelf.forget(user.id)}
        self._delete_now.set()

    # --- In the background --------------------------------------------------------------------------------

    def session_started(self) -> None:
        """The bot's IDs are known."""
        self._connected.set()

    async def run(self) -> None:
        """Make what is wanted, until cancelled."""
        while True:
            try:
                await self._load()
            except StoreUnavailable as error:
                _log.warning("pictures of people wait for the store", reason=error.reason)
                await self.clock.sleep(_LONG_PAUSE)
            else:
                break
        await self._connected.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_house(), name="discord avatars")
            for number in range(_FETCHES):
                group.create_task(self._work(), name=f"discord avatars {number}")

    async def _work(self) -> NoReturn:
        while True:
            wanted = await self._wishes.take()
            try:
                await self._wait_for_pause()
                if self._wishes.stands(wanted):
                    await self._provide(wanted)
            except (ApiError, StoreUnavailable) as error:
                self._pause_for(error)
                self._try_again(wanted, error)
            except DeliveryError as error:
                self._not_to_be_had(wanted, error)
            except Exception:  # noqa: BLE001 - the top of a worker
                _log.exception("a picture failed")
                self._give_up(wanted.source, _USELESS_PAUSE)
            self._wishes.done(wanted)

    async def _wait_for_pause(self) -> None:
        while (left := self._paused_until - self.clock.monotonic()) > 0:
            await self.clock.sleep(left)

    def _pause_for(self, error: ApiError | StoreUnavailable) -> None:
        """Upload nothing for a while."""
        match error:
            case Limited(retry_after=seconds):
                _log.info("pictures of people wait", seconds=round(seconds), reason=str(error))
            case Refused():
                seconds = _REFUSED_PAUSE
                remedy = "see that the application has room for emoji (Developer Portal, Emojis)"
                _log.warning("no new pictures of people for an hour", reason=str(error), remedy=remedy)
            case _:
                seconds, self._pause = self._pause, min(2 * self._pause, _LONG_PAUSE)
        self._paused_until = max(self._paused_until, self.clock.monotonic() + seconds)

    def _try_again(self, wanted: Wanted, error: ApiError | StoreUnavailable) -> None:
        if not self._wishes.stands(wanted):
            return
        if not isinstance(error, Unanswered):
            self._wishes.again(wanted)
        elif wanted.failures < _MOST_FAILURES:
            self._wishes.again(replace(wanted, failures=wanted.failures + 1))
        else:
            self._give_up(wanted.source, _REFUSED_PAUSE)

    def _not_to_be_had(self, wanted: Wanted, error: DeliveryError) -> None:
        _log.info("a picture does not cross", reason=str(error))
        if isinstance(error, TargetGone | Permanent):
            self._give_up(wanted.source, _USELESS_PAUSE)
        else:
            after = error.retry_after if isinstance(error, Transient) else None
            self._give_up(wanted.source, max(_AWAY_PAUSE, after or 0.0))

    async def _provide(self, wanted: Wanted) -> None:
        """Have a picture stand. Raises `ApiError`, `StoreUnavailable` or `DeliveryError`."""
        name = self.shelf.by_source.get(wanted.source)
        if name is None:
            made = await self._make(wanted)
            name = emoji_name(made)
            async with self._uploading:
                await self._upload(name, made, wanted.user.id)
        emoji = self.shelf.by_name.get(name)
        if emoji is None:
            return  # it went meanwhile; the next message wants it again
        if self.store is not None:
            record = AvatarRecord(wanted.user, wanted.source, name, MediaRef(Platform.DISCORD, emoji.id))
            async with self.store.write() as uow:
                if self._wishes.stands(wanted):
                    await uow.avatars.put(record)
            emoji.saved = self._now()
        if self.shelf.by_name.get(name) is not emoji:
            return
        if self._wishes.stands(wanted):
            self.shelf.show(wanted.user.id, wanted.source, name)
        elif not emoji.people:
            # They were forgotten meanwhile, and nobody else has it.
            self.shelf.remove(name)
            self._unwanted.add(emoji.id)
            self._delete_now.set()

    async def _make(self, wanted: Wanted) -> bytes:
        if wanted.picture is None:
            return await self.pictures.letters(wanted.letters, wanted.hue)
        if self.files is None:
            raise TargetGone("there are no files of the other side")
        fetched = await self.files.picture(wanted.picture, side=_SIDE, max_bytes=_MAX_PICTURE_SIZE, wait=_FETCH_SECONDS)
        return await self.pictures.avatar(fetched)

    # --- The application's emoji --------------------------------------------------------------------------

    async def _upload(self, name: str, picture: bytes, account: str) -> None:
        """Have the emoji `name` stand. Raises `ApiError`, `Permanent` or `Transient`."""
        if self._listed_at is None:
            await self._list()
        if name in self.shelf.by_name:
            return
        await self._delete_unwanted()  # one of them may have the same picture
        await self._make_room(account)
        try:
            id_ = await self._post(name, picture)
        except Refused as error:
            if error.status != 400:
                raise
            # Another process may have made it just now, or the operator may have taken the last room.
            await self._list()
            if name in self.shelf.by_name:
                return
            if error.code != ErrorCode.TOO_MANY_EMOJI:
                raise Permanent(f"Discord refuses it ({error.message})") from None
            self._room = len(self.shelf.by_name)
            await self._make_room(account)
            id_ = await self._post(name, picture)
        self._pause = _SHORT_PAUSE
        self.shelf.by_name[name] = Emoji(name, id_, self._now())
        _log.debug("picture uploaded", emoji=id_, name=name, size=len(picture))

    async def _post(self, name: str, picture: bytes) -> str:
        kind = "gif" if picture.startswith(b"GIF8") else "png"
        body = {"name": name, "image": f"data:image/{kind};base64,{b64encode(picture).decode()}"}
        try:
            answer = await self.rest.call(self._route("POST"), body=body)
            id_ = answer.get("id") if isinstance(answer, dict) else None
            if not is_snowflake(id_):
                raise Unanswered("Discord's answer does not contain the emoji's ID", sent=True, answered=True)
        except Unanswered as error:
            if error.sent:
                self._listed_at = None  # it may stand
            raise
        return str(id_)

    async def _make_room(self, account: str) -> None:
        """Delete emoji of ours until there is room for one more. Raises `ApiError`; `Transient` if there is none."""
        most = min(self._room, MOST_AVATARS, MOST_EMOJI - self._foreign)
        while len(self.shelf.by_name) >= most or self.shelf.is_crowded_by(account):
            emoji = self.shelf.replaceable(account, self._now())
            if emoji is None:
                raise Transient("all emoji have been used within the last hour")
            await self._remove(emoji)

    async def _remove(self, emoji: Emoji) -> None:
        """Delete an emoji that stands. Raises as `_delete` does; what may be gone is not shown any more."""
        try:
            await self._delete(emoji.id)
        except Unanswered as error:
            if error.sent:
                self.shelf.remove(emoji.name)
                self._listed_at = None  # the list says whether it is still there
            raise
        except StoreUnavailable:
            self.shelf.remove(emoji.name)
            raise
        self.shelf.remove(emoji.name)

    async def _delete(self, emoji: str) -> None:
        """Delete an emoji, and then what is on record about it. Raises `ApiError` or `StoreUnavailable`."""
        try:
            await self.rest.call(self._route("DELETE", emoji))
        except Refused as error:
            if error.code != ErrorCode.UNKNOWN_EMOJI:
                raise
        await self._forget_copies([emoji])

    async def _delete_unwanted(self) -> None:
        for emoji in sorted(self._unwanted):
            await self._delete(emoji)
            self._unwanted.discard(emoji)

    async def _list(self) -> None:
        """Compare what stands with what is known: adopt the unknown, forget what is gone. Raises `ApiError`."""
        answer = await self.rest.call(self._route("GET"))
        items = answer.get("items") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            # Not an empty list: everything on record would be taken for deleted.
            raise Unanswered("Discord's answer does not contain a list of emoji", sent=False)
        listed = [item for item in items if isinstance(item, dict)]
        ours: dict[str, str] = {}
        for item in sorted(filter(self._is_ours, listed), key=lambda item: int(item["id"])):
            # The first of two of the same name, so that two processes agree.
            if str(item["id"]) not in self._unwanted:
                ours.setdefault(item["name"], str(item["id"]))
        self._foreign = sum(not self._is_ours(item) for item in listed)
        gone = [emoji for emoji in self.shelf.by_name.values() if ours.get(emoji.name) != emoji.id]
        await self._forget_copies(emoji.id for emoji in gone)
        for emoji in gone:
            self.shelf.remove(emoji.name)
        for name, id_ in ours.items():
            if name not in self.shelf.by_name:
                self.shelf.by_name[name] = Emoji(name, id_, created_at(id_).timestamp())
        self._room = MOST_AVATARS
        self._listed_at = self.clock.monotonic()
        _log.info("emoji of the application read", faces=len(ours), others=self._foreign, gone=len(gone))

    def _is_ours(self, item: Any) -> bool:
        """Whether we made an emoji: by its name, and by the bot user, where the server tells who uploaded it."""
        user = item.get("user")
        by = user.get("id") if isinstance(user, dict) else None
        return by in (None, self.identity.user) and is_snowflake(item.get("id")) and is_emoji_name(item.get("name"))

    def _route(self, method: Method, emoji: str | None = None) -> Route:
        ids = {"application": self.identity.application}
        if emoji is None:
            return Route(method, _EMOJI, ids, background=True)
        return Route(method, f"{_EMOJI}/{{emoji}}", ids | {"emoji": emoji}, background=True)

    # --- On record ----------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """What stood when it was last written down. It serves until Discord's list is there.

        Raises `StoreUnavailable`.
        """
        if self.store is None:
            return
        async with self.store.look() as uow:
            records = await uow.avatars.known(Platform.DISCORD, MOST_RECORDS)
        # What has nobody any more since then is among these.
        async with self.store.look() as uow:
            unowned = await uow.avatars.unowned(Platform.DISCORD)
        self._unwanted |= {copy.locator for copy in unowned if is_snowflake(copy.locator)}
        for record in reversed(records):
            id_ = record.copy.locator
            if is_snowflake(id_) and is_emoji_name(record.name) and id_ not in self._unwanted:
                emoji = self.shelf.by_name.setdefault(record.name, Emoji(record.name, id_))
                emoji.saved = max(emoji.saved, float(record.used))
                emoji.used = max(emoji.used, emoji.saved, created_at(id_).timestamp())
                self.shelf.show(record.user.id, record.source, record.name)

    async def _forget_copies(self, emoji: Iterable[str]) -> None:
        gone = list(emoji)
        if self.store is None or not gone:
            return
        async with self.store.write() as uow:
            for one in gone:
                await uow.avatars.forget_copy(MediaRef(Platform.DISCORD, one))

    async def _keep_house(self) -> NoReturn:
        """Write down what was used, delete what nobody has any more, and look now and then at what stands."""
        while True:
            try:
                await self._save_uses()
                if self.clock.monotonic() >= self._paused_until:
                    async with self._uploading:
                        await self._list_now_and_then()
                        await self._delete_unwanted()
            except (ApiError, StoreUnavailable) as error:
                self._pause_for(error)
            except Exception:  # noqa: BLE001 - the top of a worker
                _log.exception("pictures are not looked after for now")
            await wait_at_most(self._delete_now, _SAVE_SECONDS)
            self._delete_now.clear()

    async def _list_now_and_then(self) -> None:
        """An operator may delete emoji, and Discord does not tell of it. What is old is deleted."""
        if self._listed_at is not None and self.clock.monotonic() - self._listed_at < _LIST_SECONDS:
            return
        await self._list()
        if self.kept_for is not None:
            before = self._now() - self.kept_for
            for emoji in [one for one in self.shelf.by_name.values() if one.used < before]:
                await self._remove(emoji)

    async def _save_uses(self) -> None:
        used, self._used = self._used, {}
        if self.store is None or not used:
            return
        standing = {key: self.shelf.by_name[name] for key, name in used.items() if name in self.shelf.by_name}
        records = [
            AvatarRecord(user, source, emoji.name, MediaRef(Platform.DISCORD, emoji.id))
            for (user, source), emoji in standing.items()
        ]
        async with self.store.write() as uow:
            await uow.avatars.use(records)
            await uow.avatars.trim(Platform.DISCORD, MOST_RECORDS)
        for emoji in standing.values():
            emoji.saved = self._now()
