"""Which webhooks are ours, and when one is made."""

import pytest

from relay.adapters.discord.api.client import Route
from relay.adapters.discord.api.errors import Refused
from relay.adapters.discord.webhooks import Webhook, Webhooks


def test_a_webhook_does_not_show_its_token() -> None:
    assert "secret" not in repr(Webhook("1", "secret"))


class Answers:
    """A REST API that lists `listed` and makes `made`."""

    def __init__(self, listed: list[dict[str, object]], made: dict[str, object]) -> None:
        self.listed = listed
        self.made = made
        self.posts = 0

    async def call(self, route: Route, **_: object) -> object:
        if route.method == "GET":
            return self.listed
        self.posts += 1
        return self.made


def webhooks(answers: Answers) -> Webhooks:
    async def keep(channel: str, kept: tuple[str, ...]) -> None:
        """Remembered nowhere."""

    hooks = Webhooks(answers, keep)  # type: ignore[arg-type]
    hooks.set_owner("7", "8")
    return hooks


async def test_a_webhook_that_we_made_is_ours_whatever_it_says() -> None:
    answers = Answers([], {"id": "5", "token": "t", "application_id": None})
    hooks = webhooks(answers)
    assert await hooks.get_or_make("1") == await hooks.get_or_make("1") == Webhook("5", "t")
    assert (answers.posts, hooks.ids) == (1, {"5"})


@pytest.mark.parametrize(
    ("item", "ours"),
    [
        ({"application_id": "7"}, True),
        ({"application_id": None, "user": {"id": "8"}}, True),
        ({"application_id": "9", "user": {"id": "9"}}, False),
        ({}, False),
        ({"application_id": "7", "token": None}, False),
    ],
)
async def test_a_listed_webhook_is_ours_by_application_or_user(item: dict[str, object], *, ours: bool) -> None:
    hooks = webhooks(Answers([{"id": "5", "token": "t"} | item], {"id": "6", "token": "u"}))
    assert (await hooks.get_or_make("1")).id == ("5" if ours else "6")


async def test_where_webhooks_have_no_token_only_one_is_made() -> None:
    answers = Answers([], {"id": "5"})
    hooks = webhooks(answers)
    for _ in range(3):
        with pytest.raises(Refused):
            await hooks.get_or_make("1")
    assert answers.posts == 1
