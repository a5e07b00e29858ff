"""Age marks: what was written where only adults read does not come to where everybody reads.

A platform may mark a channel as age-restricted, and moderators may change that at any moment. Where a platform has no
such mark, the operator's word (`nsfw` of the pair) is the mark. A pair that leads from a marked channel to an unmarked
one is refused, unless its settings let it be: then words cross, and files and pictures are named in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from relay.core.moderation.ports import AgeMarkReader
from relay.core.pairs import PairDirectory
from relay.core.storage import Store, UnitOfWork
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey, Pair
from relay.errors import sentence
from relay.logs import get_logger

_log = get_logger(__name__)

_SETTING = 'moderation.nsfw_mismatch = "mirror"'


@dataclass(frozen=True, slots=True)
class AgeMark:
    """What is on record of one channel."""

    restricted: bool
    # What was written before, by the platform's clock, may have been written while the channel was marked.
    restricted_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One way of a pair leads from a marked channel to an unmarked one."""

    # What is the matter, and what the operator can do about it.
    words: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.words}: {self.remedy}"


def mismatch(pair: Pair, marks: Mapping[Platform, bool]) -> Mismatch | None:
    """Why a pair is refused, if it is. `marks`: of the channels whose platform has such marks."""
    down = None if pair.policy.nsfw_may_differ else _leads_down(pair, marks)
    if down is None:
        return None
    source, here = pair.side(pair.other(down)), pair.side(down)
    if source.platform in marks:
        return Mismatch(
            f"channel {source.value} is age-restricted, and nothing says that {here.value} is, so nothing crosses",
            f"write nsfw = true in this pair if that room is for adults, or {_SETTING} to let only words cross",
        )
    return Mismatch(
        f"the file says that {source.value} is for adults (nsfw = true), and channel {here.value} is not "
        "age-restricted, so nothing crosses",
        f"turn its age restriction on, take nsfw = true out of this pair, or write {_SETTING} to let only words cross",
    )


def _leads_down(pair: Pair, marks: Mapping[Platform, bool]) -> Platform | None:
    """The platform to which a pair leads from a marked channel although its own is not; None if there is none."""
    for platform in sorted(pair.destinations):
        if marks.get(pair.other(platform), pair.policy.nsfw) and not marks.get(platform, pair.policy.nsfw):
            return platform
    return None


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class AgeMarks:
    """Knows the marks, and is asked about everything that is to cross.

    What a platform tells counts once it is on record (`look`). In between, nothing crosses.
    """

    store: Store
    pairs: PairDirectory
    readers: Mapping[Platform, AgeMarkReader]
    _known: dict[ChannelRef, AgeMark] = field(init=False, default_factory=dict)

    async def look(self, uow: UnitOfWork, channel: ChannelRef) -> None:
        """Write down how a channel is marked now, if that is known."""
        reader = self.readers.get(channel.platform)
        now = None if reader is None else reader.age_restricted(channel)
        if reader is None or now is None:
            return
        before = self._known.get(channel) or await _read(uow, channel)
        until = None if before is None else before.restricted_until
        if before is not None and before.restricted and not now:
            until = reader.now()
        mark = self._known[channel] = AgeMark(now, until)
        if mark != await _read(uow, channel):
            await uow.key_values.put(_key(channel), _text(mark))
        if mark != before:
            self.pairs.count_change()
            if before is not None or now:
                _log.info("age mark", platform=str(channel.platform), channel=channel.id, restricted=now)

    async def is_on_record(self, channel: ChannelRef) -> bool:
        """Whether a channel is marked as it was at the last `look`, which then has nothing to write."""
        reader = self.readers.get(channel.platform)
        now = None if reader is None else reader.age_restricted(channel)
        if now is None:
            return True
        mark = await self._mark(channel)
        return mark is not None and mark.restricted == now

    # --- What is asked ------------------------------------------------------------------------------------

    async def refusal(self, pair: Pair) -> str | None:
        """Why nothing of a pair crosses now; None if it does. Raises `StoreUnavailable`."""
        marks: dict[Platform, bool] = {}
        for side in pair.sides:
            if (reader := self.readers.get(side.platform)) is not None:
                channel = self.pairs.channel(side)
                mark, now = await self._mark(channel), reader.age_restricted(channel)
                if mark is None or now not in (None, mark.restricted):
                    return "it is not known yet whether its channel is age-restricted"
                marks[side.platform] = mark.restricted
        found = mismatch(pair, marks)
        return None if found is None else "the age marks of its two sides differ"

    async def carries_files(self, pair: Pair, lane: LaneKey, written_at: datetime) -> bool:
        """Whether files and pictures of what was written then may cross a lane. Raises `StoreUnavailable`."""
        if await self._is_marked(pair, lane.destination):
            return True
        mark = await self._mark(lane.source) if lane.source.platform in self.readers else None
        if mark is None:
            return not await self._is_marked(pair, lane.source)
        return not mark.restricted and (mark.restricted_until is None or written_at > mark.restricted_until)

    def problems(self, pair: Pair) -> tuple[str, ...]:
        """Why a pair is refused, as a sentence with the remedy; empty if it is not. No I/O."""
        marks = self._marks(pair)
        found = None if marks is None else mismatch(pair, marks)
        return () if found is None else (sentence(str(found)),)

    def notes(self, pair: Pair) -> tuple[str, ...]:
        """That only words cross, where the operator wants that. No I/O."""
        marks = self._marks(pair)
        down = None if marks is None or not pair.policy.nsfw_may_differ else _leads_down(pair, marks)
        if down is None:
            return ()
        source = pair.side(pair.other(down)).value
        return (f"Of what is said in channel {source}, only words cross, because that is for adults.",)

    def _marks(self, pair: Pair) -> Mapping[Platform, bool] | None:
        """The marks on record of a pair's channels whose platform has such marks; None while they are not known."""
        found: dict[Platform, bool] = {}
        for side in pair.sides:
            if side.platform in self.readers:
                mark = self._known.get(self.pairs.channel(side))
                if mark is None:
                    return None
                found[side.platform] = mark.restricted
        return found

    async def _is_marked(self, pair: Pair, channel: ChannelRef) -> bool:
        if channel.platform not in self.readers:
            return pair.policy.nsfw
        mark = await self._mark(channel)
        return mark is not None and mark.restricted

    async def _mark(self, channel: ChannelRef) -> AgeMark | None:
        """What is on record of a channel, in this life or an earlier one."""
        if (known := self._known.get(channel)) is not None:
            return known
        async with self.store.look() as uow:
            found = await _read(uow, channel)
        return found if found is None else self._known.setdefault(channel, found)


def _key(channel: ChannelRef) -> str:
    return f"age mark {channel.platform} {channel.id}"


def _text(mark: AgeMark) -> str:
    until = "" if mark.restricted_until is None else f" {mark.restricted_until.timestamp()}"
    return f"{'restricted' if mark.restricted else 'open'}{until}"


async def _read(uow: UnitOfWork, channel: ChannelRef) -> AgeMark | None:
    """What `_text` wrote; None where nothing is on record, or the row is damaged."""
    state, _, until = (await uow.key_values.get(_key(channel)) or "").partition(" ")
    if state not in ("restricted", "open"):
        return None
    try:
        return AgeMark(state == "restricted", datetime.fromtimestamp(float(until), UTC) if until else None)
    except (ValueError, OverflowError, OSError):
        return AgeMark(state == "restricted")
