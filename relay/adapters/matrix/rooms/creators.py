"""Who made a room: the one piece of its state that a sync of ours may lack.

A filter by room hides the `m.room.create` of a room of version 12 from a sync, because that event has no room ID of
its own (ran, Synapse 1.163); and from that version on its creators stand above all power levels.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.rooms.declared import DeclaredRooms

_log = structlog.get_logger(__name__)

_ASKED_AT_ONCE = 8


class Creators:
    """Asks once for each room that is new to us."""

    def __init__(self, api: Api, rooms: DeclaredRooms) -> None:
        self._api = api
        self._rooms = rooms

    async def learn(self, room_ids: Iterable[str]) -> None:
        """Returns once the creators of these rooms are known, or cannot be had now."""
        unknown = deque(room_id for room_id in room_ids if not self._rooms.state(room_id).created)

        async def ask() -> None:
            while unknown:
                await self._ask(unknown.popleft())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_ASKED_AT_ONCE, len(unknown))):
                group.create_task(ask(), name="matrix creators")

    async def _ask(self, room_id: str) -> None:
        path = ("rooms", room_id, "state", "m.room.create")
        try:
            answer = await self._api.call("GET", *path, query={"format": "event"})
        except (Refused, Unreachable) as error:
            # Until the next look the creator has no more rights than others.
            _log.warning("the creator of a room is not known", room=room_id, reason=str(error))
            return
        # A server that does not know `format` answers with the content alone.
        event = answer if isinstance(answer.get("content"), dict) else {"content": answer}
        self._rooms.state(room_id).apply(event | {"type": "m.room.create", "state_key": ""})
