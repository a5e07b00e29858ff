"""How long one hostile message holds the event loop: `python -m tests.benchmarks.loop_held`.

Each family of `markup_scaling`, 60,000 characters long, goes through what a message from Matrix goes through: it is
converted, written for the store, read from it, and cut for Discord. Printed: the longest step that the loop was not
free in, in milliseconds of CPU of its own thread (other programs do not count), and the whole. Exits 1 above 20 ms.
"""

import asyncio
import sys
import time
from datetime import UTC, datetime

from relay.adapters.discord import wording
from relay.adapters.matrix.inbound import convert
from relay.adapters.matrix.state import RoomState
from relay.core.conversions import Conversions
from relay.core.degrade import degrade
from relay.domain.commands import SendMessage
from relay.domain.events import MessageCreated
from relay.domain.pair import PairPolicy
from relay.domain.weight import weight
from relay.store import codec
from tests.benchmarks.markup_scaling import FAMILIES, TO_DISCORD, sample

SIZE = 60_000
LIMIT_MS = 20.0
ME = "@relay:example.org"


def within(text: str) -> str:
    """`text` with as many tags as are looked at, filled up with words."""
    some = "<".join(text.split("<")[:1_990])
    return some + " x" * ((SIZE - len(some)) // 2)


def event(text: str, *, html: bool) -> dict[str, object]:
    """A message; its text as HTML or as a plain body."""
    content = {"msgtype": "m.text", "body": "" if html else text}
    if html:
        content |= {"format": "org.matrix.custom.html", "formatted_body": text}
    about = {"type": "m.room.message", "event_id": "$1", "sender": "@ann:example.org", "origin_server_ts": 0}
    return about | {"content": content}


async def cross(said: dict[str, object], conversions: Conversions) -> list[float]:
    """The CPU time that each step took of the loop's own thread."""
    steps: list[float] = []
    start = time.thread_time()

    def step() -> None:
        nonlocal start
        now = time.thread_time()
        steps.append(now - start)
        start = now

    state = RoomState("!room:example.org")
    found = await conversions.run(weight(said["content"]), convert, said, state, ME)
    step()
    if not isinstance(found, MessageCreated):
        return steps
    payload = codec.encode(SendMessage(found.ref, found.author, found.content, datetime.now(UTC), None))
    step()
    # As the store does: from 64 KiB on in a thread.
    command = await conversions.run(len(payload) // 4, codec.decode, payload)
    step()
    assert isinstance(command, SendMessage)
    await conversions.run(
        weight(command.content),
        degrade,
        command.content,
        author=command.author,
        capabilities=TO_DISCORD,
        policy=PairPolicy(),
        measure=wording.measure,
        as_file=True,
    )
    step()
    return steps


async def main() -> int:
    """Print the table; 0 if all is within the limit."""
    conversions = Conversions()
    failed = 0
    print(f"{'family':34}{'longest ms':>12}{'elapsed ms':>12}")
    for family in FAMILIES:
        text = sample(family, SIZE)
        for kind, said in (
            ("html", event(text, html=True)),
            ("fewer tags", event(within(text), html=True)),
            ("plain", event(text, html=False)),
        ):
            await cross(said, conversions)
            start = time.perf_counter()
            longest = max(await cross(said, conversions)) * 1000
            elapsed = (time.perf_counter() - start) * 1000
            print(f"{f'{family[:22]} {kind}':34}{longest:12.2f}{elapsed:12.1f}")
            failed += longest > LIMIT_MS
    print(f"{failed} beyond the limit")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
