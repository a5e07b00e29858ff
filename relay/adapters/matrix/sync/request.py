"""What is asked of a sync, between the loop that asks and the intake that reads the answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """What a sync asked for: what came after `since` in `rooms`; `full`: all of them, with their whole state.

    `declarations`: how often the operator had changed the rooms when it was asked.
    """

    since: str | None
    rooms: frozenset[str]
    full: bool
    declarations: int


class Superseded(Exception):
    """The operator declared other rooms meanwhile: the same has to be asked again."""
