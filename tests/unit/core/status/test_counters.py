"""What the status of the daemon calls channels by."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from relay.core.clock import SystemClock
from relay.core.pairs import PairDirectory
from relay.core.ports import ChannelInfo, SideHealth
from relay.core.status.counters import Status
from relay.domain.ids import ChannelAddress, ChannelRef, Platform
from relay.domain.pair import Pair
from relay.store.unit_of_work import SqlStore

CHANNEL, ROOM = ChannelAddress(Platform.DISCORD, "123"), ChannelAddress(Platform.MATRIX, "#help:example.org")
OPERATORS = ChannelAddress(Platform.DISCORD, "456")
HELP = Pair("help", (CHANNEL, ROOM), frozenset(Platform))
NAMES: Mapping[str, str] = {"123": "#help", "456": "#ops", "!a:b": "Help"}


def status(tmp_path: Path, *problems: str) -> Status:
    """Of one pair and a channel of the operators, with an adapter that knows all their names."""

    def described(channel: ChannelRef) -> ChannelInfo:
        return ChannelInfo(NAMES[channel.id], place="Sandbox")

    def troubles(_: Pair) -> Sequence[str]:
        return problems

    pairs = PairDirectory([HELP], {ROOM: ChannelRef(Platform.MATRIX, "!a:b")}, others=[OPERATORS])
    return Status(
        clock=SystemClock(),
        pairs=pairs,
        store=SqlStore(tmp_path / "relay.db"),
        health={platform: lambda: SideHealth("ready") for platform in Platform},
        pair_problems=troubles,
        describe=dict.fromkeys(Platform, described),
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "channel 123 is age-restricted, and nothing says that #help:example.org is",
            "#help (123) is age-restricted, and nothing says that #help:example.org is.",
        ),
        ("the bot may not see #help: give it View Channel in channel 123", None),
        ("#help on Sandbox (123) is locked", None),
        ("Channel 123 is followed by #help-desk", "#help (123) is followed by #help-desk."),
    ],
)
def test_a_sentence_calls_a_channel_by_its_name_once(tmp_path: Path, said: str, shown: str | None) -> None:
    [problem] = status(tmp_path, said).last_report().pairs[0].problems
    assert problem == (shown or f"{said[0].upper()}{said[1:]}.")


def test_the_place_of_the_operators_has_a_name_too(tmp_path: Path) -> None:
    made = status(tmp_path)
    made.pairs.close(OPERATORS, "the bot may not write in channel 456: allow it Send Messages there")
    [finding] = made.last_report().findings
    assert finding.words == "they are not told: the bot may not write in #ops (456): allow it Send Messages there"
    assert made.label_of("456") == "#ops on Sandbox"
