"""Bans that follow: whoever moderators of one side have banned does not cross, and what they wrote last may go.

Nobody is banned on the other side, so nothing can come back. A ban holds for the pairs of its own place, and only where
their settings say so. What is known of bans is in the store: they hold from the first moment after a start, and each is
acted on once, whether it is told live, again, or found in the list afterwards.
"""

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from relay.core.moderation.ports import BanReader, Decision
from relay.core.pairs import PairDirectory
from relay.core.people.directory import PeopleDirectory
from relay.core.ports import Clock, EventBatch
from relay.core.storage import Original, Store, UnitOfWork
from relay.domain.events import Event, MemberBanned, MemberUnbanned, MessageDeleted
from relay.domain.ids import ChannelRef, PlaceRef, Platform, UserRef
from relay.domain.jsontext import as_list
from relay.domain.pair import LaneKey, Pair
from relay.errors import ActionNeeded, DeliveryError, StoreUnavailable, Transient, sentence
from relay.logs import get_logger

_log = get_logger(__name__)

_REMOVALS = "removals after bans"
"""The key under which the store has what is still to be removed."""

_LOOK_EVERY = 2.0
_LIST_AGAIN = 120.0  # seconds until a list that could not be read is asked for again
_LOOK_FOR_REMOVALS = 60.0
_ROWS = 2_000  # of the message map that are looked at in one step
_COPIES = 5  # messages whose copies are deleted in one step
_BUSY_STEP = 10.0  # seconds between two steps where others' words wait
_BATCH = 200
_LOOKS_FOR_A_DECISION = 3  # a platform may write it down after it has told of the ban
_ASKED_FOR = 3600.0  # seconds for which a platform that does not answer is asked again
_LONGEST_PAUSE = 60.0  # between two of these tries
_MOST_UNEXPLAINED = 100
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class BanAct:
    """A ban or the end of one that was written down just now: for the log."""

    place: PlaceRef
    user: UserRef
    lifted: bool
    # Other accounts of the same person, for which it holds, too.
    linked: tuple[UserRef, ...] = ()
    # Since when what they wrote is removed; None: nothing is.
    removes_since: datetime | None = None
    # It was banned before the relay looked for the first time.
    is_old: bool = False


@dataclass(frozen=True, slots=True)
class _Unexplained:
    """It is not known yet who decided something, and why."""

    act: BanAct
    since: float
    # How often the platform did not know it yet, and how often it did not answer in a row.
    untold: int = 0
    failures: int = 0
    again_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Removal:
    """What somebody wrote is to be removed: where, since when, and how far that is."""

    place: PlaceRef
    user: UserRef
    because: UserRef
    since: datetime
    # The last row of the message map that was looked at; None: it has not begun.
    position: int | None = None


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Bans:
    """Takes in bans, and works off what follows from them."""

    store: Store
    pairs: PairDirectory
    people: PeopleDirectory
    clock: Clock
    readers: Mapping[Platform, BanReader]
    # Takes events as if they came from the platform.
    deliver: Callable[[EventBatch], Awaitable[None]]
    # The version of the list that was read last of each place; of one that could not be read, until when it is left.
    _listed: dict[PlaceRef, int] = field(init=False, default_factory=dict)
    _failed: dict[PlaceRef, tuple[int, float]] = field(init=False, default_factory=dict)
    # Where something was decided while nobody followed it, although the list is known: it is read again.
    _missed: set[PlaceRef] = field(init=False, default_factory=set)
    _problems: dict[PlaceRef, str] = field(init=False, default_factory=dict)
    # Of whom something was told live while a list is being read and worked off: that is newer than the list.
    _listing: bool = field(init=False, default=False)
    _told_live: set[tuple[PlaceRef, UserRef]] = field(init=False, default_factory=set)
    _unexplained: deque[_Unexplained] = field(init=False, default_factory=deque)
    _may_remove: bool = field(init=False, default=True)
    _busy_until: float = field(init=False, default=0.0)

    # --- What is asked ------------------------------------------------------------------------------------

    def refusal(self, lane: LaneKey, banned_from: frozenset[PlaceRef]) -> str | None:
        """Why somebody who is banned from these places does not cross a lane; None if they do."""
        if not banned_from:
            return None
        for channel in (lane.source, lane.destination):
            place = self._place_of(channel)
            if place is not None and place in banned_from:
                return f"they are banned on {place.platform.title()} ({place.id})"
        return None

    def notes(self, pair: Pair) -> tuple[str, ...]:
        """Why bans of a pair's places cannot be listed. No I/O."""
        if not pair.policy.follow_bans:
            return ()
        places = {self._place_of(self.pairs.channel(side)) for side in pair.sides}
        return tuple(sentence(problem) for place, problem in self._problems.items() if place in places)

    def _place_of(self, channel: ChannelRef) -> PlaceRef | None:
        reader = self.readers.get(channel.platform)
        return None if reader is None else reader.place_of(channel)

    def _followed(self) -> dict[PlaceRef, list[Pair]]:
        """The places whose bans are followed, with the pairs that do so."""
        found: dict[PlaceRef, list[Pair]] = {}
        for pair in self.pairs.pairs:
            if pair.policy.follow_bans and pair.destinations:
                for side in pair.sides:
                    if (place := self._place_of(self.pairs.channel(side))) is not None:
                        found.setdefault(place, []).append(pair)
        return found

    # --- What is told -------------------------------------------------------------------------------------

    async def receive(
        self, uow: UnitOfWork, event: MemberBanned | MemberUnbanned, changed: set[UserRef]
    ) -> BanAct | None:
        """Write down a ban or its end; None if that is known already, or followed nowhere."""
        pairs = self._followed().get(event.place)
        if not pairs:
            self._missed.add(event.place)
            self._listed.pop(event.place, None)
            return None
        if event.is_listed:
            if (event.place, event.user) in self._told_live:
                return None
        elif self._listing:
            self._told_live.add((event.place, event.user))
        if isinstance(event, MemberUnbanned):
            freed = await uow.people.unban(event.place, event.user)
            self.people.change((event.user, *freed), changed)
            removals = [
                one for one in await self._removals(uow) if (one.place, one.because) != (event.place, event.user)
            ]
            await self._put_removals(uow, removals)
            linked = tuple(one for one in freed if one != event.user)
            return BanAct(event.place, event.user, lifted=True, linked=linked) if freed else None
        person = await self.people.of(event.user, uow)
        self.people.change((event.user, *person.linked.values()), changed)
        if not await uow.people.ban(event.place, event.user, event.user):
            return None
        # Whoever links two accounts says that they are one person: to unlink them does not let the other one speak.
        linked = tuple(
            [one for one in person.linked.values() if await uow.people.ban(event.place, one, because=event.user)]
        )
        since = self._removes_since(event, pairs)
        if since is not None:
            removals = await self._removals(uow)
            removals += [_Removal(event.place, user, event.user, since) for user in (event.user, *linked)]
            await self._put_removals(uow, removals)
        return BanAct(event.place, event.user, lifted=False, linked=linked, removes_since=since, is_old=event.is_old)

    def _removes_since(self, event: MemberBanned, pairs: Sequence[Pair]) -> datetime | None:
        """From when on what they wrote goes; None: it stays."""
        if event.is_old:
            return None
        if event.removes_all:
            return _EVER
        seconds = max(pair.policy.ban_removes for pair in pairs)
        return self.clock.now() - timedelta(seconds=seconds) if seconds else None

    def tell(self, act: BanAct) -> None:
        """Log what was written down, and begin with what follows from it."""
        # Not before: the worker would look while it is not on disk yet.
        self._may_remove = True
        facts = {"platform": str(act.place.platform), "place": act.place.id, "user": act.user.id}
        if act.linked:
            facts["linked"] = ", ".join(one.id for one in act.linked)
        if act.removes_since is not None:
            facts["removes_since"] = "ever" if act.removes_since == _EVER else act.removes_since.isoformat()
        _log.info("ban lifted" if act.lifted else "ban followed", **facts)
        if not act.is_old:
            if len(self._unexplained) >= _MOST_UNEXPLAINED:
                _tell_decision(self._unexplained.popleft().act, _UNKNOWN)
            self._unexplained.append(_Unexplained(act, self.clock.monotonic()))

    # --- What is done beside everything else ----------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        look_at = 0.0
        while True:
            seen, followed = self.pairs.changes, dict[PlaceRef, list[Pair]]()
            try:
                followed = self._followed()
                for place in followed:
                    await self._list(place)
                for gone in self._listed.keys() - followed.keys():
                    self._listed.pop(gone)
                    self._problems.pop(gone, None)
                self._missed &= followed.keys()
                if followed and self.clock.monotonic() >= look_at:
                    # An answer of the store may have got lost, and with it that there is something to remove.
                    self._may_remove, look_at = True, self.clock.monotonic() + _LOOK_FOR_REMOVALS
                await self._explain()
                while self._may_remove and await self._remove_some(followed):
                    await self.clock.sleep(0.1)
            except StoreUnavailable as error:
                _log.warning("bans wait for the store", reason=error.reason)
            except Exception:  # noqa: BLE001 - the top of a worker
                _log.exception("bug while following bans")
                await self.clock.sleep(_LIST_AGAIN / 10)
            await self.clock.sleep(_LOOK_EVERY)
            if not (followed or self._may_remove) and self.pairs.changes == seen:
                await self.pairs.changed.wait(self.clock, _LOOK_FOR_REMOVALS)

    async def _list(self, place: PlaceRef) -> None:
        """Find out which bans were missed, if any may have been."""
        reader = self.readers[place.platform]
        self._missed.discard(place)
        version, now = reader.bans_version(place), self.clock.monotonic()
        failed, again_at = self._failed.get(place, (None, 0.0))
        if self._listed.get(place) == version or (failed == version and now < again_at):
            return
        self._told_live.clear()
        self._listing = True
        try:
            bans, changes = await self._catch_up(place, reader)
        except DeliveryError as error:
            self._failed[place] = version, now + _LIST_AGAIN
            if self._problems.get(place) != str(error):
                _log.warning("bans cannot be listed", platform=str(place.platform), place=place.id, reason=str(error))
            self._problems[place] = str(error)
            return
        finally:
            self._listing = False
        if place in self._missed:
            return  # its pair was taken out while it was read, and what was read went nowhere
        self._listed[place] = version
        self._problems.pop(place, None)
        _log.info("bans listed", platform=str(place.platform), place=place.id, bans=bans, changes=changes)

    async def _catch_up(self, place: PlaceRef, reader: BanReader) -> tuple[int, int]:
        """Read the list of all bans, and take in what is not known of it: how many there are, and how many differed."""
        listed: set[UserRef] = set()
        async for page in reader.bans(place):
            listed.update(page)
        name = f"bans listed {place.platform} {place.id}"
        async with self.store.read() as uow:
            known, is_first = await uow.people.banned(place), await uow.key_values.get(name) is None
        events: list[Event] = [
            MemberBanned(place, user, is_old=is_first, is_listed=True) for user in sorted(listed - known)
        ]
        events += [MemberUnbanned(place, user, is_listed=True) for user in sorted(known - listed)]
        for start in range(0, len(events), _BATCH):
            await self.deliver(EventBatch(tuple(events[start : start + _BATCH])))
        if is_first and place not in self._missed:
            async with self.store.write() as uow:
                await uow.key_values.put(name, "yes")
        return len(listed), len(events)

    async def _explain(self) -> None:
        """Log who decided what was written down, and why, where the platform tells that."""
        now = self.clock.monotonic()
        for _ in range(len(self._unexplained)):
            one = self._unexplained.popleft()
            if now >= one.again_at:
                await self._ask(one, now)
            else:
                self._unexplained.append(one)

    async def _ask(self, one: _Unexplained, now: float) -> None:
        act = one.act
        try:
            found = await self.readers[act.place.platform].decision(act.place, act.user, lifted=act.lifted)
        except ActionNeeded as error:
            # A permission is missing, without which everything else works.
            _log.debug("who banned somebody is not told", place=act.place.id, reason=str(error))
        except DeliveryError as error:
            if now - one.since >= _ASKED_FOR:
                _tell_decision(act, _UNKNOWN)
                return
            pause = min(_LONGEST_PAUSE, _LOOK_EVERY * 2**one.failures)
            if isinstance(error, Transient) and error.retry_after is not None:
                pause = max(pause, error.retry_after)
            self._unexplained.append(replace(one, failures=one.failures + 1, again_at=now + pause))
        else:
            if found is not None:
                _tell_decision(act, found)
            elif one.untold + 1 < _LOOKS_FOR_A_DECISION:
                self._unexplained.append(replace(one, untold=one.untold + 1, failures=0))

    # --- Removals -----------------------------------------------------------------------------------------

    async def _remove_some(self, followed: Mapping[PlaceRef, Sequence[Pair]]) -> bool:
        """One step of the first removal; False once there is nothing left that can be removed now."""
        async with self.store.read() as uow:
            removals = await self._removals(uow)
            if not removals:
                self._may_remove = False
                return False
            first = removals[0]
            start = first.position
            if start is None:
                start = 0 if first.since == _EVER else await uow.messages.last_before(first.since)
            last, found = await uow.messages.written_by(first.user, start, _ROWS)
        pairs = followed.get(first.place, ())
        if not pairs and self._is_followed(first.place.platform):
            return False  # its channel is not open yet
        channels = {self.pairs.channel(side) for pair in pairs for side in pair.sides}
        to_go = [one for one in found if one.ref.channel in channels and not (one.deleted or one.left_out)]
        if to_go:
            if not await self._has_turn(to_go):
                return False
            to_go = to_go[:_COPIES]
            # As if they had been deleted where they were written: copies, shared ones and quoted lines follow.
            await self.deliver(EventBatch(tuple(MessageDeleted(one.ref) for one in to_go)))
            last = to_go[-1].id
            _log.info("copies removed after a ban", place=first.place.id, user=first.user.id, messages=len(to_go))
        async with self.store.write() as uow:
            now = await self._removals(uow)
            if first in now:  # else the ban was lifted meanwhile
                at = now.index(first)
                now[at : at + 1] = [] if last == start else [replace(first, position=last)]
                await self._put_removals(uow, now)
        return True

    def _is_followed(self, platform: Platform) -> bool:
        """Whether any pair follows bans of a platform, so that a place of it may be opened yet."""
        return platform in self.readers and any(pair.policy.follow_bans for pair in self.pairs.pairs)

    async def _has_turn(self, originals: Sequence[Original]) -> bool:
        """Whether copies may be deleted now: at once where nothing waits, now and then in a lane that is busy."""
        channels = {one.ref.channel for one in originals}
        lanes = [self.pairs.lane_from(channel, pair) for channel in channels if (pair := self.pairs.pair_of(channel))]
        async with self.store.look() as uow:
            depths = await uow.outbox.depths()
        now = self.clock.monotonic()
        if any(lane in depths and depths[lane].waiting for lane in lanes):
            if now < self._busy_until:
                return False
            self._busy_until = now + _BUSY_STEP
        return True

    async def _removals(self, uow: UnitOfWork) -> list[_Removal]:
        return [removal for row in _rows(await uow.key_values.get(_REMOVALS)) if (removal := _removal(row)) is not None]

    async def _put_removals(self, uow: UnitOfWork, removals: Sequence[_Removal]) -> None:
        rows: list[list[object]] = [
            [*_written(one.place), *_written(one.user), *_written(one.because), one.since.timestamp(), one.position]
            for one in removals
        ]
        text = json.dumps(rows) if rows else ""
        if text != (await uow.key_values.get(_REMOVALS) or ""):
            await uow.key_values.put(_REMOVALS, text)


_UNKNOWN = Decision("", "the platform did not answer")


def _tell_decision(act: BanAct, found: Decision) -> None:
    facts = {"platform": str(act.place.platform), "place": act.place.id, "user": act.user.id}
    what = "ban lifted by" if act.lifted else "banned by"
    _log.info(what, **facts, moderator=found.by or "unknown", reason=found.reason or "none given")


def _written(one: PlaceRef | UserRef) -> tuple[str, str]:
    return str(one.platform), one.id


def _rows(text: str | None) -> list[Any]:
    try:
        return as_list(json.loads(text)) if text else []
    except ValueError:
        return []


def _removal(row: Any) -> _Removal | None:
    """What a row of the store says; None if it is damaged."""
    match row:
        case [str(), str(), str(), str(), str(), str(), int() | float() as since, int() | None as position]:
            on, place, of, user, of_first, because = map(str, row[:6])
        case _:
            return None
    try:
        who, first = UserRef(Platform(of), user), UserRef(Platform(of_first), because)
        return _Removal(PlaceRef(Platform(on), place), who, first, datetime.fromtimestamp(since, UTC), position)
    except (ValueError, OverflowError, OSError):
        return None
