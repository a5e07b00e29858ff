"""Discord's error codes, the errors that the REST client raises, and which of the relay's errors they become."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from relay.errors import ActionNeeded, DeliveryError, Permanent, RateLimited, TargetGone, Transient

# How a server answers a request for something, or for a route, that it does not have.
NOT_FOUND = frozenset({404, 405})
TOO_LARGE = 413
# Auto-moderation and the like refuse a message because of its words.
FORBIDDEN_WORDS = frozenset({200000, 200001, 240000, 20009})
# What Discord has turned off for a while, mostly in trouble of its own.
_TURNED_OFF = frozenset({40004, 40006})
_BAN_PAUSE = 60.0


class ErrorCode(IntEnum):
    """https://docs.discord.com/developers/topics/opcodes-and-status-codes#json"""

    UNKNOWN_CHANNEL = 10003
    UNKNOWN_MEMBER = 10007
    UNKNOWN_MESSAGE = 10008
    UNKNOWN_USER = 10013
    UNKNOWN_EMOJI = 10014
    UNKNOWN_WEBHOOK = 10015
    TOO_MANY_WEBHOOKS = 30007
    TOO_MANY_EMOJI = 30008
    TOO_LARGE = 40005
    ALREADY_ANSWERED = 40060
    BLOCKED_BY_CLOUDFLARE = 40333
    MISSING_ACCESS = 50001
    MISSING_PERMISSIONS = 50013
    INVALID_WEBHOOK_TOKEN = 50027
    THREAD_ARCHIVED = 50083
    THREAD_LOCKED = 160005
    # A webhook answers this after somebody has moved it to a forum.
    THREAD_NEEDED = 220001


MISSING = frozenset({ErrorCode.MISSING_ACCESS, ErrorCode.MISSING_PERMISSIONS})
# What Cloudflare in front of Discord answers when it has problems, or has banned our address.
FROM_CLOUDFLARE = frozenset({0, ErrorCode.BLOCKED_BY_CLOUDFLARE})


class ApiError(Exception):
    """A request failed. `str()` never contains a secret or the text of a message."""


class Refused(ApiError):
    """Discord refused a request."""

    def __init__(self, status: int, code: int, message: str, fields: frozenset[str] = frozenset()) -> None:
        super().__init__(f"HTTP {status}, code {code}: {message}")
        self.status = status
        # Discord's own code, see `ErrorCode`; 0 where it gave none.
        self.code = code
        self.message = message
        # The fields of the request that Discord complains about.
        self.fields = fields

    @property
    def unexplained(self) -> bool:
        """Whether it is a 404 that does not say what was not found: a message, a webhook, or the route itself."""
        return self.status in NOT_FOUND and self.code == 0


class Limited(ApiError):
    """Too many requests. This one was not carried out; try again in `retry_after` seconds."""

    def __init__(self, retry_after: float, reason: str = "Discord's rate limit") -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Unanswered(ApiError):
    """No answer came, or one that does not tell whether the request was carried out."""

    def __init__(self, reason: str, *, sent: bool, answered: bool = False) -> None:
        super().__init__(reason)
        # The request was sent, so it may have been carried out.
        self.sent = sent
        # An answer to this request came, for example a 5xx.
        self.answered = answered


@contextmanager
def translate_errors(channel: str) -> Iterator[None]:
    """Turn errors of the API into the relay's own."""
    try:
        yield
    except Limited as error:
        raise RateLimited(str(error), retry_after=error.retry_after) from None
    except Unanswered as error:
        raise Transient(str(error), ambiguous=error.sent, failed=error.answered) from None
    except Refused as error:
        raise _refusal(error, channel) from None


@contextmanager
def translate_read_errors(channel: str) -> Iterator[None]:
    """Turn errors of the API into `Transient`: a channel that cannot be read now is read again later, or closed."""
    try:
        with translate_errors(channel):
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
            # Not `Permanent`, so that nothing is lost: the operator may give the pair another channel.
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
        case Refused(code=code) if code in FORBIDDEN_WORDS:
            return Permanent(said)
        case Refused(code=code) if code in _TURNED_OFF:
            return Transient(said, retry_after=_BAN_PAUSE)
        case Refused(status=status, code=code) if status == TOO_LARGE or code == ErrorCode.TOO_LARGE:
            return Permanent(f"it is too large for Discord ({said})")
        case Refused(status=401):
            return Transient(said)
        case Refused(unexplained=True):
            return Transient(said, failed=True)
        case Refused(status=403, code=code) if code in FROM_CLOUDFLARE:
            return Transient(said, retry_after=_BAN_PAUSE)
        case Refused(status=403):
            return ActionNeeded(f"the bot may not do that in channel {channel} ({said})")
        case _:
            return Permanent(said)
