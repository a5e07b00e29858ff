"""What the adapters hand over: one event that the core cannot take costs only itself."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from relay.core.ports import CommandCall, Cursor, EventBatch
from relay.domain.content import Author, Content
from relay.domain.events import MessageCreated, PictureChanged
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import Paragraph, RichText, Text
from tests.support.world import World, until


def message(channel: ChannelRef, words: str, created_at: datetime | None) -> MessageCreated:
    ann = Author(UserRef(Platform.MATRIX, "ann"), "ann")
    content = Content(RichText((Paragraph((Text(words),)),)))
    return MessageCreated(MessageRef(channel, f"${words}"), ann, content, created_at)  # type: ignore[arg-type]


async def test_an_event_that_the_core_cannot_take_costs_only_itself_and_is_counted(
    bridge: World, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = bridge.channels()
    cursor = Cursor(Platform.MATRIX, "test", "7")
    async with bridge.relay() as core:
        await bridge.quiet()
        now = datetime.now(UTC)
        events = (message(there, "one", now), message(there, "secret", None), message(there, "three", now))
        await core.inbox.receive(EventBatch(events, (cursor,)))
        await until(lambda: bridge.words(here) == ["one", "three"])
        assert await core.inbox.cursor(Platform.MATRIX, "test") == "7"
        report = await core.status.report()
        (pair,) = report.pairs
        assert pair.directions["to_discord"].dropped == {"unreadable": 1}
    logged = caplog.text
    assert "event by event" in logged
    assert not [line for line in logged.splitlines() if "secret" in line and "$secret" not in line]


async def test_a_new_picture_is_made_ready_on_the_other_side(bridge: World) -> None:
    _, there = bridge.channels()
    ann, ben = (Author(UserRef(Platform.MATRIX, name), name) for name in ("ann", "ben"))
    unpaired = ChannelRef(Platform.MATRIX, "#elsewhere")
    async with bridge.relay() as core:
        await core.inbox.command(CommandCall(ben.user, there, ("optout",), private=True))
        events = (
            PictureChanged(there, ann),
            PictureChanged(there, ben),
            PictureChanged(there, replace(ann, is_self=True)),
            PictureChanged(unpaired, ann),
        )
        await core.inbox.receive(EventBatch(events))
    assert bridge.discord_adapter is not None
    assert bridge.discord_adapter.expected == [ann]
