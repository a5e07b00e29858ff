"""The declared rooms, as the status asks for them."""

import random
import time

import pytest

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


@pytest.mark.parametrize(
    ("sender", "successor", "moving"), [("@ann:a", "!new:a", True), ("@ben:a", "!new:a", False), ("@ann:a", 1, False)]
)
def test_what_waits_for_a_replacement_waits_only_while_that_can_be_entered(
    sender: str, successor: object, moving: bool
) -> None:
    rng = random.Random(1)
    rooms = DeclaredRooms(OwnAccounts(me="@relay:a"), backoff=lambda: Backoff(rng), now=lambda: 0.0)
    rooms.declare([ChannelAddress(Platform.MATRIX, "!old:a")])
    [room] = rooms.declared
    assert not rooms.is_moving("!old:a")
    for kind, who, content in (
        ("m.room.create", "@ann:a", {"room_version": "10", "creator": "@ann:a"}),
        ("m.room.power_levels", "@ann:a", {"users": {"@ann:a": 100}}),
        ("m.room.tombstone", sender, {"replacement_room": successor}),
    ):
        rooms.state("!old:a").apply({"type": kind, "state_key": "", "sender": who, "content": content})
    assert rooms.is_moving("!old:a") is moving
    rooms.await_invitation(room, "!new:a", "invite me")
    assert not rooms.is_moving("!old:a")


def test_a_text_full_of_aliases_costs_the_same_however_many_rooms_there_are() -> None:
    rng = random.Random(1)

    def seconds(count: int) -> float:
        rooms = DeclaredRooms(OwnAccounts(me="@relay:a"), backoff=lambda: Backoff(rng), now=lambda: 0.0)
        rooms.declare([ChannelAddress(Platform.MATRIX, f"!{number}:a") for number in range(count)])
        content = {"alias": "#tea:a", "alt_aliases": ["#coffee:a"]}
        change = {"type": "m.room.canonical_alias", "state_key": "", "sender": "@ann:a", "content": content}
        rooms.state("!0:a").apply(change)
        for number in range(count):
            rooms.state(f"!{number}:a")
        tries = []
        for _ in range(3):
            began = time.perf_counter()
            names = rooms.names()
            assert names.room_id("#coffee:a") == "!0:a"
            assert all(names.room_id(f"#{number}:b") is None for number in range(1_500))
            tries.append(time.perf_counter() - began)
        return min(tries)

    assert seconds(3_000) < 20 * seconds(1)
