"""How long a message's files may hold up its lane, so that nobody can block a channel with slow files or servers."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from relay.core.files import Sender
from relay.core.ports import Clock
from relay.core.recent import keep
from relay.domain.ids import ChannelRef, MediaRef, UserRef
from relay.errors import FileUnavailable

_WINDOW = 300.0
# Seconds that one author's files may hold up one channel within the window: once for long, then a little each time,
# then not at all. A file that is out of time is named in words at once, and follows when it has arrived.
_BUDGET = 30.0
_SHORT_BUDGET = 1.0
_ALL_SHORT_BUDGETS = 5.0
# What a message with a file takes anyway is not counted.
_FREE = 0.5
# When the files of so many authors from one server were late in a channel, the server counts as slow.
_AUTHORS = 2
# A try that comes so long after the last one is about another message.
_SAME_MESSAGE = 60.0
_REMEMBERED = 500

_T = TypeVar("_T")


@dataclass(slots=True)
class Deadline:
    """How long the files of one message are still waited for.

    Only the time that their own platform takes is counted, not what the other platform does with them.
    """

    # Seconds left.
    left: float
    # From the start there was only a short budget.
    short: bool = False
    # What went wrong at the last try, by file.
    last_errors: Mapping[MediaRef, FileUnavailable] = field(default_factory=dict)
    # Seconds waited so far.
    used: float = 0.0

    def spend(self, seconds: float) -> None:
        """Count seconds that the files were waited for."""
        self.left -= seconds
        self.used += seconds

    async def wait(self, result: Awaitable[_T]) -> _T:
        """Await `result` until the deadline. Raises `FileUnavailable` after it."""
        now = asyncio.get_running_loop().time
        begun = now()
        try:
            async with asyncio.timeout(max(0.0, self.left)):
                return await result
        except TimeoutError:
            raise FileUnavailable("it takes too long to arrive") from None
        finally:
            self.spend(now() - begun)


@dataclass(slots=True)
class _Waits:
    """How long the files of a sender were waited for: when, and how many seconds."""

    waits: deque[tuple[float, float]] = field(default_factory=deque)

    def since(self, time: float) -> float:
        while self.waits and self.waits[0][0] < time:
            self.waits.popleft()
        return sum(seconds for _, seconds in self.waits)


@dataclass(frozen=True, slots=True)
class _FailedTry:
    """The last try of a message whose files could not be read."""

    errors: Mapping[MediaRef, FileUnavailable]
    at: float
    left: float
    short: bool


@dataclass(slots=True)
class WaitBudgets:
    """How long each author's files may still hold up each channel."""

    clock: Clock
    _spent: OrderedDict[Sender, _Waits] = field(init=False, default_factory=OrderedDict)
    _failing: OrderedDict[Sender, _FailedTry] = field(init=False, default_factory=OrderedDict)
    # When each author's files from a server were late in a channel.
    _slow: OrderedDict[tuple[ChannelRef, str], dict[UserRef, float]] = field(init=False, default_factory=OrderedDict)
    # When a file was given up.
    _late: OrderedDict[tuple[Sender, MediaRef], float] = field(init=False, default_factory=OrderedDict)

    def deadline(self, sender: Sender | None, sources: Sequence[MediaRef]) -> Deadline:
        """The deadline of a message with these files. A message that is tried again keeps the one it had."""
        if sender is None:
            return Deadline(_BUDGET)
        now = self.clock.monotonic()
        failing = self._failing.get(sender)
        if failing is not None and now - failing.at < _SAME_MESSAGE and failing.errors.keys() & set(sources):
            # The time between the two tries counts: the lane was held up.
            deadline = Deadline(failing.left, failing.short, failing.errors)
            deadline.spend(now - failing.at)
            return deadline
        self._failing.pop(sender, None)
        spent = self._spent[sender].since(now - _WINDOW) if sender in self._spent else 0.0
        short = min(_SHORT_BUDGET, max(0.0, _BUDGET + _ALL_SHORT_BUDGETS - spent))
        slow = any(self._is_slow(sender.channel, source) for source in sources)
        return Deadline(short, short=True) if slow or short >= _BUDGET - spent else Deadline(_BUDGET - spent)

    def arrived(self, sender: Sender | None, sources: Sequence[MediaRef]) -> None:
        """Record that the files have arrived."""
        if sender is not None:
            self._failing.pop(sender, None)
            for source in sources:
                self._late.pop((sender, source), None)

    def charge(self, sender: Sender | None, seconds: float) -> None:
        """Record that a sender's files held up the channel for so long."""
        if sender is not None and seconds > _FREE:
            spent = self._spent.get(sender, _Waits())
            spent.waits.append((self.clock.monotonic(), seconds))
            keep(self._spent, sender, spent, _REMEMBERED)

    def failed(self, sender: Sender, errors: Mapping[MediaRef, FileUnavailable], deadline: Deadline) -> None:
        """Record that the files could not be read. The message is tried again."""
        self.charge(sender, deadline.used)
        failed = _FailedTry(errors, self.clock.monotonic(), deadline.left, deadline.short)
        keep(self._failing, sender, failed, _REMEMBERED)

    def late(self, sender: Sender, errors: Mapping[MediaRef, FileUnavailable], deadline: Deadline) -> None:
        """Record that these files are given up for now. The rest of the message does not wait for them again."""
        self.charge(sender, deadline.used)
        self._failing.pop(sender, None)
        now = self.clock.monotonic()
        for source, error in errors.items():
            keep(self._late, (sender, source), now, _REMEMBERED)
            if error.about_server and not deadline.short:
                key = (sender.channel, server(source))
                # The newest of them are enough to count. There may be any number.
                others = [one for one in self._slow.get(key, {}).items() if one[0] != sender.author]
                keep(self._slow, key, dict([*others[1 - _AUTHORS :], (sender.author, now)]), _REMEMBERED)

    def is_late(self, sender: Sender | None, source: MediaRef) -> bool:
        """Whether a file was given up just now."""
        at = None if sender is None else self._late.get((sender, source))
        return at is not None and self.clock.monotonic() - at < _SAME_MESSAGE

    def _is_slow(self, channel: ChannelRef, source: MediaRef) -> bool:
        since = self.clock.monotonic() - _WINDOW
        authors = self._slow.get((channel, server(source)), {})
        return sum(at >= since for at in authors.values()) >= _AUTHORS


def server(media: MediaRef) -> str:
    """The server that a file comes from, without the port: a server may use another port for each file."""
    return f"{media.platform} {urlsplit(media.locator).netloc.rpartition('@')[2].partition(':')[0]}"
