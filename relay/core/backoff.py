"""How long to wait before the next try."""

import random


class Backoff:
    """Exponential, with full jitter, so that many lanes that failed together do not come back together.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, rng: random.Random, *, first: float = 1.0, most: float = 60.0) -> None:
        self._rng = rng
        self._first = first
        self._most = most
        self.tries = 0

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait now; never less than the platform asked for (`at_least`)."""
        ceiling = min(self._most, self._first * 2.0 ** min(self.tries, 16))
        self.tries += 1
        return max(self._rng.uniform(ceiling / 2, ceiling), at_least or 0.0)

    def reset(self) -> None:
        """It worked: the next failure is a first one again."""
        self.tries = 0
