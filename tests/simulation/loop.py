"""An event loop whose time is virtual: nothing is waited for, the clock jumps to whatever is due next."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Connect = Callable[[Callable[[], asyncio.BaseProtocol]], Awaitable[tuple[asyncio.Transport, asyncio.BaseProtocol]]]


class Stuck(Exception):
    """Every task waits, and nothing will ever wake one: a lost wake-up."""


class Undead(Exception):
    """Tasks go on although they were cancelled long ago."""


class _NoSelector(selectors.BaseSelector):
    """Nothing to select from; passing time is the loop's own affair."""

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}
        self.loop: VirtualLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        if self.loop is not None and timeout > 0:
            self.loop.now += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {key.fileobj: key for key in self._keys.values()}


class VirtualLoop(asyncio.SelectorEventLoop):
    """`steps` counts turns: at turn `kill_at` the loop stops dead, at `end_at` it raises `Undead`."""

    def __init__(self, now: float) -> None:
        selector = _NoSelector()
        super().__init__(selector)
        selector.loop = self
        self.now = now
        self.steps = 0
        self.kill_at: int | None = None
        self.end_at: int | None = None
        # What the sockets of a database are here. None: nobody may connect.
        self.connect: Connect | None = None

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            self.stop()
        if self.steps == self.end_at:
            left = (task.get_coro() for task in asyncio.all_tasks(self))
            raise Undead(", ".join(sorted(getattr(coroutine, "__qualname__", str(coroutine)) for coroutine in left)))
        super()._run_once()  # type: ignore[misc]  # not in typeshed: it is the loop's own

    async def create_unix_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        if self.connect is None:
            raise ConnectionRefusedError("nothing is connected here")
        return await self.connect(protocol_factory)
