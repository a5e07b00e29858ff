"""The words for Discord's system messages. Pure.

https://docs.discord.com/developers/resources/message#message-object-message-types. They are shown under the name of
their author: who joined, who pinned.
"""

from collections.abc import Mapping
from typing import Any

from relay.domain.pair import SystemMessage

_WORDS = {
    3: "started a call.",
    6: "pinned a message to this channel.",
    7: "joined the server.",
    8: "boosted the server.",
    9: "boosted the server: it has reached level 1.",
    10: "boosted the server: it has reached level 2.",
    11: "boosted the server: it has reached level 3.",
    27: "started a stage.",
    28: "ended the stage.",
    29: "is now a speaker on the stage.",
    36: "turned on the server's security alert mode.",
    37: "turned off the server's security alert mode.",
    38: "reported a raid.",
    39: "said that there was no raid.",
    44: "bought something in the server's shop.",
}
# For moderators or for nobody: group chats, discovery warnings, reminders, auto-moderation's own log.
_NOT_WORTH_SEEING = frozenset({1, 2, 5, 14, 15, 16, 17, 22, 24, 26, 31, 32})


_KINDS: Mapping[int, SystemMessage] = {6: "pin", 7: "join", 8: "boost", 9: "boost", 10: "boost", 11: "boost"}
# default, reply, slash command, context menu command; and a poll's result, which belongs to the poll
_NOT_SYSTEM = frozenset({0, 19, 20, 23, 46})


def system_kind(kind: int) -> SystemMessage | None:
    """Which of the kinds that a pair can choose from; None for what people and bots write themselves."""
    return None if kind in _NOT_SYSTEM else _KINDS.get(kind, "other")


def system_text(message: Mapping[str, Any], kind: int) -> str | None:
    """A sentence without its subject; "" where the message's embeds say it; None for what nobody needs to see."""
    detail = " ".join(str(message.get("content") or "").split())
    match kind:
        case _ if kind in _NOT_WORTH_SEEING:
            return None
        case _ if kind in _WORDS:
            return _WORDS[kind]
        case 4:
            return f"changed the channel's name: {detail}"
        case 12:
            return f"added {detail or 'a channel'} to this channel: its announcements will show up here."
        case 25:
            return _subscribed(message.get("role_subscription_data"))
        case 46:
            return "" if message.get("embeds") else "ended a poll."
        case _:
            return detail or f"did something that Discord shows as a system message (type {kind})."


def _subscribed(data: object) -> str:
    fields = data if isinstance(data, Mapping) else {}
    tier = " ".join(str(fields.get("tier_name") or "").split()) or "a role of the server"
    months = fields.get("total_months_subscribed")
    since = f", for {months} months now" if isinstance(months, int) and months > 1 else ""
    return f"{'renewed the subscription' if fields.get('is_renewal') else 'subscribed'} to {tier}{since}."
