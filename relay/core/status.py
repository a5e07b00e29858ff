"""What the relay is doing: counters, problems, and the read-only snapshot that everything that reports reads."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any

from relay.core.pairs import PairDirectory
from relay.core.ports import Clock, SideHealth
from relay.core.storage import LaneDepth, Store
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey, Pair

DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the delivery histogram, in seconds."""

NOTEBOOK_ENTRY = "status"
"""Where the last snapshot stands in the store, for `relay status` and for the next start."""

_IDLE = LaneDepth(0, None, 0)


@dataclass(slots=True)
class LaneCounts:
    """What one direction of one pair has done since the store was made."""

    messages: int = 0
    retries: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    last_message_at: datetime | None = None
    problem: str | None = None


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
    """A pair now; `directions` by `to_matrix`, `to_discord`."""

    name: str
    problem: str | None
    directions: Mapping[str, DirectionStatus]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the relay says about itself at one moment."""

    pairs: tuple[PairStatus, ...]
    sides: Mapping[str, SideHealth]
    taken_at: datetime
    store_problem: str | None = None

    @property
    def ready(self) -> bool:
        """Both sides are connected, and everything said from now on will cross. A pair in trouble changes nothing."""
        return self.store_problem is None and all(side.state == "ready" for side in self.sides.values())

    def as_json(self) -> dict[str, Any]:
        """The object that `relay status --json` prints, without what the command adds about the process."""
        return {
            "pairs": [
                {
                    "name": pair.name,
                    "problem": pair.problem,
                    **{name: direction.as_json() for name, direction in pair.directions.items()},
                }
                for pair in self.pairs
            ],
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

    `sides` asks each adapter for its health. Counters outlive the process through `as_json` and `restore`.
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
        self._depths: Mapping[LaneKey, LaneDepth] = {}
        self.store_problem: str | None = None

    def lane(self, lane: LaneKey) -> LaneCounts:
        """The counters of a lane; what crosses it adds to them."""
        return self._lanes.setdefault(lane, LaneCounts())

    def crossed(self, lane: LaneKey, *, written_at: datetime, received_at: datetime) -> None:
        """A message has been accepted on the other side."""
        counts = self.lane(lane)
        counts.messages += 1
        counts.last_message_at = max(written_at, counts.last_message_at or written_at)
        waited = (self._clock.now() - received_at).total_seconds()
        self._delivery.setdefault(lane.direction, Histogram()).observe(max(0.0, waited))

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
        """How both sides are, and each pair's problem: what is worth writing down at once when it changes. No I/O."""
        return self._side_health(), [self._problem(pair) for pair in self._pairs.pairs]

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on counting where an earlier process stopped. `saved` is `Snapshot.as_json()`."""
        for pair in saved.get("pairs", ()):
            for platform in Platform:
                lane = LaneKey(pair["name"], platform)
                values = pair.get(lane.direction)
                if values is None:
                    continue
                last = values.get("last_message_at")
                self._lanes[lane] = LaneCounts(
                    messages=values.get("messages", 0),
                    retries=values.get("retries", 0),
                    dropped=Counter(values.get("dropped", {})),
                    last_message_at=None if last is None else datetime.fromisoformat(last),
                )

    def _assemble(self) -> Snapshot:
        now = self._clock.now()
        pairs = []
        for pair in self._pairs.pairs:
            directions = {lane.direction: self._direction(lane, now) for lane in _lanes(pair)}
            pairs.append(PairStatus(pair.name, self._problem(pair), directions))
        return Snapshot(tuple(pairs), self._side_health(), now, self.store_problem)

    def _side_health(self) -> Mapping[str, SideHealth]:
        return {str(platform): health() for platform, health in self._sides.items()}

    def _problem(self, pair: Pair) -> str | None:
        problems = [self._pairs.problem(pair), *(self.lane(lane).problem for lane in _lanes(pair))]
        return " ".join(dict.fromkeys(text for text in problems if text)) or None

    def _direction(self, lane: LaneKey, now: datetime) -> DirectionStatus:
        counts, depth = self.lane(lane), self._depths.get(lane, _IDLE)
        return DirectionStatus(
            messages=counts.messages,
            last_message_at=counts.last_message_at,
            backlog=depth.waiting,
            oldest_undelivered_seconds=None if depth.oldest is None else max(0.0, (now - depth.oldest).total_seconds()),
            retries=counts.retries,
            dropped=dict(counts.dropped),
            dead_letters=depth.dead,
        )


def _lanes(pair: Pair) -> list[LaneKey]:
    return [LaneKey(pair.name, side.platform) for side in pair.sides]
