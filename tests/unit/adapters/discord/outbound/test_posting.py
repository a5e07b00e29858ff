"""Telling our own message from others'."""

from typing import Any

import pytest

from relay.adapters.discord.outbound.doubles import PostedMessages
from relay.adapters.discord.outbound.posting import ExpectedMessage

EXPECTED = ExpectedMessage(usernames=frozenset({"Alice"}), content="hello", bot_content="**Alice**: hello")
OURS = {"id": "5", "content": "hello", "webhook_id": "11", "author": {"id": "11", "username": "Alice"}}
BOT = {"id": "5", "content": "**Alice**: hello", "author": {"id": "1", "username": "relay"}}


@pytest.mark.parametrize(
    ("message", "met"),
    [
        (OURS, True),
        (OURS | {"webhook_id": "12", "application_id": "1"}, True),
        (OURS | {"webhook_id": "12"}, False),
        (OURS | {"content": "hello!"}, False),
        (OURS | {"author": {"id": "11", "username": "Bob"}}, False),
        (BOT, True),
        (BOT | {"content": "hello"}, False),
        (BOT | {"author": {"id": "7", "username": "relay"}}, False),
    ],
)
def test_only_what_we_posted_is_ours(message: dict[str, Any], met: bool) -> None:
    assert EXPECTED.is_met_by(message, user="1", application="1", webhooks={"11"}) is met


def test_what_a_reply_quotes_may_have_changed_since() -> None:
    changed = OURS | {"content": "> ↪ Bob\nhello"}
    assert EXPECTED.is_met_by(changed, user="1", application="1", webhooks={"11"}, by="name")
    assert not EXPECTED.is_met_by(
        changed | {"author": {"id": "11", "username": "Bob"}},
        user="1",
        application="1",
        webhooks={"11"},
        by="name",
    )
    assert not EXPECTED.is_met_by(
        BOT | {"content": "something else"}, user="1", application="1", webhooks={"11"}, by="name"
    )


def test_discord_strips_what_surrounds_a_text() -> None:
    expected = ExpectedMessage(frozenset({"Alice"}), "  hello\n", "")
    assert expected.is_met_by(OURS, user="1", application="1", webhooks={"11"})


def test_posted_is_bounded() -> None:
    posted = PostedMessages()
    for number in range(3_000):
        posted.put(f"k{number}", str(number))
    assert posted.get("k2999") == "2999"
    assert "2999" in posted
    assert posted.get("k0") is None
    assert "0" not in posted
