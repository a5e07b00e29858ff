"""Linked people are called on both sides: by mentions, by the roles that they have, and by answers that call them."""

import pytest

from relay.domain.content import Content
from relay.domain.ids import Platform, UserRef
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk
from tests.support.memory_adapter import MemoryAdapter
from tests.support.world import World, until

ANN = UserRef(Platform.DISCORD, "ann")
BEN = UserRef(Platform.MATRIX, "ben")
CARL = UserRef(Platform.DISCORD, "carl")


def mentioning(*nodes: n.Inline, calls: tuple[UserRef, ...] = (), calls_answered: bool = False) -> Content:
    text = n.RichText((n.Paragraph((n.Text("hello "), *nodes)),))
    return Content(text, calls=calls, calls_answered=calls_answered)


def called(content: Content) -> list[UserRef]:
    """Whom a copy calls."""
    found: list[UserRef] = []
    for node in walk(content.text.blocks):
        found += [node.user] if isinstance(node, n.UserMention) else ()
        found += node.users if isinstance(node, n.RoleMention) else ()
    return found


async def crossed(bridge: World, platform: Platform, number: int = 1) -> Content:
    """The last of so many copies on a platform."""
    channel = next(one for one in bridge.channels() if one.platform is platform)
    await until(lambda: sum(message.author.is_self for message in bridge.shown(channel)) == number)
    return [message.content for message in bridge.shown(channel) if message.author.is_self][-1]


async def test_a_mention_of_somebody_linked_calls_their_other_account(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        core.people.declare([(ANN, BEN)])
        bridge.matrix.say(
            there, "eve", mentioning(n.UserMention(BEN, "Ben"), n.UserMention(UserRef(BEN.platform, "x"), "X"))
        )
        copy = await crossed(bridge, Platform.DISCORD)
        assert called(copy) == [ANN, UserRef(Platform.MATRIX, "x")]
        assert n.plain_text(copy.text) == "hello @Ben@X"
        bridge.discord.say(here, "carl", mentioning(n.UserMention(ANN, "Ann")))
        assert called(await crossed(bridge, Platform.MATRIX)) == [BEN]


async def test_a_link_is_worth_more_than_a_name(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        core.people.declare([(ANN, BEN)])
        bridge.matrix.say(there, "Ann", "somebody else of that name")
        await crossed(bridge, Platform.DISCORD)
        bridge.discord.say(here, "carl", mentioning(n.UserMention(ANN, "Ann"), n.Text(" and @Ann")))
        assert called(await crossed(bridge, Platform.MATRIX)) == [BEN, UserRef(Platform.MATRIX, "Ann")]


async def test_a_role_calls_the_linked_people_who_have_it(bridge: World) -> None:
    here, _ = bridge.channels()

    def prepare(discord: MemoryAdapter, _: MemoryAdapter) -> None:
        discord.roles = {"7": {"ann", "carl", "dave"}}

    async with bridge.relay(prepare) as core:
        core.people.declare([(ANN, BEN), (UserRef(Platform.DISCORD, "eve"), UserRef(Platform.MATRIX, "eve"))])
        bridge.discord.say(here, "carl", mentioning(n.RoleMention("helpers", "7"), n.RoleMention("others", "8")))
        copy = await crossed(bridge, Platform.MATRIX)
        assert called(copy) == [BEN]
        assert n.plain_text(copy.text) == "hello @helpers@others"
        bridge.discord.say(here, "carl", mentioning(n.RoleMention("helpers")))  # its author may not
        assert called(await crossed(bridge, Platform.MATRIX, 2)) == []


@pytest.mark.parametrize("calls", [True, False])
async def test_an_answer_calls_a_linked_account_if_it_calls_the_one_it_answers(bridge: World, calls: bool) -> None:
    here, there = bridge.channels()
    async with bridge.relay() as core:
        core.people.declare([(ANN, BEN)])
        # From Matrix: what is answered was written by Ben, who is Ann on Discord, where the copy is quoted.
        asked = bridge.matrix.say(there, "ben", "a question")
        await crossed(bridge, Platform.DISCORD)
        content = mentioning(calls=(BEN,) if calls else (), calls_answered=not calls)
        bridge.matrix.say(there, "eve", content, reply_to=asked)
        copy = await crossed(bridge, Platform.DISCORD, 2)
        assert called(copy) == ([ANN] if calls else [])
        # From Discord: what is answered was written by Ann, and the answer is a native one.
        asked = bridge.discord.say(here, "ann", "another question")
        await crossed(bridge, Platform.MATRIX)
        content = mentioning(calls=(ANN,) if calls else (), calls_answered=calls)
        bridge.discord.say(here, "carl", content, reply_to=asked)
        await crossed(bridge, Platform.MATRIX, 2)
        last = bridge.matrix.last_delivery
        assert last is not None
        assert (last.content.calls_answered, last.replied_author) == (calls, BEN)


async def test_whoever_is_not_linked_is_called_as_before(bridge: World) -> None:
    here, there = bridge.channels()
    async with bridge.relay():
        asked = bridge.matrix.say(there, "ben", "a question")
        await crossed(bridge, Platform.DISCORD)
        bridge.matrix.say(there, "eve", mentioning(calls=(BEN,)), reply_to=asked)
        assert called(await crossed(bridge, Platform.DISCORD, 2)) == []
        assert here.platform is Platform.DISCORD
