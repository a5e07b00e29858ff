"""The way of live events to the core."""

import asyncio
from collections.abc import Callable

import pytest

from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers, GatewayEvent
from relay.adapters.discord.gateway.channel_access import ChannelAccess
from relay.adapters.discord.gateway.translator import EventPump
from relay.adapters.discord.identifiers import channel_ref
from relay.core.ports import Cursor, EventBatch
from relay.domain.events import Event, Feature, FeatureUsed
from relay.domain.ids import ChannelAddress, Platform
from relay.errors import StoreHeld

CHANNEL = channel_ref("1")
CURSOR = Cursor(Platform.DISCORD, "channel:1", "9")


class Words:
    """A translator that makes an event of every item."""

    async def batch(self, items: list[tuple[ChannelBuffer, GatewayEvent]]) -> EventBatch:
        return EventBatch(tuple(FeatureUsed(CHANNEL, item.feature or "unknown") for _, item in items), (CURSOR,))


def pump(*words: Feature) -> EventPump:
    buffers = ChannelBuffers(parent_of=lambda _: None, private_parent_of=lambda _: None, on_gap=lambda: None)
    access = ChannelAccess("g", may_use_webhooks=True, may_send=True, may_delete=True, max_file_size=1)
    buffer = ChannelBuffer(ChannelAddress(Platform.DISCORD, "1"), CHANNEL, access)
    buffers.add(buffer)
    buffers.release(buffer)
    buffer.held.extend(GatewayEvent("feature", "1", {}, word) for word in words)
    buffers.release(buffer)
    return EventPump(buffers=buffers, translator=Words())  # type: ignore[arg-type]


def refusing(word: str, error: Exception, got: list[Event | Cursor]) -> Callable[[EventBatch], asyncio.Future[None]]:
    async def receive(batch: EventBatch) -> None:
        if any(isinstance(event, FeatureUsed) and event.feature == word for event in batch.events):
            raise error
        got.extend(batch.events)
        got.extend(batch.cursors)

    return receive  # type: ignore[return-value]


async def test_a_store_that_is_held_by_another_ends_it() -> None:
    with pytest.raises(StoreHeld):
        await pump("call", "reaction").run(refusing("reaction", StoreHeld("relay.db", "held", "stop the other"), []))
