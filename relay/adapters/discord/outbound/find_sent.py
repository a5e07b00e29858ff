"""Finding what an earlier try may have posted, in the channel's history.

A webhook's message has no idempotency key: https://docs.discord.com/developers/resources/webhook#execute-webhook. But a
lane is serial, so after its last copy there is at most one message of it that is not on record. It need not say the
same: what a reply quotes may have been deleted since, a name may resolve to another person. Where another lane may
have left one there as well (its pair was taken out while it was sending), it does have to.
"""

from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.identifiers import created_at, is_snowflake
from relay.core.ports import Delivery

_PAGE = 100
_REMEMBERED = 1_000
# How much the time since an entry was queued may be off, should our clock have been set meanwhile.
_CLOCKS_DIFFER = timedelta(hours=1)
_PAGES_AT_LEAST = 10


@dataclass(frozen=True, slots=True)
class ExpectedMessage:
    """What the earlier try would have posted: through a webhook of ours, or as the bot; `files` is how many.

    `usernames`: the one that the author has, and those that stand in for it where Discord refuses it.
    """

    usernames: AbstractSet[str]
    content: str
    bot_content: str
    files: int = 0

    def is_met_by(
        self,
        message: Mapping[str, Json],
        *,
        user: str,
        application: str,
        webhooks: AbstractSet[str],
        exactly: bool = True,
    ) -> bool:
        """Whether `message` is that. `user`, `application`, `webhooks` are our own IDs.

        Not `exactly`: one of ours through a webhook under the same name is enough.
        """
        # Discord strips what surrounds the text.
        said = str(message.get("content", "")).strip()
        author = message.get("author") or {}
        webhook = message.get("webhook_id")
        if webhook is None:
            return author.get("id") == user and said == self.bot_content.strip() and self._has_files(message)
        ours = webhook in webhooks or message.get("application_id") == application
        same = not exactly or (said == self.content.strip() and self._has_files(message))
        return ours and author.get("username") in self.usernames and same

    def _has_files(self, message: Mapping[str, Json]) -> bool:
        return len(message.get("attachments") or ()) == self.files


class PostedMessages:
    """What this process has posted: the message of each delivery's key."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, str] = OrderedDict()
        self._messages: dict[str, str] = {}

    def put(self, key: str, message: str) -> None:
        """A delivery has become a message."""
        self._by_key[key] = message
        self._messages[message] = key
        if len(self._by_key) > _REMEMBERED:
            _, oldest = self._by_key.popitem(last=False)
            self._messages.pop(oldest, None)

    def get(self, key: str) -> str | None:
        """The message that a delivery became."""
        return self._by_key.get(key)

    def __contains__(self, message: object) -> bool:
        return message in self._messages


async def candidates(rest: RestClient, channel: str, delivery: Delivery) -> list[Mapping[str, Json]]:
    """The messages among which an earlier try of `delivery` has to be, oldest first. Raises an `ApiError`.

    Read from the newest back to the lane's last copy: our clock says nothing about Discord's IDs. How long ago the
    entry was queued counts only where there is no copy on record yet, and where very many messages have been written
    since that.
    """
    after = int(delivery.after.id) if delivery.after is not None and is_snowflake(delivery.after.id) else 0
    earliest = None if delivery.queued_at is None else rest.time.of(delivery.queued_at) - _CLOCKS_DIFFER
    found: list[Mapping[str, Json]] = []
    route = Route("GET", "/channels/{channel}/messages", {"channel": channel})
    before: dict[str, str] = {}
    pages = 0
    while True:
        page = await rest.call(route, query={"limit": str(_PAGE), **before})
        messages = sorted(page, key=lambda message: int(message["id"]), reverse=True)
        found.extend(message for message in messages if int(message["id"]) > after)
        pages += 1
        if len(messages) < _PAGE or int(messages[-1]["id"]) <= after:
            break
        oldest = str(messages[-1]["id"])
        enough = not after or pages >= _PAGES_AT_LEAST
        if enough and earliest is not None and created_at(oldest) < earliest:
            break
        before = {"before": oldest}
    if not after and earliest is not None:
        # Without a copy on record, what stands there longer may be of an earlier store.
        found = [message for message in found if created_at(str(message["id"])) >= earliest]
    return found[::-1]
