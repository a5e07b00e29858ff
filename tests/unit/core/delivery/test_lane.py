"""A lane takes what is enqueued without asking the store, and asks it wherever that could be wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.core.delivery import dispatcher
from relay.core.ports import Delivery
from relay.core.storage import Entry
from relay.domain.commands import PostNotice, RefreshMessage
from relay.domain.ids import MessageRef, Platform
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import ActionNeeded, CopyNotEditable, DeliveryError, RateLimited, TargetGone, Transient
from tests.support.logs import captured_logs
from tests.support.patience import PATIENCE
from tests.support.platform import MemoryPlatform
from tests.support.world import World, lane, pair, until, world

LANE = lane(Platform.MATRIX)


async def queued(bridge: World, *words: str) -> list[Entry]:
    """Notices in the outbox that no lane has been told of."""
    async with bridge.store.write() as uow:
        return [await uow.outbox.append(LANE, PostNotice(RichText.plain(word)), bridge.discord.now()) for word in words]


async def test_what_is_enqueued_is_delivered_in_the_order_of_the_outbox(bridge: World) -> None:
    _, room = bridge.channels()
    async with bridge.relay() as core:
        first, second, third = await queued(bridge, "one", "two", "three")
        for entry in (second, first, third):
            core.dispatcher.enqueue(entry)
        await bridge.shows(room, "one", "two", "three")


async def test_what_was_delivered_before_it_is_enqueued_is_not_delivered_again(bridge: World) -> None:
    _, room = bridge.channels()
    async with bridge.relay() as core:
        first, second = await queued(bridge, "one", "two")
        core.dispatcher.wake(LANE)
        await bridge.shows(room, "one", "two")
        for message in list(bridge.matrix.messages.values()):
            message.key = ""  # the platform does not recognise them either
        core.dispatcher.enqueue(first)
        core.dispatcher.enqueue(second)
        core.dispatcher.enqueue((await queued(bridge, "three"))[0])
        await bridge.shows(room, "one", "two", "three")
        await bridge.quiet()


async def test_what_the_lane_was_never_told_of_goes_first(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        bridge.discord.say(discord, "mira", "zero")
        await bridge.shows(room, "zero")
        await queued(bridge, "one")
        core.dispatcher.wake(LANE)
        core.dispatcher.enqueue((await queued(bridge, "two"))[0])
        await bridge.shows(room, "zero", "one", "two")


async def test_a_backlog_longer_than_one_reading_keeps_its_order(bridge: World) -> None:
    _, room = bridge.channels()
    words = [str(number) for number in range(120)]
    async with bridge.relay() as core:
        for entry in await queued(bridge, *words):
            core.dispatcher.enqueue(entry)
        core.dispatcher.wake(LANE)
        core.dispatcher.enqueue((await queued(bridge, "last"))[0])
        await bridge.shows(room, *words, "last")


async def test_a_message_deleted_while_it_waits_never_shows(bridge: World) -> None:
    discord, room = bridge.channels()
    seen: list[str] = []

    async def before(call: str) -> None:
        if call == "send" and not seen:
            seen.append(call)
            bridge.discord.delete(said)
            assert bridge.discord_adapter is not None
            await until_deleted()

    async def until_deleted() -> None:
        while True:
            async with bridge.store.read() as uow:
                original = await uow.messages.find(said)
            if original is not None and original.deleted:
                return

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)):
        bridge.discord.say(discord, "mira", "first")
        said = bridge.discord.say(discord, "mira", "second")
        await bridge.shows(room, "first")
        await bridge.quiet()
        assert all(message.text != "second" for message in bridge.matrix.messages.values())


@pytest.mark.parametrize(
    ("count", "text", "lanes", "most"),
    [(130, "", 1, 300_000), (40, "x" * 20_000, 1, 300_000), (40, "x" * 5_000, 1000, 40_000)],
    ids=["many", "long ones", "in many lanes"],
)
async def test_what_waits_in_memory_is_bounded_and_what_is_not_there_crosses_too(
    bridge: World, monkeypatch: pytest.MonkeyPatch, count: int, text: str, lanes: int, most: int
) -> None:
    monkeypatch.setattr(dispatcher, "_ALL_READ_AHEAD", dispatcher._ALL_READ_AHEAD // lanes)
    _, room = bridge.channels()
    words = [f"{number}{text}" for number in range(count)]

    async def before(call: str) -> None:
        if call == "send":
            await release.wait()

    release = asyncio.Event()
    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        for word in words:
            core.dispatcher.enqueue((await queued(bridge, word))[0])
        held = core.dispatcher._lanes[LANE]._waiting
        assert len(held) <= 50
        assert sum(entry.size for entry in held) <= most
        release.set()
        await bridge.shows(room, *words)


async def test_a_limit_is_kept_to_where_nothing_is_sent(bridge: World) -> None:
    """The shared budget knows nothing of it: what is only looked at takes no turn there."""
    discord, room = bridge.channels()
    asked: list[str] = []

    async def before(call: str) -> None:
        if call == "latest":
            asked.append(call)
            raise RateLimited("slow down", retry_after=60)

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        source = bridge.matrix.say(room, "ben", "one")
        await bridge.shows(discord, "one")
        await bridge.quiet()
        key = lane(Platform.DISCORD)
        async with bridge.store.write() as uow:
            await uow.outbox.append(
                LaneKey.within(key.source), RefreshMessage(source, bridge.matrix.now()), bridge.matrix.now()
            )
        core.dispatcher.wake(LaneKey.within(key.source))
        await until(lambda: bool(asked))
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(asked) == 1


async def test_what_a_platform_asked_for_is_kept_to_whatever_changes(bridge: World) -> None:
    discord, room = bridge.channels()
    tries: list[float] = []

    async def before(call: str) -> None:
        if call == "send":
            tries.append(asyncio.get_running_loop().time())
            if len(tries) == 1:
                raise Transient("slow down", retry_after=0.5)

    async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
        bridge.discord.say(discord, "mira", "one")
        await until(lambda: bool(tries))
        core.dispatcher.platform_is_back(Platform.MATRIX)
        core.dispatcher.retry_now()
        await bridge.shows(room, "one")
    assert tries[1] - tries[0] >= 0.5


class Fails:
    """A platform that answers 5xx to whatever says `word`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, word: str, error: DeliveryError | None = None) -> None:
        self.tries = 0
        self._error = error or Transient("status 500", ambiguous=True, failed=True)
        post = MemoryPlatform.post

        def failing(platform: MemoryPlatform, delivery: Delivery) -> MessageRef:
            if word not in plain_text(delivery.content.text):
                return post(platform, delivery)
            self.tries += 1
            raise self._error

        monkeypatch.setattr(MemoryPlatform, "post", failing)
        monkeypatch.setattr("relay.core.delivery.lane._HOPELESS_SECONDS", 0.1)


@asynccontextmanager
async def chatter(bridge: World) -> AsyncIterator[None]:
    """Another pair's talk while the block runs, and no waiting for the next try of anything."""
    assert bridge.core is not None
    here, _ = bridge.channels("other")
    dispatcher = bridge.core.dispatcher

    async def talk() -> None:
        while True:
            bridge.discord.say(here, "ann", "…")
            await asyncio.sleep(0.02)
            dispatcher.retry_now()

    talking = asyncio.create_task(talk())
    try:
        yield
    finally:
        talking.cancel()


@pytest.mark.parametrize("ambiguous", [True, False], ids=["a post", "an upload"])
async def test_what_fails_every_time_while_others_get_through_becomes_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ambiguous: bool
) -> None:
    fails = Fails(monkeypatch, "poison", Transient("status 500", ambiguous=ambiguous, failed=True))
    async with world(tmp_path, pair(), pair("other")) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            async with chatter(bridge):
                said = [bridge.discord.say(here, "mira", text) for text in ("one", "poison", "two")]
                await bridge.shows(there, "one", "two")
                await until(lambda: bridge.discord.reactions == [(said[1], "⚠️")])
            async with bridge.store.read() as uow:
                (letter,) = await uow.outbox.dead()
    assert letter.reason == "it fails every time"
    assert fails.tries >= 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TargetGone("the channel is gone"), "the channel is gone"),
        (CopyNotEditable("not ours"), "internal error (CopyNotEditable)"),
    ],
)
async def test_an_error_that_a_post_should_not_raise_ends_one_message_and_not_the_lane(
    bridge: World, monkeypatch: pytest.MonkeyPatch, error: DeliveryError, reason: str
) -> None:
    Fails(monkeypatch, "odd", error)
    here, there = bridge.channels()
    with captured_logs():
        async with bridge.relay() as core:
            for text in ("one", "odd", "two"):
                bridge.discord.say(here, "mira", text)

            def crossed() -> bool:
                core.dispatcher.retry_now()  # no waiting for the next try
                return bridge.words(there) == ["one", "two"]

            await until(crossed)
            async with bridge.store.read() as uow:
                (letter,) = await uow.outbox.dead()
    assert letter.reason == reason


@pytest.mark.parametrize(
    ("error", "silent_seconds", "dies"),
    [
        (ActionNeeded("the bot may not write there"), 0.1, False),
        (Transient("Discord said: you are banned", retry_after=0.01), 0.1, False),
        (Transient("no connection"), 0.1, False),
        (RateLimited("slow down", retry_after=0.01), 0.1, False),
        (Transient("no answer", ambiguous=True), 60.0, False),
        (Transient("no answer", ambiguous=True), 0.1, True),
    ],
    ids=["closed", "ban", "no connection", "limit", "no answer", "no answer for very long"],
)
async def test_what_only_has_to_wait_waits_while_others_get_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Transient, silent_seconds: float, *, dies: bool
) -> None:
    monkeypatch.setattr("relay.core.delivery.lane._SILENT_SECONDS", silent_seconds)
    fails = Fails(monkeypatch, "poison", error)
    async with world(tmp_path, pair(), pair("other")) as bridge:
        here, _ = bridge.channels()
        async with bridge.relay(), chatter(bridge):
            bridge.discord.say(here, "mira", "poison")
            await until(lambda: bool(bridge.discord.reactions) or fails.tries >= 30)
            async with bridge.store.read() as uow:
                assert bool(await uow.outbox.dead()) == dies


async def test_what_fails_while_nothing_else_gets_through_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = Fails(monkeypatch, "poison")
    async with world(tmp_path, pair(), pair("other")) as bridge:
        here, there = bridge.channels()
        async with bridge.relay() as core:
            for text in ("one", "poison", "two"):
                bridge.discord.say(here, "mira", text)

            def tried() -> bool:
                core.dispatcher.retry_now()
                return fails.tries > 20

            await until(tried)
            assert bridge.words(there) == ["one"]
            async with bridge.store.read() as uow:
                assert not await uow.outbox.dead()


async def test_commands_that_send_nothing_say_nothing_of_a_platform_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.core.delivery.lane._HOPELESS_SECONDS", 0.1)
    is_away, tries = False, 0

    async def before(call: str) -> None:
        nonlocal tries
        if is_away:
            tries += 1
            raise Transient("status 502", ambiguous=True, failed=True)

    async with world(tmp_path, pair(), pair("other")) as bridge:
        here, _ = bridge.channels()
        elsewhere, there = bridge.channels("other")
        old = bridge.discord.say(elsewhere, "bot", "status")
        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", before)) as core:
            # An answer: what it quotes is looked after, and needs nothing of a platform whose replies are native.
            bridge.discord.say(elsewhere, "ann", "nice", reply_to=old)
            await until(lambda: any("nice" in words for words in bridge.words(there)))
            is_away, since = True, asyncio.get_running_loop().time()
            bridge.discord.say(here, "mira", "innocent")

            def tried() -> bool:
                bridge.discord.edit(old, f"status {tries}")
                core.dispatcher.retry_now()
                return tries > 30 and asyncio.get_running_loop().time() > since + 0.3

            await until(tried)
            async with bridge.store.read() as uow:
                assert not await uow.outbox.dead()


async def test_of_a_batch_that_fails_every_time_only_the_guilty_message_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fails(monkeypatch, "poison")
    refused = False

    async def limited(call: str) -> None:
        nonlocal refused
        if call == "send" and not refused:
            refused = True
            raise RateLimited("slow", retry_after=0.3)

    async with world(tmp_path, pair(batch_when_behind=0.01), pair("other", batch_when_behind=0)) as bridge:
        here, there = bridge.channels()
        async with bridge.relay(lambda _, matrix: setattr(matrix, "before", limited)), chatter(bridge):
            said = [bridge.discord.say(here, "mira", text) for text in ("one", "two", "poison", "four", "five")]
            await until(lambda: bridge.discord.reactions == [(said[2], "⚠️")])
            await until(lambda: all(word in " ".join(bridge.words(there)) for word in ("one", "two", "four", "five")))
            async with bridge.store.read() as uow:
                assert len(await uow.outbox.dead()) == 1


async def test_a_closed_channel_is_told_once_and_not_by_the_lane_too(bridge: World) -> None:
    discord, room = bridge.channels()
    async with bridge.relay() as core:
        await core.inbox.closed(bridge.pairs[0].side(Platform.MATRIX), "it may not write there")
        bridge.discord.say(discord, "mira", "hello")
        await until(lambda: core.status.lane(LANE).retries > 0)
        assert (await core.status.report()).pairs[0].problems == ("It may not write there.",)
        await core.inbox.opened(bridge.pairs[0].side(Platform.MATRIX), room)
        await bridge.shows(room, "hello")


async def test_a_channel_that_is_not_open_is_not_told_by_what_waits_for_it(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each start with a message in the outbox there was a line that ended by itself within a second."""
    _, room = bridge.channels()
    is_open = False
    monkeypatch.setattr("relay.core.pairs.PairDirectory.is_open", lambda self, lane: is_open)
    fails = Fails(monkeypatch, "poison", ActionNeeded("the bot may not write there"))
    with captured_logs() as lines:
        async with bridge.relay() as core:
            await queued(bridge, "one", "poison")
            core.dispatcher.wake(LANE)
            await until(lambda: core.status.lane(LANE).retries > 0)
            told = [line for line in lines if line["event"] == "will try again"]
            assert [line["level"] for line in told] == ["debug"] * len(told) != []
            is_open = True
            core.dispatcher.retry_now()
            await bridge.shows(room, "one")
            await until(lambda: fails.tries > 0)
            # What only this lane knows is told.
            await until(lambda: {"info"} <= {line["level"] for line in lines if line["event"] == "will try again"})


async def test_what_takes_the_place_of_what_may_have_been_sent_has_not_been_sent(bridge: World) -> None:
    """Else the copy of the one that is gone would be taken for its own: a webhook's are found by the author's name."""
    discord, room = bridge.channels()
    there = lane(Platform.DISCORD)

    async def after(call: str) -> None:
        if call == "send" and bridge.words(discord) == ["old"]:
            raise Transient("the answer got lost", ambiguous=True)

    async with bridge.relay(lambda discord, _: setattr(discord, "after", after)) as core:
        bridge.matrix.say(room, "mira", "old")
        await bridge.shows(discord, "old")
        # As where another relay takes the pair over, and gives it back before the next try.
        async with core.dispatcher.moving([there]), bridge.store.write() as uow:
            (old,) = await uow.outbox.waiting(there, 2)
            await uow.outbox.dead_letter(old.id, "another relay may have sent it", bridge.clock.now())
        bridge.matrix.say(room, "mira", "new")
        async with asyncio.timeout(PATIENCE):
            while True:
                async with bridge.store.read() as uow:
                    if await uow.outbox.waiting(there, 1):
                        break
                await asyncio.sleep(0)
        core.dispatcher.retry_now()
        await bridge.shows(discord, "old", "new")
