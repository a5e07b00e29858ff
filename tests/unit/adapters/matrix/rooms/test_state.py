"""The state of a room: power levels in rooms of every version, and the names of members."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.inbound.content import bridged_profile
from relay.adapters.matrix.rooms.access_list import is_denied
from relay.adapters.matrix.rooms.state import TOMBSTONE, MemberProfile, Members, RoomState
from relay.domain.ids import MediaRef, Platform

ANN, BOB, ME = "@ann:a", "@bob:b", "@relay:a"


def room(*events: tuple[str, dict[str, Any]], creator: str = ANN) -> RoomState:
    state = RoomState("!room")
    for kind, content in events:
        state.apply({"type": kind, "state_key": "", "sender": creator, "content": content})
    return state


def test_the_creators_of_a_version_12_room_are_above_all_levels() -> None:
    create = {"room_version": "12", "additional_creators": [BOB]}
    state = room(
        ("m.room.create", create), ("m.room.power_levels", {"notifications": {"room": 100}, "users": {ME: 99}})
    )
    assert [state.may_broadcast(user) for user in (ANN, BOB, ME)] == [True, True, False]


def test_the_creator_of_an_older_room_is_a_user_like_others_once_there_are_levels() -> None:
    create = ("m.room.create", {"room_version": "11"})
    assert room(create).level(ANN) == 100
    assert room(create, ("m.room.power_levels", {})).level(ANN) == 0
    oldest = room(("m.room.create", {"creator": BOB}))
    assert (oldest.level(ANN), oldest.level(BOB)) == (0, 100)


def test_who_may_send_what() -> None:
    levels = {"events_default": "10", "events": {"m.reaction": 0, "m.room.message": 50}, "users": {BOB: "50"}}
    state = room(("m.room.power_levels", levels))
    assert (state.may_send(BOB), state.may_send(ME)) == (True, False)
    assert state.may_send(ME, "m.reaction")
    assert not room(("m.room.power_levels", {"events_default": "10"})).may_send(ME, "m.reaction")
    assert room().may_send(ME)


def test_who_may_upgrade_a_room() -> None:
    assert room().may_upgrade(ME)
    levels: dict[str, Any] = {"users": {ANN: 100, BOB: 50}}
    for more, users in (({}, [ANN, BOB]), ({"state_default": 60}, [ANN]), ({"events": {TOMBSTONE: 0}}, [ANN, BOB, ME])):
        state = room(("m.room.power_levels", levels | more))
        assert [user for user in (ANN, BOB, ME) if state.may_upgrade(user)] == users


def test_little_is_kept_of_each_room() -> None:
    events = json.dumps(dict.fromkeys((TOMBSTONE, *(f"m.room.{number}" for number in range(12))), 100))
    levels = f'{{"users": {{"{ANN}": 100}}, "events": {events}, "kick": 50, "ban": 50, "invite": 50, "redact": 50}}'
    tracemalloc.start()
    try:
        kept = [room(("m.room.power_levels", json.loads(levels)), ("m.room.canonical_alias", {})) for _ in range(100)]
        assert tracemalloc.get_traced_memory()[0] < len(kept) * 1_500
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("rule", "told"), [("public", "Tea"), ("invite", ""), ("restricted", ""), ({}, "")])
def test_only_the_name_of_a_public_room_is_shown_in_other_rooms(rule: Any, told: str) -> None:
    state = room(("m.room.name", {"name": "Tea"}))
    assert state.public_name == ""
    state = room(("m.room.join_rules", {"join_rule": rule}), ("m.room.name", {"name": "Tea"}))
    assert (state.name, state.public_name) == ("Tea", told)


def test_encryption_stays_and_an_upgrade_names_the_successor() -> None:
    state = room(("m.room.encryption", {}), ("m.room.tombstone", {"replacement_room": "!new"}))
    assert (state.encrypted, state.upgraded, state.successor) == (True, True, "!new")


def test_members_keep_their_names_after_they_left() -> None:
    state = RoomState("!room")
    joined = {"membership": "join", "displayname": "Ann", "avatar_url": "mxc://a/b"}
    state.apply({"type": "m.room.member", "state_key": ANN, "content": joined})
    state.apply({"type": "m.room.member", "state_key": ANN, "content": {"membership": "leave"}})
    assert state.profile(ANN) == MemberProfile("Ann", MediaRef(Platform.MATRIX, "mxc://a/b"))
    assert state.profile(BOB) == MemberProfile(BOB)
    state.apply({"type": "m.room.member", "state_key": BOB, "content": {"membership": "join", "displayname": " "}})
    assert state.profile(BOB).name == BOB


def test_what_an_earlier_state_said_of_members_does_not_hold_for_the_next() -> None:
    together = Members(10_000)
    state = RoomState("!room", together)
    for number in range(500):
        content = {"membership": "join", "displayname": str(number)}
        state.apply({"type": "m.room.member", "state_key": f"@{number}:a", "content": content})
    assert not state.knows_member("@0:a")
    assert state.knows_member("@499:a")
    assert not RoomState("!room", together).knows_member("@499:a")


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([ANN, "room", "x"]), inner, max_size=3),
    max_leaves=8,
)
_KINDS = ["m.room.create", "m.room.power_levels", "m.room.member", "m.room.tombstone", "m.room.encryption"]
_KEYS = ["users", "events", "notifications", "users_default", "room_version", "additional_creators", "displayname"]


@given(kind=st.sampled_from(_KINDS), content=st.dictionaries(st.sampled_from(_KEYS), _ANY) | _ANY, key=_ANY)
def test_any_state_can_be_read(kind: str, content: Any, key: Any) -> None:
    state = RoomState("!room")
    for state_key in (key, "", ANN):
        state.apply({"type": kind, "state_key": state_key, "sender": ANN, "content": content})
    assert isinstance(state.may_broadcast(ANN), bool)
    assert isinstance(state.may_send(ANN), bool)
    assert state.profile(ANN).name


@pytest.mark.parametrize("levels", [{"users": []}, {"events": 3}, {"notifications": None}])
def test_malformed_levels_are_the_defaults(levels: dict[str, Any]) -> None:
    state = room(("m.room.power_levels", levels))
    assert state.may_send(ME)
    assert not state.may_broadcast(ME)


def test_a_long_name_is_cut() -> None:
    state = RoomState("!room")
    for name, shown in (("x" * 60_000, "x" * 500), (" " * 600 + "x", ANN)):
        state.apply({"type": "m.room.member", "state_key": ANN, "content": {"membership": "join", "displayname": name}})
        assert state.profile(ANN).name == shown
    profile = {"id": "1", "displayname": "x" * 60_000}
    bridged = bridged_profile({"com.beeper.per_message_profile": profile})
    assert bridged is not None
    assert len(bridged.name) == 500


@pytest.mark.parametrize(
    ("content", "denied"),
    [
        ({"allow": ["*"]}, False),
        ({"allow": ["*"], "deny": ["evil.example", "*.evil.example"]}, False),
        ({"allow": ["*"], "deny": ["Relay.Example"]}, True),
        ({"allow": ["*"], "deny": ["*.exampl?"]}, True),
        ({"allow": ["relay.example"]}, False),
        ({"allow": ["relay.*"], "deny": ["relay.example"]}, True),
        ({"allow": ["relay.example:8448"]}, True),  # ports are no part of it
        # Without a list nobody is allowed: it was redacted, say.
        ({}, True),
        ({"allow": "relay.example", "deny": {}}, True),
        ({"allow": ["*", 7, None], "deny": [["relay.example"]]}, False),
        ({"allow": [f"*{'é' * 5}*"]}, False),  # not known
        ({"allow": ["*"], "allow_ip_literals": False}, False),
    ],
)
def test_which_servers_an_access_list_denies(content: dict[str, Any], denied: bool) -> None:
    assert is_denied(content, "relay.example:8448") is denied


@pytest.mark.parametrize(
    ("sender", "before", "denied"),
    [
        ("@ann:other.example", {"allow": []}, False),
        ("@ann:relay.example:8448", {"allow": []}, True),
        ("@ann:relay.example:8448", {"allow": ["*"]}, False),
        ("@ann:relay.example:8448", None, False),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_only_another_server_lifts_what_an_access_list_denies(
    sender: str, before: dict[str, Any] | None, denied: bool, restarted: bool
) -> None:
    """The homeserver takes it from its own people, and the others do not (ran, two Synapse 1.163)."""
    state = RoomState("!a:b", server="relay.example:8448")
    event: dict[str, Any] = {
        "type": "m.room.server_acl",
        "state_key": "",
        "sender": sender,
        "content": {"allow": ["*"]},
    }
    if restarted:
        event["unsigned"] = {} if before is None else {"prev_content": before}
    elif before is not None:
        state.apply(event | {"sender": "@ben:other.example", "content": before})
    state.apply(event)
    assert state.denies_us is denied


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.1:8448", "[2001:db8::1]", "[2001:db8::1]:8448"])
@pytest.mark.parametrize("allowed", [True, False])
def test_an_access_list_without_addresses(server: str, allowed: bool) -> None:
    assert is_denied({"allow": ["*"], "allow_ip_literals": allowed}, server) is not allowed
