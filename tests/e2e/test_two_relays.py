"""Two relays, each with a store of its own, on the same accounts and pairs: nothing is lost or doubled through it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.stack import Daemon, FullStack, eventually, stack
from tests.support.store import new_store

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def place(tmp_path: Path, homeserver: Homeserver) -> AsyncIterator[FullStack]:
    async with stack(tmp_path, homeserver, ("help",)) as place:
        yield place


@pytest_asyncio.fixture(loop_scope="session")
async def second(place: FullStack) -> AsyncIterator[Daemon]:
    """A relay with the same relay.toml, and another store."""
    folder = place.folder / "second"
    folder.mkdir()
    new_store(folder)
    config = folder / "relay.toml"
    config.write_text(place.daemon.config.read_text().replace(str(place.folder / "relay.db"), str(folder / "relay.db")))
    daemon = Daemon(config, folder / "relay.log")
    yield daemon
    if daemon.running:
        await daemon.kill()


async def problem(daemon: Daemon, pair: str) -> str:
    pairs = (await daemon.status())["pairs"]
    return str(next(one["problem"] for one in pairs if one["name"] == pair) or "")


async def chatter(place: FullStack, stop: asyncio.Event) -> tuple[list[str], list[str]]:
    """People write on both sides of both pairs until `stop`; what they said on Discord, and on Matrix."""
    said: tuple[list[str], list[str]] = ([], [])
    while not stop.is_set():
        number = len(said[0])
        place.say("help", f"d{number}")
        said[0].append(f"d{number}")
        await place.tell("help", f"m{number}")
        said[1].append(f"m{number}")
        await asyncio.sleep(0.2)
    return said


async def everything_crossed_once(place: FullStack, discord: list[str], matrix: list[str]) -> None:
    """Each word stands once on either side, those of each side in their order."""

    async def seen() -> tuple[list[str], list[str]]:
        return await place.discord_words("help"), await place.matrix_words("help")

    def whole(found: tuple[list[str], list[str]]) -> bool:
        return all(set(words) >= {*discord, *matrix} for words in found)

    found = await eventually(seen, whole)
    await asyncio.sleep(1)  # for what should not come
    for words in await seen():
        assert [word for word in words if word in discord] == discord
        assert [word for word in words if word in matrix] == matrix
        assert len(words) == len(discord) + len(matrix), found


async def test_the_second_relay_waits_and_takes_over_without_loss(place: FullStack, second: Daemon) -> None:
    await place.daemon.start()
    first = place.daemon.pid
    await second.start()
    said = await eventually(lambda: problem(second, "help"), lambda text: f"process {first}" in text, what=second.log)
    assert "--take-over" in said
    await eventually(lambda: problem(place.daemon, "help"), lambda text: not text, what=place.daemon.log)
    status, found = await second.relay("check")
    assert status == 1
    assert f"process {first}" in found
    await second.stop()
    # People go on talking while one relay hands over to the other.
    stop = asyncio.Event()
    talking = asyncio.create_task(chatter(place, stop))
    await second.start("--take-over")
    await eventually(lambda: problem(second, "help"), lambda text: not text, what=second.log)
    holder = f"process {second.pid}"
    await eventually(lambda: problem(place.daemon, "help"), lambda text: holder in text, what=place.daemon.log)
    stop.set()
    discord, matrix = await talking
    await everything_crossed_once(place, discord, matrix)
    # The one that waits goes on where the other one ends.
    place.say("help", "before the end")
    await place.until_matrix("help", lambda words: "before the end" in words)
    assert await second.stop() == 0
    place.say("help", "after it")
    await place.tell("help", "over there, too")
    await everything_crossed_once(place, [*discord, "before the end", "after it"], [*matrix, "over there, too"])
    await eventually(lambda: problem(place.daemon, "help"), lambda text: not text, what=place.daemon.log)


async def test_who_crashed_and_was_replaced_waits_when_it_comes_back(place: FullStack, second: Daemon) -> None:
    await place.daemon.start()
    await place.daemon.kill()
    # On the same machine it is seen that a process has ended, so nobody is waited for.
    await second.start("--take-over")
    await place.daemon.start()
    await eventually(
        lambda: problem(place.daemon, "help"), lambda text: f"process {second.pid}" in text, what=place.daemon.log
    )
    place.say("help", "one")
    await place.tell("help", "two")
    await everything_crossed_once(place, ["one"], ["two"])


async def test_a_new_store_goes_on_by_itself_and_the_old_one_reads_nothing_again(
    place: FullStack, second: Daemon
) -> None:
    await place.daemon.start()
    place.say("help", "one")
    await place.tell("help", "two")
    await everything_crossed_once(place, ["one"], ["two"])
    await place.daemon.kill()
    # Nobody had to say that it takes over.
    await second.start()
    place.say("help", "three")
    await place.tell("help", "four")
    await everything_crossed_once(place, ["one", "three"], ["two", "four"])
    assert await second.stop() == 0
    place.say("help", "five")
    await place.tell("help", "six")
    # What it missed has crossed without it, up to where the other one ended.
    await place.daemon.start()
    await everything_crossed_once(place, ["one", "three", "five"], ["two", "four", "six"])
    await eventually(lambda: problem(place.daemon, "help"), lambda text: not text, what=place.daemon.log)
    place.say("help", "seven")
    await everything_crossed_once(place, ["one", "three", "five", "seven"], ["two", "four", "six"])


async def test_who_was_stopped_and_replaced_sends_nothing_when_it_goes_on(place: FullStack, second: Daemon) -> None:
    await place.daemon.start()
    await talk(place, "before")
    await everything_crossed_once(place, ["before d"], ["before m"])
    # In the middle of its work, for longer than it may be silent: nobody can tell it from one that has ended.
    for number in range(20):
        place.say("help", f"burst {number}")
    await place.until_matrix("help", lambda words: "burst 2" in words)
    place.daemon.send_signal(signal.SIGSTOP)
    await second.start()
    await talk(place, "meanwhile")
    await place.until_matrix("help", lambda words: "meanwhile d" in words)
    place.daemon.send_signal(signal.SIGCONT)
    holder = f"process {second.pid}"
    await eventually(lambda: problem(place.daemon, "help"), lambda text: holder in text, what=place.daemon.log)
    # Both are there, and whoever reads, edits and deletes on either side sees one copy.
    await talk(place, "after")
    await place.until_matrix("help", lambda words: "after d" in words)
    await place.until_discord("help", lambda words: "after m" in words)
    await asyncio.sleep(1)  # for what should not come
    said = {f"burst {number}" for number in range(20)}
    for words in (await place.matrix_words("help"), await place.discord_words("help")):
        for side in ("d", "m"):
            spoken = [word for word in words if word not in said and word.endswith(f" {side}")]
            assert spoken == [f"before {side}", f"meanwhile {side}", f"after {side}"]
        bursts = [word for word in words if word in said]
        # What the first one had read, and not delivered, is lost with its store; in order, and none twice.
        assert bursts == [f"burst {number}" for number in range(20) if f"burst {number}" in bursts]
    assert await second.stop() == 0
    await eventually(lambda: problem(place.daemon, "help"), lambda text: not text, what=place.daemon.log)
    await talk(place, "again")
    await place.until_matrix("help", lambda words: "again d" in words)
    await place.until_discord("help", lambda words: "again m" in words)
    for words in (await place.matrix_words("help"), await place.discord_words("help")):
        assert sorted(words) == sorted(set(words))


async def test_who_is_stopped_while_it_takes_over_goes_on_where_the_other_one_ended(
    place: FullStack, second: Daemon
) -> None:
    await place.daemon.start()
    stop = asyncio.Event()
    talking = asyncio.create_task(chatter(place, stop))
    await second.start("--take-over", ready=False)
    await eventually(lambda: problem(place.daemon, "help"), bool, what=place.daemon.log)
    # The pair is in nobody's hands now, or just about to be in those of the one that is stopped.
    second.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3)
    second.send_signal(signal.SIGCONT)
    holder = f"process {second.pid}"
    await eventually(lambda: problem(place.daemon, "help"), lambda text: holder in text, what=place.daemon.log)
    # The one that waits is stopped and goes on, too: it has no right to anything.
    place.daemon.send_signal(signal.SIGSTOP)
    await asyncio.sleep(1)
    place.daemon.send_signal(signal.SIGCONT)
    stop.set()
    await everything_crossed_once(place, *await talking)


async def talk(place: FullStack, word: str) -> None:
    """A message on either side, one after the other."""
    place.say("help", f"{word} d")
    await place.tell("help", f"{word} m")
