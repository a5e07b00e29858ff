"""Files that did not come in time: named in words where they belong, fetched meanwhile, and sent when they come.

An entry stands for each file until it has come, so that none is lost or sent twice. While the file is being fetched,
the entry is in the lane of its channel to itself, where nobody's words wait. Once the file is at hand, the entry goes
to the end of the lane that crosses, among edits and deletions of the same message. A look at what has not come writes
nothing: there may be one every few seconds, for hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

from relay.core.delivery.lookups import Lookups
from relay.core.delivery.plan import Done, FollowLateFiles, LateFileSeen, SendLateFile, Target
from relay.core.files import Files
from relay.core.ports import Clock
from relay.core.storage import Entry
from relay.domain.commands import LateFile
from relay.domain.ids import MessageRef
from relay.domain.pair import LaneKey

_LOOK_SECONDS = 2.0
_GIVEN_UP_AFTER = 7200.0  # seconds since the file was named in words
_LEAST_SECONDS = 60.0
"""In each life of the process: the time of day may have jumped, or the process may have been away."""

_MOST_ENTRIES = 1_000
"""Entries of a lane that are looked through at once."""

_MOST_FILES = 50
"""Files that are looked for at once."""

_MOST_REMEMBERED = 5_000
"""Files of which it is remembered when they are given up."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class LateFiles:
    """Looks for late files, a step of `resolve`. It remembers when each is given up, and which were looked for last."""

    lookups: Lookups
    files: Files | None
    clock: Clock
    _given_up_at: dict[tuple[MessageRef, str], float] = field(default_factory=dict, init=False)
    _last_looked_for: dict[LaneKey, int] = field(default_factory=dict, init=False)

    async def look(self, entry: Entry, late: LateFile) -> FollowLateFiles:
        """Whether the file has come, or another one that waits behind it."""
        async with self.lookups.store.read() as uow:
            waiting = await uow.outbox.waiting(entry.lane, _MOST_ENTRIES)
        if (first := await self._look(entry, late, wait=_LOOK_SECONDS)) is not None:
            return FollowLateFiles(entry, (first,))
        behind = [other for other in waiting if other.id != entry.id]
        seen = []
        for other in self._some(entry.lane, behind):
            if isinstance(other.command, LateFile):
                found = await self._look(other, other.command, wait=0)
                if found is not None:
                    seen.append(found)
        in_front = list(takewhile(lambda other: isinstance(other.command, LateFile), behind))
        if len(waiting) == _MOST_ENTRIES:
            in_front = in_front[:_MOST_FILES]  # what is behind all of these has to be seen as well
        elif len(in_front) == len(behind):
            return FollowLateFiles(entry, tuple(seen), is_still_away=True)
        return FollowLateFiles(entry, tuple(seen), to_the_end=(entry, *in_front))

    async def sending(self, entry: Entry, late: LateFile, *, suspect: bool) -> SendLateFile | Done:
        """The file goes behind the words of its message, if that still stands as it was."""
        target = await self.lookups.target_about(entry, late.source, None, suspect=suspect)
        async with self.lookups.store.read() as uow:
            # A copy that was rewritten may have brought it meanwhile.
            waits = await uow.outbox.is_waiting(entry.id)
        if not waits or _is_settled(target, late) or not target.copies:
            self.forget(late)
            return Done(entry)
        return SendLateFile(target, late)

    def forget(self, late: LateFile) -> None:
        """The file need not be looked for any more."""
        self._given_up_at.pop(_key(late), None)

    def end(self, late: LateFile) -> None:
        """The file is not wanted any more, wherever it is on its way."""
        self.forget(late)
        if self.files is not None:
            self.files.forget(late.attachment)

    def _some(self, lane: LaneKey, behind: Sequence[Entry]) -> Sequence[Entry]:
        """The files to look for now: all of them in turn, some each time."""
        files = [other for other in behind if isinstance(other.command, LateFile)]
        last = self._last_looked_for.get(lane, 0)
        some = [other for other in files if other.id > last][:_MOST_FILES] or files[:_MOST_FILES]
        self._last_looked_for[lane] = some[-1].id if some else 0
        return some

    async def _look(self, entry: Entry, late: LateFile, *, wait: float) -> LateFileSeen | None:
        """What became of a file; None while it has to be looked for again."""
        lane = partial(self._lane_of, entry, late)
        target = await self.lookups.target_about(entry, late.source, None, suspect=False)
        if self.files is None or _is_settled(target, late):
            return LateFileSeen(entry, late, target, lane, "settled")
        most = target.capabilities.max_file_size
        here = await self.files.fetch(late.attachment, channel=target.channel, max_bytes=most, wait=wait)
        if here is None and self.clock.monotonic() <= self._deadline(late):
            return None
        return LateFileSeen(entry, late, target, lane, "here" if here else "given up")

    def _lane_of(self, entry: Entry, late: LateFile) -> LaneKey:
        """The lane that carries the edits of the message that a file belongs to."""
        source, across = late.source.channel, self.lookups.pairs.across(entry.lane.destination)
        if across is not None and self.lookups.is_replaced(source, LaneKey.within(across)):
            source = across
        return LaneKey(source, entry.lane.destination)

    def _deadline(self, late: LateFile) -> float:
        """When to give a file up: two hours after it was named in words, also if the process was not there for some."""
        if (known := self._given_up_at.get(_key(late))) is not None:
            return known
        waited = (self.clock.now() - late.since).total_seconds()
        left, now = min(_GIVEN_UP_AFTER, _GIVEN_UP_AFTER - waited), self.clock.monotonic()
        if len(self._given_up_at) >= _MOST_REMEMBERED:
            oldest = next(iter(self._given_up_at))
            if now - self._given_up_at[oldest] < _GIVEN_UP_AFTER:
                return now + left  # without memory, the least seconds would begin anew at each look
            del self._given_up_at[oldest]  # long over: its entry was discarded
        return self._given_up_at.setdefault(_key(late), now + max(_LEAST_SECONDS, left))


def _key(late: LateFile) -> tuple[MessageRef, str]:
    return late.source, late.attachment.id


def _is_settled(target: Target, late: LateFile) -> bool:
    """Whether the file is not wanted any more: its message is gone, or was edited, which brings the files by itself."""
    original = target.original
    return original is None or original.deleted or original.edited_at != late.edited_at
