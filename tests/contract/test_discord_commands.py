"""Slash commands of the Discord adapter against the sandbox."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from relay.adapters.discord import commands as slash
from relay.core.ports import CommandCall
from relay.domain.text.nodes import RichText
from relay.errors import StoreUnavailable
from relay.sandbox.faults import Fault, GatewayFault
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord import World, until

Carried = Callable[[CommandCall], Awaitable[RichText]]


class CommandWorld(World):
    """Keeps the commands that reach the core, which does with them what a test wants."""

    def __init__(self, server: SandboxServer) -> None:
        super().__init__(server)
        self.calls: list[CommandCall] = []
        self.carry_out: Carried = self._echo
        self.inbox.command = self._command  # type: ignore[method-assign]

    async def _command(self, call: CommandCall) -> RichText:
        self.calls.append(call)
        return await self.carry_out(call)

    async def _echo(self, call: CommandCall) -> RichText:
        return RichText.plain(" ".join(call.words))

    @property
    def registered(self) -> list[dict[str, Any]]:
        return self.server.control.commands(self.app.id)

    @property
    def requests(self) -> dict[str, int]:
        """How often each route of commands was called."""
        asked = self.server.api.statistics.requests
        return {route: count for route, count in asked.items() if "commands" in route}

    def use(self, command: str = "relay help", **options: Any) -> str:
        made = self.server.control.use_command(self.channel.id, self.bob.id, command, options)
        return str(made["id"])

    def seen(self, interaction: str) -> tuple[str, list[tuple[str, bool]]]:
        """What the person sees: the state, and each answer with whether it is private."""
        shown = self.server.control.interaction(interaction)
        return shown["state"], [(one["content"], one["private"]) for one in shown["messages"]]

    async def answered(self, interaction: str) -> list[tuple[str, bool]]:
        """The answers, once there are some."""
        await until(lambda: self.seen(interaction)[0] not in {"waiting", "thinking"})
        assert self.seen(interaction)[0] == "answered"
        return self.seen(interaction)[1]


@pytest.fixture
async def world() -> AsyncIterator[CommandWorld]:
    async with SandboxServer(limits=Limits(factor=0)) as server:
        yield CommandWorld(server)


async def _registered(world: CommandWorld) -> None:
    await until(lambda: bool(world.registered))


async def test_the_command_is_registered_once_and_others_are_left_alone(world: CommandWorld) -> None:
    control = world.server.control
    own = {"type": 1, "name": "roll", "description": "The operator's own."}
    world.server.commands.put(world.app, None, own)
    async with world.running():
        await until(lambda: len(world.registered) == 2)
    before = control.commands(world.app.id)
    world.server.api.statistics.requests.clear()
    async with world.running():
        await until(lambda: bool(world.requests))
        await world.answered(world.use())
    assert control.commands(world.app.id) == before
    assert world.requests == {"GET /applications/{application_id}/commands": 1}


async def test_a_command_of_an_older_relay_is_overwritten(world: CommandWorld) -> None:
    old, _ = world.server.commands.put(world.app, None, {"type": 1, "name": "relay", "description": "As it was."})
    async with world.running():
        await until(lambda: len(world.registered[0].get("options", ())) > 1)
    assert [one["id"] for one in world.registered] == [str(old.id)]


@pytest.mark.parametrize("fault", [Fault("status", "*", "/commands$", status=503), Fault("reset", "*", "/commands$")])
async def test_registering_is_tried_again(world: CommandWorld, fault: Fault) -> None:
    world.server.faults.add(fault)
    async with world.running():
        await _registered(world)


async def test_a_refusal_is_survived_and_tried_with_the_next_session(world: CommandWorld) -> None:
    world.server.faults.add(Fault("status", "POST", "/commands$", status=400, code=30034, message="too many"))
    async with world.running() as adapter:
        await until(lambda: any("did not register /relay" in note for note in adapter.notes(world.ref)))
        world.server.gateway.invalidate(resumable=False)
        await until(lambda: bool(world.registered))
        await until(lambda: not any("/relay" in note for note in adapter.notes(world.ref)))


async def test_answers_are_seen_by_that_person_alone(world: CommandWorld) -> None:
    async with world.running():
        await _registered(world)
        assert await world.answered(world.use("relay help")) == [("help", True)]
    (call,) = world.calls
    assert (call.user.id, call.channel, call.words, call.private) == (str(world.bob.id), world.ref, ("help",), True)
    assert world.shown() == []
    assert world.inbox.events == []


async def test_a_command_in_a_thread_is_given_in_its_channel(world: CommandWorld) -> None:
    control = world.server.control
    thread = control.open_thread(world.channel.id, world.bob.id, "aside")["id"]
    async with world.running():
        await _registered(world)
        await world.answered(str(control.use_command(thread, world.bob.id, "relay help")["id"]))
    assert [call.channel for call in world.calls] == [world.ref]


async def test_a_slow_core_gets_the_time_it_needs(world: CommandWorld) -> None:
    release = asyncio.Event()

    async def slowly(call: CommandCall) -> RichText:
        await release.wait()
        return RichText.plain("done at last")

    world.carry_out = slowly
    async with world.running():
        await _registered(world)
        used = world.use()
        await until(lambda: world.seen(used)[0] == "thinking")
        assert world.seen(used)[1] == [("", True)]
        release.set()
        assert await world.answered(used) == [("done at last", True)]


async def test_a_long_answer_takes_several_messages_and_pings_nobody(world: CommandWorld) -> None:
    async def at_length(call: CommandCall) -> RichText:
        return RichText.plain("@everyone " + "word " * 900)

    world.carry_out = at_length
    async with world.running():
        await _registered(world)
        used = world.use()
        await until(lambda: len(world.seen(used)[1]) == 3)
    assert all(private and len(text) <= 2000 for text, private in world.seen(used)[1])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreUnavailable("relay.db", "the disk is full", "make room"), "Please try again in a minute"),
        (ZeroDivisionError("a secret"), "could not do that"),
    ],
)
async def test_a_failure_is_said(world: CommandWorld, error: Exception, words: str) -> None:
    async def fail(call: CommandCall) -> RichText:
        raise error

    world.carry_out = fail
    async with world.running():
        await _registered(world)
        ((said, private),) = await world.answered(world.use())
        assert words in said
        assert private
        world.carry_out = world._echo
        assert await world.answered(world.use()) == [("help", True)]


async def test_commands_that_are_no_longer_there(world: CommandWorld) -> None:
    async with world.running():
        await _registered(world)
        data: dict[str, Any] = {"id": "1", "name": "bridge", "options": []}
        used = world.server.control.use_unknown_command(world.channel.id, world.bob.id, world.app.id, data)
        ((said, private),) = await world.answered(str(used["id"]))
        assert (said, private) == ("There is no `/bridge` any more. `/relay help` shows what there is.", True)
        data = {"id": "1", "name": "relay", "options": [{"type": 1, "name": "gone", "options": []}]}
        used = world.server.control.use_unknown_command(world.channel.id, world.bob.id, world.app.id, data)
        assert await world.answered(str(used["id"])) == [("gone", True)]
    assert [call.words for call in world.calls] == [("gone",)]


async def test_a_command_that_comes_twice_is_carried_out_once(world: CommandWorld) -> None:
    async with world.running():
        await _registered(world)
        world.server.faults.add_gateway(GatewayFault("duplicate", "INTERACTION_CREATE"))
        await world.answered(world.use())
        await world.answered(world.use())
    assert len(world.calls) == 2


async def test_a_command_that_comes_too_late_is_not_carried_out(world: CommandWorld) -> None:
    async with world.running():
        await _registered(world)
        world.server.faults.add_gateway(GatewayFault("delay", "INTERACTION_CREATE", seconds=3.2))
        late = world.use("relay status")
        await until(lambda: world.seen(late)[0] == "failed")
        await world.answered(world.use())
    assert [call.words for call in world.calls] == [("help",)]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_answer_is_tried_again(world: CommandWorld, when: Any) -> None:
    async with world.running():
        await _registered(world)
        world.server.faults.add(Fault("status", "POST", "/callback$", status=503, when=when))
        assert await world.answered(world.use()) == [("help", True)]


async def test_the_real_answer_is_tried_again(world: CommandWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slash, "_THINKING_AFTER", 0.0)
    async with world.running():
        await _registered(world)
        world.server.faults.add(Fault("reset", "PATCH", "/messages/@original$", count=2))
        assert await world.answered(world.use()) == [("help", True)]


async def test_one_person_does_not_take_the_turns_of_others(world: CommandWorld) -> None:
    hold = asyncio.Event()

    async def wait_for_bob(call: CommandCall) -> RichText:
        if call.user.id == str(world.bob.id):
            await hold.wait()
        return RichText.plain("here")

    world.carry_out = wait_for_bob
    async with world.running():
        await _registered(world)
        flood = [world.use() for _ in range(20)]
        other = world.server.control.use_command(world.channel.id, world.owner.id, "relay help")
        assert await world.answered(str(other["id"])) == [("here", True)]
        hold.set()
        await until(lambda: not any(world.seen(one)[0] in {"waiting", "thinking"} for one in flood))
    assert sum(world.seen(one)[0] == "answered" for one in flood) == 3


async def test_answers_take_nothing_of_the_limit_of_all_requests(world: CommandWorld) -> None:
    async with world.running() as adapter:
        await _registered(world)
        before = len(adapter._rest.limits._sent_at), len(adapter._rest.limits._bucket_states)
        for _ in range(5):
            await world.answered(world.use())
        after = len(adapter._rest.limits._sent_at), len(adapter._rest.limits._bucket_states)
    assert after == before
