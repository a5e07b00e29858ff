"""What people wrote: the truth that the copies are held against. Pure.

Most messages say who they are in their first word, `d17.2`: the 17th message written on Discord, in its words after the
second edit. Every word of a long message begins so, so that each of its parts can be told. Some say the same as others,
on purpose: those can only be counted, and followed by their place among the rest.
"""

import re
from dataclasses import dataclass, field

SAME = ("same here", "me too", "thanks a lot")
"""What several people say, and some say twice."""

_TAG = re.compile(r"\b([dm]\d+)\.\d+")


@dataclass(slots=True)
class Written:
    """One message. `text` is its latest; `files` are the names of its files; `at` is when, in seconds.

    `exempt`: its copy may have been posted anew, at another place, because its webhook was deleted and it was edited.
    """

    name: str
    text: str
    files: tuple[str, ...] = ()
    at: float = 0.0
    edited: bool = False
    deleted: bool = False
    exempt: bool = False

    @property
    def key(self) -> str:
        """What its copies are recognised by."""
        return key_of(self.text if tagged(self.text) or not self.files else self.files[0])


@dataclass(slots=True)
class Ledger:
    """All messages of one side of one pair, in the order in which they were written."""

    written: list[Written] = field(default_factory=list)

    def webhook_deleted(self, at: float) -> None:
        """The copies of what was written before then, and was edited, may stand at another place."""
        for message in self.written:
            message.exempt = message.exempt or (message.edited and message.at <= at)


def tagged(text: str) -> bool:
    """Whether `text` says whose it is."""
    return _TAG.search(text) is not None


def key_of(text: str) -> str:
    """The message's name where its text says it, else the text itself."""
    found = _TAG.search(text)
    return found[1] if found else " ".join(text.split())
