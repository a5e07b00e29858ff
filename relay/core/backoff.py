"""How long to wait before the next try."""

import math
import random

import structlog

_log = structlog.get_logger(__name__)

_LONGEST_WAIT = 3600.0
"""Seconds that a platform is heeded when it asks for patience: asked too early, it only says so again."""


def asked_for(value: object, *, unit: float = 1.0) -> float | None:
    """The seconds that a platform asks to wait, an hour at most; None where it tells no number of them.

    `unit`: seconds in one of what it counts in.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value) * unit
    except ValueError:
        return None
    except OverflowError:
        seconds = math.inf
    if math.isnan(seconds):
        return None
    if seconds > _LONGEST_WAIT:
        _log.warning("a platform asks for too long a wait", seconds=seconds, waiting=_LONGEST_WAIT)
    return min(max(0.0, seconds), _LONGEST_WAIT)


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
