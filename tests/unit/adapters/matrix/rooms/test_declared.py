"""The declared rooms, as the status asks for them."""

import random

from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.rooms.declared import DeclaredRooms
from relay.core.clock import Backoff
from relay.domain.ids import ChannelAddress, Platform


def test_a_room_is_described_anew_only_after_a_change() -> None:
    rng = random.Random(1)
    rooms = DeclaredRooms(OwnAccounts(me="@relay:a"), backoff=lambda: Backoff(rng), now=lambda: 0.0)
    rooms.declare([ChannelAddress(Platform.MATRIX, "!a:a")])
    rooms.mark_joined("!a:a", complete=True)
    assert rooms.describe("!a:a") is None
    for name in ("Tea", "Coffee"):
        change = {"type": "m.room.name", "state_key": "", "sender": "@ann:a", "content": {"name": name}}
        rooms.state("!a:a").apply(change)
        described = rooms.describe("!a:a")
        assert described is not None
        assert described.name == name
        assert rooms.describe("!a:a") is described


def test_which_rooms_to_sync_follows_what_is_declared_and_awaited() -> None:
    rng = random.Random(1)
    rooms = DeclaredRooms(OwnAccounts(me="@relay:a"), backoff=lambda: Backoff(rng), now=lambda: 0.0)

    def asked() -> tuple[set[str], set[str]]:
        return set(rooms.to_sync), set(rooms.awaited)

    old, alias = ChannelAddress(Platform.MATRIX, "!old:a"), ChannelAddress(Platform.MATRIX, "#alias:a")
    rooms.declare([old, alias])
    assert asked() == ({"!old:a"}, set())
    [by_id, by_alias] = sorted(rooms.declared, key=lambda room: room.is_alias)
    rooms.await_invitation(by_id, "!new:a", "invite me")
    assert asked() == ({"!old:a", "!new:a"}, {"!new:a"})
    rooms.point(by_alias, "!new:a")
    assert asked() == ({"!old:a", "!new:a"}, set())
    rooms.declare([old])
    assert asked() == ({"!old:a", "!new:a"}, {"!new:a"})
    rooms.reject_upgrade(by_id, "not that one")
    assert asked() == ({"!old:a"}, set())
    rooms.point_to_successor(by_id, "!newer:a")
    assert set(rooms.to_sync) == {"!newer:a"}
