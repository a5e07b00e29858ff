"""Everything that happened, in order, as a viewer who may see everything gets it."""

import asyncio
from collections import deque

from relay.sandbox.world import render
from relay.sandbox.world.dispatch import OMNISCIENT, Dispatch
from relay.sandbox.world.models import Json
from relay.sandbox.world.state import State

KEPT = 20_000


class Journal:
    """The last events; each has a number `seq` that rises by one."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._events: deque[Json] = deque(maxlen=KEPT)
        self._changed = asyncio.Event()
        self.last = 0
        state.listeners.append(self._note)

    def _note(self, dispatch: Dispatch) -> None:
        if dispatch.user_id is not None:  # only one bot is told, of something that did not happen now
            return
        data = dispatch.render(OMNISCIENT)
        channel = data.get("channel_id") or (str(dispatch.channel.id) if dispatch.channel else None)
        self.add(dispatch.event, data, str(dispatch.guild_id), channel)

    def add(self, event: str, data: Json, guild: str | None = None, channel: str | None = None) -> None:
        """Note what happened; also what is no event of Discord's."""
        self.last += 1
        self._events.append(
            {
                "seq": self.last,
                "at": render.iso(self._state.clock()),
                "event": event,
                "guild_id": guild,
                "channel_id": channel,
                "data": data,
            }
        )
        self._changed.set()
        self._changed = asyncio.Event()

    def after(self, seq: int, *, event: str = "", channel: str = "") -> list[Json]:
        """The events behind a number; only those of one kind, or of one channel, if asked for."""
        found = []
        for entry in reversed(self._events):
            if entry["seq"] <= seq:
                break
            if event in {"", entry["event"]} and channel in {"", entry["channel_id"]}:
                found.append(entry)
        return found[::-1]

    async def wait(self, seq: int, timeout: float, *, event: str = "", channel: str = "") -> list[Json]:
        """The same; while there are none, wait for up to `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            changed = self._changed
            found = self.after(seq, event=event, channel=channel)
            left = deadline - loop.time()
            if found or left <= 0:
                return found
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return []
