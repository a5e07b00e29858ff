"""Every error that the relay raises by name.

    RelayError
    ├── ConfigurationError        what the operator wrote is wrong: all mistakes at once; exit status 2
    ├── FatalError                the daemon cannot go on: what and the remedy; exit status 4
    ├── StoreError                the store cannot be used; exit status 1
    │   ├── StoreTooNew           made by a newer relay
    │   ├── StoreHeld             another daemon holds it; exit status 3
    │   └── StoreUnavailable      full, locked, read-only or broken now; may be well again later
    └── DeliveryError             one command could not be carried out
        ├── Transient             try again later; `ambiguous` where it may have been carried out all the same, `failed`
        │   │                     where the platform answered that it failed at this very command
        │   ├── RateLimited       the platform asks for patience
        │   ├── NotYet            something of ours comes first; nothing is wrong
        │   ├── FileUnavailable   one file cannot be read now, although its platform answers
        │   │   └── NoRoom        our own disk has no room for it on its way
        │   └── ActionNeeded      not until somebody does something: a permission, a channel that is not open
        │       └── NotDeclared   not until the operator declares the pair again
        ├── Permanent             never will be: dead letter
        ├── TargetGone            what was to be edited or deleted is not there: done, for an edit or a deletion
        ├── CopyNotEditable       the copy stands, but nobody can edit it any more: posted anew
        ├── FileRejected          one file of it cannot cross: said in words instead
        └── Unsupported           the platform cannot carry this: dropped, by name

Adapters translate the errors of discord.py, nio and aiohttp into these, once, in their `outbound.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class RelayError(Exception):
    """The root of all of them; `str()` is a sentence for the operator."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend: where (file and key), what is wrong, and what to write instead."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


class ConfigurationError(RelayError):
    """What the operator wrote is wrong. Never holds the value of a secret."""

    exit_status = 2

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


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
    """The disk is full, read-only, locked or broken: nothing was written."""


class DeliveryError(RelayError):
    """One command could not be carried out."""


class Transient(DeliveryError):
    """Worth another try.

    `retry_after`: seconds that the platform asked for, None where it did not say. `ambiguous`: the platform may
    have carried the command out although no answer arrived (a time-out, a reset connection, a 5xx). `failed`: an
    answer did arrive, which says that this very request failed (a 5xx, a proxy's page): the next ones may get through.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, ambiguous: bool = False, failed: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.failed = failed


class RateLimited(Transient):
    """The platform asks for patience; certainly not carried out."""


class ActionNeeded(Transient):
    """Somebody has to do something first (give a permission back, let the relay in); the lane waits, and says so."""


class NotDeclared(ActionNeeded):
    """No pair that is declared now joins the two channels; what waits for that stays, and nothing is tried."""


class NotYet(Transient):
    """Something of ours has to come first, in a moment; nothing is wrong."""


class FileUnavailable(Transient):
    """A file cannot be read now, although its platform answers: a remote server that is away, a transfer cut short.

    `about_server` false: it says nothing about other files of its server.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None, about_server: bool = True) -> None:
        super().__init__(reason, retry_after=retry_after)
        self.about_server = about_server


class NoRoom(FileUnavailable):
    """Our own disk has no room for a file on its way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, about_server=False)


class Permanent(DeliveryError):
    """No try will ever succeed."""


class TargetGone(DeliveryError):
    """The message to be edited or deleted is not there any more."""


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
    """The platform cannot carry this; `feature` is one word for the counter."""

    def __init__(self, feature: str) -> None:
        super().__init__(f"{feature} cannot cross")
        self.feature = feature


@contextmanager
def ungrouped(*kinds: type[RelayError]) -> Iterator[None]:
    """Raises the first of `kinds` in place of a group that holds nothing else.

    Several tasks may have met the same refusal. A group that also holds another error stays whole: that one is a bug,
    and must be seen. No `raise` inside `except*`: before Python 3.11.4 it wraps the error in a group again (gh-103590).
    """
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        if not all(isinstance(error, kinds) for error in errors):
            raise
        raise errors[0] from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
