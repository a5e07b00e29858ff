"""Tells the operators, in a room or channel of theirs, what is wrong: once, and once more when it is over.

What to say is worked out from how things are when there is room for it, and not queued: however long that has to wait,
what is said is what is true then, in one message. It goes behind everybody's words, and what the relay says itself is
never carried over. What has been said is kept in the store, so that a restart says nothing again.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from relay.core.clock import Backoff
from relay.core.delivery.rate_limit import Budgets
from relay.core.pairs import PairDirectory
from relay.core.ports import Adapter, Clock, Delivery
from relay.core.status.counters import Status
from relay.core.status.report import Report
from relay.core.storage import Store
from relay.domain.content import Content
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import DeliveryError, RateLimited, StoreUnavailable, Transient, how_many, sentence
from relay.logs import get_logger

_log = get_logger(__name__)

_LOOK_SECONDS = 1.0
_LASTS = 60.0
"""Seconds that trouble has to last before it is told, and to be gone before that is told."""

_AGAIN_AFTER = 3600.0
"""Seconds after which more of the same may be told."""

_RETURNED_LASTS = 10 * _LASTS
"""What returns within that time has to last so long: what comes and goes is not told each time."""

_WAITS_TOO_LONG = 900.0
_LONGEST_LINE = 250
_LONGEST_TEXT = 1500
"""Characters, below what any platform takes."""


# What the keys of troubles begin with.
_SIDE, _PAIR, _DEAD, _WAS = "side ", "pair ", "dead ", "was "

# --- What there is to tell --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that the operators have to know."""

    # Sentences: what is wrong, and what to say when it is over.
    words: str
    over: str
    # Its pair; "" if it is about more than one.
    pair: str = ""
    # Where it can be counted: how many there are. More of it may be told again.
    count: int = 0
    # Seconds that it has to last.
    lasts: float = _LASTS


def troubles(report: Report) -> Mapping[str, Trouble]:
    """What is wrong, by a key that stays the same while it lasts."""
    found = {}
    for name, side in report.sides.items():
        if not side.connected:
            what = f"{name.capitalize()} is out of reach: {sentence(side.problem or side.state)}"
            found[f"{_SIDE}{name}"] = Trouble(what, f"{name.capitalize()} answers again.")
    if found:
        # No pair works meanwhile, and that need not be told of each.
        return found
    for pair in report.pairs:
        waits = max((it.oldest_undelivered_seconds or 0.0 for it in pair.directions.values()), default=0.0)
        if pair.problems:
            what = f"{pair.name} does not work: {' '.join(map(sentence, pair.problems))}"
            found[f"{_PAIR}{pair.name}"] = Trouble(what, f"{pair.name} works again.", pair.name)
        elif waits >= _WAITS_TOO_LONG:
            what = f"{pair.name} cannot keep up: messages have waited there for {waits // 60:.0f} minutes."
            found[f"{_PAIR}{pair.name}"] = Trouble(what, f"{pair.name} works again.", pair.name)
        if dead := sum(direction.dead_letters for direction in pair.directions.values()):
            remedy = "the relay does not try again by itself: see relay dead list."
            what = f"{how_many(dead, 'message')} of {pair.name} did not cross, and {remedy}"
            over = f"{pair.name} has no messages left that did not cross."
            found[f"{_DEAD}{pair.name}"] = Trouble(what, over, pair.name, dead, lasts=0.0)
    return found


@dataclass(frozen=True, slots=True)
class Past:
    """A platform was out of reach, and is not any more."""

    # Of the trouble that it was.
    key: str
    words: str
    ended: float


@dataclass(slots=True)
class Watch:
    """Since when each trouble has been there, or has been gone."""

    report: Report | None = None
    now: float = 0.0
    there: Mapping[str, Trouble] = field(default_factory=dict)
    # What a room on a platform that was out of reach can only be told afterwards, by a key of each time.
    was: dict[str, "Past"] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    _gone: dict[str, float] = field(default_factory=dict)

    def look(self, report: Report, now: float) -> None:
        """See how things are. `now`: on a clock that never jumps."""
        self.report, self.now, self.there = report, now, troubles(report)
        for key in self.there:
            if key not in self._since:
                self._since[key] = now
        for key in self._since.keys() - self.there.keys():
            # What hides a trouble is no end of it.
            if not self.is_hidden(key):
                lasted = now - self._since.pop(key)
                self._gone[key] = now
                if key.startswith(_SIDE) and lasted >= _LASTS:
                    name = key.removeprefix(_SIDE).capitalize()
                    words = f"{name} was out of reach for {max(1, round(lasted / 60))} min, and answers again."
                    self.was[f"{_WAS}{key} {now:.0f}"] = Past(key, words, now)
        self.was = {key: past for key, past in self.was.items() if now - past.ended < _AGAIN_AFTER}
        self._gone = {key: at for key, at in self._gone.items() if now - at < _AGAIN_AFTER}

    def is_hidden(self, key: str) -> bool:
        """Whether a trouble cannot be seen now: the pairs are not looked at while a platform is out of reach."""
        is_gone = any(one.startswith(_SIDE) for one in self.there)
        return self.report is None or (is_gone and not key.startswith(_SIDE))

    def has_lasted(self, key: str) -> bool:
        """Whether a trouble that is there has lasted long enough to be told."""
        lasts = self.there[key].lasts
        if key in self._gone and lasts:
            lasts = _RETURNED_LASTS
        return self.now - self._since[key] >= lasts

    def is_over(self, key: str) -> bool:
        """Whether a trouble has been gone for so long that this may be told."""
        if self.report is None or key in self.there or self.is_hidden(key) or key in self.was:
            return False
        if not key.startswith(_SIDE) and not self.report.ready:
            return False  # what is wrong with a channel is not known before it has been opened
        if key.startswith((_DEAD, _WAS)):
            return True
        return self.now - self._gone.setdefault(key, self.now) >= _LASTS


# --- What has been told -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """A trouble that a room knows of."""

    over: str
    pair: str
    count: int
    # In Unix time.
    at: float


@dataclass(frozen=True, slots=True)
class Notice:
    """A message on its way: each try sends the same, under the same key."""

    key: str
    text: str
    # What the room knows once it stands there.
    told: Mapping[str, Told]
    # In Unix time.
    made_at: float


@dataclass(frozen=True, slots=True)
class RoomRecord:
    """What one room has been told, as it is kept in the store."""

    told: Mapping[str, Told] = field(default_factory=dict)
    notice: Notice | None = None
    # The last message that stands there.
    last: str | None = None

    def as_json(self) -> str:
        """For the store."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | None) -> "RoomRecord":
        """What was kept. What cannot be read counts as not told."""
        try:
            saved: dict[str, Any] = json.loads(text or "{}")
            notice = saved.get("notice")
            return cls(
                {key: Told(**one) for key, one in saved.get("told", {}).items()},
                None
                if notice is None
                else Notice(**{**notice, "told": {key: Told(**one) for key, one in notice["told"].items()}}),
                saved.get("last"),
            )
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            _log.warning("what the operators were told cannot be read")
            return cls()


def news(watch: Watch, told: Mapping[str, Told], now: datetime) -> tuple[Sequence[str], Mapping[str, Told]]:
    """What a room does not know yet, and what it knows once it is told."""
    lines, known, at = [], dict(told), now.timestamp()
    for key, trouble in watch.there.items():
        before = told.get(key)
        grown = before is not None and trouble.count > before.count and at - before.at >= _AGAIN_AFTER
        if (before is None and watch.has_lasted(key)) or grown:
            lines.append(trouble.words)
            known[key] = Told(trouble.over, trouble.pair, trouble.count, at)
    declared = set() if watch.report is None else {pair.name for pair in watch.report.pairs}
    for key, one in told.items():
        if watch.is_over(key):
            del known[key]
            if one.over and (not one.pair or one.pair in declared):
                lines.append(one.over)
    for key, past in watch.was.items():
        if key not in told:
            # Whoever was told that it is gone is told that it is back, and need not hear it twice.
            if past.key not in told:
                lines.append(past.words)
            known[key] = Told("", "", 0, at)
    return lines, known


def notice_text(lines: Sequence[str]) -> str:
    """One message for all of it, in so many lines as have room."""
    shown = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…" for line in lines]
    kept: list[str] = []
    for line in shown:
        if sum(len(one) + 1 for one in kept) + len(line) > _LONGEST_TEXT:
            break
        kept.append(line)
    if left := len(shown) - len(kept):
        kept.append(f"And {left} more: relay status shows all.")
    return "\n".join(kept)


# --- Telling it -------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Operators:
    """One task for each place where the operators are told."""

    store: Store
    pairs: PairDirectory
    status: Status
    clock: Clock
    rng: random.Random
    adapters: Mapping[Platform, Adapter]
    budgets: Budgets
    # Whether this process still holds the store.
    may_send: Callable[[], bool]
    places: Sequence[ChannelAddress]
    _watch: Watch = field(init=False, default_factory=Watch)
    # What was last logged about a place that cannot be used.
    _complained: dict[ChannelAddress, str] = field(init=False, default_factory=dict)

    async def run(self) -> None:
        """Work until cancelled."""
        if not self.places:
            return
        async with asyncio.TaskGroup() as group:
            for place in self.places:
                group.create_task(self._keep_told(place), name=f"operators in {place.value}")
            version, report = None, None
            while True:
                # To look at all pairs takes long, with many of them. Of what waits, the age grows.
                if self.status.has_read_outbox and (version != self.status.version() or self.status.has_backlog):
                    version, report = self.status.version(), self.status.last_report()
                if report is not None:
                    self._watch.look(report, self.clock.monotonic())
                await self.clock.sleep(_LOOK_SECONDS)

    async def _keep_told(self, place: ChannelAddress) -> None:
        backoff = Backoff(self.rng, first=5.0, longest=300.0)
        # None: it has to be read from the store, which knows the notice that was made, if any.
        record: RoomRecord | None = None
        suspect = True
        while True:
            await self.clock.sleep(_LOOK_SECONDS)
            try:
                if record is None:
                    record = await self._load(place)
                if (channel := self._channel(place)) is None or not self.may_send():
                    continue
                if record.notice is None:
                    if not news(self._watch, record.told, self.clock.now())[0]:
                        continue
                    suspect = False
                record = await self._tell(place, channel, record, suspect=suspect)
                backoff.reset()
            except RateLimited:
                record = None  # Its budget knows when to go on.
            except Transient as error:
                record, suspect = None, suspect or error.ambiguous
                _log.info("operators not told yet", channel=self.pairs.channel(place).id, reason=str(error))
                await self.clock.sleep(backoff.next(at_least=error.retry_after))
            except StoreUnavailable:
                record = None  # The status says so. What was to be written may have been sent.
                suspect = True
            except Exception:  # noqa: BLE001 - the top of this worker
                record, suspect = None, True
                _log.exception("bug while telling the operators", channel=self.pairs.channel(place).id)
                await self.clock.sleep(backoff.next())

    async def _tell(
        self, place: ChannelAddress, channel: ChannelRef, record: RoomRecord, *, suspect: bool
    ) -> RoomRecord:
        """Send what is new, once it is the turn of notices. Raises `Transient`, `StoreUnavailable`."""
        waits_since = self.clock.now()
        async with self.budgets.of(LaneKey.within(channel)).turn(waits_since, is_notice=True) as granted:
            if not granted:
                return record
            notice = record.notice or self._made(record)
            if notice is None:
                return record  # it is over by now, and nobody need know
            if record.notice is None:
                record = replace(record, notice=notice)
                # Before it is sent: after a crash it is sent again under the same key.
                await self._save(place, record)
            try:
                sent = await self.adapters[place.platform].send(_delivery(channel, record, notice, suspect=suspect))
            except Transient:
                raise
            except DeliveryError as error:
                _log.warning("operators not told", channel=channel.id, reason=str(error))
                record = RoomRecord(notice.told, None, record.last)
            else:
                _log.info("operators told", channel=channel.id)
                record = RoomRecord(notice.told, None, sent.id)
        await self._save(place, record)
        return record

    def _made(self, record: RoomRecord) -> Notice | None:
        now = self.clock.now()
        lines, known = news(self._watch, record.told, now)
        key = f"op.{int(now.timestamp() * 1000):x}.{self.rng.getrandbits(32):x}"
        return Notice(key, notice_text(lines), known, now.timestamp()) if lines else None

    def _channel(self, place: ChannelAddress) -> ChannelRef | None:
        """Where that is; None while it cannot be used, which is logged."""
        problem = self.pairs.address_problem(place)
        if problem is not None and self._complained.get(place) != problem:
            _log.warning("operators cannot be told", channel=self.pairs.channel(place).id, problem=problem)
        self._complained[place] = problem or ""
        return None if problem is not None or not self.pairs.is_address_open(place) else self.pairs.channel(place)

    async def _load(self, place: ChannelAddress) -> RoomRecord:
        async with self.store.read() as uow:
            return RoomRecord.read(await uow.key_values.get(_key(place)))

    async def _save(self, place: ChannelAddress, record: RoomRecord) -> None:
        async with self.store.write() as uow:
            await uow.key_values.put(_key(place), record.as_json())


def _key(place: ChannelAddress) -> str:
    return f"operators {place.platform} {place.value}"


def _delivery(channel: ChannelRef, record: RoomRecord, notice: Notice, *, suspect: bool) -> Delivery:
    return Delivery(
        channel=channel,
        key=notice.key,
        author=None,
        content=Content(RichText.plain(notice.text), style="notice"),
        suspect=suspect,
        after=None if record.last is None else MessageRef(channel, record.last),
        alone=False,
        queued_at=datetime.fromtimestamp(notice.made_at, UTC),
    )
