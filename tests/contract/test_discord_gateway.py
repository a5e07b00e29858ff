"""Connections that break, sessions that end, dispatches that are lost, tokens that are refused."""

import asyncio

import pytest

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.discord.gateway import connection, guild_cache
from relay.core.clock import SystemClock
from relay.domain.ids import MessageRef
from relay.domain.jsontext import Json
from relay.errors import (
    FatalError,
    Transient,
)
from relay.sandbox.faults import Fault, GatewayFault
from tests.support.discord import World, discord_settings, until
from tests.support.patience import PATIENCE


@pytest.mark.parametrize("code", [1000, 1001, 1006, 4000, 4003, 4007, 4008, 4009])
async def test_survives_every_close_code_that_is_not_final(world: World, code: int) -> None:
    async with world.running() as adapter:
        world.say("one")
        if code == 1006:
            world.server.gateway.abort()
        else:
            world.server.gateway.drop(code)
        world.say("two")
        await until(lambda: world.inbox.said() == ["one", "two"])
        await until(lambda: adapter.health().state == "ready")


async def test_a_connection_that_breaks_at_once_each_time_is_not_made_again_at_once(world: World) -> None:
    gateway, loop = world.server.gateway, asyncio.get_running_loop()

    async def broken() -> float:
        """How long it takes until a connection that broke is there again."""
        before, began = len(gateway.history), loop.time()
        gateway.drop(4000)
        await until(lambda: any(entry["what"] == "resumed" for entry in list(gateway.history)[before:]))
        return loop.time() - began

    async with world.running():
        await broken()
        await broken()
        assert await broken() > 0.4


async def test_survives_an_invalid_session_and_reads_what_it_missed(world: World) -> None:
    async with world.running() as adapter:
        message = world.say("one")
        await until(lambda: world.inbox.said() == ["one"])
        world.server.gateway.invalidate(resumable=False)
        world.say("two")
        world.server.messages.remove(world.channel, [message.id])
        await until(lambda: world.inbox.said() == ["one", "two"])
        await until(lambda: adapter.health().state == "ready")
        assert world.inbox.caught_up == [str(world.channel.id)]


async def test_what_a_new_session_has_not_told_of_yet_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words are posted at each try: with the server's people and emoji, of which a session begins without."""
    monkeypatch.setattr(guild_cache, "_GUILDS_TIMEOUT", 10 * PATIENCE)
    async with world.running() as adapter:
        sent = await adapter.send(world.delivery("one"))
        world.server.faults.add_gateway(GatewayFault("drop", "GUILD_CREATE"))
        world.server.gateway.invalidate(resumable=False)
        refused: list[Transient] = []
        async with asyncio.timeout(PATIENCE):
            while not refused:
                try:
                    await adapter.people(world.ref, frozenset({"somebody"}))
                except Transient as error:
                    refused.append(error)
                await asyncio.sleep(0.01)
        with pytest.raises(Transient):
            await adapter.send(world.delivery(":wave:", key="k2"))
        with pytest.raises(Transient):
            await adapter.edit(sent, world.delivery(":wave:", key="k3"))
        assert adapter.permalink(sent) == f"https://discord.com/channels/{world.guild.id}/{sent.channel.id}/{sent.id}"
    assert world.words() == ["one"]


async def test_survives_a_dispatch_that_nobody_can_parse(world: World) -> None:
    async with world.running():
        for event in ("MESSAGE_CREATE", "GUILD_UPDATE", "CHANNEL_UPDATE", "TYPING_START"):
            world.server.gateway.send_unparseable(event)
        world.say("still here")
        await until(lambda: world.inbox.said() == ["still here"])


async def test_notices_a_dispatch_that_was_lost(world: World) -> None:
    async with world.running():
        world.server.faults.add_gateway(GatewayFault("drop", "MESSAGE_CREATE"))
        world.say("lost")
        world.say("next")
        await until(lambda: world.inbox.said() == ["lost", "next"])


async def test_a_dispatch_that_was_lost_is_read_in_its_thread_too(world: World) -> None:
    thread = world.server.threads.open(world.channel, world.bob, "aside")
    world.say("before", channel=thread)
    async with world.running():
        world.say("there", channel=thread)
        await until(lambda: world.inbox.said() == ["there"])
        world.server.faults.add_gateway(GatewayFault("drop", "MESSAGE_CREATE"))
        world.say("lost", channel=thread)
        world.say("next")
        await until(lambda: {"lost", "next"} <= set(world.inbox.said()))


async def test_what_was_said_in_an_outage_of_the_server_is_read_however_short_it_was(world: World) -> None:
    async with world.running():
        world.say("one")
        await until(lambda: world.inbox.said() == ["one"])
        world.server.control.guild_outage(world.guild.id)
        listeners, world.state.listeners = world.state.listeners, []
        world.say("two")
        world.state.listeners = listeners
        world.server.control.guild_outage(world.guild.id, down=False)
        await until(lambda: world.inbox.said() == ["one", "two"])


async def test_a_message_of_an_unknown_form_is_not_missing(world: World) -> None:
    place = {"channel_id": str(world.channel.id), "guild_id": str(world.guild.id), "type": 0, "content": "odd"}
    async with world.running():
        odd: tuple[Json, ...] = (
            {"author": None, "member": {}},
            {"author": {"id": "5", "username": "bob"}, "member": None},
        )
        for more in odd:
            message = place | {"id": str(world.state.snowflakes.next())} | more
            for session in world.server.gateway.sessions.by_id.values():
                session.dispatch("MESSAGE_CREATE", message)
        await until(lambda: world.inbox.said() == ["A message that the relay could not read.", "odd"])


async def test_survives_a_new_session_that_is_not_confirmed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_READY_TIMEOUT", 0.5)
    world.server.faults.add_gateway(GatewayFault("drop", "READY"))
    async with world.running() as adapter:
        await until(lambda: adapter.health().state == "ready")
        world.say("one")
        await until(lambda: world.inbox.said() == ["one"])


async def test_survives_a_resumed_session_that_is_not_confirmed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_READY_TIMEOUT", 0.5)
    async with world.running() as adapter:
        world.say("one")
        await until(lambda: world.inbox.said() == ["one"])
        world.server.faults.add_gateway(GatewayFault("drop", "RESUMED"))
        world.server.gateway.abort()
        world.say("two")
        await until(lambda: world.inbox.said() == ["one", "two"])
        await until(lambda: adapter.health().state == "ready")


async def test_a_doubled_or_reordered_dispatch_loses_nothing(world: World) -> None:
    async with world.running():
        world.server.faults.add_gateway(GatewayFault("duplicate", "MESSAGE_CREATE"))
        world.server.faults.add_gateway(GatewayFault("reorder", "MESSAGE_CREATE", skip=1))
        for number in range(5):
            world.say(str(number))
        await until(lambda: len(world.inbox.said()) == 5)
    assert sorted(world.inbox.said()) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("refusals", [1, 3])
async def test_survives_a_first_connection_that_fails(world: World, refusals: int) -> None:
    world.server.gateway.refuse = refusals
    async with world.running() as adapter:
        await until(lambda: adapter.health().state == "ready")


async def test_waits_for_an_api_that_does_not_answer(world: World) -> None:
    world.server.api.offline = True
    async with world.running(ready=False) as adapter:
        await until(lambda: adapter.health().detail)
        assert adapter.health().state == "connecting"
        world.server.api.offline = False
        await until(lambda: adapter.health().state == "ready")


async def test_a_token_that_is_refused_once_is_tried_again(world: World) -> None:
    async with world.running() as adapter:
        await adapter.send(world.delivery())
        world.server.faults.add(Fault("status", "GET", "/messages/", status=401))
        asked = world.server.api.statistics.requests
        before = asked.get("GET /users/@me", 0)
        with pytest.raises(Transient):
            await adapter.quote(MessageRef(world.ref, "1"))
        await until(lambda: asked.get("GET /users/@me", 0) > before)
        await adapter.send(world.delivery("still here", key="k2"))


async def test_ends_when_the_token_is_taken_away(world: World) -> None:
    adapter = DiscordAdapter(settings=discord_settings(world.app.token, world.server.api_url), clock=SystemClock())
    await adapter.watch(frozenset({world.address}))
    running = asyncio.create_task(adapter.run(world.inbox))
    await until(lambda: adapter.health().state == "ready")
    world.app.token = "another"
    with pytest.raises(Transient):
        await adapter.send(world.delivery(author=None))
    with pytest.raises(FatalError, match="Reset Token"):
        await running
    await adapter.close()


async def test_ends_when_the_token_is_refused(world: World) -> None:
    world.app.token = "another"
    adapter = DiscordAdapter(settings=discord_settings("nonsense", world.server.api_url), clock=SystemClock())
    with pytest.raises(FatalError, match="Reset Token"):
        await adapter.run(world.inbox)
    assert adapter.health().state == "failed"
    await adapter.close()


async def test_ends_when_the_message_content_intent_is_off(world: World) -> None:
    world.app.message_content = False
    adapter = DiscordAdapter(settings=discord_settings(world.app.token, world.server.api_url), clock=SystemClock())
    with pytest.raises(FatalError, match="Message Content Intent"):
        await adapter.run(world.inbox)
    await adapter.close()


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012, 4013, 4014])
async def test_ends_on_a_final_close_code(world: World, code: int) -> None:
    adapter = DiscordAdapter(settings=discord_settings(world.app.token, world.server.api_url), clock=SystemClock())
    running = asyncio.create_task(adapter.run(world.inbox))
    await until(lambda: adapter.health().state == "ready")
    world.server.gateway.drop(code)
    with pytest.raises(FatalError, match=str(code)):
        await running
    await adapter.close()
