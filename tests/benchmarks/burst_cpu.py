"""What a message costs: CPU of the relay, of the two bare libraries, and of other checkouts.

In a burst over many pairs, and at ten messages a second over them.

    python -m tests.benchmarks.burst_cpu                          # the relay and the bare libraries: five minutes
    python -m tests.benchmarks.burst_cpu --against ../before      # and the relay of another checkout

Each is a process of its own, between a sandbox (without limits) and rooms of its own on the same Synapse. They take
turns. A burst counts from its first message until a second after its last copy was read, so that the echoes are in it.
What is compared is the CPU of that process alone, of all its threads; also the rate at which the copies came. Beside
them is a bare sender, one message after the other in each of as many rooms: as fast as a homeserver takes what has to
stay in order. Ten a second is less than a homeserver takes, so each message has its own turn of everything.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.rate_limits import Limits
from tests.benchmarks.roundtrip import DIRECTIONS, Bare, Ears, bare_process
from tests.support.stack import FullStack, stack

_SETTLE = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
_MODES = ("in a burst", "at ten a second")


@dataclass(slots=True)
class Subject:
    """One that bridges, in channels and rooms of its own."""

    name: str
    place: FullStack
    pid: int
    # By direction and mode.
    cpu: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def seconds(self) -> float:
        """CPU that its process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(slots=True)
class Bench:
    """Writes on both sides, and reads."""

    ears: Ears
    sender: Bare
    count: int  # messages in each pair and burst
    own_rooms: Sequence[str]  # that nobody mirrors
    rates: list[float] = field(default_factory=list)  # of the sender, in those

    async def measure(self, subject: Subject, direction: str, mode: str, tag: str) -> None:
        """So many messages, measured."""
        place = subject.place
        tags = [f"{tag}-{pair}-{number}" for pair in range(len(place.rooms)) for number in range(self.count)]
        before, began = subject.seconds(), time.perf_counter()
        there = direction.rpartition(" ")[2]
        writing = asyncio.create_task(self._write(place, there, mode, tag))
        heard = await self.ears.until(there, tags)
        await writing
        await asyncio.sleep(_SETTLE)
        subject.cpu[direction, mode].append((subject.seconds() - before) / len(tags))
        subject.rates[direction, mode].append(len(tags) / (heard - began))

    async def send(self, tag: str) -> None:
        """As many messages, in order, with nobody between their writer and the homeserver."""
        tags = [f"{tag}-{room}-{number}" for room in range(len(self.own_rooms)) for number in range(self.count)]
        began = time.perf_counter()
        await self.sender.flood(self.own_rooms, self.count, tag)
        self.rates.append(len(tags) / (await self.ears.until("matrix", tags) - began))

    async def _write(self, place: FullStack, there: str, mode: str, tag: str) -> None:
        if mode == _MODES[0] and there == "discord":
            await self.sender.flood(list(place.rooms.values()), self.count, tag)
            return
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                for pair, name in enumerate(place.channels):
                    text = f"#{tag}-{pair}-{number}"
                    if there == "discord":
                        group.create_task(place.tell(name, text))
                    else:
                        place.say(name, text)
                    await asyncio.sleep(0 if mode == _MODES[0] else 0.1)


async def connected(
    exits: AsyncExitStack,
    folder: Path,
    homeserver: Homeserver,
    ears: Ears,
    pairs: int,
    name: str,
    checkout: Path | None,
) -> Subject:
    """The relay of a checkout; None: the bare libraries."""
    names = [f"pair{number}" for number in range(pairs)]
    folder.mkdir()
    place = await exits.enter_async_context(stack(folder, homeserver, names, limits=Limits(factor=0)))
    place.sandbox.state.listeners.append(ears.dispatched)
    if checkout is not None:
        place.daemon.checkout = checkout
        await place.daemon.start()
        return Subject(name, place, place.daemon.pid)
    hooks = {pair: place.control.create_webhook(channel, "bare", place.bot) for pair, channel in place.channels.items()}
    wired = [
        {
            "channel": int(place.channels[pair]),
            "webhook": int(hook["id"]),
            "webhook_token": hook["token"],
            "room": place.rooms[pair],
        }
        for pair, hook in hooks.items()
    ]
    bare = await exits.enter_async_context(bare_process(_wiring(place, homeserver, wired, ("", ""), [])))
    return Subject(name, place, bare.pid)


def _wiring(
    place: FullStack,
    homeserver: Homeserver,
    pairs: Sequence[dict[str, Any]],
    sender: tuple[str, str],
    joins: Sequence[str],
) -> dict[str, Any]:
    return {
        "api_url": place.sandbox.api_url,
        "discord_token": place.bot_token,
        "homeserver_url": homeserver.url,
        "user_id": place.relay_user,
        "access_token": place.relay_token,
        "pairs": pairs,
        "sender_id": sender[0],
        "sender_token": sender[1],
        "joins": joins,
    }


async def _reader(exits: AsyncExitStack, homeserver: Homeserver, ears: Ears, rooms: Sequence[str]) -> None:
    token = await homeserver.register("reader")
    async with Person(homeserver.url, f"@reader:{homeserver.server_name}", token) as reader:
        for room in rooms:
            await reader.call("POST", f"client/v3/join/{room}")
    reading = asyncio.create_task(ears.read_matrix(homeserver.url, token))
    exits.callback(reading.cancel)


def report(subjects: Sequence[Subject], sent: Sequence[float]) -> None:
    """Medians, and their ratios to the last subject, which is the bare libraries. `sent`: rates of the bare sender."""
    bare = subjects[-1]
    for key in bare.cpu:
        print(", ".join(key))
        for subject in subjects:
            cpu, rate = (statistics.median(found[key]) for found in (subject.cpu, subject.rates))
            ratio = cpu / statistics.median(bare.cpu[key])
            speed = rate / statistics.median(bare.rates[key])
            print(
                f"  {subject.name:<24} CPU {cpu * 1000:5.2f} ms a message, ratio {ratio:4.2f};"
                f" {rate:6.1f} messages/s, ratio {speed:4.2f}"
            )
    print(f"  a bare sender to Matrix, in order: {statistics.median(sent):6.1f} messages/s")


async def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    checkouts = {"relay": Path.cwd(), **{f"relay of {path}": path for path in arguments.against}, "bare": None}
    ears = Ears()
    async with AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="relay-burst-")))
        homeserver = await exits.enter_async_context(Homeserver())
        subjects = [
            await connected(exits, folder / str(number), homeserver, ears, arguments.pairs, name, checkout)
            for number, (name, checkout) in enumerate(checkouts.items())
        ]
        own_rooms = [await subjects[-1].place.mia.create_room() for _ in range(arguments.pairs)]
        rooms = [*own_rooms, *(room for subject in subjects for room in subject.place.rooms.values())]
        await _reader(exits, homeserver, ears, rooms)
        # Somebody else than the bare libraries' own account writes, in another process.
        made = subjects[-1].place.control.bootstrap(channels=["sender"], people=["Eve"], guild="Sender", bot="sender")
        user = f"@sender:{homeserver.server_name}"
        token = await homeserver.register("sender")
        wiring = _wiring(subjects[-1].place, homeserver, [], (user, token), rooms)
        wiring |= {"discord_token": made["token"], "user_id": user, "access_token": token}
        sender = await exits.enter_async_context(bare_process(wiring))
        bench = Bench(ears, sender, arguments.burst, own_rooms)
        for number in range(-1, arguments.rounds):
            for place, (mode, direction) in enumerate(itertools.product(_MODES, DIRECTIONS)):
                for index, subject in enumerate(subjects):
                    await bench.measure(subject, direction, mode, f"{place}s{index}r{number + 1}")
            await bench.send(f"s{number + 1}")
            if number < 0:  # the first round opens connections and fills caches
                for subject in subjects:
                    subject.cpu.clear()
                    subject.rates.clear()
                bench.rates.clear()
        report(subjects, bench.rates)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--burst", type=int, default=10, help="messages in each pair and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, action="append", default=[], help="another checkout")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(_arguments()))
