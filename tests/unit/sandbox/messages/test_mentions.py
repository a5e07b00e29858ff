"""Who a message notifies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.messages.mentions import MESSAGE_DEFAULT, WEBHOOK_DEFAULT, AllowedMentions, resolve, without_code
from relay.sandbox.world.models import Pinged

USERS, ROLES = {1, 2}, {10, 11}
NONE = AllowedMentions(frozenset())


def ping(content: str, allowed: AllowedMentions, *, everyone: bool = True, replied_to: int | None = None) -> Pinged:
    return resolve(content, allowed, users=USERS, roles=ROLES, may_ping_everyone=everyone, replied_to=replied_to)


@pytest.mark.parametrize(
    ("content", "allowed", "expected"),
    [
        ("<@1> <@!2> <@3>", MESSAGE_DEFAULT, Pinged(users=[1, 2])),
        ("<@1> <@1>", WEBHOOK_DEFAULT, Pinged(users=[1])),
        ("<@&10> @here", MESSAGE_DEFAULT, Pinged(everyone=True, roles=[10])),
        ("<@&10> @everyone", WEBHOOK_DEFAULT, Pinged()),
        ("<@1> <@&10> @everyone", NONE, Pinged()),
        ("<@1> <@2>", AllowedMentions(frozenset(), users=frozenset({2})), Pinged(users=[2])),
        ("<@&10> <@&11>", AllowedMentions(frozenset(), roles=frozenset({11})), Pinged(roles=[11])),
        ("`<@1>` ```\n@everyone``` <@2>", MESSAGE_DEFAULT, Pinged(users=[2])),
        ("` <@1> `` @everyone", MESSAGE_DEFAULT, Pinged(everyone=True)),
        ("``` <@1>", MESSAGE_DEFAULT, Pinged(users=[1])),
        ("\\<@1>", MESSAGE_DEFAULT, Pinged(users=[1])),
    ],
)
def test_who_is_notified(content: str, allowed: AllowedMentions, expected: Pinged) -> None:
    assert ping(content, allowed) == expected


def test_everyone_needs_the_permission_and_a_reply_the_wish() -> None:
    assert not ping("@everyone", MESSAGE_DEFAULT, everyone=False).everyone
    assert ping("", MESSAGE_DEFAULT, replied_to=2).users == [2]
    assert ping("", NONE, replied_to=2).users == []
    assert ping("", AllowedMentions(frozenset(), replied_user=True), replied_to=2).users == [2]
    assert ping("", MESSAGE_DEFAULT, replied_to=99).users == []


@given(st.text(alphabet="`<@&!1> \n", max_size=200))
def test_nobody_is_notified_whom_nothing_allows(content: str) -> None:
    assert ping(content, NONE) == Pinged()
    assert set(ping(content, MESSAGE_DEFAULT).users) <= USERS


@given(st.text(max_size=100).filter(lambda text: "`" not in text))
def test_text_without_code_stays(content: str) -> None:
    assert without_code(content) == content
