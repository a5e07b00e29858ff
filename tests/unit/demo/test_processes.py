"""The demo's processes and its directory never outlive it, however it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay.demo.processes import ChildProcess, temporary_directory
from tests.support.patience import PATIENCE

SLEEPER = "import os, time; open('pid', 'w').write(str(os.getpid())); os.replace('pid', 'ready'); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def leashed(folder: Path, code: str) -> ChildProcess:
    process = ChildProcess(
        [sys.executable, "-c", code], log=folder / "log", directory=folder, environ={"PATH": os.environ["PATH"]}
    )
    process.start()
    return process


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


async def test_its_exit_status_and_output_are_kept(tmp_path: Path) -> None:
    process = leashed(tmp_path, "import sys; print('one'); print('two'); sys.exit(7)")
    deadline = time.monotonic() + PATIENCE
    while process.exit_status is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert process.exit_status == 7
    assert await process.stop(1.0) == 7
    assert process.last_lines(1) == "two"


@pytest.mark.parametrize(
    ("code", "grace", "number"), [(SLEEPER, PATIENCE, signal.SIGTERM), (STUBBORN, 0.2, signal.SIGKILL)]
)
async def test_it_is_asked_to_stop_and_then_made_to(tmp_path: Path, code: str, grace: float, number: int) -> None:
    process = leashed(tmp_path, code)
    pid = int(await asyncio.to_thread(wait_for, tmp_path / "ready"))
    assert await process.stop(grace) == 128 + number
    assert gone(pid)
    assert await process.stop(grace) == 128 + number


def test_both_go_when_their_owner_is_killed(tmp_path: Path) -> None:
    owner = f"""
import os, pathlib, sys, time
from relay.demo.processes import ChildProcess, temporary_directory
with temporary_directory() as directory:
    here = pathlib.Path({str(tmp_path)!r})
    (directory / "file").touch()
    process = ChildProcess([sys.executable, "-c", {SLEEPER!r}], log=here / "log", directory=here, environ={{}})
    process.start()
    print(directory, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        pid = int(wait_for(tmp_path / "ready"))
        process.kill()
    deadline = time.monotonic() + PATIENCE
    while directory.exists() or not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_directory_goes_with_its_block() -> None:
    with temporary_directory() as directory:
        (directory / "inner").mkdir()
        assert directory.stat().st_mode & 0o077 == 0
    assert not directory.exists()
