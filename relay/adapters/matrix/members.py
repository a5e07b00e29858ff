"""The members of a room by name: asked of the homeserver, and remembered for a while."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from relay.adapters.matrix.api.client import Api, Refused, TooLong, Unreachable
from relay.adapters.matrix.identifiers import OwnAccounts
from relay.core.convert.references import folded
from relay.core.offload import Conversions
from relay.core.ports import Clock
from relay.domain.ids import Platform, UserRef
from relay.domain.jsontext import Json, as_dict
from relay.logs import get_logger

_log = get_logger(__name__)

_REMEMBERED_SECONDS = 300.0
_REMEMBERED_AFTER_FAILURE = 60.0
_REQUEST_TIMEOUT = 10.0  # A message waits for the answer.
_MOST_ROOMS = 16
_MOST_NAMES = 60_000  # In all rooms together.
# Some 20,000 members, which keep the thread for conversions busy for a fifth of a second. In larger rooms typed names
# mention nobody; whether a room has become smaller is asked again after an hour.
_MOST_BYTES = 2 * 1024 * 1024
_REMEMBERED_AS_TOO_LARGE = 3600.0


class MemberDirectory:
    """Looks members up by display name."""

    def __init__(self, api: Api, clock: Clock, conversions: Conversions, accounts: OwnAccounts) -> None:
        self._api = api
        self._accounts = accounts
        self._clock = clock
        self._conversions = conversions
        # For each room: until when it is remembered, and its members by folded name.
        self._rooms: OrderedDict[str, tuple[float, Mapping[str, UserRef]]] = OrderedDict()

    async def find(self, room_id: str, names: Iterable[str]) -> Mapping[str, UserRef]:
        """The members whom `names` mean, as far as exactly one other member has that name.

        A name is a display name or a user ID, or the local part of a user ID if it is nobody's display name.
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
            answer = await self._api.call("GET", *path, timeout=_REQUEST_TIMEOUT, most=_MOST_BYTES)
        except TooLong:
            _log.info("room too large for names that are typed", room=room_id)
            seconds = _REMEMBERED_AS_TOO_LARGE
        except (Refused, Unreachable) as error:
            _log.info("members not listed", room=room_id, reason=str(error))
            seconds = _REMEMBERED_AFTER_FAILURE
        else:
            members = await self._conversions.run(_size(answer), unique_names, answer, self._accounts.is_own)
        self._rooms[room_id] = (self._clock.monotonic() + seconds, members)
        self._rooms.move_to_end(room_id)
        while len(self._rooms) > _MOST_ROOMS or self._names_held > _MOST_NAMES:
            self._rooms.popitem(last=False)
        return members

    @property
    def _names_held(self) -> int:
        return sum(len(members) for _, members in self._rooms.values())


def _size(answer: Json) -> int:
    return 256 * len(as_dict(answer.get("joined")))


def unique_names(answer: Json, is_own: Callable[[str], bool]) -> Mapping[str, UserRef]:
    """The members in an answer to `joined_members`, by each folded name that only one of them has. Pure.

    Without the relay's own accounts: who writes a name on the other side means nobody of that side.
    """
    users: dict[str, set[str]] = {}
    local_parts: dict[str, set[str]] = {}
    for user_id, profile in as_dict(answer.get("joined")).items():
        if is_own(user_id):
            continue
        shown = profile.get("display_name") if isinstance(profile, dict) else None
        local_part = user_id[1:].partition(":")[0]
        local_parts.setdefault(folded(local_part), set()).add(user_id)
        name = shown if isinstance(shown, str) and shown.strip() else local_part
        for known_as in {folded(name), folded(user_id), folded(user_id[1:])}:
            users.setdefault(known_as, set()).add(user_id)
    users = local_parts | users
    return {name: UserRef(Platform.MATRIX, min(found)) for name, found in users.items() if len(found) == 1}
