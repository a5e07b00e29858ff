"""What the relay answers when people ask it for something."""

import re
from dataclasses import replace

import pytest

from relay.core.people.commands import COMMANDS
from relay.core.ports import CommandCall
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.text.nodes import plain_text
from tests.support.memory_adapter import MemoryAdapter
from tests.support.world import World, lane, until

ANN = UserRef(Platform.DISCORD, "ann")
BEN = UserRef(Platform.MATRIX, "ben")


async def answer(bridge: World, *words: str, user: UserRef = ANN, channel: ChannelRef | None = None) -> str:
    assert bridge.core is not None
    where = channel or next(one for one in bridge.channels() if one.platform is user.platform)
    return plain_text(await bridge.core.inbox.command(CommandCall(user, where, words, private=True)))


async def test_help_names_every_command(bridge: World) -> None:
    async with bridge.relay():
        told = await answer(bridge, "help")
        assert await answer(bridge) == told
    assert [line.split(":")[0].split(" ")[1] for line in told.splitlines()[1:]] == [spec.name for spec in COMMANDS]
    assert told.splitlines()[1] == "/relay help: Shows what you can ask the relay for."


def test_what_is_said_of_a_command_fits_where_platforms_list_them() -> None:
    # https://discord.com/developers/docs/interactions/application-commands#application-command-object
    for spec in COMMANDS:
        assert re.fullmatch(r"[a-z]{1,32}", spec.name)
        assert 1 <= len(spec.summary) <= 100
        assert spec.argument is None or 1 <= len(spec.argument.summary) <= 100


async def test_a_command_in_a_room_is_answered_there_once_and_does_not_cross(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        asked = bridge.matrix.say(there, "ben", "!relay help")
        await until(lambda: len(bridge.shown(there)) == 2)
        told = bridge.shown(there)[1]
        assert told.reply_to == asked
        assert told.text.splitlines()[1] == "!relay help: Shows what you can ask the relay for."
        bridge.matrix.edit(asked, "!relay optout")  # edits are not carried out
        bridge.matrix.say(there, "ben", "hello")
        await bridge.shows(here, "hello")
        await bridge.quiet()
        assert core.status.lane(lane(Platform.DISCORD)).dropped == {"command": 1}
    async with bridge.relay():
        bridge.matrix.edit(asked, "never mind")  # not a command any more
        await bridge.shows(here, "hello", "never mind")
        bridge.matrix.say(there, "ben", "bye")
        await bridge.shows(here, "hello", "never mind", "bye")
        await bridge.quiet()
    assert len(bridge.shown(there)) == 4


async def test_a_command_is_carried_out_once_however_often_it_comes(bridge: World) -> None:
    _, there = bridge.channels()
    async with bridge.relay(lambda _, matrix: setattr(matrix, "doubled", lambda batches: batches[-1])):
        asked = bridge.matrix.say(there, "ben", "!relay status")
        await until(lambda: len(bridge.shown(there)) == 2)
        bridge.matrix.say(there, "ben", "more")
        await bridge.quiet()
    assert [message.reply_to for message in bridge.shown(there)] == [None, asked, None]


async def test_a_pair_that_leads_one_way_answers_on_both_sides(bridge: World) -> None:
    _, there = bridge.channels()
    bridge.pairs = (replace(bridge.pairs[0], destinations=frozenset({Platform.MATRIX})),)
    async with bridge.relay():
        asked = bridge.matrix.say(there, "ben", "!relay whoami")
        await until(lambda: any(message.reply_to == asked for message in bridge.shown(there)))


def unlimited(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
    """Notices need not wait for their share of a limit."""
    matrix.shares_limit = False


async def test_who_asks_too_much_is_told_once_and_then_not_answered(bridge: World) -> None:
    _, there = bridge.channels()
    async with bridge.relay(unlimited):
        for _ in range(30):
            bridge.matrix.say(there, "eve", "!relay help")
        asked = bridge.matrix.say(there, "ben", "!relay whoami")
        await until(lambda: any(message.reply_to == asked for message in bridge.shown(there)))
        await bridge.quiet()
        answers = [message.text for message in bridge.shown(there) if message.author.is_self]
        assert len(answers) == 5 + 1 + 1
        assert sum(text.startswith("You ask too much") for text in answers) == 1


async def test_who_asks_too_much_may_still_opt_out(bridge: World) -> None:
    """What they write next would cross else: seen in the simulation, seed 7131446."""
    _, there = bridge.channels()
    async with bridge.relay(unlimited) as core:
        for _ in range(30):
            bridge.matrix.say(there, "ben", "!relay help")
        asked = bridge.matrix.say(there, "ben", "!relay optout")
        bridge.matrix.say(there, "ben", "not this")
        bridge.matrix.say(there, "carl", "this")
        await bridge.shows(bridge.channels()[0], "this")
        assert (await core.people.of(BEN)).has_opted_out
        assert "nothing that you write" in await answer(bridge, "optout", user=BEN)
        await until(lambda: bridge.matrix.reactions == [(asked, "✅")])
        await bridge.quiet()


async def test_a_room_full_of_commands_keeps_nobody_from_opting_out(bridge: World) -> None:
    _, there = bridge.channels()
    async with bridge.relay(unlimited) as core:
        for number in range(32):
            bridge.matrix.say(there, f"eve{number}", "!relay help")
        bridge.matrix.say(there, "ben", "!relay optout")
        bridge.matrix.say(there, "ben", "not this")
        bridge.matrix.say(there, "carl", "this")
        await bridge.shows(bridge.channels()[0], "this")
        assert (await core.people.of(BEN)).has_opted_out
        await bridge.quiet()
        assert sum(message.author.is_self for message in bridge.shown(there)) <= 10


async def test_in_a_room_full_of_commands_a_reaction_says_what_came_of_a_wish(bridge: World) -> None:
    _, there = bridge.channels()
    async with bridge.relay(unlimited):
        for number in range(32):
            bridge.matrix.say(there, f"eve{number}", "!relay help")
        done = bridge.matrix.say(there, "ben", "!relay optout")
        refused = bridge.matrix.say(there, "ben", "!relay link abcdefghjk")
        bridge.matrix.say(there, "ben", "!relay whoami")
        await until(lambda: len(bridge.matrix.reactions) == 2)
        assert bridge.matrix.reactions == [(done, "✅"), (refused, "⚠️")]
        await bridge.quiet()
        assert len(bridge.matrix.reactions) == 2
        assert not [message for message in bridge.shown(there) if message.reply_to in {done, refused}]


async def test_where_no_reaction_is_possible_an_answer_waits_for_nothing(bridge: World) -> None:
    _, there = bridge.channels()

    def prepare(discord: MemoryAdapter, matrix: MemoryAdapter) -> None:
        unlimited(discord, matrix)
        matrix.can_react = False

    async with bridge.relay(prepare) as core:
        for number in range(32):
            bridge.matrix.say(there, f"eve{number}", "!relay help")
        bridge.matrix.say(there, "ben", "!relay optout")
        bridge.matrix.say(there, "carl", "this")
        await bridge.shows(bridge.channels()[0], "this")
        await bridge.quiet()
        assert (await core.people.of(BEN)).has_opted_out
        assert len([message for message in bridge.shown(there) if message.author.is_self]) == 10
    assert not bridge.matrix.reactions


async def test_an_unknown_command_is_answered_with_those_there_are(bridge: World) -> None:
    async with bridge.relay():
        told = await answer(bridge, "sudo" * 1_000)
        assert "I do not know sudosudo" in told
        assert "help" in told
        assert len(told) < 1_500


async def test_whoami_says_as_whom_the_relay_knows_somebody(bridge: World) -> None:
    async with bridge.relay():
        assert "You are ann on Discord." in await answer(bridge, "WhoAmI")
        assert "You are ben on Matrix." in await answer(bridge, "whoami", user=BEN)


async def test_status_says_whether_a_room_works_and_what_waits(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        told = await answer(bridge, "status")
        assert "it works" in told
        assert "From here to Matrix: no message yet, nothing waits." in told
        bridge.discord.say(here, "ann", "hello")
        await bridge.shows(there, "hello")
        await bridge.quiet()
        assert re.search(r"From here to Matrix: last message .* UTC, nothing waits\.", await answer(bridge, "status"))
        assert re.search(r"Here from Discord: last message .* UTC, nothing", await answer(bridge, "status", user=BEN))
        await core.inbox.closed(bridge.pairs[0].side(Platform.MATRIX), "the secret token was refused")
        told = await answer(bridge, "status")
        assert "something keeps messages from crossing" in told
        assert "secret" not in told


async def test_status_of_a_room_of_no_pair_says_so(bridge: World) -> None:
    async with bridge.relay():
        told = await answer(bridge, "status", channel=ChannelRef(Platform.DISCORD, "elsewhere"))
    assert told.startswith("This room is not connected to another one.")
    assert "configuration" in told


@pytest.mark.parametrize("platform", list(Platform))
async def test_status_names_only_the_ways_that_are_open(bridge: World, platform: Platform) -> None:
    bridge.pairs = (replace(bridge.pairs[0], destinations=frozenset({platform})),)
    async with bridge.relay():
        told = await answer(bridge, "status")
    assert ("From here" in told) == (platform is Platform.MATRIX)
    assert ("Here from" in told) == (platform is Platform.DISCORD)
