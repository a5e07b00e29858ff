"""A pair: the two channels that mirror each other, and what the operator decided about it."""

from dataclasses import dataclass
from typing import Literal, Self

from relay.domain.ids import ChannelAddress, ChannelRef, Platform

ThreadPolicy = Literal["drop", "flatten"]
SystemMessage = Literal["join", "pin", "boost", "other"]
SYSTEM_MESSAGES: frozenset[SystemMessage] = frozenset({"join", "pin", "boost", "other"})


@dataclass(frozen=True, slots=True)
class PairPolicy:
    """The operator's choices for one pair.

    `max_parts`: a longer text crosses as a file with its first lines above. `batch_when_behind`: seconds after
    which waiting messages share one event (0: never). `catchup_limit`: how many missed messages are still caught up.
    `system_messages`: what of that which a platform itself says of people crosses. `moderate_deletions`: where somebody
    removes a copy, its original goes too.
    """

    thread_messages: ThreadPolicy = "drop"
    allow_broadcast: bool = False
    max_parts: int = 5
    batch_when_behind: float = 20.0
    catchup_limit: int = 5000
    system_messages: frozenset[SystemMessage] = SYSTEM_MESSAGES
    moderate_deletions: bool = False


@dataclass(frozen=True, slots=True, order=True)
class LaneKey:
    """From one channel to another: what is delivered in order, one command at a time.

    Channels, never a pair's name: the operator may give a name to another pair at any moment. What the relay itself
    has to say to the people of a channel about their messages is in the lane from that channel to itself.
    """

    source: ChannelRef
    destination: ChannelRef

    @classmethod
    def within(cls, channel: ChannelRef) -> Self:
        """The lane from a channel to itself."""
        return cls(channel, channel)

    @property
    def direction(self) -> str:
        """The word for it in metrics and in `relay status`: `to_matrix`, `to_discord`."""
        return f"to_{self.destination.platform}"

    @property
    def crosses(self) -> bool:
        """Whether it leads to the other side."""
        return self.source != self.destination

    @property
    def back(self) -> "LaneKey":
        """The other way."""
        return LaneKey(self.destination, self.source)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two channels on two platforms.

    `name` is unique in the file. `destinations`: the platforms that messages are carried to; both for a pair
    that mirrors both ways, empty for an archived one.
    """

    name: str
    sides: tuple[ChannelAddress, ChannelAddress]
    destinations: frozenset[Platform]
    policy: PairPolicy = PairPolicy()

    def side(self, platform: Platform) -> ChannelAddress:
        """The channel of this pair on `platform`."""
        return next(side for side in self.sides if side.platform is platform)

    def other(self, platform: Platform) -> Platform:
        """The platform across from `platform`."""
        return next(side.platform for side in self.sides if side.platform is not platform)
