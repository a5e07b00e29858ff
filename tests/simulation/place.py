"""Where the store of a history is: in a file, or on a server."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tests.simulation.loop import VirtualLoop


class Life(Protocol):
    """What one life of the process has of the store."""

    def die(self) -> None:
        """The process is gone: what was not committed is rolled back, and it writes nothing more."""
        ...


class Place(Protocol):
    """A migrated store. SQL is for whoever looks at it from outside, with `?` for values."""

    @property
    def url(self) -> str:
        """What the process is told."""
        ...

    @property
    def takes_any_bytes(self) -> bool:
        """Whether a damaged row may hold what is no text."""
        ...

    @property
    def troubles(self) -> dict[str, int]:
        """What went wrong with it, and how often."""
        ...

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement; what it returns."""
        ...

    def change(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each of `rows`."""
        ...

    def life(self, rng: random.Random, loop: VirtualLoop) -> AbstractContextManager[Life]:
        """While this lasts, the process in `loop` can use the store."""
        ...
