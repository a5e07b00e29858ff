"""What the relay costs: its latency next to the two bare libraries back to back, its throughput next to a bare sender.

    python -m tests.benchmarks.roundtrip                    # a minute or so
    python -m tests.benchmarks.roundtrip --messages 300 --pairs 20 --rounds 5

Latency: one message at a time, the relay and the bare loop (`bare.py`: discord.py and nio wired together, no store) in
turns, each a process of its own between the same sandbox (without limits) and the same Synapse (limits raised), from
the moment before the message is written to the moment when a reader on the other side has it. Throughput: a burst in
all pairs at once, from its first message written to its last copy read, in turns with a bare sender that puts as many
messages into as many rooms of the same homeserver. Nothing is asserted: the machine decides about seconds, only
ratios can be compared.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.rate_limits import Limits
from relay.sandbox.world.dispatch import OMNISCIENT, Dispatch
from tests.support.stack import FullStack, stack

_TAG = re.compile(r"#([a-z0-9-]+)")
_PATIENCE = 120.0
_WARM_UP = 5
DIRECTIONS = ("discord -> matrix", "matrix -> discord")


class Ears:
    """Readers on both sides: when each tagged message was first seen, by `time.perf_counter`."""

    def __init__(self) -> None:
        self._heard: dict[str, dict[str, float]] = {"discord": {}, "matrix": {}}
        self._news = asyncio.Event()

    def hear(self, side: str, text: str) -> None:
        """A reader of `side` has `text` before them."""
        # Where a lane falls behind, several messages cross in one.
        for tag in _TAG.findall(text):
            self._heard[side].setdefault(tag, time.perf_counter())
            self._news.set()

    def dispatched(self, dispatch: Dispatch) -> None:
        """A listener of the sandbox."""
        if dispatch.event == "MESSAGE_CREATE":
            self.hear("discord", str(dispatch.render(OMNISCIENT).get("content")))

    async def read_matrix(self, url: str, token: str) -> None:
        """Sync for ever, as a client does."""
        narrow = {"room": {"timeline": {"limit": 100, "types": ["m.room.message"]}, "state": {"types": []}}}
        query = {"filter": json.dumps(narrow), "timeout": "0"}
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=90)) as session:
            while True:
                async with session.get(f"{url}/_matrix/client/v3/sync", params=query) as answer:
                    body = await answer.json()
                for room in body.get("rooms", {}).get("join", {}).values():
                    for event in room["timeline"]["events"]:
                        self.hear("matrix", str(event["content"].get("body")))
                query |= {"since": body["next_batch"], "timeout": "30000"}

    async def until(self, side: str, tags: Sequence[str]) -> float:
        """When the last of them was heard. Raises `TimeoutError` that names those that were not."""
        deadline = time.perf_counter() + _PATIENCE
        heard = self._heard[side]
        while missing := [tag for tag in tags if tag not in heard]:
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - time.perf_counter()):
                    await self._news.wait()
            except TimeoutError:
                raise TimeoutError(f"{len(missing)} of {len(tags)} not heard on {side}: {missing[:10]}") from None
        return max(heard[tag] for tag in tags)


class Bare:
    """`bare.py` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    async def flood(self, rooms: Sequence[str], count: int, tag: str) -> float:
        """Seconds for `count` messages into each room."""
        return float((await self.ask({"send": list(rooms), "count": count, "tag": tag}))["seconds"])


@dataclass(slots=True)
class Stage:
    """Everything that is measured with. `ways` is, by subject, how one message is said on either side."""

    place: FullStack
    ears: Ears
    bare: Bare
    bare_rooms: list[str]
    # What the bare process was told to connect.
    wiring: dict[str, Any]
    # As many pairs as the relay has, for what they take in the bare process.
    wired: list[dict[str, Any]]
    ways: dict[str, dict[str, Callable[[str], Awaitable[object]]]] = field(default_factory=dict)


@asynccontextmanager
async def bare_process(wiring: dict[str, Any]) -> AsyncIterator[Bare]:
    """Connected on both sides."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.bare",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        bare = Bare(process)
        await bare.ask(wiring)
        yield bare
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def staged(folder: Path, homeserver: Homeserver, pairs: int) -> AsyncIterator[Stage]:
    """The relay with `pairs` pairs, the bare loop with one, readers on both sides."""
    names = [f"pair{number}" for number in range(pairs)]
    async with stack(folder, homeserver, names, limits=Limits(factor=0)) as place:
        control, mia = place.control, place.mia
        tokens = {name: await homeserver.register(name) for name in ("bare", "sender")}
        user, sender = (f"@{name}:{homeserver.server_name}" for name in tokens)
        bare_rooms = [await mia.create_room(f"bare{number}", invite=[user]) for number in range(pairs)]
        made = control.bootstrap(
            channels=[f"bare{number}" for number in range(pairs)], people=["Eve"], guild="Bare", bot="bare"
        )
        bare_channels, eve = list(made["channels"].values()), made["people"]["Eve"]
        hooks = [control.create_webhook(channel, "bare", made["bot"]) for channel in bare_channels]
        wired = [
            {"channel": int(channel), "webhook": int(hook["id"]), "webhook_token": hook["token"], "room": room}
            for channel, hook, room in zip(bare_channels, hooks, bare_rooms, strict=True)
        ]
        wiring = {
            "api_url": place.sandbox.api_url,
            "discord_token": made["token"],
            "homeserver_url": homeserver.url,
            "user_id": user,
            "access_token": tokens["bare"],
            "pairs": wired[:1],
            "sender_id": sender,
            "sender_token": tokens["sender"],
            "joins": [*bare_rooms, *place.rooms.values()],
        }
        ears = Ears()
        place.sandbox.state.listeners.append(ears.dispatched)
        async with bare_process(wiring) as bare:
            await place.daemon.start()
            reading = asyncio.create_task(_read(ears, homeserver, mia))
            try:
                stage = Stage(place, ears, bare, bare_rooms, wiring, wired)
                stage.ways = {
                    "relay": _ways(place, mia, place.channels["pair0"], place.people["Ada"], place.rooms["pair0"]),
                    "bare": _ways(place, mia, bare_channels[0], eve, bare_rooms[0]),
                }
                yield stage
            finally:
                reading.cancel()


async def _read(ears: Ears, homeserver: Homeserver, mia: Person) -> None:
    token = await homeserver.register("reader")
    async with Person(homeserver.url, f"@reader:{homeserver.server_name}", token) as reader:
        joined = await mia.call("GET", "client/v3/joined_rooms")
        for room in joined["joined_rooms"]:
            await reader.call("POST", f"client/v3/join/{room}")
    await ears.read_matrix(homeserver.url, token)


def _ways(
    place: FullStack, mia: Person, channel: str, person: str, room: str
) -> dict[str, Callable[[str], Awaitable[object]]]:
    async def on_discord(text: str) -> object:
        return place.control.say(channel, person, text)

    async def on_matrix(text: str) -> object:
        return await mia.text(room, text)

    return {DIRECTIONS[0]: on_discord, DIRECTIONS[1]: on_matrix}


# --- Latency ----------------------------------------------------------------------------------------------


async def latencies(stage: Stage, direction: str, messages: int) -> dict[str, list[float]]:
    """Seconds for each message, by subject; in turns, and who begins changes too."""
    found: dict[str, list[float]] = {"relay": [], "bare": []}
    there = direction.rpartition(" ")[2]
    for number in range(_WARM_UP + messages):
        for subject in ("relay", "bare") if number % 2 else ("bare", "relay"):
            tag = f"{subject}-{direction[0]}-{number}"
            began = time.perf_counter()
            saying = asyncio.ensure_future(stage.ways[subject][direction](f"#{tag} the quick brown fox"))
            heard = await stage.ears.until(there, [tag])
            await saying
            if number >= _WARM_UP:
                found[subject].append(heard - began)
    return found


# --- Throughput -------------------------------------------------------------------------------------------


async def burst_to_matrix(stage: Stage, count: int, tag: str) -> float:
    """Messages a second from Discord to Matrix, over all pairs."""
    place = stage.place
    tags = [f"{tag}-{pair}-{number}" for number in range(count) for pair in range(len(place.channels))]
    channels = list(place.channels.values())
    began = time.perf_counter()
    for one in tags:
        place.control.say(channels[int(one.split("-")[1])], place.people["Ada"], f"#{one} the quick brown fox")
        await asyncio.sleep(0)
    return len(tags) / (await stage.ears.until("matrix", tags) - began)


async def burst_to_discord(stage: Stage, count: int, tag: str) -> float:
    """Messages a second from Matrix to Discord, over all pairs; the bare sender is who writes."""
    rooms = list(stage.place.rooms.values())
    tags = [f"{tag}-{pair}-{number}" for pair in range(len(rooms)) for number in range(count)]
    began = time.perf_counter()
    writing = asyncio.create_task(stage.bare.flood(rooms, count, tag))
    heard = await stage.ears.until("discord", tags)
    await writing
    return len(tags) / (heard - began)


async def throughput(stage: Stage, count: int, rounds: int) -> dict[str, list[float]]:
    """Messages a second: what the homeserver takes from a bare sender, and each direction of the relay, in turns."""
    found: dict[str, list[float]] = {"bare sender": [], DIRECTIONS[0]: [], DIRECTIONS[1]: []}
    for number in range(rounds):
        seconds = await stage.bare.flood(stage.bare_rooms, count, f"b{number}")
        found["bare sender"].append(len(stage.bare_rooms) * count / seconds)
        found[DIRECTIONS[0]].append(await burst_to_matrix(stage, count, f"t{number}"))
        found[DIRECTIONS[1]].append(await burst_to_discord(stage, count, f"u{number}"))
    return found


# --- The report -------------------------------------------------------------------------------------------


def print_latency(direction: str, found: dict[str, list[float]]) -> None:
    """Median and 95th percentile of both subjects, and their ratios."""
    print(f"latency, {direction} ({len(found['relay'])} messages each, one at a time)")
    figures = {
        subject: (statistics.median(times), statistics.quantiles(times, n=20)[-1]) for subject, times in found.items()
    }
    for subject, (median, p95) in figures.items():
        print(f"  {subject:<6} median {median * 1000:7.1f} ms   p95 {p95 * 1000:7.1f} ms")
    ratios = [relay / bare for relay, bare in zip(figures["relay"], figures["bare"], strict=True)]
    print(f"  ratio  median {ratios[0]:7.2f}      p95 {ratios[1]:7.2f}")


def print_throughput(found: dict[str, list[float]], pairs: int, count: int) -> None:
    """Median of each, and the relay's as a part of the bare sender's."""
    bare = statistics.median(found["bare sender"])
    print(f"throughput ({pairs} pairs, bursts of {pairs * count} messages, {len(found['bare sender'])} rounds)")
    for subject, rates in found.items():
        median = statistics.median(rates)
        ratio = "" if subject == "bare sender" else f"   ratio {median / bare:5.2f}"
        print(f"  {subject:<18} {median:7.1f} messages/s{ratio}")


async def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="relay-roundtrip-") as folder:
        async with Homeserver() as homeserver, staged(Path(folder), homeserver, arguments.pairs) as stage:
            for direction in DIRECTIONS:
                print_latency(direction, await latencies(stage, direction, arguments.messages))
            found = await throughput(stage, arguments.burst, arguments.rounds)
            print_throughput(found, arguments.pairs, arguments.burst)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100, help="for the latency, in each direction")
    parser.add_argument("--pairs", type=int, default=20, help="for the throughput")
    parser.add_argument("--burst", type=int, default=15, help="messages in each pair and round, for the throughput")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(_arguments()))
