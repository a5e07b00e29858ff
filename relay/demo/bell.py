"""Waking whoever waits for something to happen."""

import asyncio


class Bell:
    """Rings for all who hold an event of `next`; who looks first and waits then takes the event before looking."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something happened."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Set at the next ring."""
        return self._event
