"""Every error that the relay raises by name.

    RelayError
    ├── ConfigurationError        the configuration is wrong: all mistakes at once; exit status 2
    │   └── ConfigurationUnread   it could not be read, and may be right; exit status 1
    ├── FatalError                the daemon cannot go on: why, and what to do; exit status 4
    ├── StoreError                the store cannot be used; exit status 1
    │   ├── StoreTooNew           made by a newer relay
    │   ├── StoreHeld             another daemon holds it; exit status 3
    │   └── StoreUnavailable      full, locked, read-only or broken now; may work again later
    └── DeliveryError             one command could not be carried out
        ├── Transient             try again later; `ambiguous`: it may have been carried out all the same; `failed`: the
        │   │                     platform answered that this very command failed
        │   ├── RateLimited       the platform's rate limit is reached
        │   ├── NotYet            something of ours has to be done first; nothing is wrong
        │   ├── FileUnavailable   a file cannot be read now, although its platform answers
        │   │   └── NoRoom        our own disk has no room for it
        │   └── ActionNeeded      somebody has to do something: a permission is missing, a channel is not open
        │       └── NotDeclared   the operator has to declare the pair again
        ├── Permanent             no try will succeed: dead letter
        ├── TargetGone            the message to edit or delete does not exist: done if expected, else dead letter
        ├── CopyNotEditable       the copy exists, but it cannot be edited any more: it is posted again
        ├── FileRejected          one of its files cannot cross: it is described in words instead
        └── Unsupported           the platform cannot carry this: dropped and counted

Each adapter translates the errors of discord.py, nio and aiohttp into these in one place.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.domain.events import Feature


class RelayError(Exception):
    """The root of all. `str()` is a sentence for the operator."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in the configuration."""

    # File and key.
    where: str
    what: str
    # What to write instead.
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


class ConfigurationError(RelayError):
    """The configuration or the command line is wrong. Never holds the value of a secret."""

    exit_status = 2

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes

    @staticmethod
    def of(where: str, what: str, remedy: str) -> "ConfigurationError":
        """The error for one `Mistake`."""
        return ConfigurationError((Mistake(where, what, remedy),))


class ConfigurationUnread(ConfigurationError):
    """What was to read the configuration came to an end. The configuration may be right."""

    exit_status = 1

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__((Mistake(str(path), what, remedy),))


class FatalError(RelayError):
    """The daemon cannot go on."""

    exit_status = 4

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class StoreError(RelayError):
    """The store cannot be used."""

    def __init__(self, path: Path | str, reason: str, remedy: str) -> None:
        super().__init__(f"store {path}: {reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class StoreTooNew(StoreError):
    """The store was made by a newer relay."""


class StoreHeld(StoreError):
    """Another daemon holds the store."""

    exit_status = 3


class StoreUnavailable(StoreError):
    """The store is full, read-only, locked or broken: nothing was written."""


class DeliveryError(RelayError):
    """One command could not be carried out."""


class Transient(DeliveryError):
    """Worth another try.

    `retry_after`: the seconds that the platform asked for, None if it did not say. `ambiguous`: the command may have
    been carried out although no answer arrived (a time-out, a reset connection, a 5xx). `failed`: an answer says that
    this very request failed (a 5xx, a proxy's page): the next ones may succeed.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, ambiguous: bool = False, failed: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.failed = failed


class RateLimited(Transient):
    """The platform's rate limit is reached. The command was certainly not carried out."""


class ActionNeeded(Transient):
    """Somebody has to do something first (give a permission back, let the relay in); the lane waits, and says so."""


class NotDeclared(ActionNeeded):
    """No declared pair has these two channels now. What waits stays in the outbox, and is not tried."""


class NotYet(Transient):
    """Something of ours has to be done first, in a moment. Nothing is wrong."""


class FileUnavailable(Transient):
    """A file cannot be read now, although its platform answers: a remote server that is away, a transfer cut short.

    `about_server` false: it says nothing about other files of its server.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None, about_server: bool = True) -> None:
        super().__init__(reason, retry_after=retry_after)
        self.about_server = about_server


class NoRoom(FileUnavailable):
    """Our own disk has no room for a temporary file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, about_server=False)


class Permanent(DeliveryError):
    """No try will ever succeed."""


class Postponed(Permanent):
    """No try succeeds until somebody has mended what others do not need: what follows does not wait for that.

    A dead letter, which is queued again by itself whenever its channel is opened.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; it is tried again once that is mended")


class TargetGone(DeliveryError):
    """The message to edit or delete does not exist any more."""


class CopyNotEditable(DeliveryError):
    """The copy stands, but what posted it is gone, so that nobody can edit it any more."""


class FileRejected(DeliveryError):
    """A file cannot cross, now or later; the message can. `attachment` is its ID; `reason` follows "it is".

    `gone`: nobody can open it on its own platform either. `late`: it may still come.
    """

    def __init__(self, attachment: str, reason: str, *, gone: bool = False, late: bool = False) -> None:
        super().__init__(f"a file cannot cross: it is {reason}")
        self.attachment = attachment
        self.reason = reason
        self.gone = gone
        self.late = late


class Unsupported(DeliveryError):
    """The platform cannot carry this. It is counted as `feature`."""

    def __init__(self, feature: "Feature") -> None:
        super().__init__(f"{feature} cannot cross")
        self.feature = feature


def reason_of(error: OSError) -> str:
    """Why the system refused something, in its own words: libraries put addresses and numbers around them."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or ""


def cause_of(error: BaseException) -> str:
    """Why a request over the network failed, in plain words.

    Never the text of the error: it may hold an address with a secret in it, or the headers.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if (certificate := getattr(error, "certificate_error", None)) is not None:
        return f"its certificate is not accepted: {getattr(certificate, 'verify_message', '') or 'it is not valid'}"
    cause = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and (words := reason_of(cause)):
        return words
    return _BROKEN.get(type(error).__name__, type(error).__name__)


# Errors of aiohttp, which is not imported here, and of discord.py.
_BROKEN = {
    "ServerDisconnectedError": "the connection was closed",
    "ClientPayloadError": "the answer broke off",
    "ClientConnectionResetError": "the connection was closed",
    "WSServerHandshakeError": "what answers is no gateway",
    "GatewayNotFound": "it names no gateway",
}


def sentence(text: str) -> str:
    """`text` as a sentence: with a capital letter, unless it begins with the name of something, and a full stop."""
    plain = text.strip()
    first = plain.split(" ", 1)[0]
    if first.isalpha() or first.removesuffix(",").isalpha():
        plain = plain[:1].upper() + plain[1:]
    return plain if not plain or plain.endswith((".", "!", "?", "…")) else f"{plain}."


def how_many(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def ungrouped(*kinds: type[RelayError]) -> Iterator[None]:
    """Raises the first of `kinds` instead of a group that holds nothing else.

    Several tasks may have got the same refusal. A group that also holds another error is raised as it is: that one is a
    bug and must be seen. No `raise` inside `except*`: before Python 3.11.4 that wraps the error in a group again
    (gh-103590).
    """
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        if not all(isinstance(error, kinds) for error in errors):
            raise
        raise errors[0] from None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, and in the groups in it; of any other error, itself."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error
