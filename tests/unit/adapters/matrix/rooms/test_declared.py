"""Which room an address names, and what the core has been told of it."""

import random
from functools import partial

from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.retrying_inbox import RetryingInbox
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.core.clock import Backoff, SystemClock
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


async def test_a_room_that_is_upgraded_while_it_is_opened_is_opened_once_more_by_its_new_id() -> None:
    backoff = partial(Backoff, random.Random(0), first=1.0, longest=2.0)
    accounts = OwnAccounts(me="@relay:example.org")
    rooms = DeclaredRooms(accounts, backoff=backoff, now=SystemClock().monotonic)
    rooms.declare([ChannelAddress(Platform.MATRIX, OLD)])
    inbox = UpgradingInbox(rooms)
    await rooms.open(OLD, inbox)
    assert not rooms.is_open(NEW)
    await rooms.open(NEW, inbox)
    assert rooms.is_open(NEW)
    assert inbox.told == [OLD, NEW]
