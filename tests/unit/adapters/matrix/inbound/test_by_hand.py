"""What somebody writes with the relay's own account is told from what the relay writes."""

from typing import Any

from relay.adapters.matrix.inbound.events import is_by_hand
from relay.adapters.matrix.outbound import compose
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText

ME, ROOM = "@relay:example.org", ChannelRef(Platform.MATRIX, "!room")
ADA = Author(UserRef(Platform.DISCORD, "1"), "Ada")


def event(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"type": "m.room.message", "event_id": "$1", "sender": ME, "content": content} | changes


def test_what_the_relay_writes_is_not_written_by_hand() -> None:
    for author in (ADA, None):
        content = compose.compose(Delivery(ROOM, "key", author, Content(RichText.plain("hello"))))
        assert not is_by_hand(event(content), ME)
        assert not is_by_hand(event(compose.edit_content(MessageRef(ROOM, "$0"), content)), ME)


def test_what_somebody_writes_with_its_account_is() -> None:
    hello = {"msgtype": "m.text", "body": "hello"}
    assert is_by_hand(event(hello), ME)
    assert is_by_hand(event({"body": "cat", "url": "mxc://example.org/cat"}, type="m.sticker"), ME)
    assert not is_by_hand(event(hello, sender="@ann:example.org"), ME)
    assert not is_by_hand(event({"name": "Help"}, type="m.room.name", state_key=""), ME)
    # Deleted.
    assert not is_by_hand(event({}), ME)
