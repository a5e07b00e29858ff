"""Who of a room goes by a name: asked of the homeserver, and remembered for a while."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import structlog

from relay.adapters.matrix.api.client import Api, Json, Refused, TooLong, Unreachable
from relay.core.convert.references import folded
from relay.core.offload import Conversions
from relay.core.ports import Clock
from relay.domain.ids import Platform, UserRef

_log = structlog.get_logger(__name__)

_REMEMBERED_SECONDS = 300.0
# After a failure, and how long a look-up may hold up a message.
_FAILURE_SECONDS = 60.0
_PATIENCE_SECONDS = 10.0
_REMEMBERED_ROOMS = 16
_REMEMBERED_NAMES = 60_000  # In all rooms together.
# Some 20,000 members, which keep the thread for conversions busy for a fifth of a second; in larger rooms nobody is
# called by a name that was typed. That is asked anew after an hour.
_LONGEST_LIST = 2 * 1024 * 1024
_TOO_LONG_SECONDS = 3600.0


class MemberDirectory:
    """Looks members up by display name."""

    def __init__(self, api: Api, clock: Clock, conversions: Conversions) -> None:
        self._api = api
        self._clock = clock
        self._conversions = conversions
        self._rooms: OrderedDict[str, tuple[float, Mapping[str, UserRef]]] = OrderedDict()

    async def named(self, room_id: str, names: Iterable[str]) -> Mapping[str, UserRef]:
        """Those of `names` that exactly one other member of the room has.

        As display name, as user ID, or as local part of it where nobody there is shown under that name.
        """
        members = await self._members(room_id)
        return {wanted: members[wanted] for name in names if (wanted := folded(name)) in members}

    async def _members(self, room_id: str) -> Mapping[str, UserRef]:
        known = self._rooms.get(room_id)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        seconds = _REMEMBERED_SECONDS
        members: Mapping[str, UserRef] = {}
        try:
            path = ("rooms", room_id, "joined_members")
            answer = await self._api.call("GET", *path, timeout=_PATIENCE_SECONDS, most=_LONGEST_LIST)
        except TooLong:
            _log.info("room too large for names that are typed", room=room_id)
            seconds = _TOO_LONG_SECONDS
        except (Refused, Unreachable) as error:
            _log.info("members not listed", room=room_id, reason=str(error))
            seconds = _FAILURE_SECONDS
        else:
            members = await self._conversions.run(_size(answer), unique_names, answer, self._api.user_id)
        self._rooms[room_id] = (self._clock.monotonic() + seconds, members)
        self._rooms.move_to_end(room_id)
        while len(self._rooms) > _REMEMBERED_ROOMS or self._held > _REMEMBERED_NAMES:
            self._rooms.popitem(last=False)
        return members

    @property
    def _held(self) -> int:
        return sum(len(members) for _, members in self._rooms.values())


def _size(answer: Json) -> int:
    joined = answer.get("joined")
    return 256 * len(joined) if isinstance(joined, dict) else 0


def unique_names(answer: Json, me: str) -> Mapping[str, UserRef]:
    """The members that a `joined_members` answer lists, by the names that nobody else there has. Pure."""
    joined = answer.get("joined")
    users: dict[str, set[str]] = {}
    local_parts: dict[str, set[str]] = {}
    for user_id, profile in joined.items() if isinstance(joined, dict) else ():
        if user_id == me:
            continue
        shown = profile.get("display_name") if isinstance(profile, dict) else None
        local_part = user_id[1:].partition(":")[0]
        local_parts.setdefault(folded(local_part), set()).add(user_id)
        name = shown if isinstance(shown, str) and shown.strip() else local_part
        for called in {folded(name), folded(user_id), folded(user_id[1:])}:
            users.setdefault(called, set()).add(user_id)
    users = local_parts | users
    return {name: UserRef(Platform.MATRIX, min(found)) for name, found in users.items() if len(found) == 1}
