"""How long one hostile message holds the event loop: `python -m tests.benchmarks.loop_held`.

Each family of `markup_scaling`, 60,000 characters long, goes through what a message from Matrix goes through: it is
converted, written for the store, read from it, and cut for Discord. The other way, so does one of 4,000 characters with
ten embeds of 6,000 in all, up to what is sent. Printed: the longest step that the loop was not free in, in milliseconds
of CPU of its own thread (other programs do not count), and the whole. Exits 1 above 20 ms.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from relay.adapters.discord.outbound.body import measure
from relay.adapters.matrix.inbound.events import convert
from relay.adapters.matrix.outbound import compose
from relay.adapters.matrix.rooms.state import RoomState
from relay.core.convert.degrade import Dropped, degrade
from relay.core.convert.split import Measure
from relay.core.offload import Conversions
from relay.core.ports import Delivery
from relay.domain.commands import SendMessage
from relay.domain.content import Capabilities, Content
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import PairPolicy
from relay.domain.text.rewrite import weight
from relay.store import codec
from tests.benchmarks.markup_scaling import FAMILIES, TO_DISCORD, sample
from tests.support.payloads import CHANNEL, GUILD, discord_reading

SIZE = 60_000
LIMIT_MS = 20.0
ME = "@relay:example.org"
TO_MATRIX = Capabilities(compose.MAX_TEXT_LENGTH, True, 1, 10 << 20, 25 << 20)


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


class Steps(list[float]):
    """The CPU time that each step took of the loop's own thread."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.thread_time()

    def __call__(self) -> None:
        """A step has ended."""
        now = time.thread_time()
        self.append(now - self._start)
        self._start = now


async def from_matrix(said: dict[str, object], conversions: Conversions) -> list[float]:
    """What a message from Matrix goes through."""
    step = Steps()
    state = RoomState("!room:example.org")
    found = await conversions.run(weight(said["content"]), convert, said, state, ME)
    step()
    if isinstance(found, MessageCreated):
        await cross(found, conversions, step, TO_DISCORD, measure)
    return step


async def from_discord(text: str, conversions: Conversions) -> list[float]:
    """What a message from Discord goes through: its content, and ten embeds that share the last 6,000 characters."""
    translator, buffers = discord_reading({})
    embeds = [{"type": "rich", "description": text[4_000 + 600 * number :][:600]} for number in range(10)]
    author = {"id": "1132000000000000003", "username": "ann", "discriminator": "0"}
    payload = {
        "id": "1132000000000000002",
        "channel_id": CHANNEL,
        "guild_id": GUILD,
        "type": 0,
        "content": text[:4_000],
    }
    payload |= {"timestamp": "2026-11-20T10:00:00+00:00", "author": author, "embeds": embeds, "attachments": []}
    step = Steps()
    buffers.put("MESSAGE_CREATE", payload)
    (found,) = (await translator.batch(await buffers.take(1))).events
    step()
    assert isinstance(found, MessageCreated)
    parts = await cross(found, conversions, step, TO_MATRIX, lambda text: compose.measure(text, found.author))
    for part in parts:
        delivery = Delivery(ChannelRef(Platform.MATRIX, "!room:example.org"), "k", found.author, part)
        await conversions.run(weight(part), compose.compose, delivery)
        step()
    return step


async def cross(
    found: MessageCreated, conversions: Conversions, step: Steps, capabilities: Capabilities, measure: Measure
) -> tuple[Content, ...]:
    """Written for the store, read from it, and cut."""
    payload = codec.encode(SendMessage(found.ref, found.author, found.content, datetime.now(UTC), None))
    step()
    # As the store does: from 64 KiB on in a thread.
    command = await conversions.run(len(payload) // 4, codec.decode, payload)
    step()
    assert isinstance(command, SendMessage)
    parts = await conversions.run(
        weight(command.content),
        degrade,
        command.content,
        author=command.author,
        capabilities=capabilities,
        policy=PairPolicy(),
        measure=measure,
        as_file=True,
    )
    step()
    return () if isinstance(parts, Dropped) else parts


async def main() -> int:
    """Print the table; 0 if all is within the limit."""
    conversions = Conversions()
    failed = 0
    print(f"{'family':34}{'longest ms':>12}{'elapsed ms':>12}")
    for family in FAMILIES:
        text = sample(family, SIZE)
        runs: dict[str, Callable[[], Awaitable[list[float]]]] = {
            "html": partial(from_matrix, event(text, html=True), conversions),
            "fewer tags": partial(from_matrix, event(within(text), html=True), conversions),
            "plain": partial(from_matrix, event(text, html=False), conversions),
            "discord": partial(from_discord, sample(family, 10_000), conversions),
        }
        for kind, run in runs.items():
            await run()
            start = time.perf_counter()
            longest = max(await run()) * 1000
            elapsed = (time.perf_counter() - start) * 1000
            print(f"{f'{family[:22]} {kind}':34}{longest:12.2f}{elapsed:12.1f}")
            failed += longest > LIMIT_MS
    print(f"{failed} beyond the limit")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
