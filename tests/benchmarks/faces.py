"""What a face on Discord costs: the first time, the thousandth time, and when a thousand people speak once each.

    python -m tests.benchmarks.faces            # about three minutes

The real adapter and store against the sandbox. The first time is measured without Discord's limit of new emoji an hour,
the crowd with all of its limits, beside the same crowd while Discord takes no pictures. The bar: a known face costs at
most 2 % of a message, and the crowd is not slower because of its faces.
"""

import argparse
import asyncio
import io
import logging
import resource
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.discord.pictures.avatars import Avatars
from relay.core.people.storage import AvatarRecord
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MediaRef, Platform, UserRef
from relay.domain.text.nodes import RichText
from relay.errors import RateLimited
from relay.sandbox.faults import Fault
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import Channel
from relay.store.unit_of_work import open_store
from tests.support.discord import World, discord_settings, until
from tests.support.pictures import Photographs
from tests.support.store import new_store

KNOWN_FACE = 0.02
CROWD = 1.1


def picture(number: int) -> bytes:
    """A thumbnail as homeservers make them; each number has another one."""
    made = io.BytesIO()
    noise = Image.effect_noise((256, 256), 40).convert("RGB")
    noise.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
    noise.save(made, "PNG")
    return made.getvalue()


def somebody(number: int) -> Author:
    """Everybody has a picture of their own."""
    user = UserRef(Platform.MATRIX, f"@person{number}:example.org")
    return Author(user, f"Person {number}", MediaRef(Platform.MATRIX, f"mxc://example.org/{number}"))


def cpu(who: int) -> float:
    """Seconds of CPU: `RUSAGE_SELF`, or `RUSAGE_CHILDREN`."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def avatars_of(adapter: DiscordAdapter) -> Avatars:
    """The part that is measured."""
    return adapter._avatars


@asynccontextmanager
async def place(files: Photographs, limits: Limits, channels: int = 1) -> AsyncIterator[tuple[World, list[Channel]]]:
    """A sandbox with some channels; `world.running` is given the files."""
    async with SandboxServer(limits=limits) as server:
        world = World(server)
        more = [world.state.add_channel(world.guild, f"channel {number}") for number in range(channels - 1)]
        yield world, [world.channel, *more]


async def first_time(folder: Path, count: int) -> float:
    """Faces of people who were never seen. Returns the seconds that a message takes."""
    files = Photographs({f"mxc://example.org/{number}": picture(number) for number in range(count)})
    store = await open_store(new_store(folder))
    async with place(files, Limits(factor=0)) as (world, _), world.running(files=files, store=store) as adapter:
        avatars = avatars_of(adapter)
        await adapter.send(world.delivery(key="warm", author=somebody(10**6)))
        before = cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        for number in range(count):
            user = somebody(number).user.id
            avatars.url(somebody(number))
            await until(lambda user=user: user in avatars.shelf.last, 60)  # type: ignore[misc]
        wall = (time.perf_counter() - started) / count
        own, child = (
            cpu(who) - used for who, used in zip((resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN), before, strict=True)
        )
        print(
            f"the first time: {1000 * wall:.0f} ms in the background, of these {1000 * child / count:.0f} ms of CPU "
            f"in the process that draws and {1000 * own / count:.0f} ms in ours (with the sandbox's)"
        )
        started = time.perf_counter()
        for number in range(100):
            await adapter.send(world.delivery(key=f"m{number}", author=somebody(number % count)))
        message = (time.perf_counter() - started) / 100
    await store.close()
    return message


async def known(folder: Path, people: int, message: float) -> bool:
    """Faces that stand, with so many people known."""
    store = await open_store(new_store(folder))
    async with store.write() as uow:
        for number in range(people):
            author, name = somebody(number), f"relay_{number:024x}"
            assert author.avatar is not None
            copy = MediaRef(Platform.DISCORD, str(10**18 + number))
            await uow.avatars.put(AvatarRecord(author.user, author.avatar.locator, name, copy))
    files = Photographs()
    async with place(files, Limits(factor=0)) as (world, _):
        settings = discord_settings(world.app.token, world.server.api_url)
        adapter = DiscordAdapter(settings=settings, clock=world.clock, files=files, store=store)
        avatars = avatars_of(adapter)
        tracemalloc.start()
        started = time.perf_counter()
        await avatars._load()
        loaded = time.perf_counter() - started
        held = tracemalloc.get_traced_memory()[0] / people
        tracemalloc.stop()
        authors = [somebody(number) for number in range(people)]
        started = time.perf_counter()
        for author in authors:
            assert avatars.url(author)
        each = (time.perf_counter() - started) / people
        await adapter.close()
    await store.close()
    share = each / message
    print(
        f"with {people} people known: {1e6 * each:.1f} µs a message, {share:.2%} of it (bar {KNOWN_FACE:.0%}); "
        f"{held / 1024:.1f} KiB a person, {1000 * loaded:.0f} ms at the start"
    )
    return share <= KNOWN_FACE


async def crowd(folder: Path, people: int, channels: int, *, faces: bool) -> float:
    """Everybody speaks once, within Discord's limits. Returns the seconds until the last has spoken."""
    files = Photographs({f"mxc://example.org/{number}": picture(number) for number in range(people)})
    store = await open_store(new_store(folder))
    async with place(files, Limits(), channels) as (world, places):
        if not faces:
            world.server.faults.add(Fault("status", "*", "/applications/.*/emojis", status=403, count=None))
        async with world.running(*places, files=files, store=store) as adapter:

            async def talk(channel: Channel, numbers: range) -> None:
                for number in numbers:
                    ref = ChannelRef(Platform.DISCORD, str(channel.id))
                    await patiently(
                        adapter, Delivery(ref, f"p{number}", somebody(number), Content(RichText.plain("x")))
                    )

            started = time.perf_counter()
            await asyncio.gather(*(talk(one, range(at, people, channels)) for at, one in enumerate(places)))
            taken = time.perf_counter() - started
        said = sum(len(one.messages) for one in places)
        if said != people:
            raise AssertionError(f"{said} of {people} messages")
        kind = "with" if faces else "without"
        print(f"{people} people, {kind} faces: {taken:.1f} s, by then {len(world.app.emojis)} faces stand")
    await store.close()
    return taken


async def patiently(adapter: DiscordAdapter, delivery: Delivery) -> None:
    """Send as a lane does: again as soon as it may."""
    while True:
        try:
            await adapter.send(delivery)
        except RateLimited as error:
            await asyncio.sleep(error.retry_after or 0)
        else:
            return


async def run(people: int, first: int) -> bool:
    """All three; whether they keep to the bar."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in ("first", "known", "without", "with")]
        for one in folders:
            one.mkdir()
        message = await first_time(folders[0], first)
        print(f"a message through a webhook: {1000 * message:.1f} ms")
        within = await known(folders[1], people, message)
        without = await crowd(folders[2], people, 20, faces=False)
        having = await crowd(folders[3], people, 20, faces=True)
        print(f"the crowd: {having / without:.2f} times as long with faces (bar {CROWD})")
        return within and having / without <= CROWD


def main() -> None:
    """Measure; exit status 1 over the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--first", type=int, default=20, help="how many are seen for the first time")
    options = parser.parse_args()
    logging.getLogger("relay").setLevel(logging.ERROR)
    sys.exit(0 if asyncio.run(run(options.people, options.first)) else 1)


if __name__ == "__main__":
    main()
