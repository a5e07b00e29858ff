"""Which process serves which tenant, as each decides for itself."""

import asyncio
import gc
import os
import random
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.config.settings import Settings, WebSettings
from relay.core.clock import Backoff
from relay.errors import ConfigurationError, Mistake
from relay.store.lease import Holder
from relay.tenants import _STARTS_AT_ONCE, Decision, Tenant, Tenants, decide
from tests.support.logs import captured_logs
from tests.support.patience import PATIENCE
from tests.support.stack import eventually

NAMES = [f"tenant {number}" for number in range(7)]


def test_one_alone_takes_all() -> None:
    assert sorted(decide("a", {"a": 0}, (), dict.fromkeys(NAMES, 0.0)).take) == NAMES


def test_each_takes_what_makes_them_equal_and_others_than_its_neighbour() -> None:
    free = dict.fromkeys(NAMES, 0.0)
    takes = [decide(me, dict.fromkeys("abc", 0), (), free).take for me in "abc"]
    assert [len(take) for take in takes] == [3, 2, 2]
    assert len({take[0] for take in takes}) > 1


def test_what_nobody_takes_for_a_while_is_taken_by_whoever_sees_it() -> None:
    workers, mine = {"a": 5, "b": 0}, NAMES[:5]
    assert decide("a", workers, mine, dict.fromkeys(NAMES[5:], 1.0)) == Decision()
    assert sorted(decide("a", workers, mine, dict.fromkeys(NAMES[5:], 60.0)).take) == NAMES[5:]


def test_one_that_has_too_many_gives_one_where_another_has_too_few() -> None:
    assert decide("a", {"a": 4, "b": 3}, NAMES[:4], {}) == Decision()
    assert decide("a", {"a": 5, "b": 2}, NAMES[:5], {}).give == "tenant 4"
    assert decide("b", {"a": 5, "b": 2}, NAMES[5:], {}) == Decision()
    assert [decide(me, {"a": 3, "b": 3, "c": 1}, NAMES[:3], {}).give for me in "ab"] == [None, "tenant 2"]


def test_processes_that_come_and_go_settle_with_equal_shares_and_nobody_left_out() -> None:
    rng = random.Random(1)
    for _ in range(300):
        tenants = [str(number) for number in range(rng.randrange(1, 30))]
        held: dict[str, set[str]] = {"first": set()}
        for step in range(4):
            for _ in range(rng.randrange(3)):
                held[f"{step} {rng.random()}"] = set()
            if len(held) > 1 and rng.random() < 0.5:
                del held[rng.choice(sorted(held))]
            settle(held, tenants)
            counts = sorted(map(len, held.values()))
            assert sorted(name for mine in held.values() for name in mine) == sorted(tenants)
            assert counts[-1] - counts[0] <= 1, counts


def settle(held: dict[str, set[str]], tenants: list[str]) -> None:
    """Let each look again and again, one after the other, until nothing changes any more."""
    for _ in range(10 * len(tenants) + 10):
        changed = False
        for me, mine in held.items():
            taken = set[str]().union(*held.values())
            free = {name: 0.0 for name in tenants if name not in taken}
            decision = decide(me, {one: len(its) for one, its in held.items()}, mine, free)
            mine |= set(decision.take)
            mine -= {decision.give}
            changed = changed or decision != Decision()
        if not changed:
            return
    raise AssertionError(f"it never settles: {held}")


async def test_a_tenant_that_is_stopped_twice_is_not_interrupted_while_it_ends() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.set()

    tenant = Tenant(name="a", path=Path("a.toml"), backoff=Backoff(random.Random()), task=asyncio.create_task(serve()))
    await begun.wait()
    for _ in range(2):
        tenant.stop()
        await asyncio.sleep(0)
    may_end.set()
    assert tenant.task is not None
    await asyncio.wait((tenant.task,))
    assert ended.is_set()


async def test_so_many_start_at_a_time_and_one_that_has_ended_lets_the_next_one_start(tmp_path: Path) -> None:
    # Two hundred at once kept each other's leases from being renewed in time, and then nobody could send.
    may_end, begun, collected = asyncio.Event(), list[str](), gc.get_threshold()

    def load(name: str) -> Settings:
        begun.append(name)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(PATIENCE)
        raise ConfigurationError((Mistake("here", "enough seen", "nothing"),))

    loop = asyncio.get_running_loop()
    names = [str(number) for number in range(20)]
    for name in names:
        (tmp_path / f"{name}.toml").touch()
    tenants = made(tmp_path, load, names, Register())

    async def started() -> int:
        return len(begun)

    for _ in range(3):
        await tenants._look()
    # The others are free for other processes.
    tasks = [one.task for one in tenants._running() if one.task is not None]
    assert len(tasks) == _STARTS_AT_ONCE
    await eventually(started, lambda number: number >= min(len(tasks), (os.cpu_count() or 1) + 4))  # threads that load
    assert len(begun) <= _STARTS_AT_ONCE
    assert gc.get_threshold() != collected, "each tenth of them would be looked through for garbage"
    may_end.set()
    await asyncio.gather(*tasks, *tenants._starts)
    await tenants._look()
    await asyncio.gather(*(one.task for one in tenants._running() if one.task is not None))
    assert sorted(begun) == sorted(names)

    async def threshold() -> tuple[int, int, int]:
        return gc.get_threshold()

    # Since Python 3.12 `gather` does not wait where all have ended: what they call when they end comes after it.
    await eventually(threshold, lambda now: now == collected)


async def test_the_next_ones_start_as_soon_as_others_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.tenants._LOOK_SECONDS", 10 * PATIENCE)
    begun: list[str] = []

    def load(name: str) -> Settings:
        begun.append(name)
        raise ConfigurationError((Mistake("here", "enough seen", "nothing"),))

    async def started() -> int:
        return len(begun)

    names = [str(number) for number in range(2 * _STARTS_AT_ONCE + 1)]
    for name in names:
        (tmp_path / f"{name}.toml").touch()
    looks = asyncio.create_task(made(tmp_path, load, names, Register())._look_on())
    await eventually(started, lambda number: number == len(names))
    looks.cancel()


async def test_one_that_is_stopped_before_its_task_has_begun_is_not_counted_as_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.tenants._START_SECONDS", 10 * PATIENCE)
    tenants = made(tmp_path, never, ["a"], Register())
    await tenants._look()
    (tenant,) = tenants._running()
    tenant.stop()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*tenants._starts)
    assert not tenants._running()


@dataclass(slots=True)
class Register:
    """Who is there, in the order in which it is asked and told."""

    id: str = "me"
    calls: list[str] = field(default_factory=list)
    # It never answers what it is told.
    silent: bool = False

    async def beat(self, held: int) -> Mapping[str, int]:
        self.calls.append(f"I serve {held}")
        if self.silent:
            await asyncio.Event().wait()
        return {self.id: held}

    async def holders(self, tenants: Collection[str]) -> Mapping[str, Holder | None]:
        self.calls.append("who serves what")
        return dict.fromkeys(tenants)

    async def leave(self) -> None:
        self.calls.append("I have ended")
        if self.silent:
            await asyncio.Event().wait()


async def test_one_says_that_it_has_more_before_it_takes_them(tmp_path: Path) -> None:
    # Otherwise the one that gave it up sees it served, and the other one still with too few: it would give one more.
    register = Register()

    def load(name: str) -> Settings:
        register.calls.append(f"begin with {name}")
        raise ConfigurationError((Mistake("here", "enough seen", "nothing"),))

    tenants = made(tmp_path, load, ["a"], register)
    await tenants._look()
    tasks = [one.task for one in tenants._running() if one.task is not None]
    await asyncio.gather(*tasks)
    assert register.calls == ["who serves what", "I serve 0", "I serve 1", "begin with a"]


def never(name: str) -> Settings:
    """Load a tenant of which there is none."""
    raise AssertionError(name)


async def test_it_ends_where_the_store_tells_nothing(tmp_path: Path) -> None:
    register, told = Register(silent=True), asyncio.Event()
    tenants = made(tmp_path, never, [], register)
    tenants.on_stop = told.set
    running = asyncio.create_task(tenants.run())

    async def calls() -> list[str]:
        return register.calls

    with captured_logs() as lines:
        await eventually(calls, lambda they: they == ["who serves what", "I serve 0"])
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await running
    assert register.calls == ["who serves what", "I serve 0", "I have ended"]
    assert told.is_set()
    assert lines[0]["event"] == "there are no tenants, so nothing is mirrored"


def made(folder: Path, load: Callable[[str], Settings], names: Sequence[str], register: Register) -> Tenants:
    """Tenants of these names."""
    return Tenants(
        files=lambda: {name: folder / f"{name}.toml" for name in names},
        load=load,
        hide=lambda secrets: None,
        name_channels=lambda name_of, tenant: None,
        workers=register,
        web=WebSettings(listen=""),
    )
