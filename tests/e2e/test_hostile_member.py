"""What one plain member can do to all others: as little as possible.

One account in one room (and one member on Discord) does whatever it can think of, while another room's messages are
timed against the same room without it. The ratio is printed (`pytest -s`); what is asserted holds on a busy machine.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relay.domain.names import skeleton
from relay.sandbox.homeserver import Homeserver
from relay.sandbox.people import Person
from relay.sandbox.ratelimits import Limits
from tests.support.matrix import Interloper
from tests.support.street import file
from tests.support.town import Town, eventually, town

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOUD, QUIET = "loud", "quiet"
NAMES = (
    "dıscord",
    "DİSCORD",
    "diſcord",
    "everyone",
    "\u3164\u2800",
    "Mia",
    "Мia",
    "x" * 255,
    "```",
    "a\u202eb",
    "Mia, Ada",
)
MOST_TIMES_SLOWER = 10.0
MOST_MORE_MEMORY = 120.0  # MiB


async def test_one_member_disturbs_nobody_else(homeserver: Homeserver, tmp_path: Path) -> None:
    async with town(tmp_path, homeserver, (LOUD, QUIET), limits=Limits(identify_every=0, factor=0)) as place:
        await place.daemon.start()
        mallory = await member(place, "mallory")
        async with mallory:
            await place.tell(LOUD, "I am Mia")
            await place.until_discord(LOUD, lambda words: words == ["I am Mia"])
            alone, memory = await seconds_each(place, "before"), _memory(place)
            done = asyncio.Event()
            mischief = asyncio.create_task(_everything(place, mallory, done))
            disturbed = await seconds_each(place, "during")
            done.set()
            said = await mischief
            await mallory.text(place.rooms[LOUD], "the end")
            words = await place.until_discord(LOUD, lambda words: "the end" in words)
        more = _memory(place) - memory
        ratio = disturbed / alone
        print(f"\na message takes {ratio:.1f} times as long beside a hostile member, and {more:+.0f} MiB of memory")
        assert ratio < MOST_TIMES_SLOWER
        assert more < MOST_MORE_MEMORY
        assert [text for text in words if text in said] == said, "everything crossed, in order"
        _nobody_looks_like_mia(place)
        code, output = await place.daemon.relay("dead", "list", "--json")
        assert (code, "loud" in output, "quiet" in output) == (0, False, False), output


async def test_a_dead_file_is_named_and_follows_when_it_comes(homeserver: Homeserver, tmp_path: Path) -> None:
    async with town(tmp_path, homeserver, (LOUD, QUIET)) as place:
        await place.daemon.start()
        place.control.add_fault("hang", path="^/attachments/", seconds=40.0, count=None)
        place.say(LOUD, "two pictures", attachments=[file("a.bin", os.urandom(50_000)), file("b.bin", b"b" * 50_000)])
        place.say(LOUD, "behind them")
        place.say(QUIET, "elsewhere")
        await place.until_matrix(QUIET, lambda words: words == ["elsewhere"])
        words = await eventually(
            lambda: place.matrix_words(LOUD), lambda words: "behind them" in words, what=place.daemon.log, patience=60
        )
        assert [text for text in words if "out of reach so far" in text], words
        place.control.clear_faults()
        shown = await eventually(
            lambda: place.on_matrix(LOUD),
            lambda shown: sum("url" in message.content for message in shown) == 2,
            what=place.daemon.log,
            patience=90,
        )
        # Each follows when it has come.
        assert {message.content.get("filename") for message in shown if "url" in message.content} == {"a.bin", "b.bin"}


async def test_dead_files_on_many_servers_hold_up_a_room_once(homeserver: Homeserver, tmp_path: Path) -> None:
    """The worst that one member's files can do: 30 s, then 1 s for each message, five times, in any five minutes."""
    asked: list[str] = []

    async def silent(request: web.Request) -> web.StreamResponse | None:
        if "/media/download/dead" in request.path:
            asked.append(request.path)
            await asyncio.Event().wait()
        return None

    async with town(tmp_path, homeserver, (LOUD, QUIET)) as place, Interloper(homeserver.url) as proxy:
        place.write_config(homeserver_url=proxy.url)
        proxy.answer = silent
        await place.daemon.start()
        async with await member(place, "mallory") as mallory:
            room = place.rooms[LOUD]
            for number in range(5):
                uris = [f"mxc://dead{number}{letter}.test/x" for letter in "abcdefghij"]
                items = [{"itemtype": "m.image", "body": uri[6:], "filename": "x.png", "url": uri} for uri in uris]
                await mallory.send(room, {"msgtype": "dm.filament.gallery", "body": str(number), "itemtypes": items})
            started = time.perf_counter()
            await place.mia.text(room, "behind them")
            await place.mia.text(place.rooms[QUIET], "elsewhere")
            await place.until_discord(QUIET, lambda words: words == ["elsewhere"])
            assert time.perf_counter() - started < 15
            found = await eventually(
                lambda: place.discord_words(LOUD),
                lambda found: "behind them" in found,
                what=place.daemon.log,
                patience=90,
            )
            taken = time.perf_counter() - started
            print(f"\nfifty dead files on as many servers, in five messages, hold up a room for {taken:.0f} s")
            assert taken < 45
            assert sum(text.count("out of reach so far") for text in found) == 50
            assert len(asked) >= 10, "they were asked for"


async def test_what_the_relay_says_to_one_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with (
        Homeserver(default_limits=True) as homeserver,
        town(tmp_path, homeserver, (LOUD, QUIET), lift_limits=False) as place,
    ):
        await homeserver.lift_limits(place.mia.user_id.removeprefix("@").partition(":")[0])
        await place.daemon.start()
        for number in range(40):
            await place.mia.text(place.rooms[LOUD], "")
            if number < 15:
                root = await place.mia.text(place.rooms[LOUD], f"root {number}")
                await place.mia.thread(place.rooms[LOUD], root, "psst")
        words = [f"word {number}" for number in range(8)]
        for text in words:
            place.say(QUIET, text)
        seen = await eventually(
            lambda: place.matrix_words(QUIET), lambda seen: words[-1] in "\n".join(seen), patience=60
        )
        assert "\n".join(seen).index(words[0]) < "\n".join(seen).index(words[-1])
        notes = [event for event in await place.mia.events(place.rooms[LOUD]) if event["sender"] == place.relay_user]
        print(f"\n{len(notes)} notes in front of the last word")
        assert len(notes) <= 15


async def member(place: Town, name: str) -> Person:
    """One more plain account, in the loud room."""
    localpart = f"{name}-{os.urandom(3).hex()}"
    token = await place.homeserver.register(localpart)
    person = Person(place.homeserver.url, f"@{localpart}:{place.homeserver.server_name}", token)
    await place.mia.invite(place.rooms[LOUD], person.user_id)
    async with person:
        await person.join(place.rooms[LOUD])
    return Person(place.homeserver.url, person.user_id, token)


async def seconds_each(place: Town, what: str) -> float:
    """What a message of the quiet room takes, in the middle of several, each way."""
    taken: list[float] = []
    for number in range(8):
        text, started = f"{what} {number}", time.perf_counter()
        await place.mia.text(place.rooms[QUIET], text)
        await _soon(lambda text=text: _said(place.discord_words(QUIET), text))  # type: ignore[misc]
        taken.append(time.perf_counter() - started)
        started = time.perf_counter()
        place.say(QUIET, f"{text} back")
        await _soon(lambda text=text: _said(place.matrix_words(QUIET), f"{text} back"))  # type: ignore[misc]
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


async def _said(words: Awaitable[list[str]], text: str) -> bool:
    return text in await words


async def _soon(there: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await there():  # noqa: ASYNC110 - what is waited for happens in a server
            await asyncio.sleep(0.02)


async def _everything(place: Town, mallory: Person, done: asyncio.Event) -> list[str]:
    """All of it, again and again; the words that have to cross."""
    room, said = place.rooms[LOUD], list[str]()
    table = "<table>" + "<tr><td>x</td></tr>" * 3_000 + "</table>"
    spoilers = "<span data-mx-spoiler>" * 2_000 + "x"
    while not done.is_set():
        for name in NAMES:
            await _rename(mallory, room, name)
            said.append(f"I am number {len(said)}")
            await mallory.text(room, said[-1])
            await mallory.text(room, "")
            if done.is_set():
                return said
        said.append(f"I am number {len(said)}")
        event = await mallory.text(room, said[-1])
        await mallory.html(room, "a table", table)
        await mallory.html(room, "spoilers", spoilers)
        for uri in ("mxc://../odd", "mxc://%2e%2e/odd", "mxc://./odd", f"mxc://{place.homeserver.server_name}/nothing"):
            await mallory.send(room, {"msgtype": "m.image", "body": "odd.png", "url": uri})
        for number in range(5):
            await mallory.edit(room, event, said[-1], f"<b>{number}</b>")
        await mallory.edit(room, event, said[-1])
        await mallory.thread(room, event, "psst")
        await mallory.redact(room, await mallory.text(room, "gone"))
        place.say(LOUD, "<@&1>" * 300, who="Ben")
        place.say(LOUD, "> " * 900, who="Ben")
    return said


async def _rename(person: Person, room: str, name: str) -> None:
    content: dict[str, Any] = {"membership": "join", "displayname": name}
    await person.set_state(room, "m.room.member", content, person.user_id)


def _nobody_looks_like_mia(place: Town) -> None:
    mia, *others = [message["author"]["username"] for message in place.on_discord(LOUD)]
    shown = {name for name, message in zip(others, place.on_discord(LOUD)[1:], strict=True) if "webhook_id" in message}
    assert mia == "Mia"
    assert len(shown) > len(NAMES) / 2
    assert not [name for name in shown if not name.strip() or skeleton(name) == skeleton("Mia")]
    quiet = {message["author"]["username"] for message in place.on_discord(QUIET) if "webhook_id" in message}
    assert quiet == {"Mia"}


def _memory(place: Town) -> float:
    """What the daemon has in memory, in MiB."""
    assert place.daemon.pid is not None
    status = Path(f"/proc/{place.daemon.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
