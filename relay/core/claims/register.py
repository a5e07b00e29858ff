"""What relays on the same accounts tell each other: the register, and the claims in it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from relay.domain.jsontext import Json, as_dict, as_list, as_string

_DATABASE = "database "
_HIGHEST_NUMBER = 2**50
Values = Mapping[str, Json]
"""What stands in the register, by name."""

Positions = Mapping[str, str]
"""How far the channels of a pair were read, by platform, in the adapters' own form. Empty: only its store knows."""

FROM_NOW: Positions = {"": "from now on"}
"""Not even the store of who left it knows: others had it before, and it was not read on from there."""


class NoRegister(Exception):
    """The platform does not keep such values: nothing can be agreed on."""


class Register(Protocol):
    """Values that all relays on one account see. There is no compare-and-swap."""

    # When the last request was asked for (monotonic) whose answer showed no change that is not settled.
    confirmed: float

    async def read(self) -> Values:
        """All values, as they were at one moment. Raises `Transient`, `NoRegister`."""
        ...

    async def write(self, name: str, value: Json) -> None:
        """Replace one value. Raises `Transient`, `NoRegister`, and then it may be replaced all the same, and later."""
        ...

    async def changed(self) -> None:
        """Wait until something has changed that is not settled."""
        ...

    def settle(self, asked: float) -> None:
        """What was read by a request of that time has been acted on."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the relays that hold some channels."""

    nonce: str
    channels: frozenset[str]
    # True: they are to hand the channels over. False: they are only to show that they are alive.
    take: bool
    number: int = 0

    def as_json(self) -> Json:
        """As it stands in the register."""
        number = {"number": self.number} if self.number else {}
        return {"nonce": self.nonce, "channels": sorted(self.channels), "take": self.take, **number}


@dataclass(frozen=True, slots=True)
class Claim:
    """What one relay says in the register."""

    # The ID of its store; and where that lies: the file's number "on" its file system's, or "database …".
    store: str
    file: str
    host: str
    # The machine's boot.
    boot: str
    pid: int
    # Tells the process from others with its ID, on the same machine.
    started: str
    # For people: when the process started, by its own clock.
    since: str
    channels: frozenset[str] = frozenset()
    ask: Ask | None = None
    # The questions that it has answered.
    answers: frozenset[str] = frozenset()
    # For channels that it has handed over: how far they were read.
    left: Mapping[str, Positions] = field(default_factory=dict)
    # When each channel was claimed, and when it was left: a number above all that its relay had read by then.
    numbers: Mapping[str, int] = field(default_factory=dict)
    left_numbers: Mapping[str, int] = field(default_factory=dict)
    # The channels that it has claimed, and has not looked at again since: it does not mirror them yet.
    pending: frozenset[str] = frozenset()
    # See `board.py`.
    turn: int = 0

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """A claim in the register; None if it is none."""
        found = as_dict(value)
        if not as_string(found.get("store")):
            return None
        asked = as_dict(found.get("ask"))
        pid = found.get("pid")
        return cls(
            store=as_string(found.get("store")),
            file=as_string(found.get("file")),
            host=as_string(found.get("host")),
            boot=as_string(found.get("boot")),
            pid=pid if isinstance(pid, int) else 0,
            started=as_string(found.get("started")),
            since=as_string(found.get("since")),
            channels=_words(found.get("channels")),
            ask=_ask(asked) if asked else None,
            answers=_words(found.get("answers")),
            left={
                key: {name: text for name, text in positions.items() if isinstance(text, str)}
                for key, positions in as_dict(found.get("left")).items()
                if isinstance(positions, dict)
            },
            numbers=_numbers(found.get("numbers")),
            left_numbers=_numbers(found.get("left_numbers")),
            pending=_words(found.get("pending")),
            turn=_number(found.get("turn")),
        )

    def as_json(self) -> Json:
        """As it stands in the register."""
        ask = self.ask
        return {
            "store": self.store,
            "file": self.file,
            "host": self.host,
            "boot": self.boot,
            "pid": self.pid,
            "started": self.started,
            "since": self.since,
            "channels": sorted(self.channels),
            **({"ask": ask.as_json()} if ask else {}),
            **({"answers": sorted(self.answers)} if self.answers else {}),
            **({"left": {key: dict(positions) for key, positions in self.left.items()}} if self.left else {}),
            **({"numbers": dict(sorted(self.numbers.items()))} if self.numbers else {}),
            **({"left_numbers": dict(sorted(self.left_numbers.items()))} if self.left_numbers else {}),
            **({"pending": sorted(self.pending)} if self.pending else {}),
            **({"turn": self.turn} if self.turn else {}),
        }

    def place(self) -> str:
        """Names its store, of which only one process at a time can be the holder.

        Of a file: a host's name is not enough where more is known, a copied machine has the same name, store and file.
        """
        return hashlib.sha256("\0".join(self._place()).encode()).hexdigest()[:16]

    def _place(self) -> tuple[str, ...]:
        machine = () if self.file.startswith(_DATABASE) else ("boot", self.boot) if self.boot else ("host", self.host)
        return self.store, self.file, *machine

    def is_same_place(self, other: Self) -> bool:
        """Whether both are about the same store."""
        return self._place() == other._place()

    def tells(self) -> bool:
        """Whether anything is said in it."""
        return bool(self.channels or self.left or self.ask)

    def goes_before(self, other: Self) -> bool:
        """Which of two relays keeps a channel that both have claimed at the same moment."""
        return self.order() < other.order()

    def order(self) -> tuple[str, str, str, str]:
        return self.store, self.host, self.boot, self.file

    def __str__(self) -> str:
        """For people: which process it is."""
        since = self.since[:19].replace("T", " ")
        return f"process {self.pid} on {self.host}" + (f", since {since} UTC" if since else "")


def _words(value: Any) -> frozenset[str]:
    return frozenset(word for word in as_list(value) if isinstance(word, str))


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < _HIGHEST_NUMBER else 0


def _numbers(value: Any) -> dict[str, int]:
    return {key: _number(number) for key, number in as_dict(value).items()}


def _ask(asked: Json) -> Ask:
    number = _number(asked.get("number"))
    return Ask(as_string(asked.get("nonce")), _words(asked.get("channels")), asked.get("take") is True, number)
