"""What `relay check` finds, and what an account can see: as the adapters tell it, before and beside the daemon."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from relay.domain.jsontext import Json, as_string
from relay.domain.pair import Pair

State = Literal["ok", "note", "wrong"]
"""`note`: it works, and could be better."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: a line of `relay check`."""

    # What was looked at, as people call it: "the bot's token", "#help on Some server".
    subject: str
    state: State
    # How it is, or what is wrong with it: words that follow the subject and a colon.
    words: str
    # What somebody who did not write the relay can do about it; "" where there is nothing to do.
    remedy: str = ""
    # The name of the pair that it is about; None: about all of them.
    pair: str | None = None

    def as_json(self) -> Json:
        """For `relay check --json`, and for the status."""
        return {
            "subject": self.subject,
            "state": self.state,
            "words": self.words,
            "remedy": self.remedy or None,
            "pair": self.pair,
        }

    @classmethod
    def from_json(cls, saved: Json) -> "Finding | None":
        """What `as_json` made; None if that cannot be read."""
        subject, words = as_string(saved.get("subject")), as_string(saved.get("words"))
        state: State | None = next((one for one in get_args(State) if one == saved.get("state")), None)
        if state is None or not subject or not words:
            return None
        return cls(subject, state, words, as_string(saved.get("remedy")), as_string(saved.get("pair")) or None)

    def __str__(self) -> str:
        """One sentence, as logs and the status say it."""
        return f"{self.subject}: {self.words}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class VisibleChannel:
    """A channel or room that an account can see."""

    # What to write into the configuration.
    address: str
    # What people call it there: "#help".
    name: str
    # Where it is: the name of its server; "" where channels are not in one.
    place: str = ""
    # The heading that it stands under there; "" for none.
    section: str = ""
    # In a word or two: "text channel", "forum", "room".
    kind: str = ""
    topic: str = ""
    # Marked as not for everybody's age.
    nsfw: bool = False
    # Why it cannot be in a pair as it is, a sentence with the remedy; None if it can.
    problem: str | None = None
    # Under which other addresses it can be declared.
    also: frozenset[str] = frozenset()


class Survey(Protocol):
    """Looks at an account of the relay on one platform. It changes nothing there, and may do so beside the daemon."""

    async def account(self) -> Sequence[Finding]:
        """Whether the platform can be reached and the account be used. Where it cannot, nothing else is looked at."""
        ...

    @property
    def usable(self) -> bool:
        """Whether `account` found that the account can be used, whatever else is wrong with it."""
        ...

    async def channels(self) -> Sequence[VisibleChannel]:
        """What the account can see, in the order in which people see it there. Call `account` first.

        Raises `DeliveryError` if the platform does not answer.
        """
        ...

    def pairs(self, pairs: Sequence[Pair]) -> AsyncIterator[Finding]:
        """How the channels of these pairs are. Call `account` first."""
        ...

    async def operators(self, address: str) -> Finding:
        """Whether the relay can write where the operators want to be told (`[operators]`). Call `account` first."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
