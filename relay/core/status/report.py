"""The status in one shape: what the daemon saves, and what `relay status`, the page and the metrics show.

A `StatusRecord` is what a daemon knows by itself; together with the outbox it becomes a `Report`. The daemon takes the
record from its counters, `relay status` from the store, where the last daemon saved it: so it can also answer while no
daemon runs.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, get_args

import structlog

from relay.core.findings import Finding
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo, SideHealth, SideState
from relay.core.storage import LaneDepth, Store
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list
from relay.domain.pair import LaneKey, Pair

# The keys of the saved record in the store's key-value table, and of what its channels are known by.
STATUS_KEY = "status"
CHANNELS_KEY = "channel info"

# When a message has waited this long, the relay is catching up.
_BEHIND_SECONDS = 10.0

_PAUSED = "Paused: nothing crosses until `relay pairs resume`."

_log = structlog.get_logger(__name__)

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

    def as_json(self) -> Json:
        """As it is saved, and as `relay status --json` shows it."""
        return {"at": _iso(self.at), "reason": self.reason, "remedy": self.remedy, "wanted": self.wanted}


STOPPED = DaemonEnd("It was told to stop.", "Start it with `relay run`.", wanted=True)
KILLED = DaemonEnd(
    "It left no word: it was killed, or the machine went down.",
    "Look for its process in the log of the system (memory, disk), and start it with `relay run`.",
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

    def lasting(self) -> Json:
        """What does not change by itself, as it is saved."""
        return {
            **{name: side_as_json(side) for name, side in self.sides.items()},
            "declared": [
                {
                    "name": pair.name,
                    "sides": [[side.platform, side.value] for side in pair.sides],
                    "destinations": sorted(pair.destinations),
                    "paused": pair.paused,
                }
                for pair in self.pairs
            ],
            "findings": [finding.as_json() for finding in self.findings],
            "lanes": [
                {
                    "source": [lane.source.platform, lane.source.id],
                    "destination": [lane.destination.platform, lane.destination.id],
                    "problems": list(record.problems),
                    "notes": list(record.notes),
                    "messages": record.counts.messages,
                    "retries": record.counts.retries,
                    "dropped": dict(sorted(record.counts.dropped.items())),
                    "last_message_at": _iso(record.counts.last_message_at),
                }
                for lane, record in self.lanes.items()
            ],
        }

    def as_json(self) -> Json:
        """As it is saved."""
        return {"daemon": self.daemon.as_json(), **self.lasting()}

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
            (*([_PAUSED] if pair.paused else []), *next((record.notes for record in known if record.notes), ())),
            {str(side.platform): self._channel(side, directory.channel(side)) for side in pair.sides},
            frozenset(f"to_{platform}" for platform in pair.destinations),
            pair.paused,
        )

    def _channel(self, address: ChannelAddress, channel: ChannelRef) -> "ChannelStatus":
        return ChannelStatus(address.value, channel.id, self.channels.get(channel))


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
    carried: frozenset[str] = frozenset({"to_matrix", "to_discord"})
    # The operator has paused it.
    paused: bool = False

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

    @property
    def ready(self) -> bool:
        """Both sides are connected, and everything said from now on will cross. A pair in trouble changes nothing."""
        return self.store_problem is None and all(side.state == "ready" for side in self.sides.values())

    @property
    def catching_up(self) -> bool:
        """A platform's past is being read, or messages have waited for longer than they should."""
        directions = (direction for pair in self.pairs for direction in pair.directions.values())
        ages = (direction.oldest_undelivered_seconds for direction in directions)
        reading = any(side.state == "catching_up" for side in self.sides.values())
        return reading or any(age is not None and age >= _BEHIND_SECONDS for age in ages)

    @property
    def well(self) -> bool:
        """The daemon runs, both sides are connected, and no pair is in trouble."""
        connected = all(side.connected for side in self.sides.values())
        return self.daemon.running and connected and not any(pair.problems for pair in self.pairs)

    def as_json(self) -> Json:
        """The object of the operator's contract, as `relay status --json` prints it."""
        return {
            "pairs": [pair.as_json() for pair in self.pairs],
            "undeclared": [lane.as_json() for lane in self.undeclared],
            **{name: side_as_json(side) for name, side in self.sides.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "daemon": self.daemon.as_json(),
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


# --- Read from the store ----------------------------------------------------------------------------------

_NEVER_RAN = "The daemon has never run on this store."
_NOT_RUNNING = "The daemon is not running."
_STARTING = "The daemon is starting."


async def read_report(
    store: Store | None, pairs: Sequence[Pair] | None, *, running: bool, now: datetime, seen: datetime | None = None
) -> Report:
    """The report from the store alone. Raises `StoreError`.

    `store` None: there is none yet. `pairs` None: those that the daemon works with, or worked with last. `running`: a
    daemon holds the store; `seen`: when it last showed that.
    """
    saved = channels = None
    depths: Mapping[LaneKey, LaneDepth] = {}
    known: Mapping[ChannelAddress, ChannelRef] = {}
    if store is not None:
        async with store.read() as uow:
            saved = await uow.key_values.get(STATUS_KEY)
            channels = await uow.key_values.get(CHANNELS_KEY)
            depths = await uow.outbox.depths()
            known = await uow.channels.known()
    directory = PairDirectory(pairs or (), known)
    record = read_record(saved, directory)
    if pairs is None:
        directory.replace(record.pairs)
    daemon = record.daemon
    updated_at = daemon.updated_at
    if updated_at is not None and seen is not None:
        updated_at = max(updated_at, seen)
    ended = None if running else daemon.end(seen)
    record = replace(
        record,
        daemon=replace(daemon, running=running, updated_at=updated_at, ended=ended),
        sides={str(platform): _now(record.sides.get(str(platform)), running=running) for platform in Platform},
        channels=read_channels(channels),
    )
    return record.report(directory, depths, now)


def _now(saved: SideHealth | None, *, running: bool) -> SideHealth:
    """How a platform is now, by what the last daemon saved."""
    if running:
        return saved or SideHealth("connecting", _STARTING)
    return SideHealth("stopped", _NEVER_RAN if saved is None else _NOT_RUNNING)


def read_record(text: str | None, directory: PairDirectory) -> StatusRecord:
    """A saved record. What cannot be read in it is left out."""
    try:
        saved = json.loads(text or "{}")
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict):
        _log.warning("the status in the store cannot be read")
        saved = {}
    daemon = saved.get("daemon")
    return StatusRecord(
        daemon=_daemon(daemon if isinstance(daemon, dict) else {}),
        sides={str(platform): side for platform in Platform if (side := _side(saved.get(str(platform)))) is not None},
        lanes=_lanes(saved, directory),
        pairs=_declared(saved.get("declared")),
        findings=tuple(
            found for one in as_list(saved.get("findings")) if (found := Finding.from_json(as_dict(one))) is not None
        ),
    )


def _daemon(saved: Mapping[str, Any]) -> DaemonStatus:
    pid = saved.get("pid")
    return DaemonStatus(
        running=saved.get("running") is True,
        pid=pid if isinstance(pid, int) else None,
        host=_words(saved.get("host")),
        since=_moment_or_none(saved.get("since")),
        updated_at=_moment_or_none(saved.get("updated_at")),
        ended=_end(saved.get("ended")),
        previous=_end(saved.get("previous")),
    )


def _end(saved: Any) -> DaemonEnd | None:
    if not isinstance(saved, dict) or not (reason := _words(saved.get("reason"))):
        return None
    return DaemonEnd(
        reason, _words(saved.get("remedy")) or "", _moment_or_none(saved.get("at")), saved.get("wanted") is True
    )


def _declared(saved: Any) -> Sequence[Pair]:
    found = []
    for record in saved if isinstance(saved, list) else ():
        with suppress(TypeError, ValueError, KeyError):
            one, other = (ChannelAddress(Platform(platform), str(value)) for platform, value in record["sides"])
            destinations = frozenset(Platform(platform) for platform in record["destinations"])
            paused = record.get("paused") is True
            found.append(Pair(str(record["name"]), (one, other), destinations, paused=paused))
    return found


def _side(saved: Any) -> SideHealth | None:
    if not isinstance(saved, dict) or saved.get("state") not in get_args(SideState):
        return None
    return SideHealth(saved["state"], _words(saved.get("problem")) or "")


def _lanes(saved: Mapping[str, Any], directory: PairDirectory) -> Mapping[LaneKey, LaneRecord]:
    found = {}
    lanes = saved.get("lanes")
    for record in lanes if isinstance(lanes, list) else _lanes_by_pair(saved, directory):
        try:
            lane = LaneKey(_channel(record["source"]), _channel(record["destination"]))
            found[lane] = LaneRecord(_counts(record), _sentences(record, "problem"), _sentences(record, "note"))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            _log.warning("counters cannot be read", record=repr(record)[:200])
    return found


def _lanes_by_pair(saved: Mapping[str, Any], directory: PairDirectory) -> Iterator[Any]:
    """The lanes as an earlier relay saved them: under the names of pairs."""
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


def _counts(record: Mapping[str, Any]) -> LaneCounts:
    dropped = {str(feature): _number(count) for feature, count in record.get("dropped", {}).items()}
    return LaneCounts(
        messages=_number(record.get("messages", 0)),
        retries=_number(record.get("retries", 0)),
        dropped=Counter(dropped),
        last_message_at=_moment(record.get("last_message_at")),
    )


def read_channels(text: str | None) -> Mapping[ChannelRef, ChannelInfo]:
    """What was saved of the channels. What cannot be read is left out: the adapters will say it again."""
    try:
        saved = json.loads(text or "[]")
    except (ValueError, RecursionError):
        saved = None
    found = {}
    for record in saved if isinstance(saved, list) else ():
        with suppress(TypeError, ValueError, KeyError):
            found[_channel((record["platform"], record["id"]))] = read_info(record)
    return found


def read_info(record: Mapping[str, Any]) -> ChannelInfo:
    """What was saved of one channel. Raises `TypeError`, `KeyError`."""
    if not all(isinstance(record[name], kind) for name, kind in _INFO_TYPES.items()):
        raise TypeError("a value of another type")
    aliases = tuple(alias for alias in record["aliases"] if isinstance(alias, str))
    return ChannelInfo(**{name: record[name] for name in _INFO_TYPES}, aliases=aliases)


_INFO_TYPES = {one.name: one.type for one in fields(ChannelInfo) if isinstance(one.type, type)}


def _sentences(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """An earlier relay saved them as one text."""
    one, several = record.get(name), record.get(f"{name}s")
    if isinstance(several, list):
        return tuple(text for text in several if isinstance(text, str))
    return (one,) if isinstance(one, str) and one else ()


def _words(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int:
    return max(0, int(value))


def _moment(value: Any) -> datetime | None:
    """None also for what no clock shows: a moment without a zone, or at the end of time."""
    moment = None if value is None else datetime.fromisoformat(value)
    if moment is None or moment.tzinfo is None or not 1970 < moment.year < 9999:
        return None
    return moment.astimezone(UTC)


def _moment_or_none(value: Any) -> datetime | None:
    try:
        return _moment(value)
    except (TypeError, ValueError):
        return None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else max(0.0, (now - since).total_seconds())
