"""Something in front of the homeserver that reads what is sent, and refuses some of it with a page of its own.

Cloudflare's rules do so with `cat /etc/passwd`, and others with files. No try changes that, so what follows must not
wait; but a proxy whose homeserver is away, or that refuses everything, says nothing of what was sent.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relay.adapters.matrix.api.client import Refused, Unreachable
from relay.core.recent import keep

# Its server is not there now, or it wants a password.
_NOT_ABOUT_CONTENT = frozenset({401, 404, 407, 408, 425})
_TRIES, _REMEMBERED = 3, 200


@dataclass(slots=True)
class Firewall:
    """Remembers what was refused."""

    # By what was sent: how often.
    _refused: OrderedDict[str, int] = field(init=False, default_factory=OrderedDict)

    async def refuses(self, sent: str, error: Unreachable, harmless: Callable[[], Awaitable[object]]) -> bool:
        """Whether it must be what was `sent` that is refused: time and again, while a `harmless` request gets through.

        `sent`: a name that each try has.
        """
        status = error.status or 0
        if not 400 <= status < 500 or status in _NOT_ABOUT_CONTENT:
            return False
        tries = self._refused.pop(sent, 0) + 1
        if tries < _TRIES:
            keep(self._refused, sent, tries, _REMEMBERED)
            return False
        try:
            await harmless()
        except Unreachable:
            return False
        except Refused as refused:
            return refused.code != ""  # by the homeserver
        return True
