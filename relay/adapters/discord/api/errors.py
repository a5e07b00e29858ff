"""What Discord answers instead of what was asked for, and what that means for the relay: here and nowhere else.

The client raises an `ApiError`; `translated` turns it into the relay's own errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from relay.errors import ActionNeeded, DeliveryError, Permanent, RateLimited, TargetGone, Transient

# The answers that a server gives for what is not there, or for a route that it does not have.
NOT_FOUND = frozenset({404, 405})
# Auto-moderation and the like: what was written is what is refused.
_FORBIDDEN_WORDS = frozenset({200000, 200001, 240000, 20009})
_BAN_PAUSE = 60.0


class ErrorCode(IntEnum):
    """https://docs.discord.com/developers/topics/opcodes-and-status-codes#json"""

    UNKNOWN_CHANNEL = 10003
    UNKNOWN_MESSAGE = 10008
    UNKNOWN_WEBHOOK = 10015
    TOO_MANY_WEBHOOKS = 30007
    TOO_LARGE = 40005
    BLOCKED_BY_CLOUDFLARE = 40333
    MISSING_ACCESS = 50001
    MISSING_PERMISSIONS = 50013
    INVALID_WEBHOOK_TOKEN = 50027
    THREAD_ARCHIVED = 50083
    THREAD_LOCKED = 160005
    # What a webhook answers once somebody has moved it to a forum.
    THREAD_NEEDED = 220001


MISSING = frozenset({ErrorCode.MISSING_ACCESS, ErrorCode.MISSING_PERMISSIONS})
# Its own network's trouble, and what a banned address is told.
NOT_US = frozenset({0, ErrorCode.BLOCKED_BY_CLOUDFLARE})


class ApiError(Exception):
    """A request that brought no good answer; `str()` never holds a secret or the text of a message."""


class Refused(ApiError):
    """Discord said no: an HTTP status, Discord's own code (0 = none), its words, and the `fields` that it names."""

    def __init__(self, status: int, code: int, message: str, fields: frozenset[str] = frozenset()) -> None:
        super().__init__(f"HTTP {status}, code {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields

    @property
    def bare(self) -> bool:
        """Whether something is not there, without a word about what: a message, a webhook, or the route itself."""
        return self.status in NOT_FOUND and self.code == 0


class Limited(ApiError):
    """Too many requests; certainly not carried out. `retry_after` in seconds."""

    def __init__(self, retry_after: float, reason: str = "Discord's rate limit") -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Unanswered(ApiError):
    """No answer, or one that says nothing. `sent`: the request may have been carried out.

    `answered`: there was one, to this very request.
    """

    def __init__(self, reason: str, *, sent: bool, answered: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.answered = answered


@contextmanager
def translated(channel: str) -> Iterator[None]:
    """Errors of the API, as the core understands them."""
    try:
        yield
    except Limited as error:
        raise RateLimited(str(error), retry_after=error.retry_after) from None
    except Unanswered as error:
        raise Transient(str(error), ambiguous=error.sent, failed=error.answered) from None
    except Refused as error:
        raise _refusal(error, channel) from None


@contextmanager
def readable(channel: str) -> Iterator[None]:
    """Errors of reading a channel: whatever they are, it is read again later, or the channel closes."""
    try:
        with translated(channel):
            yield
    except Transient:
        raise
    except DeliveryError as error:
        raise Transient(str(error)) from None


def _refusal(error: Refused, channel: str) -> DeliveryError:
    said = f"Discord said: {error.message}"
    match error:
        case Refused(code=ErrorCode.UNKNOWN_MESSAGE):
            return TargetGone(said)
        case Refused(code=ErrorCode.UNKNOWN_CHANNEL):
            # Waits rather than dies: the operator may point the pair at another channel, and nothing is lost.
            return ActionNeeded(f"channel {channel} is gone from Discord: correct discord_channel of this pair")
        case Refused(code=ErrorCode.THREAD_LOCKED):
            return ActionNeeded(
                f"the thread {channel} is locked: unlock it, or give the bot's role Manage Threads ({said})"
            )
        case Refused(code=ErrorCode.THREAD_ARCHIVED):
            return Transient(said)
        case Refused(code=code) if code in MISSING:
            needed = "View Channel, Send Messages, Manage Webhooks and Manage Messages"
            return ActionNeeded(f"the bot may not do that in channel {channel}: give its role {needed} there ({said})")
        case Refused(code=code) if code in _FORBIDDEN_WORDS:
            return Permanent(said)
        case Refused(status=413) | Refused(code=ErrorCode.TOO_LARGE):
            return Permanent(f"it is too large for Discord ({said})")
        case Refused(status=401):
            return Transient(said)
        case Refused(bare=True):
            return Transient(said, failed=True)
        case Refused(status=403, code=code) if code in NOT_US:
            return Transient(said, retry_after=_BAN_PAUSE)
        case Refused(status=403):
            return ActionNeeded(f"the bot may not do that in channel {channel} ({said})")
        case _:
            return Permanent(said)
