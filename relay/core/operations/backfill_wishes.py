"""What operators want to cross from before the relay was there, and how far that is: both are in the store.

The daemon carries it out: see `core/intake/backfill.py`.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

from relay.core.storage import UnitOfWork
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import Pair
from relay.errors import RelayError
from relay.logs import get_logger

_log = get_logger(__name__)

_WISHES = "backfill wishes"
"""Names the value with the wishes. The command line alone writes it."""

State = Literal["running", "done", "failed"]


class NotNow(RelayError):
    """A wish that cannot be taken: a sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Span:
    """What was written since one moment and before another; None: from the first, or until the relay came."""

    since: datetime | None = None
    before: datetime | None = None

    def joined(self, other: Self) -> Self:
        """With a span that joins on."""
        since = None if self.since is None or other.since is None else min(self.since, other.since)
        before = None if self.before is None or other.before is None else max(self.before, other.before)
        return type(self)(since, before)

    def without(self, crossed: Self) -> Self | None:
        """What is left of it; None for nothing. Raises `NotNow` unless that joins on what has crossed."""
        has_older = crossed.since is not None and (self.since is None or self.since < crossed.since)
        has_newer = crossed.before is not None and (self.before is None or self.before > crossed.before)
        if crossed.since is not None and has_older:
            if has_newer or (self.before is not None and self.before < crossed.since):
                day = _local_day(crossed.since)
                raise NotNow(
                    f"what was said since {day} has crossed: give it --before {day}, and then ask for the rest"
                )
            return type(self)(self.since, crossed.since)
        if crossed.before is not None and has_newer:
            if self.since is not None and self.since > crossed.before:
                day = _local_day(crossed.before)
                raise NotNow(f"what was said before {day} has crossed: ask with --since {day}")
            return type(self)(crossed.before, self.before)
        return None

    def as_json(self) -> list[str | None]:
        """For the store."""
        return [_iso(self.since), _iso(self.before)]

    @classmethod
    def read(cls, saved: Sequence[str | None]) -> Self:
        """What `as_json` made. Raises `TypeError` or `ValueError`."""
        since, before = saved
        return cls(_moment(since), _moment(before))


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants to cross of a pair."""

    id: str
    # Which pair: by its addresses, since its name may be another pair's by tomorrow.
    sides: tuple[ChannelAddress, ChannelAddress]
    # The platforms to which it crosses.
    towards: tuple[Platform, ...]
    asked_at: datetime
    # Only what was written since, and before; None: all.
    since: datetime | None = None
    before: datetime | None = None
    stopped: bool = False
    # What has crossed by earlier wishes, by the platform to which it did. It joins on what this one brings across.
    crossed: Mapping[Platform, Span] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names it among the wishes: there is one for a pair."""
        return _key(self.sides)

    def source(self, towards: Platform) -> ChannelAddress:
        """From where it crosses to a platform."""
        return next(side for side in self.sides if side.platform is not towards)

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return {
            "id": self.id,
            "sides": [[side.platform.value, side.value] for side in self.sides],
            "towards": [platform.value for platform in self.towards],
            "asked_at": self.asked_at.isoformat(),
            "since": _iso(self.since),
            "before": _iso(self.before),
            "stopped": self.stopped,
            "crossed": {platform.value: span.as_json() for platform, span in self.crossed.items()},
        }

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Self:
        """What `as_json` made. Raises `KeyError`, `TypeError` or `ValueError`."""
        first, second = (ChannelAddress(Platform(platform), str(value)) for platform, value in saved["sides"])
        return cls(
            str(saved["id"]),
            (first, second),
            tuple(Platform(one) for one in saved["towards"]),
            datetime.fromisoformat(saved["asked_at"]),
            _moment(saved["since"]),
            _moment(saved["before"]),
            bool(saved["stopped"]),
            {Platform(platform): Span.read(span) for platform, span in saved["crossed"].items()},
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a wish is in one direction."""

    # The ID of the wish.
    wish: str
    # The channels between which it crosses.
    channels: tuple[str, str]
    state: State = "running"
    # Where the next page begins, in the form of the adapter that reads it.
    position: str = ""
    # The ID of the last message of that page that was looked at, "" for none. The map tells it as well, but not for
    # ever: the pair may be paused in the middle of a page for longer than `retention`.
    last: str = ""
    # Messages that were queued, and that do not cross.
    crossed: int = 0
    left_out: int = 0
    # Threads that begin in what was looked at. Nothing of them is read.
    threads: int = 0
    # When the first message and the last one that was looked at were written; None before there is one.
    first_at: datetime | None = None
    reached: datetime | None = None
    # The day that was told last, as the notice says it.
    day: str = ""
    # Why it does not go on, as a sentence; "" while it does.
    problem: str = ""
    # Its pair has come to lead elsewhere, where nothing has crossed yet.
    leads_elsewhere: bool = False

    def as_json(self) -> str:
        """For the store."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(values | {"first_at": _iso(self.first_at), "reached": _iso(self.reached)})

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """What `as_json` made; None of nothing, and of what cannot be read."""
        try:
            saved = json.loads(text or "null")
            if saved is None:
                return None
            moments = {name: _moment(saved.get(name)) for name in ("first_at", "reached")}
            first, second = saved["channels"]
            known = {name: saved[name] for name in cls.__slots__ if name in saved}
            return cls(**known | moments | {"channels": (str(first), str(second))})
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            _log.error("how far a backfill is cannot be read: it begins anew, and what has crossed stays single")
            return None


def _name(address: ChannelAddress) -> str:
    return f"{address.platform.value} {address.value}"


def _key(sides: tuple[ChannelAddress, ChannelAddress]) -> str:
    return " ".join(map(_name, sides))


def _local_day(moment: datetime) -> str:
    """As the command line takes it."""
    return f"{moment.astimezone():%Y-%m-%d}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def progress_key(wish: Wish, towards: Platform) -> str:
    """Names the value with how far a wish is in one direction."""
    return f"backfill {_name(wish.source(towards))} to {towards.value}"


async def read_wishes(uow: UnitOfWork) -> Mapping[str, Wish]:
    """All of them, by `Wish.key`. One that cannot be read is left out, and stays in the store."""
    found = {}
    for key, saved in (await _saved(uow)).items():
        try:
            found[key] = Wish.read(saved)
        except (ValueError, TypeError, AttributeError, KeyError):
            _log.error("what is to be backfilled of a pair cannot be read: ask for it again", pair=key)
    return found


async def _saved(uow: UnitOfWork) -> dict[str, Any]:
    try:
        return dict(json.loads(await uow.key_values.get(_WISHES) or "{}"))
    except (ValueError, TypeError, RecursionError):
        _log.error("what is to be backfilled cannot be read: ask for it again")
        return {}


async def _put(uow: UnitOfWork, wish: Wish) -> None:
    await uow.key_values.put(_WISHES, json.dumps(await _saved(uow) | {wish.key: wish.as_json()}))


async def read_progress(uow: UnitOfWork, wish: Wish) -> Mapping[Platform, Progress | None]:
    """How far a wish is, by the platform to which it crosses; None before it has begun."""
    found = await uow.key_values.several(*(progress_key(wish, towards) for towards in wish.towards))
    read = dict(zip(wish.towards, map(Progress.read, found), strict=True))
    return {towards: one if one is not None and one.wish == wish.id else None for towards, one in read.items()}


# --- The command line's part ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator has said."""

    pair: Pair
    now: datetime
    # None: to every side that the pair mirrors to.
    towards: Platform | None = None
    since: datetime | None = None
    before: datetime | None = None

    @property
    def says_more(self) -> bool:
        """Whether it says more than the pair."""
        return self.towards is not None or self.since is not None or self.before is not None


async def ask(uow: UnitOfWork, wanted: Wanted) -> Wish:
    """Leave a wish in the store, or find the one that is there: to ask twice begins nothing anew. Raises `NotNow`."""
    pair = wanted.pair
    towards = tuple(sorted(pair.destinations if wanted.towards is None else {wanted.towards} & pair.destinations))
    if not towards:
        raise NotNow(f"{pair.name} does not mirror that way: give it a direction that does, or leave out --to")
    wish = Wish(secrets.token_hex(8), pair.sides, towards, wanted.now, wanted.since, wanted.before)
    if (before := (await read_wishes(uow)).get(wish.key)) is not None:
        progress = (await read_progress(uow, before)).values()
        if any(one is not None and one.leads_elsewhere for one in progress):
            before = replace(before, crossed={})
        is_running = any(one is None or one.state == "running" for one in progress)
        same = (towards, wanted.since, wanted.before) == (before.towards, before.since, before.before)
        is_another = wanted.says_more and not same
        if is_running and is_another and not before.stopped:
            raise NotNow(
                f"{pair.name} has a backfill that is not at its end: let it go on without options, or --stop it"
            )
        if is_running and not is_another:
            wish = replace(before, stopped=False)
        elif wanted.says_more or all(one is not None and one.state == "done" for one in progress):
            wish = await _rest(uow, wish, before) or replace(before, stopped=is_running)
        else:
            wish = await _anew(uow, replace(before, id=wish.id, stopped=False), before)
    await _put(uow, wish)
    return wish


async def _anew(uow: UnitOfWork, wish: Wish, failed: Wish) -> Wish:
    """One that failed goes on from where it was, under another ID."""
    for towards, progress in (await read_progress(uow, failed)).items():
        if progress is not None:
            state: State = "done" if progress.state == "done" else "running"
            again = replace(progress, wish=wish.id, state=state, problem="")
            await uow.key_values.put(progress_key(wish, towards), again.as_json())
    return wish


async def _rest(uow: UnitOfWork, wish: Wish, before: Wish) -> Wish | None:
    """What is left of a wish after one that is at its end; None for nothing. Raises `NotNow`."""
    crossed = dict(before.crossed)
    for towards, progress in (await read_progress(uow, before)).items():
        if progress is not None and progress.state == "done":
            span = Span(before.since, before.before)
            crossed[towards] = crossed[towards].joined(span) if towards in crossed else span
    asked = Span(wish.since, wish.before)
    rests = {one: asked.without(crossed[one]) if one in crossed else asked for one in wish.towards}
    left = {towards: span for towards, span in rests.items() if span is not None}
    if not left:
        return None
    if len(spans := set(left.values())) > 1:
        raise NotNow("more has crossed to one side than to the other: say with --to which side is meant")
    [span] = spans
    return replace(wish, towards=tuple(left), since=span.since, before=span.before, crossed=crossed)


async def stop(uow: UnitOfWork, pair: Pair) -> bool:
    """Let the wish of a pair rest; False if there is none. What is queued already crosses."""
    wish = (await read_wishes(uow)).get(_key(pair.sides))
    if wish is None:
        return False
    await _put(uow, replace(wish, stopped=True))
    return True
