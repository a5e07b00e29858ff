"""Which room an address names, and what the core has been told of it."""

import random
from functools import partial

from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.core.clock import Backoff, SystemClock
from relay.core.ports import ChannelInfo
from relay.domain.ids import ChannelAddress, ChannelRef, Platform

OLD, NEW = "!old:example.org", "!new:example.org"


class UpgradingInbox(RetryingInbox):
    """The room is upgraded while the core is told that it can be read."""

    rooms: DeclaredRooms

    def __init__(self, rooms: DeclaredRooms) -> None:
        self.rooms = rooms
        self.told: list[str] = []

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        self.told.append(channel.id)
        room = self.rooms.find(OLD)
        if room is not None:
            self.rooms.point_to_successor(room, NEW)


def declared(address: str) -> DeclaredRooms:
    backoff = partial(Backoff, random.Random(0), first=1.0, longest=2.0)
    rooms = DeclaredRooms(OwnAccounts(me="@relay:example.org"), backoff=backoff, now=SystemClock().monotonic)
    rooms.declare([ChannelAddress(Platform.MATRIX, address)])
    return rooms


async def test_a_room_that_is_upgraded_while_it_is_opened_is_opened_once_more_by_its_new_id() -> None:
    rooms = declared(OLD)
    inbox = UpgradingInbox(rooms)
    await rooms.open(OLD, inbox)
    assert not rooms.is_open(NEW)
    await rooms.open(NEW, inbox)
    assert rooms.is_open(NEW)
    assert inbox.told == [OLD, NEW]


async def test_only_rooms_that_work_are_opened_again() -> None:
    rooms = declared(OLD)
    inbox = UpgradingInbox(rooms)
    await rooms.reopen(inbox)
    assert inbox.told == []
    rooms.point_to_successor(rooms.declared[0], NEW)
    await rooms.open(NEW, inbox)
    await rooms.reopen(inbox)
    assert inbox.told == [NEW, NEW]
    rooms.declared[0].problem = "It is closed."
    await rooms.reopen(inbox)
    assert inbox.told == [NEW, NEW]


def test_a_room_is_found_by_the_id_that_its_address_names_now() -> None:
    rooms = declared("#help:example.org")
    alias, plain = (ChannelAddress(Platform.MATRIX, value) for value in ("#help:example.org", NEW))
    assert rooms.find(OLD) is None
    rooms.point(rooms.declared[0], OLD)
    assert rooms.find(OLD) is rooms.declared[0]
    rooms.point_to_successor(rooms.declared[0], "!third:example.org")
    assert rooms.find(OLD) is None
    rooms.declare([alias, plain])
    assert [room and room.address for room in map(rooms.find, ("!third:example.org", NEW))] == [alias, plain]
    rooms.point(rooms.declared[0], None)
    assert rooms.find("!third:example.org") is None
    rooms.declare([alias])
    assert rooms.find(NEW) is None


def test_what_people_know_a_room_by() -> None:
    rooms = declared(OLD)
    state = rooms.state(OLD)
    assert rooms.describe(OLD) is None
    state.complete = True
    assert rooms.describe(OLD) is None
    for kind, content in (
        ("m.room.canonical_alias", {"alias": "#help:example.org", "alt_aliases": ["#a:b.c", 7]}),
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.topic", {"topic": "Ask\nhere"}),
    ):
        state.apply({"type": kind, "state_key": "", "content": content})
    link = "https://matrix.to/#/%23help:example.org"
    aliases = ("#help:example.org", "#a:b.c")
    assert rooms.describe(OLD) == ChannelInfo("#help:example.org", "", "Ask here", link, public=True, aliases=aliases)
    state.apply({"type": "m.room.name", "state_key": "", "content": {"name": "Help room"}})
    described = rooms.describe(OLD)
    assert described is not None
    assert described.label == "Help room"
