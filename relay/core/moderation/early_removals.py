"""Messages that were removed before anything of them was on record: a moderator's bot is quicker than a receipt.

The receipt asks for them in its own transaction: of the removal and the receipt, whichever is written second sees the
other one.
"""

import json

from relay.core.storage import UnitOfWork
from relay.domain.ids import ChannelRef, MessageRef
from relay.domain.jsontext import as_list

_MOST = 100
"""The newest of a channel; a receipt takes seconds, or as long as the process is away."""


async def note(uow: UnitOfWork, removed: MessageRef) -> None:
    """Write down that a message is gone of which nothing is on record."""
    known = [one for one in await _noted(uow, removed.channel) if one != removed.id]
    await uow.key_values.put(_key(removed.channel), json.dumps([*known, removed.id][-_MOST:]))


async def is_noted(uow: UnitOfWork, copy: MessageRef) -> bool:
    """Whether a copy, of which nothing was on record until now, is gone already."""
    return copy.id in await _noted(uow, copy.channel)


async def _noted(uow: UnitOfWork, channel: ChannelRef) -> list[str]:
    try:
        saved = as_list(json.loads(await uow.key_values.get(_key(channel)) or "[]"))
    except ValueError:
        return []
    return [one for one in saved if isinstance(one, str)]


def _key(channel: ChannelRef) -> str:
    return f"removed early {channel.platform} {channel.id}"
