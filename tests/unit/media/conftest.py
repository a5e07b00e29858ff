"""The loops of the tests of files: some run in virtual time, in which nothing is waited for."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, TypeVarTuple

import pytest

from tests.simulation.loop import VirtualLoop

T = TypeVar("T")
A = TypeVarTuple("A")


class _WithoutThreads(VirtualLoop):
    """Does itself what is meant for a thread: a clock that jumps does not wait for one."""

    def run_in_executor(self, executor: Any, func: Callable[[*A], T], *args: *A) -> asyncio.Future[T]:
        async def work() -> T:
            return func(*args)

        return self.create_task(work())


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests that are marked `virtual_time` run on the virtual loop."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": lambda: _WithoutThreads(1_000.0)}
    return {"real": asyncio.new_event_loop}
