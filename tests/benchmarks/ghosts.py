"""What a ghost costs: its first message and its later ones, beside the bot's; and 10,000 ghosts that are known.

    python -m tests.benchmarks.ghosts

The first part sends through a real Synapse, one message after the other; the homeserver's own time is most of it. The
second part has every known ghost speak once in each room, which asks the homeserver nothing.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from relay.adapters.matrix.adapter import MatrixAdapter
from relay.adapters.matrix.api.client import Api
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.outbound.ghost_accounts import GhostAccounts, profile_digest
from relay.adapters.matrix.outbound.ghosts import Ghosts
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.config.mistakes import validated
from relay.config.settings import AppserviceSettings, MatrixSettings
from relay.core.clock import Backoff, SystemClock
from relay.core.people.storage import Ghost
from relay.core.ports import Delivery
from relay.domain.content import Author
from relay.domain.ids import ChannelAddress, ChannelRef, Platform, UserRef
from relay.store.unit_of_work import open_store
from tests.support.ghosts import AS_TOKEN, GhostHomeserver
from tests.support.matrix import Inbox, SavedState, Side, address, person, room, words
from tests.support.store import new_store


def author(number: int) -> Author:
    """Somebody on Discord."""
    return Author(UserRef(Platform.DISCORD, str(10**17 + number)), f"Member {number}")


@asynccontextmanager
async def adapter(folder: Path, homeserver: GhostHomeserver, room_id: str, token: str) -> AsyncIterator[Side]:
    """The Matrix side with ghosts and a store."""
    settings = {
        "homeserver_url": homeserver.url,
        "user_id": f"@bot:{homeserver.server_name}",
        "access_token": token,
        "appservice": {"as_token": AS_TOKEN},
    }
    store, saved, clock = await open_store(new_store(folder)), SavedState(), SystemClock()
    made = MatrixAdapter(
        settings=validated(MatrixSettings, settings),
        load_session=saved.load,
        save_session=saved.save,
        clock=clock,
        rng=random.Random(1),
        catchup_limit=lambda _: 0,
        store=store,
    )
    inbox = Inbox(saved)
    await made.watch(frozenset([address(room_id)]))
    side = Side(made, inbox, asyncio.create_task(made.run(inbox)))
    try:
        await side.until_ready()
        yield side
    finally:
        side.task.cancel()
        await asyncio.wait({side.task})
        await made.close()
        await store.close()


async def first_and_later(folder: Path, people: int) -> None:
    """Each of them speaks twice, at a pace at which all may join, and the bot as often."""
    async with GhostHomeserver(folder) as homeserver, person(homeserver, "mia") as mia:
        token = await homeserver.register("bot")
        await homeserver.lift_limits("bot")
        where = await mia.create_room("benchmark", invite=[f"@bot:{homeserver.server_name}"])
        async with adapter(folder, homeserver, where, token) as side:

            async def send(key: str, who: Author | None) -> float:
                began = time.perf_counter()
                await side.adapter.send(Delivery(room(where), key, who, words("hello")))
                return (time.perf_counter() - began) * 1000

            first, later, bot = [], [], []
            for number in range(people):
                first.append(await send(f"f{number}", author(number)))
                later.append(await send(f"l{number}", author(number)))
                bot.append(await send(f"b{number}", None))
                await asyncio.sleep(1.0)
    base = statistics.median(bot)
    print(f"the bot's message: {base:.0f} ms (median of {people}; the homeserver's own pace)")
    for name, times in (("first", first), ("later", later)):
        print(
            f"a ghost's {name} message: {statistics.median(times):.0f} ms, {statistics.median(times) / base:.2f} times"
        )


async def known(folder: Path, people: int, rooms: int) -> None:
    """All of them are known, and speak once in each room."""
    store = await open_store(new_store(folder))
    empty = (folder / "relay.db").stat().st_size
    names = [f"!room{number}:example.org" for number in range(rooms)]
    accounts, clock = OwnAccounts(me="@relay:example.org", prefix="_discord_"), SystemClock()
    declared = DeclaredRooms(
        accounts, backoff=partial(Backoff, random.Random(0), first=1, longest=2), now=clock.monotonic
    )
    declared.declare([ChannelAddress(Platform.MATRIX, name) for name in names])
    api = Api("http://127.0.0.1:9", accounts.me)
    made = GhostAccounts(api=api, settings=validated(AppserviceSettings, {"as_token": AS_TOKEN}), store=store)
    ghosts = Ghosts(
        api=api,
        accounts=accounts,
        rooms=declared,
        clock=clock,
        made=made,
        wanted=lambda _: True,
    )

    async with store.write() as unit:
        for number in range(people):
            account = str(accounts.ghost_of(author(number).user))
            await unit.ghosts.put(Ghost(account, "RELAY"))
            for name in names:
                digest = profile_digest({"displayname": author(number).name})
                await unit.ghosts.join(account, ChannelRef(Platform.MATRIX, name), digest)
    size = (folder / "relay.db").stat().st_size + (folder / "relay.db-wal").stat().st_size - empty
    began, spoke = time.process_time(), 0
    for name in names:
        for number in range(people):
            found = await ghosts.speaker(name, author(number), has_spoken=True, picture_late=False)
            spoke += found.identity is not None
    taken = time.process_time() - began
    held = _bytes(made)
    began = time.process_time()
    for _ in range(1000):
        await ghosts.speaker(names[-1], author(people - 1), has_spoken=True, picture_late=False)
    again = time.process_time() - began
    print(f"{people:,} known ghosts in {rooms} rooms: {size / people / rooms:.0f} bytes of disk for each in each room")
    print(f"held in memory after all have spoken everywhere: {held / 1e6:.1f} MB ({spoke:,} messages)")
    asking, at_once = taken / spoke * 1e6, again * 1000
    print(f"CPU: {asking:.0f} µs a message that asks the store, {at_once:.0f} µs one that does not")
    await api.close()
    await store.close()


def _bytes(made: GhostAccounts) -> int:
    """What the caches of ghosts hold, roughly."""
    caches = (made._known, made._profiles)
    return sum(sys.getsizeof(cache) + sum(_of(key) + _of(value) for key, value in cache.items()) for cache in caches)


def _of(value: object) -> int:
    inner = value if isinstance(value, tuple) else (value.account,) if isinstance(value, Ghost) else ()
    return sys.getsizeof(value) + sum(map(sys.getsizeof, inner))


async def main(people: int, many: int, rooms: int) -> None:
    """Both parts."""
    with tempfile.TemporaryDirectory() as folder:
        await first_and_later(Path(folder), people)
    with tempfile.TemporaryDirectory() as folder:
        await known(Path(folder), many, rooms)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--known", type=int, default=10_000)
    parser.add_argument("--rooms", type=int, default=5)
    options = parser.parse_args()
    asyncio.run(main(options.people, options.known, options.rooms))
