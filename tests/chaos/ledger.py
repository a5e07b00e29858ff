"""What people wrote: the truth that the copies are held against. Pure.

Most messages say who they are in their first word, `d17.2`: the 17th message written on Discord, in its words after the
second edit. Every word of a long message begins so, so that each of its parts can be told; a file is named so. Some
messages say the same as others, on purpose: those can only be counted, and followed by their place among the rest.
"""

import re
from dataclasses import dataclass, field

SAME = ("same here", "me too", "thanks a lot")
"""What several people say, and some say twice."""

FIRST_PAST = 1_000_000
"""From this number on messages are from before the first start."""

_TAG = re.compile(r"\b([dm]\d+)\.\d+")


@dataclass(frozen=True, slots=True)
class File:
    """A file by its name and its content's SHA-256."""

    name: str
    digest: str


@dataclass(slots=True)
class Written:
    """One message. `text` is its latest; `id` is its platform's; `at` is when, in seconds.

    `reply_to`: the ID of the message that it answers, "" for none; `reply_keys`: what that one said, where it was a
    copy. `plain_at_first`: its first words did not say who it is. `led_to`: the place to which its channel led;
    `loose`: that has changed since, so it need not cross, nor what becomes of it. Elsewhere it may not be. `past`: it
    was written before the first start, and crosses once the operator wants it, in an order of its own.
    """

    name: str
    text: str
    author: str = ""
    file: File | None = None
    at: float = 0.0
    id: str = ""
    reply_to: str = ""
    reply_keys: tuple[str, ...] = ()
    plain_at_first: bool = False
    led_to: str = ""
    loose: bool = False
    past: bool = False
    deleted: bool = False

    @property
    def key(self) -> str:
        """What its copies are recognised by."""
        return key_of(self.text if tagged(self.text) or self.file is None else self.file.name)


@dataclass(slots=True)
class Ledger:
    """All messages of one side of one pair, in the order in which they were written."""

    written: list[Written] = field(default_factory=list)


def tagged(text: str) -> bool:
    """Whether `text` says whose it is."""
    return _TAG.search(text) is not None


def is_past(key: str) -> bool:
    """Whether a message of this name is from before the first start."""
    return key[1:].isdecimal() and int(key[1:]) >= FIRST_PAST


def key_of(text: str) -> str:
    """The message's name where its text says it, else the text itself."""
    found = _TAG.search(text)
    return found[1] if found else " ".join(text.split())
