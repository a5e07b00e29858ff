"""What `relay check` says of relays with other stores on the same accounts."""

from relay.core.claims.register import Claim
from relay.doctor import other_relays_finding
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import Pair

PAIRS = [
    Pair(
        name=room,
        sides=(ChannelAddress(Platform.DISCORD, channel), ChannelAddress(Platform.MATRIX, room)),
        destinations=frozenset(Platform) if channel != "3" else frozenset(),
    )
    for channel, room in (("1", "#one:example.org"), ("2", "#two:example.org"), ("3", "#archived:example.org"))
]


def claim(store: str, *channels: str) -> Claim:
    return Claim(store, "f", "old.example.org", "", 12, "", "2026-11-28T10:00:00+00:00", frozenset(channels))


def test_another_relay_is_named_with_the_remedy() -> None:
    found = other_relays_finding([claim("mine", "1", "2"), claim("other", "2", "3", "9")], "mine", PAIRS)
    assert found.state == "wrong"
    assert found.words == "process 12 on old.example.org, since 2026-11-28 10:00:00 UTC holds 1 of these pairs"
    assert "--take-over" in found.remedy


def test_our_own_claim_and_those_to_other_channels_are_no_trouble() -> None:
    assert other_relays_finding([claim("mine", "1"), claim("other", "9")], "mine", PAIRS).state == "ok"
    assert other_relays_finding([], "", PAIRS).state == "ok"
