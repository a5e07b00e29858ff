"""`relay backfill`: what was said in a pair's channels before the relay was there crosses, oldest first.

The command line leaves a wish in the store, and the daemon carries it out. Its messages wait in the lane in which those
of today wait, a few at a time, so that nobody waits long behind them. How far it is stands in the store, in the
transaction that queues them: after a restart it goes on from there.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from relay.core.clock import Backoff, Bell
from relay.core.intake.router import PastWatch, Router
from relay.core.operations.backfill_wishes import Progress, State, Wish, progress_key, read_progress, read_wishes
from relay.core.pairs import PairDirectory
from relay.core.ports import Clock, PastPage, PastReader
from relay.core.storage import Entry, Store, UnitOfWork
from relay.domain.commands import PostNotice, SendMessage
from relay.domain.events import MessageCreated
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey, Pair
from relay.domain.text.nodes import RichText
from relay.errors import ActionNeeded, Permanent, StoreError, StoreUnavailable, Transient, sentence
from relay.logs import get_logger

_log = get_logger(__name__)

_STEP = 5
"""Messages that are queued at a time: behind so many what is said today may have to wait."""

_SLOW_SECONDS = 3.0
"""Where a message takes longer under a rate limit, several cross as one, and that counts as one of a step."""

_ROOM_SECONDS = 1.0
"""After so many it is looked again whether all of them have crossed."""

_ABSENT_SECONDS = 60.0
"""So long a wish waits for its pair to be declared: the file may have been saved just now, or be mended just now."""

_NOT_DECLARED = "its pair is not declared in that direction any more; once it is, ask for it again"

_TIMES_CHANGED = 5
"""What changes once more in the moment in which it is read is left out: its author keeps all others from crossing."""


class Lanes(Protocol):
    """What delivery is told; `core.delivery.dispatcher.Dispatcher` is one."""

    @property
    def drained(self) -> Bell:
        """Rings each time that nothing waits any more in some lane."""
        ...

    def enqueue(self, entry: Entry) -> None:
        """`entry` was queued just now."""
        ...

    def wake_all(self) -> None:
        """Something may have been queued; it is not known in which lane."""
        ...

    def learnt(self, lane: LaneKey) -> float:
        """How many seconds a message took when the platform last refused one; 0 if it never did."""
        ...


@dataclass(frozen=True, slots=True)
class _Way:
    """One direction of a wish, between the channels that its pair has now."""

    wish: Wish
    towards: Platform
    pair: Pair
    lane: LaneKey


class _Elsewhere(Permanent):
    """The pair has come to lead elsewhere since it began: the next one begins anew."""


class _Changed(Exception):
    """What was read, and is not on record yet, may be another by now: read it again."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Backfills:
    """Carries out the wishes: one task for each direction of a pair."""

    store: Store
    pairs: PairDirectory
    router: Router
    lanes: Lanes
    readers: Mapping[Platform, PastReader]
    clock: Clock
    rng: random.Random
    # Every how many seconds it looks for a new wish.
    look_every: float
    # Wishes that nobody has stopped, by their IDs, as of the last look.
    _wanted: Mapping[str, Wish] = field(init=False, default_factory=dict)
    _tasks: dict[tuple[str, Platform], asyncio.Task[None]] = field(init=False, default_factory=dict)
    # What is done, or cannot be done, as the pairs were after so many changes.
    _ended: set[tuple[str, Platform]] = field(init=False, default_factory=set)
    _changes: int = field(init=False, default=0)
    # How far those are that are under way.
    _progress: dict[tuple[str, Platform], Progress] = field(init=False, default_factory=dict)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    async with self.store.look() as uow:
                        wishes = await read_wishes(uow)
                except StoreUnavailable as error:
                    _log.warning("backfills cannot be looked for", reason=str(error))
                else:
                    self._wanted = {wish.id: wish for wish in wishes.values() if not wish.stopped}
                    if self._changes != (changes := self.pairs.changes):
                        self._changes = changes
                        self._ended.clear()
                    for wish in self._wanted.values():
                        for towards in wish.towards:
                            self._start(group, wish, towards)
                await self.clock.sleep(self.look_every)

    def notes(self, pair: Pair) -> Sequence[str]:
        """What of a pair's past is crossing now, as sentences."""
        found = []
        for (wish_id, towards), progress in self._progress.items():
            wish = self._wanted.get(wish_id)
            if wish is not None and wish.sides == pair.sides:
                reached = "" if progress.reached is None else f", and has reached {_day(progress.reached)}"
                why = f" It waits: {progress.problem}" if progress.problem else ""
                found.append(f"What was said before the relay came crosses to {towards.title()}{reached}.{why}")
        return found

    def _start(self, group: asyncio.TaskGroup, wish: Wish, towards: Platform) -> None:
        key = (wish.id, towards)
        if key not in self._tasks and key not in self._ended:
            task = self._tasks[key] = group.create_task(self._serve(wish, towards), name=f"backfill to {towards}")
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _serve(self, wish: Wish, towards: Platform) -> None:
        """Carry a wish out in one direction, through every outage; end when it is done, cannot be, or is stopped."""
        backoff, told, key = Backoff(self.rng), "", (wish.id, towards)
        try:
            while wish.id in self._wanted:
                try:
                    if await self._is_over(wish, towards):
                        self._ended.add(key)
                        return
                    await self._until_declared(wish, towards)
                    if await self._carry(wish, towards, backoff):
                        self._ended.add(key)
                    return
                except (Transient, StoreUnavailable) as error:
                    if told != (told := str(error)):  # it may wait for months, for a pair that is paused
                        _log.info("backfill waits", towards=towards.value, reason=told)
                    await self._tell(wish, towards, "running", told)
                    await self.clock.sleep(backoff.next(error.retry_after if isinstance(error, Transient) else None))
                except Permanent as error:
                    _log.warning("backfill ends", towards=towards.value, reason=str(error))
                    if await self._tell(wish, towards, "failed", str(error), begins_anew=isinstance(error, _Elsewhere)):
                        self._ended.add(key)
                        return
                    await self.clock.sleep(backoff.next())
                except StoreError:
                    raise
                except Exception as error:  # noqa: BLE001 - the top of this worker: a bug must not end the daemon
                    _log.exception("bug during a backfill", towards=towards.value)
                    if await self._tell(wish, towards, "failed", f"internal error ({type(error).__name__})"):
                        self._ended.add(key)
                        return
                    await self.clock.sleep(backoff.next())
        finally:
            self._progress.pop(key, None)

    async def _is_over(self, wish: Wish, towards: Platform) -> bool:
        """Whether it has come to its end before. Raises `_Elsewhere` where its pair leads elsewhere since."""
        async with self.store.look() as uow:
            progress = (await read_progress(uow, wish))[towards]
        if progress is None or progress.state == "running":
            return False
        if progress.state == "done":
            with suppress(ActionNeeded):  # as long as it is not known where its pair leads, it is as it was
                self._check_channels(progress, self._way(wish, towards).lane)
        return True

    async def _until_declared(self, wish: Wish, towards: Platform) -> None:
        """Wait for its pair. Raises `Permanent` if nobody declares it: who brings it back later means what is new."""
        until = self.clock.monotonic() + _ABSENT_SECONDS
        while self._pair(wish, towards) is None:
            if (left := until - self.clock.monotonic()) <= 0:
                raise Permanent(_NOT_DECLARED)
            await self._tell(wish, towards, "running", _NOT_DECLARED)
            if self._pair(wish, towards) is None:  # looked at right before: nobody rings twice
                await self.pairs.changed.wait(self.clock, left)

    def _pair(self, wish: Wish, towards: Platform) -> Pair | None:
        """The pair of a wish, if it is declared in that direction."""
        return next((one for one in self.pairs.pairs if one.sides == wish.sides and towards in one.destinations), None)

    async def _tell(self, wish: Wish, towards: Platform, state: State, why: str, *, begins_anew: bool = False) -> bool:
        """Keep why it does not go on, for those who wait for it; False where the store does not take it.

        `begins_anew`: and not how far it is.
        """
        problem, known = sentence(why), self._progress.get((wish.id, towards))
        if known is not None and (known.state, known.problem) == (state, problem):
            return True  # a pair may be paused for months
        try:
            async with self.store.write() as uow:
                known = None if begins_anew else (await read_progress(uow, wish))[towards]
                progress = known or Progress(wish.id, ("", ""))
                progress = replace(progress, state=state, problem=problem, leads_elsewhere=begins_anew)
                await uow.key_values.put(progress_key(wish, towards), progress.as_json())
        except StoreUnavailable as error:
            _log.warning("how a backfill is cannot be kept", reason=str(error))
            return False
        self._progress[wish.id, towards] = progress
        return True

    async def _carry(self, wish: Wish, towards: Platform, backoff: Backoff) -> bool:
        """Go on with it; whether it is done. False: it was stopped."""
        way = self._way(wish, towards)
        source = way.lane.source
        watch = PastWatch(frozenset({source}) | self.pairs.predecessors(source))
        self.router.past_watches.append(watch)
        try:
            while True:
                progress = await self._begin(way)
                with suppress(_Changed):
                    return await self._read(way, progress, watch, backoff)
        finally:
            self.router.past_watches.remove(watch)

    async def _read(self, way: _Way, progress: Progress, watch: PastWatch, backoff: Backoff) -> bool:
        """Queue page after page; True at the end, False where it was stopped. Raises `_Changed`."""
        async with aclosing(self._pages(way, progress.position)) as pages:
            while True:
                watch.begin()
                page = await anext(pages, None)
                if page is None:
                    break
                rest = _behind(page.messages, progress.last)
                while rest:
                    if not await self._has_room(way):
                        return False
                    step = _step(rest, together=self.lanes.learnt(way.lane) > _SLOW_SECONDS)
                    rest = rest[len(step) :]
                    progress = await self._queue(way, step, progress, watch)
                backoff.reset()
                watch.times.clear()
                left_out, threads = progress.left_out + page.unreadable, progress.threads + page.threads
                progress = replace(
                    progress, position=page.position, last="", left_out=left_out, threads=threads, problem=""
                )
                await self._save(way, progress)
        _log.info("backfill done", pair=way.pair.name, direction=way.lane.direction, messages=progress.crossed)
        await self._save(way, replace(progress, state="done", problem=""))
        return True

    def _way(self, wish: Wish, towards: Platform) -> _Way:
        """The pair and the lane of a wish as they are now. Raises `ActionNeeded` while there is none."""
        if (pair := self._pair(wish, towards)) is None:
            raise ActionNeeded(_NOT_DECLARED)
        lane = LaneKey(self.pairs.channel(wish.source(towards)), self.pairs.channel(pair.side(towards)))
        if self.pairs.pair_for(lane) != pair or self.pairs.is_left(pair):
            raise ActionNeeded("another relay serves its pair")
        if not self.pairs.carries(lane):
            raise ActionNeeded("its pair is paused")
        if not (self.pairs.is_open(lane) and self.pairs.is_open(lane.back)):
            raise ActionNeeded("a channel of its pair is not open")
        return _Way(wish, towards, pair, lane)

    async def _begin(self, way: _Way) -> Progress:
        """How far it is. Raises `_Elsewhere` where the pair has come to lead elsewhere since."""
        async with self.store.read() as uow:
            progress = (await read_progress(uow, way.wish))[way.towards]
        channels = (way.lane.source, way.lane.destination)
        if progress is None or not any(progress.channels):
            return Progress(way.wish.id, (channels[0].id, channels[1].id))
        self._check_channels(progress, way.lane)
        return replace(progress, channels=(channels[0].id, channels[1].id))

    def _check_channels(self, progress: Progress, lane: LaneKey) -> None:
        """Raise `_Elsewhere` unless these are the channels in which it began, or have replaced them."""
        for before, now in zip(progress.channels, (lane.source, lane.destination), strict=True):
            if before != now.id and before not in {one.id for one in self.pairs.predecessors(now)}:
                raise _Elsewhere(f"{before} was in the pair when it began, and {now.id} is now; ask for it again")

    def _pages(self, way: _Way, position: str) -> AsyncGenerator[PastPage]:
        """The pages of a channel's past. Raises `Permanent` where nobody can read it."""
        source, wish = way.lane.source, way.wish
        reader = self.readers.get(source.platform)
        if reader is None:
            raise Permanent(f"what was said on {source.platform.title()} before cannot be read")

        async def began(stream: str) -> str | None:
            async with self.store.read() as uow:
                if not await uow.cursors.get(source.platform, stream):
                    raise ActionNeeded("its channel is still to be read for the first time")
                return await uow.cursors.began(source.platform, stream)

        return reader.past(source, position, began, since=wish.since, before=wish.before)

    async def _has_room(self, way: _Way) -> bool:
        """Wait until nothing waits in the lane; False if it was stopped. Raises `ActionNeeded` as `_way` does."""
        while way.wish.id in self._wanted:
            if self._way(way.wish, way.towards) != way:
                raise ActionNeeded("its pair is another one now")
            async with self.store.look() as uow:
                waiting = await uow.outbox.waiting(way.lane, 1)
            if not waiting:
                return True
            await self.lanes.drained.wait(self.clock, _ROOM_SECONDS)
        return False

    async def _queue(
        self, way: _Way, messages: Sequence[MessageCreated], progress: Progress, watch: PastWatch
    ) -> Progress:
        """Queue some messages, each day's first behind a notice. How far it is then.

        Raises `_Changed` if one of them may have been changed since it was read.
        """
        queued: list[Entry] = []
        try:
            async with self.store.write() as uow:
                # In here: what is changed from now on is received behind this, and finds it on record.
                changed = {event.ref for event in messages if watch.has_changed(event)}
                watch.times.update(changed)
                if watch.is_unsure or any(watch.times[ref] <= _TIMES_CHANGED for ref in changed):
                    raise _Changed
                for event in messages:
                    first_at = progress.first_at or event.created_at
                    progress = replace(
                        progress, first_at=first_at, reached=event.created_at, last=event.ref.id, problem=""
                    )
                    if event.author.is_self or (way.wish.before is not None and event.created_at >= way.wish.before):
                        continue
                    command = await self.router.past(uow, event, way.pair, way.lane)
                    if command is None or event.ref in changed:
                        progress = replace(progress, left_out=progress.left_out + 1)
                    elif await self._record(uow, event, command):
                        day = _day(event.created_at)
                        words = RichText.plain(f"Said before the relay was here, on {day}:")
                        if day != progress.day:
                            notice = PostNotice(words, silent=True)
                            queued.append(await uow.outbox.append(way.lane, notice, self.clock.now()))
                        queued.append(await uow.outbox.append(way.lane, command, self.clock.now()))
                        progress = replace(progress, day=day, crossed=progress.crossed + 1)
                await uow.key_values.put(progress_key(way.wish, way.towards), progress.as_json())
        except BaseException:
            # It may be on disk all the same.
            self.router.names.forget()
            self.lanes.wake_all()
            raise
        for entry in queued:
            self.lanes.enqueue(entry)
        self._progress[way.wish.id, way.towards] = progress
        return progress

    @staticmethod
    async def _record(uow: UnitOfWork, event: MessageCreated, command: SendMessage) -> bool:
        """Put a message on record; False if it is: it has crossed, is being sent, or is a copy."""
        author = event.author.user
        number = await uow.messages.add(event.ref, author, event.created_at, command.reply_to, from_past=True)
        if number is not None and event.edited_at is not None:
            await uow.messages.mark_edited(number, event.edited_at)
        if number is not None and event.edit is not None:
            await uow.messages.record_edit(event.edit, number)
        return number is not None

    async def _save(self, way: _Way, progress: Progress) -> None:
        async with self.store.write() as uow:
            await uow.key_values.put(progress_key(way.wish, way.towards), progress.as_json())
        self._progress[way.wish.id, way.towards] = progress


def _behind(messages: Sequence[MessageCreated], last: str) -> Sequence[MessageCreated]:
    """What of a page stands behind the message of this ID; all of it where that is not in there."""
    ids = [event.ref.id for event in messages]
    return messages[ids.index(last) + 1 :] if last in ids else messages


def _step(messages: Sequence[MessageCreated], *, together: bool) -> Sequence[MessageCreated]:
    """The first of these messages, to be queued now. `together`: those of a day without files cross as one."""
    if not together:
        return messages[:_STEP]
    copies, is_alone, day = 0, True, ""
    for number, event in enumerate(messages):
        was_alone, is_alone = is_alone, bool(event.content.attachments)
        was_day, day = day, _day(event.created_at)
        copies += is_alone or was_alone or day != was_day
        if copies > _STEP:
            return messages[:number]
    return messages


def _day(moment: datetime) -> str:
    """`3 May 2024`, in UTC."""
    return f"{moment.day} {moment:%B %Y}"
