"""Roles that a message calls, and which of some people have them."""

import asyncio

import pytest

from relay.adapters.discord.gateway.channel_permissions import may_call
from relay.domain.events import MessageCreated
from relay.domain.ids import Platform, UserRef
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk
from relay.sandbox.faults import Fault
from relay.sandbox.world.models import Overwrite, User
from relay.sandbox.world.permissions import EVERYONE, Permission
from tests.support.discord import World, until
from tests.support.patience import PATIENCE


def user(one: User) -> UserRef:
    return UserRef(Platform.DISCORD, str(one.id))


def called(world: World) -> list[str]:
    """The IDs of the roles that each message calls, "" for one that it only names."""
    said = [event for event in world.inbox.events if isinstance(event, MessageCreated)]
    nodes = [node for event in said for node in walk(event.content.text.blocks)]
    return [node.role for node in nodes if isinstance(node, n.RoleMention)]


async def say(world: World, role: int, author: User) -> str:
    """Which role a message calls."""
    before = len(called(world))
    world.say(f"<@&{role}>", author=author)
    await until(lambda: len(called(world)) > before)
    return called(world)[-1]


async def test_a_role_is_called_by_those_who_may(world: World) -> None:
    state, guild, may = world.state, world.guild, Permission.MENTION_EVERYONE
    open_role = state.add_role(guild, "open", EVERYONE, mentionable=True)
    closed = state.add_role(guild, "closed", EVERYONE)
    staff = state.add_role(guild, "staff", EVERYONE | may)
    admins = state.add_role(guild, "admins", Permission.ADMINISTRATOR)
    muted = state.add_role(guild, "muted", EVERYONE)
    eve, sam, max_, ada = (state.add_user(name) for name in ("eve", "sam", "max", "ada"))
    for one, held in ((eve, ()), (sam, (staff.id,)), (max_, (staff.id, muted.id)), (ada, (admins.id, muted.id))):
        state.add_member(guild, one).roles.extend(held)
    state.set_overwrite(world.channel, Overwrite(muted.id, 0, deny=may))
    async with world.running() as adapter:

        def allowed(one: User) -> bool:
            channel = adapter._guilds._permission_channel(str(world.channel.id))
            assert channel is not None
            return may_call(channel, set(guild.members[one.id].roles), str(one.id))

        assert await say(world, open_role.id, eve) == str(open_role.id)
        for one, expected in ((eve, False), (sam, True), (max_, False), (ada, True)):
            # The server says it, and we come to the same by ourselves.
            assert (await say(world, closed.id, one) == str(closed.id)) == allowed(one) == expected
        assert await say(world, closed.id, world.owner) == str(closed.id)
        state.set_overwrite(world.channel, Overwrite(eve.id, 1, allow=may))
        await until(lambda: allowed(eve))
        assert await say(world, closed.id, eve) == str(closed.id)


async def test_only_members_who_have_a_role_are_found(world: World) -> None:
    role = world.state.add_role(world.guild, "helpers", EVERYONE)
    world.guild.members[world.bob.id].roles.append(role.id)
    stranger = world.state.add_user("stranger")
    asked = [user(one) for one in (world.bob, world.owner, stranger)]
    async with world.running() as adapter:
        assert await adapter.having_role(world.ref, str(role.id), asked) == {user(world.bob)}
        world.server.faults.add(Fault("status", "GET", "/members/", status=500))
        assert await adapter.having_role(world.ref, str(role.id), asked) == {user(world.bob)}  # remembered
        nobody = UserRef(Platform.DISCORD, "../@me")
        assert await adapter.having_role(world.ref, str(role.id), [nobody]) == frozenset()


@pytest.mark.parametrize("kind", ["rate_limit", "hang"])
async def test_what_takes_long_is_left_out(world: World, kind: str) -> None:
    role = world.guild.members[world.bob.id].roles[0]
    async with world.running() as adapter:
        world.server.faults.add(Fault(kind, "GET", "/members/", seconds=600))  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE):
            assert await adapter.having_role(world.ref, str(role), [user(world.bob)]) == frozenset()


@pytest.mark.parametrize("told", [True, False])
async def test_who_has_left_is_known_by_the_list_of_members(world: World, told: bool) -> None:
    """Asked for one by one are only those who are not in it; a webhook is nobody who could have left."""
    gone = world.state.add_user("gone")
    here, webhook = user(world.bob), UserRef(Platform.DISCORD, "1576296388688347000")
    async with world.running(members_intent=told) as adapter:
        people = frozenset((here, user(gone), webhook))
        assert await adapter.departed(world.ref, people) == (frozenset((user(gone),)) if told else frozenset())
        asked = world.server.api.statistics.requests
        assert asked.get("GET /guilds/{guild_id}/members/{user_id}", 0) == (2 if told else 0)
