"""The status in one shape: what the daemon saves, and what `relay status`, the page and the metrics show.

A `StatusRecord` is what a daemon knows by itself; together with the outbox it becomes a `Report`. The daemon takes the
record from its counters, `relay status` from the store, where the last daemon saved it: so it can also answer while no
daemon runs.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

from relay.core.operations.findings import Finding
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo, SideHealth
from relay.core.storage import LaneDepth
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.jsontext import Json
from relay.domain.pair import LaneKey, Pair

# The keys of the saved record in the store's key-value table, and of what its channels are known by.
STATUS_KEY = "status"
CHANNELS_KEY = "channel info"

# When a message has waited this long, the relay is catching up.
BEHIND = timedelta(seconds=10)

PAUSED = "Paused: nothing crosses until `relay pairs resume`."

# --- What the daemon saves --------------------------------------------------------------------------------


@dataclass(slots=True)
class LaneCounts:
    """What a lane has done since the store was made."""

    messages: int = 0
    retries: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    last_message_at: datetime | None = None
    # Why the lane waits now; not saved.
    problem: str | None = None

    def add(self, other: "LaneCounts") -> None:
        """Count what another lane has done, too."""
        self.messages += other.messages
        self.retries += other.retries
        self.dropped.update(other.dropped)
        self.last_message_at = max(filter(None, (self.last_message_at, other.last_message_at)), default=None)


@dataclass(frozen=True, slots=True)
class LaneRecord:
    """One lane."""

    counts: LaneCounts
    # What keeps the lane's pair from working, and what the operator may do although it works. Sentences.
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DaemonEnd:
    """How a daemon ended, as it wrote down itself when it did; or that it could not."""

    # Sentences.
    reason: str
    remedy: str
    # None if it is not known.
    at: datetime | None = None
    # Somebody told it to stop: nothing is wrong.
    wanted: bool = False

    @property
    def unseen(self) -> bool:
        """Nobody knows when it was: `at` is when the daemon was last alive."""
        return self.reason == KILLED.reason

    @property
    def of_a_copy(self) -> bool:
        """The store is a copy, and `at` is when it was made or last used: how the daemon ended, it cannot know."""
        return self.reason in (RESTORED.reason, COPIED.reason)

    def as_json(self) -> Json:
        """As it is saved, and as `relay status --json` shows it."""
        return {"at": _iso(self.at), "reason": self.reason, "remedy": self.remedy, "wanted": self.wanted}


STOPPED = DaemonEnd("It was told to stop.", "Start it with `relay run`.", wanted=True)
KILLED = DaemonEnd(
    "It left no word: it was killed, or the machine went down.",
    "Look for its process in the log of the system (memory, disk), and start it with `relay run`.",
)
_START = "Start it with `relay run`."
RESTORED = DaemonEnd(
    "This store is a restored backup: what has crossed since it was made is looked for before it is sent.", _START
)
COPIED = DaemonEnd(
    "This store was moved or copied: what has crossed since it was last used is looked for before it is sent.", _START
)


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The process that holds the store, or held it last. None where nothing is known."""

    running: bool
    pid: int | None = None
    host: str | None = None
    # When it started.
    since: datetime | None = None
    # When it last showed that it was alive.
    updated_at: datetime | None = None
    # How it ended; None while it runs.
    ended: DaemonEnd | None = None
    # How the one before it ended.
    previous: DaemonEnd | None = None

    def end(self, seen: datetime | None) -> DaemonEnd | None:
        """How it ended, where it runs no longer; None if no daemon has ever run. `seen`: when it last was alive."""
        if self.ended is not None or self.updated_at is None:
            return self.ended
        # An earlier relay did not write down how it ended, but that it did.
        return replace(KILLED if self.running else STOPPED, at=max(self.updated_at, seen or self.updated_at))

    def as_json(self) -> Json:
        """As it is saved, and as `relay status --json` shows it."""
        return {
            "running": self.running,
            "pid": self.pid,
            "host": self.host,
            "since": _iso(self.since),
            "updated_at": _iso(self.updated_at),
            "ended": None if self.ended is None else self.ended.as_json(),
            "previous": None if self.previous is None else self.previous.as_json(),
        }


@dataclass(frozen=True, slots=True)
class StatusRecord:
    """What a daemon knows by itself: everything but the outbox."""

    daemon: DaemonStatus
    # By the platform's name.
    sides: Mapping[str, SideHealth]
    lanes: Mapping[LaneKey, LaneRecord]
    channels: Mapping[ChannelRef, ChannelInfo] = field(default_factory=dict)
    # Those that the daemon works with, without their policies: the file may have been changed, or have mistakes.
    pairs: Sequence[Pair] = ()
    # What the daemon found wrong, or could be better, about no pair in particular.
    findings: tuple[Finding, ...] = ()

    def lasting(self) -> str:
        """The JSON of what does not change by itself, without the braces around it.

        Made line by line: the objects of a thousand pairs at once are 10 MiB, and leave holes in memory.
        """
        sides = (f"{json.dumps(name)}: {json.dumps(side_as_json(side))}" for name, side in self.sides.items())
        lists = {
            "declared": map(_declared_as_json, self.pairs),
            "findings": (finding.as_json() for finding in self.findings),
            "lanes": (_lane_as_json(lane, record) for lane, record in self.lanes.items()),
        }
        return ", ".join((*sides, *(f'"{name}": [{", ".join(map(json.dumps, each))}]' for name, each in lists.items())))

    def as_text(self, lasting: str | None = None) -> str:
        """The JSON that is saved, with what `lasting` has said of it if that was asked."""
        return f'{{"daemon": {json.dumps(self.daemon.as_json())}, {self.lasting() if lasting is None else lasting}}}'

    def channels_as_json(self) -> Sequence[Json]:
        """What the channels are known by, as it is saved."""
        return [
            {"platform": channel.platform, "id": channel.id, **asdict(info)} for channel, info in self.channels.items()
        ]

    def report(
        self,
        pairs: PairDirectory,
        depths: Mapping[LaneKey, LaneDepth],
        now: datetime,
        store_problem: str | None = None,
    ) -> "Report":
        """The declared pairs with this record and the outbox."""
        return Report(
            pairs=tuple(self._pair(pair, pairs, depths, now) for pair in pairs.pairs),
            sides=self.sides,
            taken_at=now,
            daemon=self.daemon,
            undeclared=tuple(
                UndeclaredLane(
                    lane,
                    depth.pair,
                    depth.waiting,
                    _age(depth.oldest, now),
                    depth.dead,
                    self.channels.get(lane.source),
                    self.channels.get(lane.destination),
                )
                for lane, depth in sorted(depths.items())
                if pairs.pair_for(lane) is None
            ),
            store_problem=store_problem,
            findings=self.findings,
        )

    def _pair(
        self, pair: Pair, directory: PairDirectory, depths: Mapping[LaneKey, LaneDepth], now: datetime
    ) -> "PairStatus":
        known = [self.lanes[lane] for lane in directory.lanes(pair) if lane in self.lanes]
        directions = {
            f"to_{side.platform}": _direction(directory.lanes(pair, towards=side.platform), self.lanes, depths, now)
            for side in pair.sides
        }
        if pair.paused:
            # It waits because the operator wants it to: nothing is late.
            directions = {name: replace(way, oldest_undelivered_seconds=None) for name, way in directions.items()}
        return PairStatus(
            pair.name,
            next((record.problems for record in known if record.problems), ()),
            directions,
            (*([PAUSED] if pair.paused else []), *next((record.notes for record in known if record.notes), ())),
            {str(side.platform): self._channel(side, directory.channel(side)) for side in pair.sides},
            frozenset(f"to_{platform}" for platform in pair.destinations),
            pair.paused,
        )

    def _channel(self, address: ChannelAddress, channel: ChannelRef) -> "ChannelStatus":
        return ChannelStatus(address.value, channel.id, self.channels.get(channel))


def _declared_as_json(pair: Pair) -> Json:
    return {
        "name": pair.name,
        "sides": [[side.platform, side.value] for side in pair.sides],
        "destinations": sorted(pair.destinations),
        "paused": pair.paused,
    }


def _lane_as_json(lane: LaneKey, record: LaneRecord) -> Json:
    counts = record.counts
    return {
        "source": [lane.source.platform, lane.source.id],
        "destination": [lane.destination.platform, lane.destination.id],
        "problems": list(record.problems),
        "notes": list(record.notes),
        "messages": counts.messages,
        "retries": counts.retries,
        "dropped": dict(sorted(counts.dropped.items())),
        "last_message_at": _iso(counts.last_message_at),
    }


def side_as_json(side: SideHealth) -> Json:
    """How one platform is, as the record, `relay status --json` and the readiness check show it."""
    return {"connected": side.connected, "state": side.state, "problem": side.problem}


# --- What is shown ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DirectionStatus:
    """One direction of a pair now. Times with UTC as zone, ages in seconds."""

    # Accepted on the other side since the store was made. The retries and drops are counted since then, too.
    messages: int
    # When the last of these messages was written.
    last_message_at: datetime | None
    # Commands that wait in the outbox, and the age of the oldest (None as well while the pair is paused).
    backlog: int
    oldest_undelivered_seconds: float | None
    # Tries that had to be made again, for whatever reason.
    retries: int
    # By `Feature`.
    dropped: Mapping[str, int]
    # Commands that failed for good and are kept.
    dead_letters: int

    def as_json(self) -> Json:
        """The object of the operator's contract."""
        return {
            "last_message_at": _iso(self.last_message_at),
            "backlog": self.backlog,
            "oldest_undelivered_seconds": self.oldest_undelivered_seconds,
            "retries": self.retries,
            "dropped": dict(sorted(self.dropped.items())),
            "dead_letters": self.dead_letters,
            "messages": self.messages,
        }


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """One of a pair's two channels."""

    # As the file declares it.
    address: str
    # As its platform knows it; the same as the address while that is not known.
    id: str
    # None while nothing is known of it.
    info: ChannelInfo | None = None

    @property
    def label(self) -> str:
        """What people know it by: `#help on Some server`; else its address."""
        return self.address if self.info is None else self.info.label

    def as_json(self) -> Json:
        """For `relay status --json`."""
        return {
            "address": self.address,
            "id": self.id,
            "name": None if self.info is None else self.info.label,
            "link": None if self.info is None else self.info.link or None,
        }


@dataclass(frozen=True, slots=True)
class PairStatus:
    """A pair now."""

    name: str
    # What keeps it from working: sentences, each with its remedy.
    problems: tuple[str, ...]
    # By `to_matrix`, `to_discord`.
    directions: Mapping[str, DirectionStatus]
    # What the operator may do although it works: sentences.
    notes: tuple[str, ...] = ()
    # By the platform's name.
    channels: Mapping[str, ChannelStatus] = field(default_factory=dict)
    # The directions that the operator has opened: none of them if the pair is archived.
    carried: frozenset[str] = frozenset(f"to_{platform}" for platform in Platform)
    # Nothing crosses, because the operator has paused it.
    paused: bool = False
    # What the daemon has still to do about it, in a word: the file says something else than it does. "": nothing.
    pending: str = ""

    @property
    def problem(self) -> str | None:
        """The problems as one text; None if there are none."""
        return " ".join(self.problems) or None

    @property
    def note(self) -> str | None:
        """The notes as one text; None if there are none."""
        return " ".join(self.notes) or None

    def as_json(self) -> Json:
        """For `relay status --json`."""
        return {
            "name": self.name,
            "problem": self.problem,
            "note": self.note,
            **{name: direction.as_json() for name, direction in self.directions.items()},
            "channels": {name: channel.as_json() for name, channel in self.channels.items()},
        }


@dataclass(frozen=True, slots=True)
class UndeclaredLane:
    """What waits, or is dead, in a lane whose pair is not declared."""

    lane: LaneKey
    # What its pair was called last, None if that is not known.
    pair: str | None
    # Commands that wait in the outbox, and the age of the oldest.
    waiting: int
    oldest_seconds: float | None
    # Dead letters.
    dead: int
    # What its two channels are known by; None where that is not known.
    source: ChannelInfo | None = None
    destination: ChannelInfo | None = None

    def as_json(self) -> Json:
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
class Report:
    """Everything that the relay says about itself at one moment."""

    pairs: tuple[PairStatus, ...]
    # By the platform's name.
    sides: Mapping[str, SideHealth]
    taken_at: datetime = field(compare=False)
    daemon: DaemonStatus = DaemonStatus(running=False)
    undeclared: tuple[UndeclaredLane, ...] = ()
    store_problem: str | None = None
    # See `StatusRecord`.
    findings: tuple[Finding, ...] = ()
    # Who waits to go on where the daemon ends, in words.
    standbys: tuple[str, ...] = ()
    # This process is one of those, and waits for that one; "" for the daemon itself.
    stands_by_for: str = ""

    @property
    def ready(self) -> bool:
        """Both sides are connected, and everything said from now on will cross. A pair in trouble changes nothing."""
        works = self.store_problem is None and not self.stands_by_for
        return works and all(side.state == "ready" for side in self.sides.values())

    @property
    def catching_up(self) -> bool:
        """A platform's past is being read, or messages have waited for too long in a pair that is not in trouble."""
        directions = (direction for pair in self.pairs if not pair.problems for direction in pair.directions.values())
        ages = (direction.oldest_undelivered_seconds for direction in directions)
        reading = any(side.state == "catching_up" for side in self.sides.values())
        return reading or any(age is not None and age >= BEHIND.total_seconds() for age in ages)

    @property
    def well(self) -> bool:
        """The daemon runs and can write, both sides are connected, there are pairs, and nothing is wrong in any."""
        works = self.daemon.running and self.store_problem is None and bool(self.pairs)
        found = any(pair.problems for pair in self.pairs) or any(one.state == "wrong" for one in self.findings)
        return works and all(side.connected for side in self.sides.values()) and not found

    def as_json(self) -> Json:
        """The object of the operator's contract, as `relay status --json` prints it."""
        return {
            "pairs": [pair.as_json() for pair in self.pairs],
            "undeclared": [lane.as_json() for lane in self.undeclared],
            **{name: side_as_json(side) for name, side in self.sides.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "daemon": self.daemon.as_json(),
            "standbys": list(self.standbys),
        }


def _direction(
    lanes: Sequence[LaneKey], records: Mapping[LaneKey, LaneRecord], depths: Mapping[LaneKey, LaneDepth], now: datetime
) -> DirectionStatus:
    """What crosses to one side, together with what the relay has to say to the people there."""
    total = LaneCounts()
    for lane in lanes:
        if lane in records:
            total.add(records[lane].counts)
    here = [depths[lane] for lane in lanes if lane in depths]
    oldest = min((depth.oldest for depth in here if depth.oldest), default=None)
    return DirectionStatus(
        messages=total.messages,
        last_message_at=total.last_message_at,
        backlog=sum(depth.waiting for depth in here),
        oldest_undelivered_seconds=_age(oldest, now),
        retries=total.retries,
        dropped=dict(total.dropped),
        dead_letters=sum(depth.dead for depth in here),
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else max(0.0, (now - since).total_seconds())
