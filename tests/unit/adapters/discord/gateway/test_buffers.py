"""Order, holding back and letting go."""

from collections.abc import Mapping
from typing import Any

import pytest

from relay.adapters.discord.gateway.buffers import ChannelBuffer, ChannelBuffers, GatewayEvent
from relay.adapters.discord.gateway.channel_access import ChannelAccess
from relay.domain.ids import ChannelAddress, ChannelRef, Platform

ACCESS = ChannelAccess("5", may_use_webhooks=True, may_send=True, may_delete=True, max_file_size=1)


class Setting:
    def __init__(self, *, queue: int = 100, held: int = 10, queue_size: int = 10**6, held_size: int = 10**6) -> None:
        self.gaps = 0
        parents: Mapping[str, str] = {"200": "100"}
        private: Mapping[str, str] = {"300": "100"}
        self.buffers = ChannelBuffers(
            parent_of=parents.get,
            private_parent_of=private.get,
            on_gap=self.gap,
            queue_limit=queue,
            held_limit=held,
            queue_size=queue_size,
            held_size=held_size,
        )
        self.buffer = self.add("100")

    def gap(self) -> None:
        self.gaps += 1

    def add(self, channel: str) -> ChannelBuffer:
        buffer = ChannelBuffer(ChannelAddress(Platform.DISCORD, channel), ChannelRef(Platform.DISCORD, channel), ACCESS)
        self.buffers.add(buffer)
        return buffer

    def create(self, message: int, channel: str = "100") -> None:
        self.buffers.put("MESSAGE_CREATE", {"id": str(message), "channel_id": channel})

    def change(self, event: str, message: int) -> None:
        self.buffers.put(event, {"id": str(message), "channel_id": "100"})

    async def taken(self) -> list[tuple[str, Any]]:
        return [(item.kind, item.data.get("id")) for _, item in await self.buffers.take(1000)]


async def test_what_comes_while_the_history_is_read_waits_and_then_goes_on_in_order() -> None:
    setting = Setting()
    setting.create(1)
    setting.change("MESSAGE_UPDATE", 1)
    setting.change("MESSAGE_DELETE", 1)
    assert setting.buffers.release(setting.buffer)
    setting.create(2)
    assert await setting.taken() == [("create", "1"), ("update", "1"), ("delete", "1"), ("create", "2")]


async def test_the_queue_is_bounded_by_bytes() -> None:
    setting = Setting(queue_size=3_000)
    setting.buffers.release(setting.buffer)
    for number in range(1, 100):
        setting.create(number)
    taken = await setting.taken()
    assert 0 < len(taken) < 20
    assert setting.gaps == 1
    # The history, which is read now, brings the others.
    assert setting.buffer.behind


async def test_what_is_held_back_is_bounded_by_bytes() -> None:
    setting = Setting(held=1_000, held_size=3_000)
    for number in range(1, 100):
        setting.create(number)
    setting.change("MESSAGE_DELETE", 1)
    assert setting.buffer.read_again
    assert [item.kind for item in setting.buffer.held] == ["delete"]


async def test_a_bulk_deletion_is_one_deletion_for_each() -> None:
    setting = Setting()
    setting.buffers.release(setting.buffer)
    setting.buffers.put("MESSAGE_DELETE_BULK", {"ids": ["1", "2"], "channel_id": "100"})
    assert await setting.taken() == [("delete", "1"), ("delete", "2")]


async def test_threads_go_with_their_channel_and_private_ones_are_counted_only() -> None:
    setting = Setting()
    setting.buffers.release(setting.buffer)
    setting.create(1, "200")
    setting.create(2, "300")
    setting.create(3, "999")
    taken = [item for _, item in await setting.buffers.take(10)]
    assert taken == [
        GatewayEvent("create", "200", {"id": "1", "channel_id": "200"}),
        GatewayEvent("feature", "300", {}, "thread"),
    ]


async def test_too_much_held_back_is_read_from_the_history_instead() -> None:
    setting = Setting(held=10)
    for message in range(20):
        setting.create(message)
    setting.change("MESSAGE_DELETE", 3)
    assert not setting.buffers.release(setting.buffer)
    # The history is read again from here on, and what comes now is not in it.
    setting.buffer.read_again = False
    setting.create(20)
    assert setting.buffers.release(setting.buffer)
    assert await setting.taken() == [("delete", "3"), ("create", "20")]


async def test_a_full_queue_leaves_the_channel_behind_and_loses_no_order() -> None:
    setting = Setting(queue=5)
    setting.buffers.release(setting.buffer)
    for message in range(8):
        setting.create(message)
    assert setting.gaps == 1
    assert setting.buffer.behind
    assert await setting.taken() == [("create", str(message)) for message in range(5)]
    setting.create(8)
    assert not setting.buffers.release(setting.buffer), "what was let go has to be read"


async def test_a_new_session_leaves_every_channel_behind() -> None:
    setting = Setting()
    other = setting.add("101")
    setting.buffers.release(setting.buffer)
    setting.buffers.release(other)
    setting.buffers.hold(lambda _: False)
    assert not any(buffer.behind for buffer in setting.buffers)
    setting.buffers.hold(lambda _: True)
    assert setting.buffer.behind
    assert other.behind
    assert not setting.buffers.release(other)


async def test_what_waits_of_a_channel_that_is_closed_is_let_go() -> None:
    setting = Setting()
    setting.buffers.release(setting.buffer)
    setting.create(1)
    setting.buffers.remove(setting.buffer)
    assert await setting.taken() == []


@pytest.mark.parametrize("event", ["TYPING_START", "MESSAGE_REACTION_ADD"])
async def test_features_are_named(event: str) -> None:
    setting = Setting()
    setting.buffers.release(setting.buffer)
    setting.buffers.put(event, {"channel_id": "100", "user_id": "7"})
    [(_, item)] = await setting.buffers.take(10)
    assert item.feature == {"TYPING_START": "typing", "MESSAGE_REACTION_ADD": "reaction"}[event]
