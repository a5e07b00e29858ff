"""What an account on a homeserver can see and do: for `relay check`, and to choose rooms from."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from relay.adapters.matrix.allowance import ROOM_TYPE, measure
from relay.adapters.matrix.api.address import correction, look
from relay.adapters.matrix.api.client import Api, Refused, Unreachable
from relay.adapters.matrix.api.session import NEW_TOKEN, LoadSession, MatrixSession, SaveSession
from relay.adapters.matrix.rooms.declared import encrypted_problem, power_problem, removal_reason
from relay.adapters.matrix.rooms.joins import join_problem, lookup_problem
from relay.adapters.matrix.rooms.state import RoomState
from relay.adapters.matrix.sync.response import learn_creators
from relay.config.settings import MatrixSettings
from relay.core.clock import SystemClock
from relay.core.findings import Finding, VisibleChannel
from relay.core.ports import Clock
from relay.domain.ids import Platform
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.domain.pair import Pair
from relay.errors import FatalError, Transient

_SYNC_TIMEOUT = 120.0
_AT_ONCE = 6
# Discord's limit of a file where nobody pays for more: what is above it crosses as a link in any case.
_USUAL_FILE = 10 * 1024 * 1024
_BRIDGES = ("m.bridge", "uk.half-shot.bridge")
# What is asked for of each room.
_STATE = (
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.tombstone",
    # Which bridge a room is connected by: https://github.com/matrix-org/matrix-spec-proposals/pull/2346
    *_BRIDGES,
)


@dataclass(slots=True, kw_only=True)
class Room:
    """A room that the account is in, or is invited into."""

    state: RoomState
    # The latest state event of each type and key.
    events: Mapping[tuple[str, str], Json]
    invited: bool = False
    # How the account came to be out of it, as a sentence with the remedy.
    removed: str | None = None

    def content(self, kind: str, key: str = "") -> Json:
        """The content of a state event; empty without one."""
        return as_dict(as_dict(self.events.get((kind, key))).get("content"))

    @property
    def alias(self) -> str:
        """Its main alias; "" for none."""
        return as_string(self.content("m.room.canonical_alias").get("alias"))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.state.name or self.alias or self.state.room_id


class _Declared(NamedTuple):
    """A pair, the room as it declares it, and the room's ID, or why it has none."""

    pair: Pair
    name: str
    room_id: str
    problem: str


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
