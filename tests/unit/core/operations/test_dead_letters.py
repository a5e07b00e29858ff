"""Dead letters as the status page lists and decides them, while the relay runs."""

from relay.core.operations.dead_letters import DeadLetters, summary
from relay.errors import Permanent
from tests.support.memory_adapter import MemoryAdapter
from tests.support.stack import eventually
from tests.support.world import World


async def test_the_newest_are_listed_and_what_is_tried_again_crosses(bridge: World) -> None:
    refused = [True]

    def prepare(_: MemoryAdapter, matrix: MemoryAdapter) -> None:
        async def before(call: str) -> None:
            if call == "send" and refused[0]:
                raise Permanent("it is not wanted")

        matrix.before = before

    channel, room = bridge.channels()
    async with bridge.relay(prepare) as core:
        letters = DeadLetters(store=bridge.store, pairs=core.pairs)
        for word in ("one", "two", "three"):
            bridge.discord.say(channel, "ann", word)
        first, second, third = await eventually(letters.newest, lambda seen: len(seen) == 3)
        assert [letter.entry.id for letter in await letters.newest(2)] == [second.entry.id, third.entry.id]
        assert summary(first)["pair"] == "help"
        assert summary(first)["author"] == "ann"
        assert "it is not wanted" in first.reason

        refused[0] = False
        assert await letters.retry(first.entry.id)
        assert await letters.discard(second.entry.id)
        assert not await letters.retry(second.entry.id)
        assert not await letters.discard(10**15)
        # As the dispatcher does each second.
        await core.dispatcher.check_outbox()
        await bridge.shows(room, "one")
        assert [letter.entry.id for letter in await letters.newest()] == [third.entry.id]
