"""Reads the status back from the store: for `relay status`, and for a daemon that goes on counting.

What cannot be read is left out: it may be damaged, or an earlier or later relay wrote it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, get_args

from relay.core.operations.findings import Finding
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo, SideHealth, SideState
from relay.core.status.report import (
    CHANNELS_KEY,
    PAUSED,
    STATUS_KEY,
    DaemonEnd,
    DaemonStatus,
    LaneCounts,
    LaneRecord,
    PairStatus,
    Report,
    StatusRecord,
)
from relay.core.storage import LaneDepth, Store
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.jsontext import as_dict, as_list
from relay.domain.pair import LaneKey, Pair
from relay.logs import get_logger

_log = get_logger(__name__)

_NEVER_RAN = "The daemon has never run on this store."
_NOT_RUNNING = "The daemon is not running."
_STARTING = "The daemon is starting."
_PENDING = {
    "new": "It is new in the file: the daemon follows within seconds.",
    "pausing": "The file pauses it: the daemon follows within seconds.",
    "resuming": "Paused until the daemon follows the file, which resumes it: within seconds.",
    "changing": "The file gives it another direction: the daemon follows within seconds.",
}
"""What a daemon has still to do about a pair, in a word and in a sentence."""


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
    pending: Mapping[str, str] = {}
    if pairs is None:
        directory.replace(record.pairs)
    elif running and record.pairs:
        works_with = {frozenset(pair.sides): pair for pair in record.pairs}
        pending = {pair.name: what for pair in pairs if (what := _still_to_do(pair, works_with))}
        directory.replace([_as_it_works(pair, works_with) for pair in pairs])
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
    report = record.report(directory, depths, now)
    return replace(report, pairs=tuple(_with_pending(one, pending.get(one.name)) for one in report.pairs))


def _still_to_do(pair: Pair, works_with: Mapping[frozenset[ChannelAddress], Pair]) -> str:
    """What a daemon that works with these pairs, by their sides, has still to do, as the file says; "" for nothing."""
    now = works_with.get(frozenset(pair.sides))
    if now is None:
        return "new"
    if now.paused != pair.paused:
        return "pausing" if pair.paused else "resuming"
    return "" if now.destinations == pair.destinations else "changing"


def _as_it_works(pair: Pair, works_with: Mapping[frozenset[ChannelAddress], Pair]) -> Pair:
    now = works_with.get(frozenset(pair.sides))
    return pair if now is None else replace(pair, paused=now.paused, destinations=now.destinations)


def _with_pending(pair: PairStatus, pending: str | None) -> PairStatus:
    if pending is None:
        return pair
    notes = [note for note in pair.notes if pending != "resuming" or note != PAUSED]
    return replace(pair, pending=pending, notes=(_PENDING[pending], *notes))


def _now(saved: SideHealth | None, *, running: bool) -> SideHealth:
    """How a platform is now, by what the last daemon saved."""
    if running:
        return saved or SideHealth("connecting", _STARTING)
    return SideHealth("stopped", _NEVER_RAN if saved is None else _NOT_RUNNING)


def with_end(text: str | None, end: DaemonEnd) -> str | None:
    """A saved record of a daemon that ended like this. One that cannot be read stays as it is."""
    with suppress(ValueError, RecursionError, TypeError, AttributeError):
        saved = json.loads(text or "")
        return json.dumps({**saved, "daemon": {**saved.get("daemon", {}), "ended": end.as_json()}})
    return text


def read_record(text: str | None, directory: PairDirectory) -> StatusRecord:
    """A saved record. What cannot be read in it is left out."""
    try:
        saved = json.loads(text or "{}")
    except (ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict):
        _log.warning("the status in the store cannot be read")
        saved = {}
    return StatusRecord(
        daemon=_daemon(as_dict(saved.get("daemon"))),
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
    for record in as_list(saved):
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
    for record in as_list(saved.get("pairs")):
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
    for record in as_list(saved):
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
