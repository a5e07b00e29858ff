"""Snowflakes: https://discord.com/developers/docs/reference#snowflakes."""

from collections.abc import Callable

DISCORD_EPOCH_MS = 1_420_070_400_000


class Snowflakes:
    """Mints IDs that rise strictly, whatever the clock does. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        """A new ID, made now."""
        candidate = (int(self._clock() * 1000) - DISCORD_EPOCH_MS) << 22
        self._last = max(candidate, self._last + 1)
        return self._last


def timestamp_of(snowflake: int) -> float:
    """When the ID was made, in seconds since 1970."""
    return ((snowflake >> 22) + DISCORD_EPOCH_MS) / 1000


def at(seconds: float) -> int:
    """The lowest ID that can have been made at a time, in seconds since 1970."""
    return (int(seconds * 1000) - DISCORD_EPOCH_MS) << 22
