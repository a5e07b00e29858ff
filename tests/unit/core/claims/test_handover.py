"""What becomes of pairs that another relay takes over."""

import asyncio
from pathlib import Path

from relay.core.claims.handover import Handover, claim_key
from relay.core.clock import SystemClock
from relay.domain.ids import Platform
from tests.support.pairs import PUBLIC, STAFF, Gate, declare, depth, joined, waits
from tests.support.patience import PATIENCE
from tests.support.world import lane, until, world


async def test_what_is_handed_over_is_not_read_again_although_pairs_are_declared_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        gate = Gate()
        channel, room = bridge.channels()
        async with bridge.relay(gate.prepare) as core:
            [pair] = core.pairs.pairs
            handover = Handover(
                store=bridge.store, pairs=core.pairs, lanes=core.dispatcher, adapters=(), clock=SystemClock()
            )
            bridge.discord.say(channel, "ann", "before")
            await waits(bridge, lane(Platform.MATRIX), 1)
            handing = asyncio.create_task(handover.hand_over({claim_key(pair)}))
            await until(lambda: core.pairs.is_left(pair))
            # The operator has added another pair.
            await handover.hold_back({"another": "It is being looked up whether another relay holds this pair."})
            bridge.discord.say(channel, "ann", "after")
            gate.closed = False
            await bridge.shows(room, "before")
            await handing
            await bridge.quiet()
            assert bridge.words(room) == ["before"]
            # And it can be taken back.
            await handover.hold_back({claim_key(pair): "Another relay holds it."})
            await handover.hold_back({})
            assert not core.pairs.is_left(pair)


async def test_what_waits_in_a_channel_is_set_aside_although_its_pair_is_another_one_now_or_none(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        async with bridge.relay(gate.prepare) as core:
            handover = Handover(
                store=bridge.store, pairs=core.pairs, lanes=core.dispatcher, adapters=(), clock=SystemClock()
            )
            for name in ("staff", "public"):
                bridge.discord.say(bridge.channels(name)[0], "ann", "before")
                await waits(bridge, lane(Platform.MATRIX, name), 1)
            await declare(bridge, joined("crossed", "staff", "public"))
            await handover.stand_down({claim_key(STAFF)})
            assert await depth(bridge, lane(Platform.MATRIX, "staff")) == 0
            assert await depth(bridge, lane(Platform.MATRIX, "public")) == 1


async def test_nobody_is_made_to_wait_for_what_is_not_delivered_as_the_pair_was_removed(tmp_path: Path) -> None:
    async with world(tmp_path, STAFF, PUBLIC) as bridge:
        gate = Gate()
        async with bridge.relay(gate.prepare) as core:
            handover = Handover(
                store=bridge.store, pairs=core.pairs, lanes=core.dispatcher, adapters=(), clock=SystemClock()
            )
            bridge.discord.say(bridge.channels("staff")[0], "ann", "before")
            await waits(bridge, lane(Platform.MATRIX, "staff"), 1)
            handing = asyncio.create_task(handover.hand_over({claim_key(STAFF)}))
            await until(lambda: core.pairs.is_left(STAFF))
            await declare(bridge, PUBLIC)
            async with asyncio.timeout(PATIENCE / 2):
                await handing
            assert await depth(bridge, lane(Platform.MATRIX, "staff")) == 1
