"""What relays on the same accounts tell each other: the register, and the claims in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from relay.domain.jsontext import Json, as_dict, as_list, as_string

_MOST_RELAYS = 20
_DATABASE = "database "

Positions = Mapping[str, str]
"""How far the channels of a pair were read, by platform, in the adapters' own form."""


class NoRegister(Exception):
    """The platform does not keep such a value: nothing can be agreed on."""


class Register(Protocol):
    """A value that all relays on one account see."""

    # When the last request was asked for (monotonic) whose answer showed no change that is not settled.
    confirmed: float

    async def read(self) -> Json:
        """The value; {} if there is none. Raises `Transient`, `NoRegister`."""
        ...

    async def write(self, value: Json) -> None:
        """Replace the value. Raises `Transient`, `NoRegister`."""
        ...

    async def news(self) -> tuple[Json, float]:
        """Wait for a change: the value, and when the request was asked for that told of it."""
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


@dataclass(frozen=True, slots=True)
class Claim:
    """What one relay says in the register."""

    # The ID of its store, and the number of that file on its disk; or which database it is, as "database …".
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
            ask=Ask(as_string(asked.get("nonce")), _words(asked.get("channels")), asked.get("take") is True)
            if asked
            else None,
            answers=_words(found.get("answers")),
            left={
                key: {name: text for name, text in positions.items() if isinstance(text, str)}
                for key, positions in as_dict(found.get("left")).items()
                if isinstance(positions, dict)
            },
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
            **({"ask": {"nonce": ask.nonce, "channels": sorted(ask.channels), "take": ask.take}} if ask else {}),
            **({"answers": sorted(self.answers)} if self.answers else {}),
            **({"left": {key: dict(positions) for key, positions in self.left.items()}} if self.left else {}),
        }

    def is_same_place(self, other: Self) -> bool:
        """Whether both are about the same store, of which only one process at a time can be the holder.

        Of a file: a host's name is not enough where more is known, a copied machine has the same name, store and file.
        """
        if self.file.startswith(_DATABASE):
            return (self.store, self.file) == (other.store, other.file)
        same_machine = self.boot == other.boot if self.boot or other.boot else self.host == other.host
        return (self.store, self.file) == (other.store, other.file) and same_machine

    def goes_before(self, other: Self) -> bool:
        """Which of two relays keeps a channel that both have claimed at the same moment."""
        return self._order() < other._order()

    def _order(self) -> tuple[str, str, str, str]:
        return self.store, self.host, self.boot, self.file

    def __str__(self) -> str:
        """For people: which process it is."""
        since = self.since[:19].replace("T", " ")
        return f"process {self.pid} on {self.host}" + (f", since {since} UTC" if since else "")


def claims_in(register: Json) -> list[Claim]:
    """All claims in the register."""
    found = (Claim.from_json(value) for value in as_list(register.get("relays"))[:_MOST_RELAYS])
    return [claim for claim in found if claim is not None]


def as_register(claims: Sequence[Claim]) -> Json:
    """What stands in the register for these claims."""
    return {"relays": [claim.as_json() for claim in claims[:_MOST_RELAYS]]}


def _words(value: Any) -> frozenset[str]:
    return frozenset(word for word in as_list(value) if isinstance(word, str))
