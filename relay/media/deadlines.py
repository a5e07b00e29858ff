"""How long a lane waits for files: so that nobody can hold up a channel, however many files and servers they name."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from relay.core.ports import Clock, Sender
from relay.domain.ids import ChannelRef, MediaRef, UserRef
from relay.errors import FileUnavailable

_WINDOW = 300.0
# Seconds that one author's files may hold up one channel within the window: in one piece, then bit by bit, then not at
# all: they are named in words at once, and follow when they have come.
_PATIENCE = 30.0
_PATIENCE_AGAIN = 1.0
_AGAIN_IN_ALL = 5.0
# What a message with a file takes anyway, and is nobody's fault.
_FREE = 0.5
# Where the files of so many authors from one server were late in a channel, the server is slow.
_AUTHORS = 2
# A try so long after the last one is about something else.
_SAME_MESSAGE = 60.0
_REMEMBERED = 500

_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")


class Patience:
    """How long the files of a message are still waited for, and have been (`used`). `little`: it never was much.

    What their own platform takes counts, not what the other one does with them. `trouble`: at the last try.
    """

    def __init__(
        self, left: float, *, little: bool = False, trouble: Mapping[MediaRef, FileUnavailable] | None = None
    ) -> None:
        self.left = left
        self.used = 0.0
        self.little = little
        self.trouble: Mapping[MediaRef, FileUnavailable] = trouble or {}

    def spend(self, seconds: float) -> None:
        """They were waited for."""
        self.left -= seconds
        self.used += seconds

    async def wait(self, coming: Awaitable[_T]) -> _T:
        """What is `coming`. Raises `FileUnavailable` when there is no patience left."""
        now = asyncio.get_running_loop().time
        begun = now()
        try:
            async with asyncio.timeout(max(0.0, self.left)):
                return await coming
        except TimeoutError:
            raise FileUnavailable("it takes too long to come") from None
        finally:
            self.spend(now() - begun)


@dataclass(slots=True)
class _Spent:
    """What the files of a sender have cost: when, and how many seconds."""

    waits: deque[tuple[float, float]] = field(default_factory=deque)

    def since(self, time: float) -> float:
        while self.waits and self.waits[0][0] < time:
            self.waits.popleft()
        return sum(seconds for _, seconds in self.waits)


@dataclass(frozen=True, slots=True)
class _Failing:
    """A message whose files could not be read. `left`, `little`: of its patience, at the time `at`."""

    trouble: Mapping[MediaRef, FileUnavailable]
    at: float
    left: float
    little: bool


class Budgets:
    """Everybody's budget of patience, for each channel that waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: OrderedDict[Sender, _Spent] = OrderedDict()
        self._failing: OrderedDict[Sender, _Failing] = OrderedDict()
        self._slow: OrderedDict[tuple[ChannelRef, str], dict[UserRef, float]] = OrderedDict()
        self._late: OrderedDict[tuple[Sender, MediaRef], float] = OrderedDict()

    def patience(self, sender: Sender | None, sources: Sequence[MediaRef]) -> Patience:
        """What is left for a message with these files: of the message's own patience, if it was tried before."""
        if sender is None:
            return Patience(_PATIENCE)
        now = self._clock.monotonic()
        failing = self._failing.get(sender)
        if failing is not None and now - failing.at < _SAME_MESSAGE and failing.trouble.keys() & set(sources):
            # Its lane stood still meanwhile.
            patience = Patience(failing.left, little=failing.little, trouble=failing.trouble)
            patience.spend(now - failing.at)
            return patience
        self._failing.pop(sender, None)
        spent = self._spent[sender].since(now - _WINDOW) if sender in self._spent else 0.0
        again = min(_PATIENCE_AGAIN, max(0.0, _PATIENCE + _AGAIN_IN_ALL - spent))
        slow = any(self._is_slow(sender.channel, source) for source in sources)
        return Patience(again, little=True) if slow or again >= _PATIENCE - spent else Patience(_PATIENCE - spent)

    def came(self, sender: Sender | None, sources: Sequence[MediaRef]) -> None:
        """The files have come."""
        if sender is not None:
            self._failing.pop(sender, None)
            for source in sources:
                self._late.pop((sender, source), None)

    def charge(self, sender: Sender | None, seconds: float) -> None:
        """The messages to a channel stood still for so long, for a sender's files."""
        if sender is not None and seconds > _FREE:
            spent = self._spent.get(sender, _Spent())
            spent.waits.append((self._clock.monotonic(), seconds))
            _remember(self._spent, sender, spent)

    def failed(self, sender: Sender, trouble: Mapping[MediaRef, FileUnavailable], patience: Patience) -> None:
        """The files could not be read; the message is tried again."""
        self.charge(sender, patience.used)
        failing = _Failing(trouble, self._clock.monotonic(), patience.left, patience.little)
        _remember(self._failing, sender, failing)

    def late(self, sender: Sender, trouble: Mapping[MediaRef, FileUnavailable], patience: Patience) -> None:
        """These files are not waited for any longer: when the rest of the message is tried, they need not be."""
        self.charge(sender, patience.used)
        self._failing.pop(sender, None)
        now = self._clock.monotonic()
        for source, error in trouble.items():
            _remember(self._late, (sender, source), now)
            if error.about_server and not patience.little:
                place = (sender.channel, server(source))
                lately = {author: at for author, at in self._slow.get(place, {}).items() if now - at < _WINDOW}
                _remember(self._slow, place, lately | {sender.author: now})

    def is_late(self, sender: Sender | None, source: MediaRef) -> bool:
        """Whether a file was given up just now."""
        at = None if sender is None else self._late.get((sender, source))
        return at is not None and self._clock.monotonic() - at < _SAME_MESSAGE

    def _is_slow(self, channel: ChannelRef, source: MediaRef) -> bool:
        since = self._clock.monotonic() - _WINDOW
        authors = self._slow.get((channel, server(source)), {})
        return sum(at >= since for at in authors.values()) >= _AUTHORS


def _remember(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def server(media: MediaRef) -> str:
    """What a file comes from. Not the port: a server may have one for each file."""
    return f"{media.platform} {urlsplit(media.locator).netloc.rpartition('@')[2].partition(':')[0]}"
