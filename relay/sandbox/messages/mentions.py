"""Who a message notifies: https://discord.com/developers/docs/resources/message#allowed-mentions-object. Pure."""

import re
from collections.abc import Container
from dataclasses import dataclass

from relay.sandbox.world.models import Pinged

_USER = re.compile(r"<@!?(\d{1,20})>")
_ROLE = re.compile(r"<@&(\d{1,20})>")
_EVERYONE = re.compile(r"@(?:everyone|here)")


@dataclass(frozen=True, slots=True)
class AllowedMentions:
    """What the sender allows. `parse` holds any of `users`, `roles`, `everyone`."""

    parse: frozenset[str]
    users: frozenset[int] = frozenset()
    roles: frozenset[int] = frozenset()
    replied_user: bool = False


MESSAGE_DEFAULT = AllowedMentions(frozenset({"users", "roles", "everyone"}), replied_user=True)
WEBHOOK_DEFAULT = AllowedMentions(frozenset({"users"}))


def resolve(
    content: str,
    allowed: AllowedMentions,
    *,
    users: Container[int],
    roles: Container[int],
    may_ping_everyone: bool,
    replied_to: int | None = None,
) -> Pinged:
    """Who is notified.

    `users`: those that exist. `roles`: those that this author may ping. `replied_to`: the author of the message
    replied to.
    """
    spoken = without_code(content)
    pinged = Pinged()
    if "everyone" in allowed.parse and may_ping_everyone:
        pinged.everyone = _EVERYONE.search(spoken) is not None
    for user_id in _ids(_USER, spoken):
        if user_id in users and ("users" in allowed.parse or user_id in allowed.users):
            pinged.users.append(user_id)
    for role_id in _ids(_ROLE, spoken):
        if role_id in roles and ("roles" in allowed.parse or role_id in allowed.roles):
            pinged.roles.append(role_id)
    if replied_to is not None and replied_to in users and allowed.replied_user and replied_to not in pinged.users:
        pinged.users.append(replied_to)
    return pinged


def without_code(content: str) -> str:
    """The text outside code blocks and code spans: a mention inside one notifies nobody."""
    return "\n".join(_outside(outer, "`") for outer in _outside_parts(content, "```"))


def _outside(text: str, fence: str) -> str:
    return " ".join(_outside_parts(text, fence))


def _outside_parts(text: str, fence: str) -> list[str]:
    parts = text.split(fence)
    outside = parts[::2]
    if len(parts) % 2 == 0:  # the last fence is not closed: what follows it is text
        outside.append(parts[-1])
    return outside


def _ids(pattern: re.Pattern[str], text: str) -> list[int]:
    return list(dict.fromkeys(int(found) for found in pattern.findall(text)))
