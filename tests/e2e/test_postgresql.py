"""The real daemon on a real PostgreSQL."""

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from relay.cli.common import existing_store
from relay.demo.homeserver import Homeserver
from relay.store.lease import holder_of
from tests.support.cut_line import cut_line
from tests.support.postgresql import SHORT, Server, server, start, stop
from tests.support.stack import Daemon, FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    """A stack whose store is on PostgreSQL; the daemon makes its tables."""
    with server().database(migrated=False) as url:
        async with stack(tmp_path, homeserver, store_url=f"{url}&password=open-sesame") as made:
            yield made


@pytest.fixture
def own() -> Iterator[Path]:
    """The folder of a server that no other test uses. A socket's path is short."""
    folder = Path(tempfile.mkdtemp(prefix="relay-pg-own-", dir=SHORT))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_messages_cross_and_every_command_works(place: FullStack) -> None:
    await place.daemon.start()
    first = place.say("help", "hello from Discord")
    await place.until_matrix("help", lambda words: words == ["hello from Discord"])
    await place.tell("help", "hello from Matrix")
    await place.until_discord("help", lambda words: words[1:] == ["hello from Matrix"])
    place.control.edit(place.channels["help"], first, "edited")
    await place.until_matrix("help", lambda words: words[0] == "edited")
    # It tells what was written down a moment ago.
    _, out = await eventually(lambda: place.daemon.relay("status", "--json"), lambda done: done[0] == 0)
    assert json.loads(out)["pairs"][0]["problem"] is None
    status, out = await place.daemon.relay("explain", first)
    assert status == 0, out
    assert "help" in out
    for arguments in (("dead", "list"), ("db", "check"), ("pairs", "list"), ("check",)):
        status, out = await place.daemon.relay(*arguments)
        assert status == 0, (arguments, out)
        assert "open-sesame" not in out
    status, out = await place.daemon.relay("db", "downgrade")
    assert status == 3, out
    assert re.search(r"process \d+ on .* holds it", out)
    status, out = await place.daemon.relay("run")
    assert status == 3, out
    assert "open-sesame" not in place.daemon.log()
    assert await place.daemon.stop() == 0
    status, out = await place.daemon.relay("status")
    assert "not running" in out


async def test_it_stops_in_time_while_another_process_has_the_tables(homeserver: Homeserver, tmp_path: Path) -> None:
    with server().database() as url:
        other = await asyncpg.connect(url)
        async with stack(tmp_path, homeserver, store_url=url) as place, other.transaction():
            await other.execute("LOCK TABLE alembic_version")
            await place.daemon.start(ready=False)
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'alembic_version'::regclass AND NOT granted"
            await eventually(partial(other.fetchval, waiting), lambda found: found == 1, what=place.daemon.log)
            assert await place.daemon.stop() == 0  # the lock is still held
            assert "stopped before it had begun" in place.daemon.log()
        await other.close()


async def test_it_stops_in_time_while_the_server_is_silent(homeserver: Homeserver, tmp_path: Path, own: Path) -> None:
    with server().database() as url:
        behind_line = url.replace(str(server().folder), str(own))
        async with cut_line(server().folder, own) as line, stack(tmp_path, homeserver, store_url=behind_line) as place:
            await place.daemon.start()
            place.say("help", "one")
            await place.until_matrix("help", lambda words: words == ["one"])
            line.passes.clear()
            assert await place.daemon.stop() == 0
            # By itself, before a statement is given up: that takes half a minute each time.
            log = place.daemon.log()
            assert '"reason": "the store does not answer"' in log
            assert "it could not be renewed before" in log
            assert "Traceback" not in log


async def test_a_killed_daemon_leaves_its_place_to_the_next_and_loses_nothing(place: FullStack) -> None:
    await place.daemon.start()
    said = []
    for number in range(12):
        said.append(f"number {number}")
        place.say("help", said[-1])
        if number % 4 == 3:
            await place.daemon.kill()
            await place.daemon.start()
    assert await place.until_matrix("help", lambda words: len(words) >= len(said)) == said


async def test_a_stopped_daemon_is_replaced_and_ends_once_it_goes_on(place: FullStack) -> None:
    await place.daemon.start()
    place.say("help", "one")
    await place.until_matrix("help", lambda words: words == ["one"])
    place.daemon.send_signal(signal.SIGSTOP)
    place.say("help", "two")

    async def held() -> bool:
        async with existing_store(place.store_url) as store:
            return await holder_of(store) is not None

    # A process that may only be slow keeps the lease until it has missed its renewals.
    await eventually(held, lambda it: not it)
    second = Daemon(place.daemon.config, place.folder / "second.log")
    try:
        await second.start()
        await place.until_matrix("help", lambda words: words == ["one", "two"])
        place.daemon.send_signal(signal.SIGCONT)
        assert await place.daemon.exit_status() == 3
        assert "this daemon has lost its lease" in place.daemon.log()
        place.say("help", "three")
        assert await place.until_matrix("help", lambda words: "three" in words) == ["one", "two", "three"]
        assert await second.stop() == 0
    finally:
        if second.running:
            await second.kill()


async def test_the_database_is_restarted_and_is_away_for_a_while(
    homeserver: Homeserver, tmp_path: Path, own: Path
) -> None:
    process = start(own, os.getpid())
    url = Server(own).url("postgres")
    async with stack(tmp_path, homeserver, store_url=url) as place:
        await place.daemon.start()
        place.say("help", "before")
        await place.until_matrix("help", lambda words: words == ["before"])
        await asyncio.to_thread(stop, process, signal.SIGINT)
        place.say("help", "while it is away")
        await place.tell("help", "from the other side")
        await reports(place, "cannot be reached")
        process = await asyncio.to_thread(start, own, os.getpid())
        await place.until_matrix("help", lambda words: words[:1] + words[2:] == ["before", "while it is away"])
        await place.until_discord("help", lambda words: words[-1:] == ["from the other side"])
        await asyncio.to_thread(stop, process, signal.SIGQUIT)  # as a crash
        process = await asyncio.to_thread(start, own, os.getpid())
        place.say("help", "after")
        await place.until_matrix("help", lambda words: words[-1] == "after")
        assert sorted(await place.matrix_words("help")) == sorted(
            ["before", "while it is away", "from the other side", "after"]
        )
        assert await place.daemon.stop() == 0
    await asyncio.to_thread(stop, process, signal.SIGINT)


async def reports(place: FullStack, words: str) -> None:
    """Wait until the log says so."""

    async def log() -> str:
        return place.daemon.log()

    await eventually(log, lambda seen: words in seen)
