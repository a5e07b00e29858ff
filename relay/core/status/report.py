"""What `relay status` says: read from the store alone, so that it can be said while the daemon is down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from relay.core.pairs import PairDirectory
from relay.core.status.counters import (
    NOTEBOOK_ENTRY,
    PairStatus,
    SavedLane,
    Undeclared,
    directions,
    read_saved,
    saved_lanes,
    undeclared,
)
from relay.core.storage import LaneDepth, Store
from relay.domain.ids import Platform
from relay.domain.pair import LaneKey, Pair

_NEVER_RAN = "the daemon has never run on this store"
_NOT_RUNNING = "the daemon is not running"


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The process that holds the store, or held it last. Times as ISO 8601; None where nothing is known."""

    running: bool
    pid: int | None = None
    host: str | None = None
    since: str | None = None
    updated_at: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For `relay status --json`."""
        return {
            "running": self.running,
            "pid": self.pid,
            "host": self.host,
            "since": self.since,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The pairs that are declared, with the daemon's last word on each and the outbox as it is now.

    `sides`: for each platform what the status snapshot says of it (`connected`, `state`, `problem`).
    """

    pairs: tuple[PairStatus, ...]
    sides: Mapping[str, Mapping[str, Any]]
    daemon: DaemonStatus
    undeclared: tuple[Undeclared, ...]
    taken_at: datetime = field(compare=False)

    @property
    def well(self) -> bool:
        """The daemon runs, both sides are connected, and no pair is in trouble."""
        connected = all(side["connected"] for side in self.sides.values())
        return self.daemon.running and connected and not any(pair.problem for pair in self.pairs)

    def as_json(self) -> dict[str, Any]:
        """The object of the operator's contract."""
        return {
            "pairs": [pair.as_json() for pair in self.pairs],
            "undeclared": [lane.as_json() for lane in self.undeclared],
            **{name: dict(side) for name, side in self.sides.items()},
            "daemon": self.daemon.as_json(),
        }


async def read_report(
    store: Store | None, pairs: Sequence[Pair], *, running: bool, now: datetime, seen: datetime | None = None
) -> Report:
    """Put the report together. `store` None: there is none yet. `running`: a daemon holds the store; `seen`: when
    it last showed that.

    Raises `StoreError`.
    """
    saved: Mapping[str, Any] = {}
    depths: Mapping[LaneKey, LaneDepth] = {}
    directory = PairDirectory(pairs)
    if store is not None:
        async with store.read() as uow:
            saved = read_saved(await uow.key_values.get(NOTEBOOK_ENTRY))
            depths = await uow.outbox.depths()
            directory = PairDirectory(pairs, await uow.channels.known())
    counts = saved_lanes(saved, directory)
    process = saved.get("daemon")
    process = process if isinstance(process, dict) else {}
    return Report(
        pairs=tuple(_pair(pair, directory, counts, depths, now) for pair in pairs),
        sides={str(platform): _side(saved.get(str(platform)), running=running) for platform in Platform},
        daemon=DaemonStatus(
            running,
            pid=pid if isinstance(pid := process.get("pid"), int) else None,
            host=host if isinstance(host := process.get("host"), str) else None,
            since=_moment(process.get("since")),
            updated_at=_later(_moment(process.get("updated_at")), seen),
        ),
        undeclared=undeclared(directory, depths, now),
        taken_at=now,
    )


def _later(saved: str | None, seen: datetime | None) -> str | None:
    if saved is None or seen is None:
        return saved
    return max(datetime.fromisoformat(saved), seen).isoformat()


def _moment(text: Any) -> str | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return None if moment.tzinfo is None or not 1970 < moment.year < 9999 else moment.astimezone(UTC).isoformat()


def _side(saved: Any, *, running: bool) -> Mapping[str, Any]:
    if not isinstance(saved, dict) or not (
        isinstance(saved.get("connected"), bool)
        and isinstance(saved.get("state"), str)
        and isinstance(saved.get("problem"), str | None)
    ):
        saved = None
    if running and saved is not None:
        return dict(saved)
    if running:
        return {"connected": False, "state": "connecting", "problem": "the daemon is starting"}
    reason = _NEVER_RAN if saved is None else _NOT_RUNNING
    return {"connected": False, "state": "stopped", "problem": reason}


def _pair(
    pair: Pair,
    directory: PairDirectory,
    saved: Mapping[LaneKey, SavedLane],
    depths: Mapping[LaneKey, LaneDepth],
    now: datetime,
) -> PairStatus:
    counts = {lane: known.counts for lane, known in saved.items()}
    own = [saved[lane] for lane in directory.lanes(pair) if lane in saved]
    problem = next((known.problem for known in own if known.problem), None)
    note = next((known.note for known in own if known.note), None)
    return PairStatus(pair.name, problem, directions(directory, pair, counts, depths, now), note)
