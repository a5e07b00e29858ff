"""How the daemon ends, whatever it is doing, and who may begin after it."""

import asyncio
import json
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.patience import PATIENCE
from tests.support.stack import Daemon, FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The relay on a machine whose name server never answers.
SILENT = """
import os, socket, sys, threading

def never(*_, **__):
    os.write(1, b"asked\\n")  # no thread is to hold the output's lock while the process ends
    threading.Event().wait()

socket.getaddrinfo = never
from relay.cli import main
main([*sys.argv[1:], "--config", "relay.toml"])
"""
# The relay with a task that does not end when it is told to.
STUBBORN = """
import asyncio
from contextlib import suppress
from relay import app
from relay.cli import main, run

async def memory(*_):
    print("begun", flush=True)
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

run._AT_LAST_SECONDS = 0.1
app.Daemon._save_memory = memory
main(["run", "--config", "relay.toml"])
"""
AWAY = """
[discord]
token = "abc.def.ghi"
[matrix]
homeserver_url = "https://matrix.example.org"
user_id = "@relay:example.org"
access_token = "syt"
[web]
listen = ""
[[pairs]]
discord_channel = 1234567890123456789
matrix_room = "!help:example.org"
"""

CONTRACT = 10.0
"""Seconds that a shutdown may take: a promise to init systems, not a measurement."""


@pytest_asyncio.fixture(loop_scope="session")
async def place(homeserver: Homeserver, tmp_path: Path) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver) as made:
        yield made


async def seconds_without_processor(daemon: Daemon) -> float:
    """For how long the daemon's threads, from now until it ends, could have run and had to wait for a processor.

    https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
    """
    folder, first, last = Path(f"/proc/{daemon.pid}/task"), dict[str, int](), dict[str, int]()
    while daemon.running:
        with suppress(OSError):  # a thread has ended, or all have
            for thread in folder.iterdir():
                _, waited, _ = (thread / "schedstat").read_text().split()
                last[thread.name] = int(waited)
                first.setdefault(thread.name, int(waited))
        await asyncio.sleep(0.02)
    return sum(last[name] - first[name] for name in last) / 1e9


async def stops(place: FullStack) -> None:
    """It ends within the contract, without the time in which other processes had its processors."""
    began, kept_waiting = time.monotonic(), asyncio.create_task(seconds_without_processor(place.daemon))
    assert await place.daemon.stop() == 0
    taken = time.monotonic() - began
    assert taken - await kept_waiting < CONTRACT
    assert "Traceback" not in place.daemon.log(10_000)


async def test_in_the_middle_of_a_catch_up(place: FullStack) -> None:
    await place.daemon.start()
    place.say("help", "before")
    await place.until_matrix("help", lambda words: words == ["before"])
    await stops(place)
    said = [f"missed {number}" for number in range(120)]
    place.control.say_many(place.channels["help"], place.people["Ada"], said)
    # Each page of the history takes its time, so that the signal comes between two of them.
    place.control.add_fault("delay", method="GET", path="/messages", count=None, seconds=1.0)
    await place.daemon.start(ready=False)
    await place.until_struck(2)
    await stops(place)
    place.control.clear_faults()
    await place.daemon.start()
    await place.until_matrix("help", lambda words: len(words) > 120)
    assert await place.matrix_words("help") == ["before", *said]


async def test_in_the_middle_of_a_429_wait(place: FullStack) -> None:
    await place.daemon.start()
    place.control.add_fault("rate_limit", method="POST", path="^/webhooks/", count=None, seconds=600)
    for word in ("one", "two"):
        await place.tell("help", word)
    await place.until_metric("relay_retries_total", 1, pair="help", direction="to_discord")
    await stops(place)
    place.control.clear_faults()
    await place.daemon.start()
    await place.until_discord("help", lambda words: words == ["one", "two"])


@pytest.mark.parametrize("when", ["before", "after"])
async def test_in_the_middle_of_a_send_that_hangs(place: FullStack, when: str) -> None:
    await place.daemon.start()
    place.control.add_fault("hang", method="POST", path="^/webhooks/", when=when, seconds=60)
    await place.tell("help", "one")
    await place.until_struck()
    await place.tell("help", "two")
    await stops(place)
    place.control.clear_faults()
    await place.daemon.start()
    await place.tell("help", "three")
    await place.until_discord("help", lambda words: words[-1:] == ["three"])
    assert await place.discord_words("help") == ["one", "two", "three"]


@pytest.mark.parametrize(("command", "number", "status"), [("run", signal.SIGTERM, 0), ("check", signal.SIGINT, 130)])
async def test_while_a_name_server_is_silent(tmp_path: Path, command: str, number: signal.Signals, status: int) -> None:
    (tmp_path / "relay.toml").write_text(AWAY)
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SILENT, command), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            await daemon.stdout.readuntil(b"asked\n")
            daemon.send_signal(number)
            assert await daemon.wait() == status
    finally:
        if daemon.returncode is None:
            daemon.kill()


@pytest.mark.parametrize("command", [("db", "check"), ("status",)])
async def test_a_store_whose_name_server_is_silent_is_given_up(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "relay.toml").write_text(f'{AWAY}[store]\nurl = "postgresql://relay@db.example.org/relay"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SILENT, *command), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
        assert process.returncode == 1
        assert "the server does not answer in time" in said.decode()
    finally:
        if process.returncode is None:
            process.kill()


async def test_also_where_a_task_does_not(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(AWAY)
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STUBBORN), cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            await daemon.stdout.readuntil(b"begun\n")
            daemon.send_signal(signal.SIGTERM)
            _, log = await daemon.communicate()  # standard error
        assert daemon.returncode == 70
        assert "memory" in json.loads(log.splitlines()[-1])["tasks"]
    finally:
        if daemon.returncode is None:
            daemon.kill()


async def test_while_the_store_is_locked(place: FullStack) -> None:
    await place.daemon.start()
    other = sqlite3.connect(place.folder / "relay.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    place.say("help", "one")
    await place.tell("help", "two")

    async def problem() -> bool:
        return "locked by another process" in (await place.daemon.get("/readyz"))[1]

    await eventually(problem, bool, what=place.daemon.log)
    await stops(place)
    other.close()
    await place.daemon.start()
    await place.until_matrix("help", lambda words: sorted(words) == ["one", "two"])
    await place.until_discord("help", lambda words: sorted(words) == ["one", "two"])


async def test_what_is_in_flight_is_finished(place: FullStack) -> None:
    await place.daemon.start()

    async def log() -> str:
        return place.daemon.log(10_000)

    # It is ready before it has said how many pairs are.
    await eventually(log, lambda text: "ready: 1 of 1 pair" in text)
    place.control.add_fault("delay", method="POST", path="^/webhooks/", seconds=3.0)
    await place.tell("help", "one")
    await place.until_struck()
    await stops(place)
    assert await place.discord_words("help") == ["one"]
    _, printed = await place.daemon.relay("status")
    assert "The daemon is not running; it ended" in printed
    assert "It was told to stop." in printed
    logged = [json.loads(line) for line in place.daemon.log(10_000).splitlines()]
    assert [line["event"] for line in logged if line["event"].startswith("ready")] == ["ready: 1 of 1 pair"]
    [stopped] = [line for line in logged if line["event"] == "stopped"]
    assert (stopped["finished"], stopped["waiting"]) == (1, 0)
    # A line for each channel would hide what matters: sixty pairs have 120.
    assert not [line for line in logged if line["event"] == "channel open"]


async def test_another_daemon_on_the_same_store_is_sent_away(place: FullStack, tmp_path: Path) -> None:
    await place.daemon.start()
    second = Daemon(place.daemon.config, tmp_path / "second.log")

    async def holder() -> dict[str, Any]:
        return dict((await place.daemon.status())["daemon"])

    await second.start(ready=False)
    assert await second.exit_status() == 3
    line = second.log(1)
    process = await eventually(holder, lambda it: it["pid"] == place.daemon.pid, what=place.daemon.log)
    since = process["since"][:16].replace("T", " ")
    for words in (f"store {tmp_path}/relay.db: ", f"process {process['pid']} on {process['host']}", since[:13], "stop"):
        assert words in line
    place.say("help", "the first is not disturbed")
    await place.until_matrix("help", lambda words: words == ["the first is not disturbed"])


async def test_a_killed_daemon_leaves_its_place_to_the_next_at_once(place: FullStack) -> None:
    await place.daemon.start()
    await place.daemon.kill()
    place.say("help", "while nobody was there")
    await place.daemon.start()
    # It is seen that the process has ended: only a lease of another machine is watched until it runs out.
    assert "store taken over" in place.daemon.log(1000)
    assert "watching it" not in place.daemon.log(1000)
    await place.until_matrix("help", lambda words: words == ["while nobody was there"])
