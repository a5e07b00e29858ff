"""A second daemon on the same store waits, and goes on where the first one ends, however that ends."""

import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from relay.demo.homeserver import Homeserver
from tests.support.postgresql import server
from tests.support.stack import Daemon, FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", params=["postgresql", "sqlite"])
async def place(homeserver: Homeserver, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[FullStack]:
    """A stack on either store; the daemon is not started."""
    if request.param == "sqlite":
        async with stack(tmp_path, homeserver) as made:
            yield made
        return
    with server().database() as url:
        async with stack(tmp_path, homeserver, store_url=url) as made:
            yield made


async def stand_by(place: FullStack, name: str) -> Daemon:
    """Another daemon, once it says that it stands by for the first one."""
    second = Daemon(place.daemon.config, place.folder / f"{name}.log")
    await second.start("--standby", ready=False)

    async def said() -> str:
        return second.log()

    await eventually(said, lambda log: "standing by" in log and "status page is up" in log, what=second.log)
    return second


async def test_a_standby_goes_on_where_the_first_one_ends(place: FullStack) -> None:
    await place.daemon.start("--standby")
    second = await stand_by(place, "second")
    third = await stand_by(place, "third")
    try:
        serves = f"process {place.daemon.pid} on "
        status, body = await second.get("/readyz")
        assert status == 503
        assert serves in json.loads(body)["standby"]
        assert f"This relay stands by for {serves}" in (await second.get("/"))[1]
        assert "relay_standby 1.0" in (await second.get("/metrics"))[1]
        assert "relay_standby 0.0" in (await place.daemon.get("/metrics"))[1]
        _, out = await place.daemon.relay("status")
        assert " stands by, and goes on where that one ends." in out

        place.say("help", "one")
        await place.until_matrix("help", lambda words: words == ["one"])
        place.say("help", "two")
        await place.daemon.kill()
        place.say("help", "three")
        first_of = {"second": second, "third": third}
        (serving,) = await eventually(
            lambda: either_is_ready(first_of), lambda ready: len(ready) == 1, what=lambda: second.log() + third.log()
        )
        assert await place.until_matrix("help", lambda words: len(words) >= 3) == ["one", "two", "three"]

        waiting = first_of[next(name for name in first_of if name != serving)]
        place.say("help", "four")
        await place.until_matrix("help", lambda words: "four" in words)
        waiting.send_signal(signal.SIGHUP)
        assert await first_of[serving].stop() == 0
        await eventually(waiting.ready, bool, what=waiting.log)
        place.say("help", "five")
        words = await place.until_matrix("help", lambda words: "five" in words)
        assert words == ["one", "two", "three", "four", "five"]
        assert await waiting.stop() == 0
    finally:
        for one in (second, third):
            if one.running:
                await one.kill()


async def says(daemon: Daemon, words: str) -> bool:
    """Whether it has logged that."""
    return words in daemon.log()


async def either_is_ready(daemons: dict[str, Daemon]) -> list[str]:
    """The names of those that serve."""
    return [name for name, one in daemons.items() if await one.ready()]


async def test_one_that_waits_ends_when_it_is_told_to(place: FullStack) -> None:
    await place.daemon.start()
    second = await stand_by(place, "second")
    assert await second.stop() == 0
    status, out = await place.daemon.relay("run")
    assert status == 3, out
    assert await place.daemon.stop() == 0


async def pairs_of(daemon: Daemon, *, again: bool = False) -> set[str]:
    """The pairs that a daemon serves, by its metrics; none while it does not. `again`: since it has lost its lease."""
    if again and "standing by again" not in daemon.log():
        return set()
    try:
        _, text = await daemon.get("/metrics")
    except OSError:
        return set()
    return set(re.findall(r'relay_outbox_depth\{.*?pair="([^"]+)"', text))


async def test_one_that_was_stopped_beyond_its_lease_stands_by(homeserver: Homeserver, tmp_path: Path) -> None:
    with server().database() as url:
        async with stack(tmp_path, homeserver, store_url=url) as place:
            await place.daemon.start("--standby")
            second = await stand_by(place, "second")
            try:
                place.say("help", "one")
                await place.until_matrix("help", lambda words: words == ["one"])
                place.daemon.send_signal(signal.SIGSTOP)
                place.say("help", "two")
                await place.until_matrix("help", lambda words: words == ["one", "two"])
                place.daemon.send_signal(signal.SIGCONT)

                async def again() -> bool:
                    try:
                        return f"process {second.pid} on " in (await place.daemon.get("/readyz"))[1]
                    except OSError:
                        return False

                await eventually(again, bool, what=place.daemon.log)
                place.say("help", "three")
                assert await place.until_matrix("help", lambda words: "three" in words) == ["one", "two", "three"]

                # Whoever serves again has the pairs as they are by now, also where nobody serves meanwhile.
                config = place.daemon.config
                config.write_text(config.read_text().replace('name = "help"', 'name = "support"'))
                await eventually(lambda: pairs_of(second), lambda shown: "support" in shown, what=second.log)
                second.send_signal(signal.SIGSTOP)
                await place.daemon.until_ready()
                await place.daemon.stop()
                second.send_signal(signal.SIGCONT)
                await eventually(lambda: pairs_of(second, again=True), bool, what=second.log)
                assert "support" in await pairs_of(second, again=True)

                # What it is told while it does not know yet that it has lost the lease: it does not stand by again.
                place.control.add_fault("hang", method="POST", path="^/webhooks/", count=None, seconds=600)
                await place.tell("help", "held up until it has noticed")
                await place.until_struck()
                await place.daemon.start("--standby", ready=False)
                await eventually(lambda: says(place.daemon, "standing by"), bool, what=place.daemon.log)
                second.send_signal(signal.SIGSTOP)
                await place.daemon.until_ready()
                second.send_signal(signal.SIGTERM)
                second.send_signal(signal.SIGCONT)
                assert await second.exit_status() == 0
                assert "has lost its lease" in second.log()
                place.control.clear_faults()
                await place.daemon.stop()
            finally:
                for one in (second, place.daemon):
                    if one.running:
                        await one.kill()
