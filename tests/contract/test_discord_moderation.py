"""What Discord's moderators decide, as the adapter tells it: who is banned, and which channels are for adults."""

import pytest

from relay.core.moderation.ports import Decision
from relay.domain.ids import ChannelRef, PlaceRef, Platform, UserRef
from relay.errors import ActionNeeded
from relay.sandbox.world.models import Channel
from tests.support.discord import World, until


async def test_everybody_who_is_banned_is_listed_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.adapters.discord.bans._PAGE", 2)
    control = world.server.control
    banned = [world.state.add_user(f"spammer{number}") for number in range(5)]
    for user in banned:
        control.ban(world.guild.id, user.id)
    control.unban(world.guild.id, banned[1].id)
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES", "BAN_MEMBERS")
    async with world.running() as adapter:
        place = adapter.place_of(world.ref)
        assert place == PlaceRef(Platform.DISCORD, str(world.guild.id))
        pages = [page async for page in adapter.bans(place)]
    left = [UserRef(Platform.DISCORD, str(user.id)) for user in (banned[0], *banned[2:])]
    assert [user for page in pages for user in page] == left


async def test_bans_that_may_not_be_listed_are_asked_for_again_once_the_permission_is_there(world: World) -> None:
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES")
    async with world.running() as adapter:
        place = PlaceRef(Platform.DISCORD, str(world.guild.id))
        with pytest.raises(ActionNeeded, match="Ban Members"):
            [page async for page in adapter.bans(place)]
        before = adapter.bans_version(place)
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES", "BAN_MEMBERS")
        await until(lambda: adapter.bans_version(place) != before)
        assert [page async for page in adapter.bans(place)] == [[]]


async def test_the_mark_of_a_channel_and_of_its_threads_is_told_whenever_it_changes(world: World) -> None:
    control = world.server.control
    forum = world.state.add_channel(world.guild, "ideas", kind=15)
    post = control.open_post(forum.id, world.bob.id, "an idea", "What about this?")["id"]
    marks = [world.channel, forum]
    thread = world.guild.threads[int(post)]
    told = world.inbox.marks
    async with world.running(world.channel, thread) as adapter:

        def mark(channel: Channel) -> bool | None:
            return adapter.age_restricted(ChannelRef(Platform.DISCORD, str(channel.id)))

        assert (mark(world.channel), mark(thread)) == (False, False)
        # For whom it counts, that is so before anybody is told.
        for channel, of in zip(marks, (world.channel, thread), strict=True):
            for restricted in (True, False):
                told.clear()
                control.set_age_restriction(channel.id, restricted)
                await until(lambda of=of, restricted=restricted: (str(of.id), restricted) in told)  # type: ignore[misc]
        told.clear()
        # The owner says it of the whole server, whatever its channels say.
        control.set_guild_age_restriction(world.guild.id)
        await until(lambda: {one for one, is_marked in told if is_marked} == {str(world.channel.id), post})
        assert adapter.describe(world.ref).nsfw  # type: ignore[union-attr]
        control.set_guild_age_restriction(world.guild.id, restricted=False)
        await until(lambda: {one for one, is_marked in told if not is_marked} == {str(world.channel.id), post})


async def test_of_a_channel_that_is_not_known_no_mark_is_known(world: World) -> None:
    async with world.running() as adapter:
        assert adapter.age_restricted(ChannelRef(Platform.DISCORD, "12345")) is None


async def test_the_audit_log_tells_who_banned_somebody_and_why(world: World) -> None:
    control, place = world.server.control, PlaceRef(Platform.DISCORD, str(world.guild.id))
    mal, other = world.state.add_user("mal"), UserRef(Platform.DISCORD, "12345")
    user, moderator = UserRef(Platform.DISCORD, str(mal.id)), str(world.bob.id)
    world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES", "BAN_MEMBERS")
    async with world.running() as adapter:
        control.ban(world.guild.id, mal.id, reason="spam", by=world.bob.id)
        with pytest.raises(ActionNeeded, match="audit log"):
            await adapter.decision(place, user, lifted=False)
        world.allow("VIEW_CHANNEL", "READ_MESSAGE_HISTORY", "SEND_MESSAGES", "VIEW_AUDIT_LOG")
        assert await adapter.decision(place, user, lifted=False) == Decision(moderator, "spam")
        assert await adapter.decision(place, user, lifted=True) is None
        assert await adapter.decision(place, other, lifted=False) is None
        control.unban(world.guild.id, mal.id)
        assert await adapter.decision(place, user, lifted=True) == Decision(str(world.owner.id), "")


async def test_what_the_relay_does_by_itself_says_why_in_the_audit_log(world: World) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
    [entry] = world.guild.audit_log
    assert (entry.action, entry.user_id, entry.reason) == (
        50,
        world.app.user.id,
        "Mirrors messages of the paired Matrix room",
    )
