"""For all tests: their marks, and how Hypothesis chooses. Where everything has to run, nothing may be skipped."""

import asyncio
import gc
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling

from relay.demo.homeserver import Homeserver
from tests.support.homeserver import ForkedHomeserver
from tests.support.postgresql import IN_MEMORY, announce_folder

FOLDERS = {
    "unit": "pure and quick",
    "contract": "one suite per port, some against a real homeserver",
    "e2e": "the whole daemon as a process",
}
"""The folders of tests; each test has its folder's name as a marker."""

# Containers and CI often set this, and in a new environment each worker and daemon would compile all libraries again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Files that a test leaves are nobody's, and each write of a store or a homeserver waits for the disk: in memory, where
# there is enough of it. For workers and what tests start, too.
if "TMPDIR" not in os.environ and os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > 2 << 30:
    tempfile.tempdir = os.environ["TMPDIR"] = str(IN_MEMORY)

# A shell starts what it leaves in the background with SIGINT ignored, and all below it would not know Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the example.
settings.register_profile("quiet", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time: a suite must not turn red by chance.
settings.register_profile("suite", settings.get_profile("quiet"), derandomize=True, max_examples=20)
# Others each time: `python -m tests.properties`.
settings.register_profile("search", settings.get_profile("quiet"), print_blob=True, max_examples=50)
settings.load_profile("suite")


# What is imported and collected stays to the end: looked through again and again, it was a quarter of the time until
# the first test.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Markers of our own, and which folder the PostgreSQL of this run has, before workers start."""
    announce_folder()
    words = "crosses(row, *directions): shows a row of README's table of what crosses, from one end to the other"
    config.addinivalue_line("markers", words)
    config.addinivalue_line("markers", "slow: starts processes or takes a second; left out of the quick part")
    config.addinivalue_line("markers", "last: behind the others of its file, for which it makes more to do")
    config.addinivalue_line("markers", "virtual_time: waits for nothing, its clock jumps (tests/unit/media)")
    for name, what in FOLDERS.items():
        config.addinivalue_line("markers", f"{name}: {what} (all of tests/{name})")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test gets its folder's name as a marker. Long tests come first: no worker is left alone with one."""
    here, first = Path(__file__).parent, {"e2e": 0, "contract": 1}
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    folders = {path: path.relative_to(here).parts[0] for path in files}
    for item in items:
        if folders[item.path] in FOLDERS:
            item.add_marker(folders[item.path])
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (
            first.get(folders[item.path], 2),
            item.path not in slow,
            files[item.path],
            item.get_closest_marker("last") is not None,
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: the garbage collector does not look through them again and again."""
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


class _Scheduling(LoadScopeScheduling):
    """Hands out long tests one by one, short ones by the file, and those together for whom something is started."""

    _BY_FILE = re.compile(
        r"tests/(unit/|e2e/test_(crossing_|daemon|demo|files|ghosts|rest_of_messages|check|mistakes))"
    )

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if self._BY_FILE.match(nodeid) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """How tests are spread over workers, unless `--dist` asks for another way."""
    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False  # else files with many tests would come first
    return _Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)  # without xdist nobody asks
def pytest_xdist_auto_num_workers() -> int:
    """How many workers `-n auto` starts: the tests of the whole daemon mostly wait.

    Four on two processors left a quarter of them idle: 830 s of a processor in 570 s.
    """
    return (os.cpu_count() or 1) * 5 // 2


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> "pytest.TestReport":  # type: ignore[misc]
    """A skipped test fails where `TESTS_SKIP_NOTHING` is set, as it is in CI."""
    report: pytest.TestReport = yield
    if report.skipped and os.environ.get("TESTS_SKIP_NOTHING"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def homeserver() -> Iterator[Homeserver]:
    """One real Synapse for all tests of a worker; each makes accounts and rooms of its own, and leaves it running."""
    server = ForkedHomeserver()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())
