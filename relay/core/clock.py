"""Real time."""

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """`core.ports.Clock` as the machine has it."""

    def now(self) -> datetime:
        """The time of day."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
