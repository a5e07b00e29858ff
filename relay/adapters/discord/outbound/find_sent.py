"""Finds the message that an earlier try of a delivery may have posted, in the channel's history.

Webhook messages have no idempotency key: https://docs.discord.com/developers/resources/webhook#execute-webhook. But a
lane sends one message at a time, so after its last recorded copy there is at most one message that is not on record.
That one need not have the same text: the message that it quotes may have been deleted since, or a name may belong to
somebody else now. The text must be the same only where another lane may have left a message there as well, because its
pair was removed while it was sending.
"""

from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta

from relay.adapters.discord.api.client import Json, RestClient, Route
from relay.adapters.discord.identifiers import created_at, is_snowflake
from relay.core.ports import Delivery

_PAGE = 100
_MAX_REMEMBERED = 1_000
# How wrong the time since an entry was queued may be, if our clock was set meanwhile.
_CLOCKS_DIFFER = timedelta(hours=1)
_MIN_PAGES = 10


@dataclass(frozen=True, slots=True)
class ExpectedMessage:
    """What the earlier try would have posted: through a webhook of ours, or as the bot."""

    # The author's name, and those that replace it where Discord refuses it.
    usernames: AbstractSet[str]
    content: str
    bot_content: str
    # The number of files.
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
        """Whether `message` is the expected one. `user`, `application` and `webhooks` are our own IDs.

        Not `exactly`: any message through a webhook of ours under the same name.
        """
        # Discord strips the white space around the text.
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


@dataclass(slots=True)
class PostedMessages:
    """The messages that this process has posted, by the key of their delivery."""

    _by_key: OrderedDict[str, str] = field(init=False, default_factory=OrderedDict)
    _messages: dict[str, str] = field(init=False, default_factory=dict)

    def put(self, key: str, message: str) -> None:
        """Remember the message of a delivery."""
        self._by_key[key] = message
        self._messages[message] = key
        if len(self._by_key) > _MAX_REMEMBERED:
            _, oldest = self._by_key.popitem(last=False)
            self._messages.pop(oldest, None)

    def get(self, key: str) -> str | None:
        """The message of a delivery, if it is remembered."""
        return self._by_key.get(key)

    def __contains__(self, message: object) -> bool:
        return message in self._messages


async def candidates(rest: RestClient, channel: str, delivery: Delivery) -> list[Mapping[str, Json]]:
    """The messages that may be an earlier try of `delivery`, oldest first. Raises `ApiError`.

    They are read from the newest back to the lane's last copy, because our clock cannot be compared with Discord's IDs.
    The time since the entry was queued is used only where no copy is on record yet, or where very many messages have
    been written since the last copy.
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
        enough = not after or pages >= _MIN_PAGES
        if enough and earliest is not None and created_at(oldest) < earliest:
            break
        before = {"before": oldest}
    if not after and earliest is not None:
        # Without a copy on record, an older message may come from an earlier store.
        found = [message for message in found if created_at(str(message["id"])) >= earliest]
    return found[::-1]
