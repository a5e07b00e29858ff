"""What the relay is doing: counters and problems of this process, from which every report is made."""

import os
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate

from relay.core.clock import Bell
from relay.core.operations.findings import Finding
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo, Clock, SideHealth
from relay.core.status.reading import read_channels, read_record
from relay.core.status.report import BEHIND, DaemonStatus, LaneCounts, LaneRecord, Report, StatusRecord
from relay.core.storage import LaneDepth, Store
from relay.domain.events import Feature
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey, Pair
from relay.errors import sentence

# Upper bounds of the delivery histogram, in seconds.
DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Histogram:
    """Counts of observations up to each bound of `DELIVERY_BUCKETS`, and above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DELIVERY_BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(DELIVERY_BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """(bound, observations up to it), the last bound being `+Inf`, as Prometheus wants it."""
        bounds = [*(str(bound) for bound in DELIVERY_BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How much a platform lets the relay send now."""

    # What is left of each of its limits, from 0 (nothing) to 1 (all of it), by a word for the limit.
    left: Mapping[str, float]
    # Until it takes the next message, as it said itself; 0 if it takes it now.
    wait_seconds: float


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Status:
    """Counts what happens, and reports how things are.

    Counters belong to channels, whatever their pair is called, and outlive the process through `record` and `restore`.
    """

    clock: Clock
    pairs: PairDirectory
    store: Store
    # The health of each adapter.
    health: Mapping[Platform, Callable[[], SideHealth]]
    # What an adapter says about a channel although it works.
    notes: Mapping[Platform, Callable[[ChannelRef], Sequence[str]]] = field(default_factory=dict)
    # What there is to say about a pair as a whole although it works.
    pair_notes: Callable[[Pair], Sequence[str]] = lambda _: ()
    # Why a pair as a whole does not work.
    pair_problems: Callable[[Pair], Sequence[str]] = lambda _: ()
    # What people know a channel by.
    describe: Mapping[Platform, Callable[[ChannelRef], ChannelInfo | None]] = field(default_factory=dict)
    # What a platform says is left of its limits, and how many seconds it refuses messages for.
    limits_left: Mapping[Platform, Callable[[], Mapping[str, float]]] = field(default_factory=dict)
    seconds_to_wait: Callable[[Platform], float] = lambda _: 0.0
    # Why the store cannot be used; None while it can.
    store_problem: str | None = field(init=False, default=None)
    # What was found wrong, or could be better, about no pair in particular.
    findings: tuple[Finding, ...] = field(init=False, default=())
    # What has been learnt on the way, as findings.
    learnt: Callable[[], Sequence[Finding]] = field(init=False, default=lambda: ())
    _daemon: DaemonStatus = field(init=False)
    # Rings when something is counted, a pair is in trouble or works again, or an adapter says that it is another way.
    news: Bell = field(init=False, default_factory=Bell)
    # Both grow with each change: of what is counted, and of why lanes wait.
    _counted: int = field(init=False, default=0)
    _problem_changes: int = field(init=False, default=0)
    _lanes: dict[LaneKey, LaneCounts] = field(init=False, default_factory=dict)
    _delivery: dict[str, Histogram] = field(init=False, default_factory=dict)
    _accepted: Counter[Platform] = field(init=False, default_factory=Counter)
    # The outbox as it was when it was last read.
    _depths: Mapping[LaneKey, LaneDepth] = field(init=False, default_factory=dict)
    # Whether that was ever: else it is not known what waits, or is dead.
    has_read_outbox: bool = field(init=False, default=False)
    # What the channels were known by when that could last be seen, in this process or an earlier one.
    _channels: dict[ChannelRef, ChannelInfo] = field(init=False, default_factory=dict)
    _labels: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._daemon = DaemonStatus(True, os.getpid(), socket.gethostname(), since=self.clock.now())
        self.pairs.changed.others.append(self.news)

    # --- Counting -----------------------------------------------------------------------------------------

    def _count(self) -> None:
        self._counted += 1
        self.news.ring()

    def lane(self, lane: LaneKey) -> LaneCounts:
        """The counters of a lane."""
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = LaneCounts()
        return known

    def move(self, lane: LaneKey, to: LaneKey) -> None:
        """The lane turned out to be another one."""
        counts = self._lanes.pop(lane, None)
        self._count()
        if counts is not None:
            self.lane(to).add(counts)

    def forget_undeclared(self, before: datetime) -> None:
        """Forget the counters of lanes without a declared pair that are older than `before` and have nothing left."""
        for lane, counts in tuple(self._lanes.items()):
            is_young = counts.last_message_at is not None and counts.last_message_at >= before
            if self.pairs.pair_for(lane) is None and lane not in self._depths and not is_young:
                del self._lanes[lane]

    def crossed(self, lane: LaneKey, *, written_at: datetime, received_at: datetime) -> None:
        """A message has been accepted on the other side."""
        counts = self.lane(lane)
        self._count()
        counts.messages += 1
        self._accepted[lane.destination.platform] += 1
        # A server may say that it is the year 9000.
        written = min(written_at, self.clock.now())
        counts.last_message_at = max(written, counts.last_message_at or written)
        waited = (self.clock.now() - received_at).total_seconds()
        self._delivery.setdefault(lane.direction, Histogram()).observe(max(0.0, waited))

    def dropped(self, lane: LaneKey, feature: Feature, number: int = 1) -> None:
        """So many things of a kind were dropped because they cannot cross."""
        if number:
            self.lane(lane).dropped[feature] += number
            self._count()

    def queued(self) -> None:
        """Something waits for delivery."""
        self._count()

    def retried(self, lane: LaneKey) -> None:
        """A delivery failed, and will be tried again."""
        self.lane(lane).retries += 1
        self._count()

    def waits_for(self, lane: LaneKey, problem: str | None) -> None:
        """Why the lane cannot go on; None if it can."""
        counts = self.lane(lane)
        if counts.problem != problem:
            counts.problem = problem
            self._problem_changes += 1
            self.news.ring()

    # --- Reporting ----------------------------------------------------------------------------------------

    def accepted(self, platform: Platform) -> int:
        """How many messages a platform has accepted from all lanes since the process started."""
        return self._accepted[platform]

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        """From an event's arrival to its copy's acceptance, by direction, since the process started."""
        return self._delivery

    def sides(self) -> Mapping[str, SideHealth]:
        """How each platform is, by its name. No I/O."""
        return {str(platform): health() for platform, health in self.health.items()}

    def limits(self) -> Mapping[str, LimitStatus]:
        """How much each platform lets the relay send, by its name. No I/O."""
        return {str(platform): self._limit(platform) for platform in self.health}

    def _limit(self, platform: Platform) -> LimitStatus:
        told = self.limits_left.get(platform)
        wait = self.seconds_to_wait(platform)
        # Not every platform says more than that it refuses.
        left = {"messages": 0.0 if wait > 0 else 1.0, **(told() if told is not None else {})}
        return LimitStatus(left, wait)

    async def report(self) -> Report:
        """How things are now. Raises `StoreError` when the store cannot be read."""
        await self.read_outbox()
        return self.last_report()

    async def read_outbox(self) -> None:
        """Learn what waits. Raises `StoreError` when the store cannot be read."""
        async with self.store.look() as uow:
            depths = await uow.outbox.depths()
        if depths != self._depths:
            self._depths = depths
            self._counted += 1
        self.has_read_outbox = True

    def last_report(self, record: StatusRecord | None = None) -> Report:
        """As `report`, with the outbox as it was last read, and `record` if it was just taken. No I/O."""
        return (record or self.record()).report(self.pairs, self._depths, self.clock.now(), self.store_problem)

    def may_be_behind(self, record: StatusRecord) -> bool:
        """Whether the report may say that something is caught up on: nothing waits longer, mostly. Quick."""
        since = self.clock.now() - BEHIND
        waits_long = any(depth.oldest is not None and depth.oldest <= since for depth in self._depths.values())
        return waits_long or any(side.state == "catching_up" for side in record.sides.values())

    def glance(self) -> Report:
        """As `last_report`, without the pairs: what tells whether the relay is ready. Quick, however many there are."""
        return Report((), self.sides(), self.clock.now(), self._daemon, store_problem=self.store_problem)

    @property
    def has_backlog(self) -> bool:
        """Whether anything waited when the outbox was last read."""
        return any(depth.waiting for depth in self._depths.values())

    def conditions(self) -> tuple[object, ...]:
        """Compares unequal to an earlier one once a side, a pair's problem, or what was found is another. Quick."""
        return self.sides(), self.findings, self.store_problem, self.pairs.changes, self._problem_changes

    def version(self) -> tuple[object, ...]:
        """As `conditions`, for all that is reported, but for what adapters are asked for (notes, names), and ages."""
        return self._counted, *self.conditions()

    def record(self) -> StatusRecord:
        """What is saved: for `restore`, and for `relay status` while no daemon runs. No I/O."""
        channels = self.channels()  # first: sentences call them by their names
        lanes = {}
        for pair in self.pairs.pairs:
            problems, notes = self.problems(pair), self._notes(pair)
            for lane in self.pairs.lanes(pair):
                if lane.crosses:
                    lanes[lane] = LaneRecord(self.lane(lane), problems, notes)
        lanes |= {lane: LaneRecord(counts) for lane, counts in self._lanes.items() if lane not in lanes}
        return StatusRecord(
            daemon=replace(self._daemon, updated_at=self.clock.now()),
            sides=self.sides(),
            lanes=lanes,
            channels=channels,
            pairs=self.pairs.pairs,
            findings=self._findings(),
        )

    def _findings(self) -> tuple[Finding, ...]:
        """What was found at the start, and what is found now about places that belong to no pair."""
        places = self._other_places()
        texts = [
            _with_names({place: self._channels.get(place) for place in places}, text)
            for text in self.pairs.other_problems()
        ]
        untold = (Finding("[operators]", "wrong", f"they are not told: {text}") for text in texts)
        return (*self.findings, *self.learnt(), *untold)

    def _other_places(self) -> frozenset[ChannelRef]:
        """The channels in no pair in which the relay says something in its own name."""
        return frozenset(
            self.pairs.channel(place) for platform in self.describe for place in self.pairs.secondary(platform)
        )

    def channels(self) -> Mapping[ChannelRef, ChannelInfo]:
        """What the channels of declared pairs, of what waits, and of the operators are known by. No I/O."""
        named = {self.pairs.channel(side) for pair in self.pairs.pairs for side in pair.sides} | self._other_places()
        named.update(channel for lane in self._depths for channel in (lane.source, lane.destination))
        for channel in named:
            describe = self.describe.get(channel.platform)
            if describe is not None and (info := describe(channel)) is not None:
                self._channels[channel] = info
                self._labels[channel.id] = info.label
        return {channel: self._channels[channel] for channel in sorted(named) if channel in self._channels}

    def label_of(self, channel: str) -> str | None:
        """What people know the channel with this ID by; None if that is not known. No I/O."""
        return self._labels.get(channel)

    def restore(self, saved: str | None, channels: str | None = None, *, seen: datetime | None = None) -> None:
        """Go on counting where an earlier process stopped.

        `channels`: what it saved of those. `seen`: when it last was alive, if that is known otherwise.
        """
        record = read_record(saved, self.pairs)
        for lane, known in record.lanes.items():
            self._lanes[lane] = known.counts
        self._daemon = replace(self._daemon, previous=record.daemon.end(seen))
        self._channels.update(read_channels(channels))
        self._labels = {channel.id: info.label for channel, info in self._channels.items()}

    def _notes(self, pair: Pair) -> tuple[str, ...]:
        channels = [self.pairs.channel(side) for side in pair.sides]
        noted = [self.notes[channel.platform](channel) for channel in channels if channel.platform in self.notes]
        found = _distinct([self.pairs.notes(pair), *noted, self.pair_notes(pair)])
        return tuple(self._with_names(pair, text) for text in found)

    def problems(self, pair: Pair) -> tuple[str, ...]:
        """What keeps a pair from working, a sentence for each; none while it works. No I/O."""
        channels, whole = self.pairs.problems(pair), self.pair_problems(pair)
        # Where the pair as a whole does not work, its lanes wait for that.
        lanes = () if whole else self.pairs.lanes(pair)
        waiting = [text for lane in lanes if (text := self.lane(lane).problem)]
        return tuple(self._with_names(pair, text) for text in _distinct([channels, whole, waiting]))

    def _with_names(self, pair: Pair, text: str) -> str:
        """A sentence in which the pair's channels are called as people know them, with their IDs behind."""
        channels = [self.pairs.channel(side) for side in pair.sides]
        return sentence(_with_names({channel: self._channels.get(channel) for channel in channels}, text))


def _with_names(channels: Mapping[ChannelRef, ChannelInfo | None], text: str) -> str:
    for channel, info in channels.items():
        # Who says it may have called it by its name.
        if info is not None and not _stands_in(text, info.name):
            for known in (f"Channel {channel.id}", f"channel {channel.id}"):
                text = text.replace(known, channel.id)
            text = text.replace(channel.id, f"{info.name} ({channel.id})")
    return text


def _stands_in(text: str, name: str) -> bool:
    """Whether a channel's name is in a text: `#help` is not in `#help-desk`, nor in the address `#help:example.org`."""
    behind = [part[:2] for part in text.split(name)[1:]]
    goes_on = (two[:1].isalnum() or two[:1] in ("_", "-") or (two[:1] == ":" and two[1:].strip()) for two in behind)
    return not all(goes_on)


def _distinct(texts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Each once: both lanes of a pair may wait for the same."""
    return tuple(dict.fromkeys(text for some in texts for text in some))
