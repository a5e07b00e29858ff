"""What the daemon and the command line do without: most of the daemon's memory, and of its start, are its imports."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.e2e.test_cli import ROOT, environment
from tests.support import preloaded
from tests.support.patience import PATIENCE
from tests.support.stack import eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Each with the modules below it.
NOT_IN_THE_DAEMON = {
    "PIL",  # only in the process that draws
    "alembic",  # only where a migration is due
    "asyncpg",  # only where the store is a PostgreSQL
    "difflib",
    "multiprocessing",
    "pydantic",  # only in the processes that read the configuration
    "pydantic_core",
    "pydantic_settings",
    "pygments",
    "rich",
    "structlog",
    "regex",  # only for texts and names that are too long
    "rlottie_python",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "relay.adapters.discord.survey",  # only for `relay check`
    "relay.adapters.matrix.survey",
    "relay.adapters.matrix.survey_room",
    "relay.cli.commands",
    "relay.cli.setup",
    "relay.config.editing",
    "relay.config.loading",
    "relay.demo",
    "relay.sandbox",
    "relay.setup",
    "tomlkit",
    "typer",
}
NOT_IN_HELP = {"aiohttp", "alembic", "discord", "nio", "pydantic", "relay.domain", "sqlalchemy"}


def loaded(log: str) -> set[str]:
    """The modules that `-X importtime` names, and the packages above them."""
    names = {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}
    return {name.rsplit(".", above)[0] for name in names for above in range(name.count(".") + 1)}


async def test_the_daemon_loads_only_what_it_needs(
    homeserver: Homeserver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    async with stack(folder, homeserver) as place:

        async def log() -> str:
            return place.daemon.log(1_000_000)

        await place.daemon.start()
        place.say("help", "from Discord")
        await place.until_matrix("help", lambda words: "from Discord" in words)
        await place.tell("help", "from Matrix")
        await place.until_discord("help", lambda words: "from Matrix" in words)
        assert "prometheus_client" not in loaded(place.daemon.log(1_000_000))  # only where somebody asks for metrics
        for path in ("/", "/metrics", "/healthz"):
            assert (await place.daemon.get(path))[0] == 200
        place.daemon.send_signal(signal.SIGHUP)
        await eventually(log, lambda lines: "configuration read again" in lines)
        modules = loaded(place.daemon.log(1_000_000))
    assert {"discord", "nio", "sqlalchemy", "relay.app"} <= modules
    assert modules & NOT_IN_THE_DAEMON == set()
    # The other tests' daemons are forks of a process that has loaded this much, and no more.
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {', '.join(preloaded.LOADED)}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert loaded(done.stderr) - modules == set()


async def test_what_the_daemon_imports_takes_less_without_docstrings() -> None:
    # 5 MiB of 95 where this was written; most of it is the libraries'.
    whole = await asyncio.to_thread(resident, "")
    without = await asyncio.to_thread(resident, "import_without_docstrings()")
    assert without < whole - 3 * 2**20


def resident(first: str) -> int:
    """The bytes of a process that has done this and imported what the daemon imports."""
    script = f"""
import os
from relay.memory import import_without_docstrings, settle
{first}
import {", ".join(preloaded.LOADED)}
settle()
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


async def test_a_fork_is_a_process_of_its_own(folder: Path) -> None:
    told = await preloaded.run("db", "check", "--config", str(folder / "none.toml"))
    real = subprocess.run(
        [sys.executable, "-m", "relay", "db", "check", "--config", folder / "none.toml"], capture_output=True, text=True
    )
    assert told == (real.returncode, real.stdout, real.stderr)
    with (folder / "log").open("wb") as log:
        process = await preloaded.start("directory", "--help", output=log)
    assert process.returncode is None or process.returncode == 0
    assert await process.wait() == process.returncode == 0
    process.send_signal(9)  # it has ended: this reaches nobody


async def test_a_fork_ends_with_who_asked_for_it(homeserver: Homeserver, folder: Path) -> None:
    async with stack(folder, homeserver) as place:
        script = folder / "asks.py"
        script.write_text(_ASKS.format(config=str(place.daemon.config), log=str(folder / "relay.log")))
        asker = await asyncio.create_subprocess_exec(
            sys.executable, script, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
        )
        assert asker.stdout is not None
        daemon = int(await asker.stdout.readline())
        watched = os.pidfd_open(daemon)
        asker.kill()
        await asker.wait()
        ended, _, _ = await asyncio.to_thread(select.select, [watched], [], [], PATIENCE)
        os.close(watched)
    assert ended == [watched]


_ASKS = """
import asyncio
from pathlib import Path
from tests.support import preloaded

async def main():
    with Path({log!r}).open("wb") as log:
        process = await preloaded.start("run", "--config", {config!r}, output=log)
    print(process.pid, flush=True)
    await process.wait()

with preloaded.preloaded():
    asyncio.run(main())
"""


async def test_help_loads_no_platform_and_no_store(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "relay", "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    for command in ("run", "status", "dead", "db"):
        assert f" {command} " in done.stdout
    modules = loaded(done.stderr)
    assert {"relay.cli.commands", "typer"} <= modules
    assert modules & NOT_IN_HELP == set()
