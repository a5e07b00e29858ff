"""A pair: the two channels that mirror each other, and what the operator decided about it."""

from dataclasses import dataclass
from typing import Literal, Self, get_args

from relay.domain.ids import ChannelAddress, ChannelRef, Platform

ThreadPolicy = Literal["drop", "flatten"]
SystemMessage = Literal["join", "pin", "boost", "other"]
SYSTEM_MESSAGES: tuple[SystemMessage, ...] = get_args(SystemMessage)
# The template of names that adds nothing.
BARE_NAME = "{name}"


@dataclass(frozen=True, slots=True)
class PairPolicy:
    """The operator's choices for one pair."""

    # What happens to messages inside threads: dropped, or sent as replies to the thread's first message.
    thread_messages: ThreadPolicy = "drop"
    # A message that notifies everyone on its side does so on the other side too, if its author may.
    allow_broadcast: bool = False
    # A text that takes more messages crosses as a file with its first lines above.
    max_parts: int = 5
    # Seconds after which waiting messages share one event (0: never).
    batch_when_behind: float = 20.0
    # How many missed messages are still caught up.
    catchup_limit: int = 5000
    # Which of the messages cross that a platform itself says about people.
    system_messages: frozenset[SystemMessage] = frozenset(SYSTEM_MESSAGES)
    # If a moderator removes a copy, its original is removed too.
    moderate_deletions: bool = False
    # Whoever is banned on one side does not cross.
    follow_bans: bool = False
    # Seconds back from a ban: what they wrote since then is removed from the other side.
    ban_removes: float = 0.0
    # Accounts whose messages do not cross: globs, each of a platform.
    blocked: tuple[tuple[Platform, str], ...] = ()
    # Lists of such accounts that moderators elsewhere keep.
    policy_lists: tuple[ChannelAddress, ...] = ()
    # For channels whose platform has no mark for that: only adults are meant to read there.
    nsfw: bool = False
    # Words cross also from a channel for adults to one for everybody; files never do.
    nsfw_may_differ: bool = False
    # The other side sees that somebody who has opted out said something.
    show_opted_out: bool = False
    # Where the platform can have that, people of the other side appear as accounts of their own ("ghosts").
    ghosts: bool = True
    # How authors are named on a platform, if not by their bare names: see `core.author_names.in_template`.
    name_templates: tuple[tuple[Platform, str], ...] = ()

    def name_template(self, platform: Platform) -> str:
        """How authors are named on a platform."""
        return dict(self.name_templates).get(platform, BARE_NAME)


@dataclass(frozen=True, slots=True, order=True)
class LaneKey:
    """From one channel to another. The commands of a lane are delivered in order, one at a time.

    A lane belongs to channels, never to a pair's name: the operator may give that name to another pair at any moment.
    What the relay has to tell the people of a channel about their messages is in the lane from that channel to itself.
    """

    source: ChannelRef
    destination: ChannelRef

    @classmethod
    def within(cls, channel: ChannelRef) -> Self:
        """The lane from a channel to itself."""
        return cls(channel, channel)

    @property
    def direction(self) -> str:
        """Its name in metrics and in `relay status`: `to_matrix`, `to_discord`."""
        return f"to_{self.destination.platform}"

    @property
    def label(self) -> str:
        """What people read: the direction, or that it holds what a channel's own people are told."""
        return self.direction if self.crosses else f"notices_in_{self.source.platform}"

    @property
    def subject(self) -> str:
        """What it carries, as the first words of a sentence: `Messages to Discord`."""
        what, where = ("Messages to", self.destination) if self.crosses else ("Notices in", self.source)
        return f"{what} {where.platform.capitalize()}"

    @property
    def crosses(self) -> bool:
        """Whether it leads to the other side."""
        return self.source != self.destination

    @property
    def back(self) -> "LaneKey":
        """The lane in the other direction."""
        return LaneKey(self.destination, self.source)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two channels on two platforms."""

    # Unique in the configuration.
    name: str
    sides: tuple[ChannelAddress, ChannelAddress]
    # The platforms that messages are carried to: both if it mirrors both ways, none if it is archived.
    destinations: frozenset[Platform]
    policy: PairPolicy = PairPolicy()
    # Nothing crosses until the operator resumes it. What waits then crosses, and edits and deletions made meanwhile;
    # what was said meanwhile never does.
    paused: bool = False

    def side(self, platform: Platform) -> ChannelAddress:
        """The channel of this pair on `platform`."""
        first, second = self.sides
        return first if first.platform is platform else second

    def other(self, platform: Platform) -> Platform:
        """The platform on the other side."""
        first, second = self.sides
        return second.platform if first.platform is platform else first.platform
