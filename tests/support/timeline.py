"""What somebody sees in a room, read on from where it was read last: the whole of it each time costs the homeserver."""

from dataclasses import dataclass, field
from urllib.parse import quote

from relay.demo.matrix_client import Person, Shown, shown
from relay.domain.jsontext import Json

_PAGE = 500


@dataclass(slots=True)
class Timeline:
    """A room as somebody in it sees it."""

    person: Person
    room: str
    _events: list[Json] = field(init=False, default_factory=list)
    # How far it was read; "": not at all.
    _read_to: str = field(init=False, default="")

    async def read(self) -> list[Shown]:
        """Its messages, oldest first."""
        new = await self._new() if self._read_to else []
        # What is redacted has changed further back.
        if not self._read_to or any(event["type"] == "m.room.redaction" for event in new):
            (self._events, self._read_to), new = await self.person.timeline(self.room), []
        known = {event["event_id"] for event in self._events}
        self._events += [event for event in new if event["event_id"] not in known]
        return shown(self._events)

    async def _new(self) -> list[Json]:
        found: list[Json] = []
        while True:
            page = await self._page({"dir": "f", "limit": str(_PAGE), "from": self._read_to})
            found += page["chunk"]
            self._read_to = page.get("end", self._read_to)
            # Another request would only tell that a page that is not full was the last one.
            if len(page["chunk"]) < _PAGE:
                return found

    async def _page(self, query: dict[str, str]) -> Json:
        path = f"client/v3/rooms/{quote(self.room, safe='')}/messages"
        return await self.person.call("GET", path, query=query)
