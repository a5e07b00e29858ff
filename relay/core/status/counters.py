"""What the relay is doing: counters, problems, and the read-only snapshot that everything that reports reads."""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any

import structlog

from relay.core.pairs import PairDirectory
from relay.core.ports import Clock, SideHealth
from relay.core.storage import LaneDepth, Store
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey, Pair

DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the delivery histogram, in seconds."""

NOTEBOOK_ENTRY = "status"
"""Where the last snapshot stands in the store, for `relay status` and for the next start."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class LaneCounts:
    """What a lane has done since the store was made."""

    messages: int = 0
    retries: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    last_message_at: datetime | None = None
    problem: str | None = None

    def add(self, other: "LaneCounts") -> None:
        """Count what another lane has done, too."""
        self.messages += other.messages
        self.retries += other.retries
        self.dropped.update(other.dropped)
        self.last_message_at = max(filter(None, (self.last_message_at, other.last_message_at)), default=None)

    def as_json(self) -> dict[str, Any]:
        """As it is kept in the store."""
        return {
            "messages": self.messages,
            "retries": self.retries,
            "dropped": dict(sorted(self.dropped.items())),
            "last_message_at": self.last_message_at and self.last_message_at.isoformat(),
        }


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
class DirectionStatus:
    """One direction of a pair now. Times with UTC as zone, ages in seconds."""

    messages: int
    last_message_at: datetime | None
    backlog: int
    oldest_undelivered_seconds: float | None
    retries: int
    dropped: Mapping[str, int]
    dead_letters: int

    def as_json(self) -> dict[str, Any]:
        """The object of the operator's contract."""
        return {
            "last_message_at": self.last_message_at and self.last_message_at.isoformat(),
            "backlog": self.backlog,
            "oldest_undelivered_seconds": self.oldest_undelivered_seconds,
            "retries": self.retries,
            "dropped": dict(sorted(self.dropped.items())),
            "dead_letters": self.dead_letters,
            "messages": self.messages,
        }


@dataclass(frozen=True, slots=True)
class PairStatus:
    """A pair now; `directions` by `to_matrix`, `to_discord`.

    `problem`: what keeps it from working; `note`: what the operator may do although it works.
    """

    name: str
    problem: str | None
    directions: Mapping[str, DirectionStatus]
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For `relay status --json`."""
        ways = {name: direction.as_json() for name, direction in self.directions.items()}
        return {"name": self.name, "problem": self.problem, "note": self.note, **ways}


@dataclass(frozen=True, slots=True)
class Undeclared:
    """What waits, or lies dead, in a lane whose pair is not declared. `pair`: what it was called last, if known."""

    lane: LaneKey
    pair: str | None
    waiting: int
    oldest_seconds: float | None
    dead: int

    def as_json(self) -> dict[str, Any]:
        """For `relay status --json`."""
        return {
            "name": self.pair,
            "direction": self.lane.direction,
            "source": self.lane.source.id,
            "destination": self.lane.destination.id,
            "backlog": self.waiting,
            "oldest_undelivered_seconds": self.oldest_seconds,
            "dead_letters": self.dead,
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the relay says about itself at one moment."""

    pairs: tuple[PairStatus, ...]
    sides: Mapping[str, SideHealth]
    taken_at: datetime
    store_problem: str | None = None
    undeclared: tuple[Undeclared, ...] = ()

    @property
    def ready(self) -> bool:
        """Both sides are connected, and everything said from now on will cross. A pair in trouble changes nothing."""
        return self.store_problem is None and all(side.state == "ready" for side in self.sides.values())

    def as_json(self) -> dict[str, Any]:
        """The object that `relay status --json` prints, without what the command adds about the process."""
        return {
            "pairs": [pair.as_json() for pair in self.pairs],
            "undeclared": [lane.as_json() for lane in self.undeclared],
            **{name: side_as_json(side) for name, side in self.sides.items()},
        }


def side_as_json(side: SideHealth) -> dict[str, Any]:
    """How one platform is, as the status and the readiness check print it."""
    return {
        "connected": side.connected,
        "state": side.state,
        "problem": None if side.state == "ready" else side.detail or side.state.replace("_", " "),
    }


class Status:
    """Counts what happens and answers how things are.

    `sides` asks each adapter for its health. Counters belong to channels, whatever their pair
    is called, and outlive the process through `as_json` and `restore`.
    """

    def __init__(
        self, *, clock: Clock, pairs: PairDirectory, store: Store, sides: Mapping[Platform, Callable[[], SideHealth]]
    ) -> None:
        self._clock = clock
        self._pairs = pairs
        self._store = store
        self._sides = sides
        self._lanes: dict[LaneKey, LaneCounts] = {}
        self._delivery: dict[str, Histogram] = {}
        self._accepted: Counter[Platform] = Counter()
        self._depths: Mapping[LaneKey, LaneDepth] = {}
        self.store_problem: str | None = None

    def lane(self, lane: LaneKey) -> LaneCounts:
        """The counters of a lane; what crosses it adds to them."""
        return self._lanes.setdefault(lane, LaneCounts())

    def move(self, lane: LaneKey, to: LaneKey) -> None:
        """The lane turned out to be another one."""
        counts = self._lanes.pop(lane, None)
        if counts is not None:
            self.lane(to).add(counts)

    def forget_undeclared(self, before: datetime) -> None:
        """Forget what lanes without a declared pair have done, where that is older and nothing is left in them."""
        for lane, counts in tuple(self._lanes.items()):
            is_young = counts.last_message_at is not None and counts.last_message_at >= before
            if self._pairs.pair_for(lane) is None and lane not in self._depths and not is_young:
                del self._lanes[lane]

    def crossed(self, lane: LaneKey, *, written_at: datetime, received_at: datetime) -> None:
        """A message has been accepted on the other side."""
        counts = self.lane(lane)
        counts.messages += 1
        self._accepted[lane.destination.platform] += 1
        # What a server says about the time may be the year 9000.
        written = min(written_at, self._clock.now())
        counts.last_message_at = max(written, counts.last_message_at or written)
        waited = (self._clock.now() - received_at).total_seconds()
        self._delivery.setdefault(lane.direction, Histogram()).observe(max(0.0, waited))

    def accepted(self, platform: Platform) -> int:
        """How many messages a platform has accepted from all lanes since the process started."""
        return self._accepted[platform]

    def dropped(self, lane: LaneKey, feature: str, count: int = 1) -> None:
        """Something that cannot cross did not."""
        self.lane(lane).dropped[feature] += count

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        """From an event's arrival to its copy's acceptance, by direction, since the process started."""
        return self._delivery

    async def snapshot(self) -> Snapshot:
        """How things are now. Uses the last known depths while the store cannot be read."""
        async with self._store.read() as uow:
            self._depths = await uow.outbox.depths()
        return self._assemble()

    def cached_snapshot(self) -> Snapshot:
        """As `snapshot`, with the outbox as it was when it was last read. No I/O."""
        return self._assemble()

    def conditions(self) -> tuple[Mapping[str, SideHealth], Sequence[str | None]]:
        """How both sides are, each pair's problem and note: what is written down at once when it changes. No I/O."""
        told = [text for pair in self._pairs.pairs for text in (self._problem(pair), self._pairs.note(pair))]
        return self._side_health(), told

    def as_json(self) -> dict[str, Any]:
        """The counters of every lane, for `restore`, and each pair's problem, for `relay status`."""
        declared = {lane: pair for pair in self._pairs.pairs for lane in self._pairs.lanes(pair) if lane.crosses}
        lanes = {lane: self.lane(lane) for lane in (*declared, *self._lanes)}
        return {
            "lanes": [
                {
                    "source": [lane.source.platform, lane.source.id],
                    "destination": [lane.destination.platform, lane.destination.id],
                    "problem": self._problem(declared[lane]) if lane in declared else None,
                    "note": self._pairs.note(declared[lane]) if lane in declared else None,
                    **counts.as_json(),
                }
                for lane, counts in lanes.items()
            ]
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on counting where an earlier process stopped. `saved` is `as_json()`, or an earlier relay's."""
        for lane, known in saved_lanes(saved, self._pairs).items():
            self._lanes[lane] = known.counts

    def _assemble(self) -> Snapshot:
        now = self._clock.now()
        counts = {lane: self.lane(lane) for pair in self._pairs.pairs for lane in self._pairs.lanes(pair)}
        pairs = tuple(
            PairStatus(
                pair.name,
                self._problem(pair),
                directions(self._pairs, pair, counts, self._depths, now),
                self._pairs.note(pair),
            )
            for pair in self._pairs.pairs
        )
        waiting = undeclared(self._pairs, self._depths, now)
        return Snapshot(pairs, self._side_health(), now, self.store_problem, waiting)

    def _side_health(self) -> Mapping[str, SideHealth]:
        return {str(platform): health() for platform, health in self._sides.items()}

    def _problem(self, pair: Pair) -> str | None:
        problems = [self._pairs.problem(pair), *(self.lane(lane).problem for lane in self._pairs.lanes(pair))]
        return " ".join(dict.fromkeys(text for text in problems if text)) or None


def directions(
    directory: PairDirectory,
    pair: Pair,
    counts: Mapping[LaneKey, LaneCounts],
    depths: Mapping[LaneKey, LaneDepth],
    now: datetime,
) -> Mapping[str, DirectionStatus]:
    """Both directions of a pair: what crosses to a side, and what the relay has to say to the people there."""
    found = {}
    for side in pair.sides:
        lanes = directory.lanes(pair, towards=side.platform)
        total = LaneCounts()
        for lane in lanes:
            total.add(counts.get(lane, LaneCounts()))
        here = [depths[lane] for lane in lanes if lane in depths]
        oldest = min((depth.oldest for depth in here if depth.oldest), default=None)
        found[f"to_{side.platform}"] = DirectionStatus(
            messages=total.messages,
            last_message_at=total.last_message_at,
            backlog=sum(depth.waiting for depth in here),
            oldest_undelivered_seconds=_age(oldest, now),
            retries=total.retries,
            dropped=dict(total.dropped),
            dead_letters=sum(depth.dead for depth in here),
        )
    return found


def undeclared(directory: PairDirectory, depths: Mapping[LaneKey, LaneDepth], now: datetime) -> tuple[Undeclared, ...]:
    """What waits for pairs that are not declared."""
    return tuple(
        Undeclared(lane, depth.pair, depth.waiting, _age(depth.oldest, now), depth.dead)
        for lane, depth in sorted(depths.items())
        if directory.pair_for(lane) is None
    )


def read_saved(text: str | None) -> Mapping[str, Any]:
    """What the notebook holds of the last snapshot; nothing where it cannot be read."""
    try:
        saved = json.loads(text or "{}")
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict):
        _log.warning("the status in the store cannot be read")
        return {}
    return saved


@dataclass(frozen=True, slots=True)
class SavedLane:
    """What stands in the store of a lane, with the problem and the note of its pair."""

    counts: LaneCounts
    problem: str | None
    note: str | None


def saved_lanes(saved: Mapping[str, Any], directory: PairDirectory) -> Mapping[LaneKey, SavedLane]:
    """What stands in the store of each lane. What cannot be read is left out."""
    found = {}
    lanes = saved.get("lanes")
    for record in lanes if isinstance(lanes, list) else _under_names(saved, directory):
        try:
            lane = LaneKey(_channel(record["source"]), _channel(record["destination"]))
            found[lane] = SavedLane(_counts(record), _words(record.get("problem")), _words(record.get("note")))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            _log.warning("counters cannot be read", record=repr(record)[:200])
    return found


def _under_names(saved: Mapping[str, Any], directory: PairDirectory) -> Iterator[Any]:
    """As an earlier relay kept them: under the names of pairs."""
    declared = {pair.name: pair for pair in directory.pairs}
    pairs = saved.get("pairs")
    for record in pairs if isinstance(pairs, list) else ():
        pair = declared.get(str(record.get("name"))) if isinstance(record, dict) else None
        for lane in () if pair is None else directory.lanes(pair):
            if lane.crosses and isinstance(record.get(lane.direction), dict):
                yield {
                    **record[lane.direction],
                    "problem": record.get("problem"),
                    "source": [lane.source.platform, lane.source.id],
                    "destination": [lane.destination.platform, lane.destination.id],
                }


def _channel(record: Sequence[str]) -> ChannelRef:
    platform, native = record
    if not isinstance(native, str):
        raise TypeError("a channel's ID is text")
    return ChannelRef(Platform(platform), native)


def _words(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int:
    return max(0, int(value))


def _moment(value: Any) -> datetime | None:
    """None also for what no clock says: without a zone, or at the end of time."""
    moment = None if value is None else datetime.fromisoformat(value)
    return moment if moment is None or (moment.tzinfo is not None and 1970 < moment.year < 9999) else None


def _counts(record: Mapping[str, Any]) -> LaneCounts:
    dropped = {str(feature): _number(count) for feature, count in record.get("dropped", {}).items()}
    return LaneCounts(
        messages=_number(record.get("messages", 0)),
        retries=_number(record.get("retries", 0)),
        dropped=Counter(dropped),
        last_message_at=_moment(record.get("last_message_at")),
    )


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else max(0.0, (now - since).total_seconds())
