"""What one plain member can do to all others: as little as possible.

One account in one room (and one member on Discord) does whatever it can think of, while another room's messages are
timed against the same room without it. The ratio is printed (`pytest -s`); what is asserted holds on a busy machine.
"""

import asyncio
import base64
import io
import os
import resource
import statistics
import time
import unicodedata
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.names import skeleton, visible
from relay.sandbox.messages.media import flat_png
from relay.sandbox.rate_limits import Limits
from tests.support.chat import file
from tests.support.homeserver import ForkedHomeserver
from tests.support.lottie import declared_png, drawing, embedded, laborious
from tests.support.matrix import HomeserverProxy
from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, eventually, stack

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
STRANGER_NAMES = (
    "\u0301\u0302",
    "Z" + "\u0301\u0327" * 100,
    "\ufdfa" * 80,
    "ｄｉｓｃｏｒｄ" + "\ufdfa" * 70,
    "\u202eecilA\u2066",
    "clyde",
    "here",
    "system message",
    "@#:",
    "⟨Mia⟩",
    "↪ Bob",
    "(via IRC)",
    "Rеlay",
    "\U000e0041\U000e0042",
)
MOST_TIMES_SLOWER = 10.0
MOST_MORE_MEMORY = 120.0  # MiB


async def test_one_member_disturbs_nobody_else(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, (LOUD, QUIET), limits=Limits(identify_every=0, factor=0)) as place:
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
            # The machine may have got busy meanwhile, with what is not ours.
            alone = max(alone, await seconds_each(place, "after"))
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


async def test_whoever_is_called_whatever_is_heard_and_told_apart(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, (LOUD, QUIET), limits=Limits(identify_every=0, factor=0)) as place:
        await place.daemon.start()
        accounts = [await member(place, name) for name in ("mallory", "oscar")]
        said: list[str] = []
        async with accounts[0], accounts[1]:
            for name in (*NAMES, *STRANGER_NAMES):
                for number, account in enumerate(accounts):
                    await _rename(account, place.rooms[LOUD], name)
                    said.append(f"{number} said {len(said)}")
                    await account.text(place.rooms[LOUD], said[-1])
            await place.until_discord(LOUD, lambda words: words == said)
        here = [message["author"]["username"] for message in place.on_discord(LOUD)]
        assert all(1 <= len(unicodedata.normalize("NFKC", name)) <= 80 for name in here)
        assert skeleton("relay") not in map(skeleton, here), "the bot's own name"
        _told_apart([(text[0], name) for text, name in zip(said, here, strict=True)])

        back: list[str] = []
        relay = place.relay_user[1:].partition(":")[0]
        for name in (*NAMES, *STRANGER_NAMES, relay):
            for who in ("Ada", "Ben"):
                place.control.rename(place.people[who], place.guild, nick=name[:32])
                back.append(f"{who} said {len(back)}")
                place.say(LOUD, back[-1], who=who)
        await place.until_matrix(LOUD, lambda words: words[-len(back) :] == back)
        names = [message.name for message in await place.on_matrix(LOUD) if message.name]
        assert all(1 <= len(name.encode()) <= 255 for name in names)
        assert skeleton(relay) not in map(skeleton, names), "the account's own name"
        _told_apart([(text[0], name) for text, name in zip(back, names, strict=True)])


def _told_apart(shown: list[tuple[str, str]]) -> None:
    """Nobody's names are among another one's, as a platform may compare them."""
    names: dict[str, str] = {}
    for who, name in shown:
        folded = visible(unicodedata.normalize("NFKC", name)).casefold()
        assert folded
        assert names.setdefault(folded, who) == who, name


async def test_a_dead_file_is_named_and_follows_when_it_comes(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver, (LOUD, QUIET)) as place:
        await place.daemon.start()
        place.control.add_fault("hang", path="^/attachments/", seconds=40.0, count=None)
        place.say(LOUD, "two pictures", attachments=[file("a.bin", os.urandom(50_000)), file("b.bin", b"b" * 50_000)])
        place.say(LOUD, "behind them")
        place.say(QUIET, "elsewhere")
        await place.until_matrix(QUIET, lambda words: words == ["elsewhere"])
        words = await eventually(
            lambda: place.matrix_words(LOUD), lambda words: "behind them" in words, what=place.daemon.log
        )
        assert [text for text in words if "out of reach so far" in text], words
        place.control.clear_faults()
        shown = await eventually(
            lambda: place.on_matrix(LOUD),
            lambda shown: sum("url" in message.content for message in shown) == 2,
            what=place.daemon.log,
        )
        # Each follows when it has come.
        assert {message.content.get("filename") for message in shown if "url" in message.content} == {"a.bin", "b.bin"}


async def test_dead_files_on_many_servers_hold_up_a_room_once(homeserver: Homeserver, tmp_path: Path) -> None:
    """The worst that one member's files can do: 30 s, then 1 s for each message, in any five minutes.

    Waited for as patiently as the first, they would take longer than a test waits: half a minute each.
    """
    asked: list[str] = []

    async def silent(request: web.Request) -> web.StreamResponse | None:
        if "/media/download/dead" in request.path:
            asked.append(request.path)
            await asyncio.Event().wait()
        return None

    async with stack(tmp_path, homeserver, (LOUD, QUIET)) as place, HomeserverProxy(homeserver.url) as proxy:
        place.write_config(homeserver_url=proxy.url)
        proxy.answer = silent
        await place.daemon.start()
        async with await member(place, "mallory") as mallory:
            room = place.rooms[LOUD]
            for number in range(5):
                uris = [f"mxc://dead{number}{letter}.test/x" for letter in "abcdefghij"]
                # Of small files Discord takes all in one message: it limits how many messages there are.
                picture = {"itemtype": "m.image", "body": "x.png", "filename": "x.png", "info": {"size": 1000}}
                items = [{**picture, "url": uri} for uri in uris]
                await mallory.send(room, {"msgtype": "dm.filament.gallery", "body": str(number), "itemtypes": items})
            started = time.perf_counter()
            await place.mia.text(room, "behind them")
            await place.mia.text(place.rooms[QUIET], "elsewhere")
            await place.until_discord(QUIET, lambda words: words == ["elsewhere"])
            assert "behind them" not in await place.discord_words(LOUD), "the other room was held up as well"
            found = await eventually(
                lambda: place.discord_words(LOUD),
                lambda found: "behind them" in found,
                what=place.daemon.log,
            )
            taken = time.perf_counter() - started
            print(f"\nfifty dead files on as many servers, in five messages, hold up a room for {taken:.0f} s")
            assert sum(text.count("out of reach so far") for text in found) == 50
            assert len(asked) >= 10, "they were asked for"


async def test_what_the_relay_says_to_one_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with (
        ForkedHomeserver(default_limits=True) as homeserver,
        stack(tmp_path, homeserver, (LOUD, QUIET), lift_limits=False) as place,
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
            lambda: place.matrix_words(QUIET), lambda seen: words[-1] in "\n".join(seen), what=place.daemon.log
        )
        assert "\n".join(seen).index(words[0]) < "\n".join(seen).index(words[-1])
        notes = [event for event in await place.mia.events(place.rooms[LOUD]) if event["sender"] == place.relay_user]
        print(f"\n{len(notes)} notes in front of the last word")
        assert len(notes) <= 15


async def test_stickers_that_are_hard_to_draw_hold_up_nobody_else(homeserver: Homeserver, tmp_path: Path) -> None:
    ours = tmp_path / "secret.png"
    ours.write_bytes(flat_png(0x0000FF, 320))
    hostile = {
        "laborious": laborious(),
        "large": drawing(assets=[embedded(declared_png(30_000))]),
        "many": drawing(assets=[embedded(declared_png(3_000)) | {"id": str(number)} for number in range(4)]),
        "deep": b"[" * 100_000,
        "ours": drawing(assets=[{"id": "0", "w": 320, "h": 320, "u": f"{tmp_path}/", "p": ours.name, "e": 0}]),
    }
    async with stack(tmp_path, homeserver, (LOUD, QUIET), limits=Limits(identify_every=0, factor=0)) as place:
        made = {
            name: place.control.create_sticker(place.guild, name, 3, {"data": base64.b64encode(data).decode()})["id"]
            for name, data in {**hostile, "wave": drawing()}.items()
        }
        await place.daemon.start()
        place.say(LOUD, "begin")
        await place.until_matrix(LOUD, lambda words: words == ["begin"])
        alone, memory = await seconds_each(place, "before"), _memory(place)
        for name in hostile:
            place.say(LOUD, name, stickers=[made[name]])
        place.say(LOUD, "the end")
        disturbed = await seconds_each(place, "during")
        place.say(QUIET, "hello", stickers=[made["wave"]])
        await eventually(
            lambda: place.on_matrix(QUIET),
            lambda shown: any(message.content.get("info", {}).get("mimetype") == "image/webp" for message in shown),
            what=place.daemon.log,
        )
        shown = await eventually(
            lambda: place.on_matrix(LOUD), lambda shown: shown[-1].body.endswith("the end"), what=place.daemon.log
        )
        # The machine may have got busy meanwhile, with what is not ours.
        alone = max(alone, await seconds_each(place, "after"))
        bodies = [message.body for message in shown]
        print(f"\na message takes {disturbed / alone:.1f} times as long beside hostile stickers")
        assert disturbed / alone < MOST_TIMES_SLOWER
        assert _memory(place) - memory < MOST_MORE_MEMORY
        for name in ("large", "many", "deep"):
            assert [body for body in bodies if name in body and "impossible to draw" in body], bodies
        for message in shown:
            if "url" in message.content:
                data, _ = await place.mia.download(message.content["url"])
                assert (0, 0, 255) not in _colors(data), message.body


async def test_silent_connections_leave_the_daemon_its_files(homeserver: Homeserver, tmp_path: Path) -> None:
    """A web server that takes whatever connects would use up what the bridge itself needs."""
    async with stack(tmp_path, homeserver, (QUIET,), limits=Limits(identify_every=0, factor=0)) as place:
        await place.daemon.start()
        resource.prlimit(place.daemon.pid, resource.RLIMIT_NOFILE, (1_024, 1_024))
        host, _, port = place.daemon.url.removeprefix("http://").partition(":")
        begun = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
        requests = (b"", b"GET / HT", begun, begun + b"\r\n")
        async with AsyncExitStack() as exits:
            for number in range(1_100):
                _, writer = await asyncio.open_connection(host, int(port))
                exits.callback(writer.close)
                writer.write(requests[number % len(requests)])

            async def open_files() -> int:
                return len(list(Path(f"/proc/{place.daemon.pid}/fd").iterdir()))

            await eventually(open_files, lambda number: number < 300, what=place.daemon.log)
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/", 200), ("/metrics", 200)):
                assert (await place.daemon.get(path))[0] == status
            place.say(QUIET, "with a file", attachments=[file("a.bin", os.urandom(50_000))])
            await place.tell(QUIET, "and back")
            await place.until_matrix(QUIET, lambda words: "with a file" in words)
            await place.until_discord(QUIET, lambda words: "and back" in words)
        assert "Too many open files" not in place.daemon.log(10_000)


async def test_what_strangers_make_of_the_pages(homeserver: Homeserver, tmp_path: Path) -> None:
    """No other site's page reads them, and nothing that somebody wrote steers the browser or the terminal."""
    async with stack(tmp_path, homeserver, (LOUD, QUIET)) as place:
        await place.daemon.start()
        reason = "<script>alert(1)</script>\x9b31m\x1b[2J\u202egnihton"
        kick = {"membership": "leave", "reason": reason}
        await place.mia.set_state(place.rooms[LOUD], "m.room.member", kick, place.relay_user)
        _, page = await eventually(
            lambda: place.daemon.get("/"), lambda page: "removed" in page[1], what=place.daemon.log
        )
        port = place.daemon.url.rpartition(":")[2]
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/page.css", "/metrics", "/healthz", "/readyz"):
                for host in (
                    "evil.example",
                    f"evil.example:{port}",
                    "localhost.evil.example",
                    f"127.0.0.1.evil:{port}",
                ):
                    async with session.get(place.daemon.url + path, headers={"Host": host}) as answer:
                        assert (answer.status, LOUD in await answer.text()) == (421, False)
        told = [page, *[(await place.daemon.get(path))[1] for path in ("/readyz", "/metrics")]]
        told += [(await place.daemon.relay("status", *options))[1] for options in ((), ("--json",))]
        assert "alert(1)" in told[0]
        assert told[0].count("<script") == told[0].count('<script src="page.js" defer></script>') == 1  # our own
        for text in told:
            assert not set("\x9b\x1b\u202e") & set(text), text


async def member(place: FullStack, name: str) -> Person:
    """One more plain account, in the loud room."""
    localpart = f"{name}-{os.urandom(3).hex()}"
    token = await place.homeserver.register(localpart)
    person = Person(place.homeserver.url, f"@{localpart}:{place.homeserver.server_name}", token)
    await place.mia.invite(place.rooms[LOUD], person.user_id)
    async with person:
        await person.join(place.rooms[LOUD])
    return Person(place.homeserver.url, person.user_id, token)


async def seconds_each(place: FullStack, what: str) -> float:
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
    async with asyncio.timeout(PATIENCE):
        while not await there():  # noqa: ASYNC110 - what is waited for happens in a server
            await asyncio.sleep(0.02)


async def _everything(place: FullStack, mallory: Person, done: asyncio.Event) -> list[str]:
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


def _nobody_looks_like_mia(place: FullStack) -> None:
    mia, *others = [message["author"]["username"] for message in place.on_discord(LOUD)]
    shown = {name for name, message in zip(others, place.on_discord(LOUD)[1:], strict=True) if "webhook_id" in message}
    assert mia == "Mia"
    assert len(shown) > len(NAMES) / 2
    assert not [name for name in shown if not name.strip() or skeleton(name) == skeleton("Mia")]
    quiet = {message["author"]["username"] for message in place.on_discord(QUIET) if "webhook_id" in message}
    assert quiet == {"Mia"}


def _colors(data: bytes) -> set[object]:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return {color for _, color in picture.getcolors(1 << 20) or ()}


def _memory(place: FullStack) -> float:
    """What the daemon has in memory, in MiB."""
    assert place.daemon.pid is not None
    status = Path(f"/proc/{place.daemon.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
