"""The files and functions of relay/ that one plain line of chat passes, and the measure of the house.

    python -m tests.trace                     # from Discord to Matrix
    python -m tests.trace --to discord        # from Matrix to Discord; `--to both`: one after the other
    python -m tests.trace --to both --json    # the same as data
    python -m tests.trace --measure           # only how many files there are, how long, how many in one folder

The real daemon (`relay run`) works in the main thread, between the sandbox and a real Synapse, under `sys.setprofile`.
Tracing starts when a person sends the line. It ends when the copy is there and relay/ has been at rest for a moment.
Then the daemon's own metrics must say that the copy is on record and nothing waits. How it is counted:

- Only files of relay/ count, without the sandbox and the demo. No libraries, no imports, no generated methods.
- A call is a call of a function. A coroutine that goes on after an `await` is not called again. One that was waiting
  before the line came, and calls something because of it, is listed with no calls, and its file counts. Comprehensions
  belong to the function around them.
- A change of file: a call in another file than the call before it.
- Left out: tasks that also work while nobody says anything (the daemon is watched for a moment before the lines), those
  that look after something else when there is news (the status is saved within a second, be the line through or not),
  tasks in which the adapter of the destination reads (it sees the copy as an echo), and whatever these tasks start.
  What a thread takes from a queue belongs to the task that put it there.
- Several lines are sent after a first one to warm up, each right after the daemon's timers have asked the store. The
  one with the fewest files, and of these the fewest calls, is printed: what a timer does to a line (it wakes a lane, it
  shares a commit, it looks for bans) cannot be told apart, but it can only add to the count. A line that went on after
  it had come to rest is sent once more, and the next rest is longer: on a busy machine everything takes its time.
"""

import argparse
import asyncio
import contextlib
import dis
import inspect
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import relay
from relay.cli import main as relay_command
from relay.demo.homeserver import Homeserver
from tests.support.stack import FullStack, eventually, stack

HOUSE = Path(relay.__path__[0]).resolve()
ASIDE = frozenset({"sandbox", "demo"})  # the folders of relay/ that are not the bridge
DIRECTIONS = {"to_matrix": ("discord", "matrix"), "to_discord": ("matrix", "discord")}
PAIR = "help"
# By their names in `Daemon._work`.
_BESIDE = frozenset({"status", "pruning", "forgetting", "memberships", "bans", "operators", "findings", "memory"})
_WATCH_SECONDS = 1.5  # longer than the slowest of the timers that tick while nothing happens
_REST_SECONDS = 0.15  # at first
_TRIES = 6  # for each line that is wanted
_PAUSE_SECONDS = 0.05  # for a timer to end, and for the daemon to close the connection for its pages
_START_SECONDS = 120.0  # under a profile function, on a busy machine
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


# --- The house --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """How many files there are, how long they are, and how many lie side by side."""

    files: int
    mean_lines: float
    below_150: int
    above_450: int
    longest: str
    longest_lines: int
    fullest: str  # the folder with the most files
    fullest_files: int  # in it, without `__init__.py`


def measure(*, aside: bool = False) -> Measure:
    """The measure of relay/ without the sandbox and the demo; `aside`: of these two."""
    files = [path for path in HOUSE.rglob("*.py") if (path.relative_to(HOUSE).parts[0] in ASIDE) == aside]
    lines = {str(path.relative_to(HOUSE)): len(path.read_text().splitlines()) for path in files}
    folders = Counter(str(path.parent.relative_to(HOUSE)) for path in files if path.name != "__init__.py")
    longest = max(lines, key=lines.__getitem__)
    fullest, most = folders.most_common(1)[0]
    return Measure(
        files=len(files),
        mean_lines=round(sum(lines.values()) / len(files), 1),
        below_150=sum(count < 150 for count in lines.values()),
        above_450=sum(count > 450 for count in lines.values()),
        longest=longest,
        longest_lines=lines[longest],
        fullest=fullest,
        fullest_files=most,
    )


# --- The tracer -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Function:
    """A function of relay/."""

    file: str
    name: str
    start: int = field(compare=False)  # the offset at which a call enters; a coroutine that goes on enters elsewhere


@dataclass(frozen=True, slots=True)
class Step:
    """A function was called, or, having waited since before the line, went on."""

    function: Function
    called: bool


class Tracer:
    """The profile function of every thread. Records nothing until `begin`."""

    def __init__(self) -> None:
        self._codes: dict[int, tuple[CodeType, Function | None]] = {}  # by ID: equal code may lie in two files
        self.timers_asked = threading.Event()  # a task that is busy anyway used a thread
        self._watching = False
        self._busy_anyway: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._line = 0
        self._source = self._destination = ""
        # The line to which the context belongs, or, below zero, the one that it has no part in. What a task starts
        # inherits it.
        self._part_of: ContextVar[int] = ContextVar("part_of", default=0)
        # The same for what threads have not taken yet.
        self._queued: WeakKeyDictionary[SimpleQueue[Any], deque[int]] = WeakKeyDictionary()
        self._recording = False
        self.went_on = False  # after `end`, a task of the line did
        self._steps: list[Step] = []
        self._seen: set[Function] = set()
        self._last = 0.0
        # Seconds without a call after which a line is taken to be through.
        self.rest = _REST_SECONDS

    def watch(self) -> None:
        """From now on: who works although nobody says anything?"""
        self._busy_anyway = WeakSet()
        self._watching = True

    def begin(self, source: str, destination: str) -> None:
        """Somebody is about to say something on `source` that goes to `destination`."""
        self._watching = False
        self._line += 1
        self._source, self._destination = source, destination
        self._steps, self._seen = [], set()
        self.went_on = False
        self._last = time.monotonic()
        self._recording = True

    @property
    def at_rest(self) -> bool:
        """Whether nothing has been called for a while."""
        return time.monotonic() - self._last > self.rest

    def end(self) -> list[Step]:
        """What the line passed."""
        self._recording = False
        return self._steps

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See `sys.setprofile`."""
        if event == "call":
            self._called(frame)
        elif event in {"c_call", "c_return"} and type(queue := getattr(argument, "__self__", None)) is SimpleQueue:
            self._handed_over(queue, argument.__name__, event)

    def _called(self, frame: FrameType) -> None:
        function = self._function(frame.f_code)
        if function is None or frame.f_lasti != function.start:
            return
        task = _current_task()
        if self._recording:
            if self._belongs(task):
                self._record(frame, function)
        elif self._watching:
            if task is not None:
                self._busy_anyway.add(task)
        elif task is not None and self._part_of.get() == self._line:
            self.went_on = True

    def _handed_over(self, queue: "SimpleQueue[Any]", method: str, event: str) -> None:
        queued = self._queued.setdefault(queue, deque())
        if event == "c_call" and method in {"put", "put_nowait"}:
            queued.append(self._part_of.get())
            if _current_task() in self._busy_anyway:
                self.timers_asked.set()
        elif event == "c_return" and method in {"get", "get_nowait"} and queued:
            self._part_of.set(self._line if queued.popleft() == self._line else -self._line)

    def _belongs(self, task: asyncio.Task[Any] | None) -> bool:
        part_of = self._part_of.get()
        if abs(part_of) != self._line:
            part_of = -self._line if task is not None and self._is_aside(task) else self._line
            self._part_of.set(part_of)
        return part_of > 0

    def _is_aside(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task that works during the line has no part in it."""
        code = getattr(task.get_coro(), "cr_code", None)
        function = None if code is None else self._function(code)
        folders = () if function is None else Path(function.file).parts
        words = {*task.get_name().split(), *folders}  # an adapter's task has its platform among them
        # The line may well come in through a task of its source that asks again and again.
        if task.get_name() in _BESIDE:
            return True
        return self._destination in words or (task in self._busy_anyway and self._source not in words)

    def _record(self, frame: FrameType, function: Function) -> None:
        caller = frame.f_back
        while caller is not None and caller.f_code.co_name in _COMPREHENSIONS:
            caller = caller.f_back
        waiting = None if caller is None else self._function(caller.f_code)
        if waiting is not None and waiting not in self._seen:
            self._seen.add(waiting)
            self._steps.append(Step(waiting, called=False))
        self._seen.add(function)
        self._steps.append(Step(function, called=True))
        self._last = time.monotonic()

    def _function(self, code: CodeType) -> Function | None:
        """None for what does not count."""
        known = self._codes.get(id(code))
        if known is None:
            known = self._codes[id(code)] = (code, _described(code))
        return known[1]


def _described(code: CodeType) -> Function | None:
    file = _in_house(code.co_filename)
    # Modules and the bodies of classes have no fast locals.
    if file is None or not code.co_flags & inspect.CO_OPTIMIZED or code.co_name in _COMPREHENSIONS:
        return None
    start = next(it.offset for it in dis.get_instructions(code) if it.opname == "RESUME")
    parts = (part for part in code.co_qualname.split(".") if part not in {*_COMPREHENSIONS, "<locals>"})
    return Function(file, ".".join(parts), start)


@cache
def _in_house(path: str) -> str | None:
    """The path below relay/ of a file that counts."""
    if path.startswith("<"):
        return None
    whole = Path(path).resolve()
    if not whole.is_relative_to(HOUSE) or whole.relative_to(HOUSE).parts[0] in ASIDE:
        return None
    return str(whole.relative_to(HOUSE))


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None


# --- What a line passed -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """What one line passed. `functions`: calls by function, by file; both in the order of first entry."""

    functions: dict[str, dict[str, int]]
    changes: int

    @classmethod
    def of(cls, steps: Iterable[Step]) -> "Way":
        """From the tracer's steps."""
        functions: dict[str, dict[str, int]] = {}
        changes, before = -1, ""
        for step in steps:
            counts = functions.setdefault(step.function.file, {})
            counts[step.function.name] = counts.get(step.function.name, 0) + step.called
            changes += step.function.file != before
            before = step.function.file
        return cls(functions, max(changes, 0))

    @property
    def calls(self) -> int:
        """All calls together."""
        return sum(sum(counts.values()) for counts in self.functions.values())

    @property
    def totals(self) -> dict[str, int]:
        """Files, functions, calls, changes of file."""
        return {
            "files": len(self.functions),
            "functions": sum(map(len, self.functions.values())),
            "calls": self.calls,
            "changes": self.changes,
        }

    @property
    def files_by_part(self) -> dict[str, int]:
        """How many of the files lie in each folder of relay/, the two adapters apart."""
        parts = Counter("/".join(Path(file).parts[:-1][:2]) or "." for file in self.functions)
        return dict(parts.most_common())

    def as_data(self) -> dict[str, Any]:
        """For `--json`."""
        files = [
            {"file": file, "functions": [{"name": name, "calls": calls} for name, calls in counts.items()]}
            for file, counts in self.functions.items()
        ]
        return {"files": files, "files_by_part": self.files_by_part, "totals": self.totals}


# --- The daemon and the people ----------------------------------------------------------------------------


class People:
    """A thread with both platforms and who writes on them. Stops the daemon, which has the main thread."""

    def __init__(self, folder: Path, tracer: Tracer, directions: Iterable[str], lines: int) -> None:
        self._folder = folder
        self._tracer = tracer
        self._directions = directions
        self._count = lines
        self._thread = threading.Thread(target=self._work, name="people")
        self._configured = threading.Event()
        self._daemon_ended = threading.Event()
        self._failure: BaseException | None = None
        self.ways: dict[str, Way] = {}

    def wait_for_config(self) -> bool:
        """Start; whether there is a configuration to run the daemon with."""
        self._thread.start()
        self._configured.wait()
        return self._failure is None

    def daemon_ended(self) -> None:
        """Wait for the end. Raises what went wrong."""
        self._daemon_ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # noqa: BLE001 - raised by `daemon_ended`, in the main thread
            self._failure = error
        finally:
            self._configured.set()

    async def _live(self) -> None:
        async with Homeserver() as homeserver, stack(self._folder, homeserver, [PAIR]) as place:
            (self._folder / "relay.log").touch()
            self._configured.set()
            try:
                await eventually(lambda: self._ready(place), bool, what=place.daemon.log, patience=_START_SECONDS)
                for direction in self._directions:
                    self.ways[direction] = await self._lines(place, direction)
            finally:
                if not self._daemon_ended.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.to_thread(self._daemon_ended.wait)

    async def _ready(self, place: FullStack) -> bool:
        if self._daemon_ended.is_set():
            raise RuntimeError(f"the daemon ended:\n{place.daemon.log()}")
        return await place.daemon.ready()

    async def _lines(self, place: FullStack, direction: str) -> Way:
        await self._line(place, direction, 0)
        self._tracer.watch()
        await asyncio.sleep(_WATCH_SECONDS)
        whole: list[Way] = []
        for number in range(1, _TRIES * self._count + 1):
            if (way := await self._line(place, direction, number)) is None:
                self._tracer.rest *= 1.5
            else:
                whole.append(way)
            if len(whole) == self._count:
                return min(whole, key=lambda way: (len(way.functions), way.calls))
        raise RuntimeError("lines were not through when relay/ came to rest: the machine is too busy")

    async def _line(self, place: FullStack, direction: str, number: int) -> Way | None:
        """What a line passed; None if it went on after a rest, as it does while the disk is slow."""
        source, destination = DIRECTIONS[direction]
        text = f"This is line {number} of some plain chat on {source.capitalize()}."
        crossed = await place.daemon.metric("relay_messages_total", direction=direction)
        self._tracer.timers_asked.clear()
        await asyncio.to_thread(self._tracer.timers_asked.wait, _WATCH_SECONDS)
        await asyncio.sleep(_PAUSE_SECONDS)
        self._tracer.begin(source, destination)
        if destination == "matrix":
            place.say(PAIR, text)
            await place.until_matrix(PAIR, lambda words: text in words)
        else:
            await place.tell(PAIR, text)
            await place.until_discord(PAIR, lambda words: text in words)
        await eventually(self._at_rest, bool)
        way = Way.of(self._tracer.end())
        await place.until_metric("relay_messages_total", crossed + 1, direction=direction)
        if waiting := await place.daemon.metric("relay_outbox_depth", direction=direction):
            raise RuntimeError(f"the copy is there, but {waiting:.0f} still wait in the outbox")
        return None if self._tracer.went_on else way

    async def _at_rest(self) -> bool:
        return self._tracer.at_rest


def trace(directions: Iterable[str], lines: int) -> dict[str, Way]:
    """What a line passes, by direction: the shortest of `lines`. In the main thread: the daemon handles signals."""
    tracer = Tracer()
    with tempfile.TemporaryDirectory(prefix="relay-trace-") as folder:
        people = People(Path(folder), tracer, directions, lines)
        try:
            if people.wait_for_config():
                _run_daemon(Path(folder), tracer)
        finally:
            people.daemon_ended()
    return people.ways


def _run_daemon(folder: Path, tracer: Tracer) -> None:
    # `FullStack` finds the address of the daemon's pages in its log.
    with (folder / "relay.log").open("a") as log, contextlib.redirect_stderr(log), contextlib.suppress(SystemExit):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the daemon handles it
        threading.setprofile(tracer)
        sys.setprofile(tracer)
        try:
            relay_command(["run", "--config", str(folder / "relay.toml")])
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


# --- The report -------------------------------------------------------------------------------------------


def print_way(direction: str, way: Way) -> None:
    """The files in the order in which the line enters them, with their functions and calls."""
    print("From {} to {}: one plain line of chat\n".format(*(side.capitalize() for side in DIRECTIONS[direction])))
    for number, (file, counts) in enumerate(way.functions.items(), 1):
        print(f"{number:3} {file}")
        for name, calls in counts.items():
            print(f"{calls:9}  {name}" if calls else f"        -  {name} (was waiting)")
    totals = way.totals
    print(f"\n{totals['files']} files, {totals['functions']} functions, {totals['calls']} calls, ", end="")
    print(f"{totals['changes']} changes of file")
    print("files by part: " + ", ".join(f"{part} {count}" for part, count in way.files_by_part.items()), end="\n\n")


def print_measure(what: str, found: Measure) -> None:
    """Three lines."""
    print(f"{what}: {found.files} files of {found.mean_lines} lines on average")
    print(f"  {found.below_150} have fewer than 150 lines, {found.above_450} more than 450", end="; ")
    print(f"the longest is {found.longest} ({found.longest_lines})")
    print(f"  most files side by side: {found.fullest_files} in {found.fullest} (without __init__.py)")


def main(arguments: argparse.Namespace) -> None:
    """Trace, measure, print."""
    chosen = list(DIRECTIONS) if arguments.to == "both" else [f"to_{arguments.to}"]
    ways = {} if arguments.measure else trace(chosen, arguments.lines)
    house, aside = measure(), measure(aside=True)
    if arguments.json:
        lines = {direction: way.as_data() for direction, way in ways.items()}
        print(json.dumps({"lines": lines, "house": asdict(house), "sandbox and demo": asdict(aside)}, indent=1))
        return
    for direction, way in ways.items():
        print_way(direction, way)
    print_measure("relay/ without the sandbox and the demo", house)
    print_measure("sandbox and demo", aside)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", choices=("matrix", "discord", "both"), default="matrix")
    parser.add_argument(
        "--lines", type=int, default=5, help="so many are traced; the one with the fewest files is printed"
    )
    parser.add_argument("--json", action="store_true", help="print the same as data")
    parser.add_argument("--measure", action="store_true", help="send no line; measure the files only")
    return parser.parse_args()


if __name__ == "__main__":
    main(_arguments())
