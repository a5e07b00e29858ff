"""One daemon per store, whatever becomes of the one before."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from relay.errors import StoreHeld
from relay.store.lease import LENGTH, Holder, SqlLeases, claim_of, hold, is_running
from relay.store.lock_file import LockFile
from relay.store.migrate import downgrade
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.patience import PATIENCE


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._start = datetime.now(UTC)

    def now(self) -> datetime:
        """The time of day."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Seconds."""
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved that far."""
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._seconds + seconds, woken))
        await woken

    async def move(self, seconds: float) -> None:
        """Let time pass, a second at a time; what is due wakes up."""
        for _ in range(int(seconds)):
            self._seconds += 1
            for until, woken in self._sleepers:
                if until <= self._seconds and not woken.done():
                    woken.set_result(None)
            self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
            await asyncio.sleep(0.01)

    async def move_until(self, task: asyncio.Task[Any]) -> None:
        """Let time pass until `task` is done, two minutes at most."""
        for _ in range(120):
            if task.done():
                return
            await self.move(1)
        task.cancel()
        pytest.fail("not done within two minutes")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def second(url: str) -> AsyncIterator[SqlStore]:
    """What another daemon opens."""
    opened = await open_store(url)
    yield opened
    await opened.close()


def process(**changes: object) -> Holder:
    """This process as a holder, changed."""
    return replace(Holder.this_process("other", datetime.now(UTC)), **changes)  # type: ignore[arg-type]


async def put(store: SqlStore, holder: Holder) -> None:
    """The lease is that holder's."""
    async with store.write() as unit:
        await SqlLeases(unit.transaction).put(holder)


async def holder_of(store: SqlStore) -> Holder | None:
    """Who has the lease."""
    async with store.read() as unit:
        return await SqlLeases(unit.transaction).get()


async def test_a_second_daemon_is_told_who_holds_the_store(
    store: SqlStore, second: SqlStore, clock: ManualClock
) -> None:
    async with hold(store, clock) as lease:
        with pytest.raises(StoreHeld) as caught:
            async with hold(second, clock):
                pytest.fail("both hold it")
    message = str(caught.value)
    assert f"process {os.getpid()} on {socket.gethostname()}" in message
    assert f"{lease.holder.since:%Y-%m-%d %H:%M:%S} UTC" in message
    assert caught.value.exit_status == 3


async def test_a_lease_that_was_given_back_is_free(store: SqlStore, second: SqlStore, clock: ManualClock) -> None:
    async with hold(store, clock):
        pass
    assert await holder_of(second) is None
    async with hold(second, clock):
        pass


async def test_it_is_given_back_when_the_block_raises(store: SqlStore, clock: ManualClock) -> None:
    with pytest.raises(KeyError):
        async with hold(store, clock):
            raise KeyError("x")
    assert await holder_of(store) is None


async def test_a_lease_is_kept_without_a_write(store: SqlStore, clock: ManualClock) -> None:
    async with hold(store, clock) as lease:
        written, beat = files(store), LockFile(store.path).last_beat()
        await clock.move(2 * LENGTH.total_seconds())
        assert lease.valid()
        assert files(store) == written
        assert LockFile(store.path).last_beat() != beat


def files(store: SqlStore) -> list[bytes]:
    """What the store has on the disk."""
    return [store.path.with_name(f"{store.path.name}{suffix}").read_bytes() for suffix in ("", "-wal")]


@pytest.mark.parametrize("step", [timedelta(minutes=5), timedelta(days=400), timedelta(days=-400)], ids=str)
async def test_a_step_of_the_wall_clock_takes_the_lease_from_nobody(
    url: str, store: SqlStore, second: SqlStore, clock: ManualClock, step: timedelta
) -> None:
    async with hold(store, clock) as lease:
        other = ManualClock()
        other._start += step
        with pytest.raises(StoreHeld):
            async with hold(second, other):
                pytest.fail("both hold it")
        await put(second, replace(lease.holder, renewed_at=lease.holder.renewed_at - step))
        with pytest.raises(StoreHeld):
            await asyncio.to_thread(downgrade, url, "base")


async def test_a_process_in_another_container_keeps_the_lease_while_it_lives(
    store: SqlStore, second: SqlStore, clock: ManualClock
) -> None:
    """Nothing tells of that process but its lock, and it has not moved for a day."""
    boot, _, tick = process().started.split(" ")
    elsewhere = process(host="container", started=f"{boot} pid:[1] {tick}", renewed_at=clock.now() - timedelta(days=1))
    await put(store, elsewhere)
    with LockFile(store.path) as lock:
        assert lock.take()
        lock.sign("other")
        assert is_running(elsewhere, store.path)
        taking = asyncio.create_task(take(second, clock))
        await clock.move_until(taking)
        with pytest.raises(StoreHeld, match="container"):
            await taking
        assert clock.monotonic() < LENGTH.total_seconds()
    assert not is_running(elsewhere, store.path)
    before = clock.monotonic()
    await take(second, clock)  # it has ended: at once
    assert clock.monotonic() == before


async def test_a_holder_with_another_boot_id_runs_while_its_lock_is_taken(store: SqlStore) -> None:
    # A hardened service has a /proc of its own, in which a container's host may show another boot.
    own = Holder.this_process("other", datetime.now(UTC))
    boot, _, rest = own.started.partition(" ")
    there = replace(own, started=f"{boot[::-1]} {rest}")
    with LockFile(store.path) as lock:
        assert lock.take()
        lock.sign("other")
        assert is_running(there, store.path)
    assert not is_running(there, store.path)


async def take(store: SqlStore, clock: ManualClock) -> None:
    """Hold the lease for a moment."""
    async with hold(store, clock):
        pass


async def test_a_lock_file_that_somebody_removed_is_made_again(store: SqlStore, clock: ManualClock) -> None:
    async with hold(store, clock):
        LockFile(store.path).path.unlink()
        async with asyncio.timeout(PATIENCE):
            while not LockFile(store.path).is_taken():
                await clock.move(1)


def test_a_lock_that_could_not_be_taken_again_is_taken_at_the_next_beat(tmp_path: Path) -> None:
    with LockFile(tmp_path / "relay.db") as lock:
        assert lock.take()
        lock.close()
        lock.path.touch()
        lock.beat("me")
        assert LockFile(tmp_path / "relay.db").is_taken()
        assert lock.signed_by("me")


async def test_the_lease_of_a_killed_process_is_taken_over_at_once(store: SqlStore, clock: ManualClock) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    await put(store, process(pid=ended.pid, started=process().started))
    async with hold(store, clock) as lease:
        assert (await holder_of(store)) == lease.holder


async def test_a_process_id_that_was_used_again_does_not_keep_the_lease(store: SqlStore, clock: ManualClock) -> None:
    boot, namespace, _ = process().started.split(" ")
    await put(store, process(started=f"{boot} {namespace} 1"))
    async with hold(store, clock) as lease:
        assert (await holder_of(store)) == lease.holder


def test_an_unreaped_child_counts_as_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and left as a zombie
        assert process(pid=child.pid).process_state() == "ended"


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "other.example"}, {"started": "boot pid:[1] 5"}],
    ids=["another machine", "another container with the same name"],
)
async def test_a_holder_elsewhere_is_waited_for_until_its_lease_runs_out(
    store: SqlStore, clock: ManualClock, elsewhere: dict[str, str]
) -> None:
    await put(store, process(renewed_at=clock.now(), **elsewhere))

    taking = asyncio.create_task(take(store, clock))
    await clock.move_until(taking)
    await taking
    # Not later than that, either; but the clock here runs on while the disk is slow.
    assert clock.monotonic() >= LENGTH.total_seconds()


async def test_a_holder_elsewhere_that_shows_itself_keeps_it(store: SqlStore, clock: ManualClock) -> None:
    elsewhere = process(host="other.example", started="another-boot pid:[1] 5")
    await put(store, elsewhere)

    taking = asyncio.create_task(take(store, clock))
    await clock.move(4)
    LockFile(store.path).beat("other")
    await clock.move_until(taking)
    assert clock.monotonic() < LENGTH.total_seconds()
    with pytest.raises(StoreHeld, match=r"other\.example"):
        await taking


async def test_a_dead_lease_from_the_future_is_free_in_the_end(store: SqlStore, clock: ManualClock) -> None:
    await put(store, process(host="other.example", started="", renewed_at=clock.now() + timedelta(days=1)))
    taking = asyncio.create_task(take(store, clock))
    await clock.move_until(taking)
    await taking


async def test_who_lost_the_lease_writes_nothing_more_and_is_stopped(
    store: SqlStore, second: SqlStore, clock: ManualClock
) -> None:
    lost = asyncio.Event()

    async def daemon() -> None:
        async with hold(store, clock) as lease:
            await put(second, process(host="usurper.example"))
            with pytest.raises(StoreHeld, match=r"usurper\.example has it"):
                async with store.write() as unit:
                    await unit.key_values.put("a", "b")
            assert lease.valid()  # it cannot know by the clock alone
            lost.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(daemon())
    await lost.wait()
    await clock.move_until(running)
    assert clock.monotonic() < LENGTH.total_seconds()
    with pytest.raises(StoreHeld, match="lost its lease"):
        await running
    holder = await holder_of(second)
    assert holder is not None
    assert holder.host == "usurper.example"
    async with second.read() as unit:
        assert await unit.key_values.get("a") is None


async def test_a_holder_that_was_suspended_for_long_knows(store: SqlStore, clock: ManualClock) -> None:
    async with hold(store, clock) as lease:
        clock._seconds += LENGTH.total_seconds()
        assert not lease.valid()


async def test_a_cancelled_block_is_cancelled_and_gives_the_lease_back(store: SqlStore, clock: ManualClock) -> None:
    entered = asyncio.Event()

    async def daemon() -> None:
        async with hold(store, clock):
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(daemon())
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await holder_of(store) is None


async def test_no_migration_while_a_daemon_runs(url: str, store: SqlStore, clock: ManualClock) -> None:
    async with hold(store, clock):
        with pytest.raises(StoreHeld):
            await asyncio.to_thread(downgrade, url, "base")


def test_a_holder_of_which_nothing_was_written_down() -> None:
    assert process(started="", pid=os.getpid()).process_state() == "unknown"
    assert process(started="", pid=2**22 + 1).process_state() == "ended"
    assert process().process_state() == "alive"
    _, namespace, tick = process().started.split(" ")
    assert process(started=f"another-boot {namespace} {tick}").process_state() == "ended"


async def test_a_copy_with_the_same_number_on_another_file_system_is_told_from_the_store(tmp_path: Path) -> None:
    # One of them is in memory, mostly, and one is not.
    folders = [folder for folder in (tmp_path, Path("/dev/shm"), Path("/var/tmp")) if folder.is_dir()]
    by_system = {folder.stat().st_dev: folder for folder in folders}
    if len(by_system) < 2:
        pytest.skip("there is only one file system")
    me, systems = Holder.this_process("token", datetime.now(UTC)), set[str]()
    for folder in by_system.values():
        with NamedTemporaryFile(dir=folder) as file:
            place = claim_of(me, SqlStore(Path(file.name))).file
            number, _, system = place.partition(" on ")
            assert number == str(Path(file.name).stat().st_ino)
            systems.add(system)
    assert len(systems) == len(by_system)
