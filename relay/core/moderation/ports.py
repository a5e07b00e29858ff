"""What an adapter may be able to do for moderators, as protocols: an adapter that is no instance cannot."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from relay.domain.ids import ChannelAddress, ChannelRef, PlaceRef, UserRef


@runtime_checkable
class PolicyListReader(Protocol):
    """An adapter on whose platform moderators keep lists of rules about accounts, which others may follow.

    What is in a list comes as a `PolicyListRead`. Nothing is ever done to an account because of one.
    """

    async def watch_lists(self, lists: frozenset[ChannelAddress]) -> None:
        """From now on these are the lists that are followed; may be called before and while `run` runs."""
        ...

    def list_problem(self, address: ChannelAddress) -> str | None:
        """Why a list cannot be read now, as a sentence with the remedy; None if it can. No I/O."""
        ...

    def home_of(self, user: UserRef) -> str:
        """The name of the server that somebody's account is on; "" where accounts have none. No I/O."""
        ...

    def stand_in(self, user: UserRef) -> UserRef | None:
        """The account that the relay has, or would make, for somebody of the other side. No I/O."""
        ...

    @property
    def own_account(self) -> UserRef:
        """The relay's own."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """Who banned somebody, or lifted that, and why: as the platform tells it."""

    # The account's ID; "" where that is not known.
    by: str
    # "" where none was given. Somebody else's words.
    reason: str


@runtime_checkable
class BanReader(Protocol):
    """An adapter that tells of bans, as `MemberBanned` and `MemberUnbanned`, and can list them."""

    def place_of(self, channel: ChannelRef) -> PlaceRef | None:
        """Where a ban from `channel` holds; None while the channel is not open. No I/O."""
        ...

    def bans_version(self, place: PlaceRef) -> int:
        """Changes when bans may have been missed, so that they have to be listed again. No I/O."""
        ...

    def bans(self, place: PlaceRef) -> AsyncIterator[Sequence[UserRef]]:
        """Who is banned from a place, a page at a time. Raises a `DeliveryError`."""
        ...

    async def decision(self, place: PlaceRef, user: UserRef, *, lifted: bool) -> Decision | None:
        """Who banned somebody last, or lifted that; None while nobody tells. Raises a `DeliveryError`."""
        ...


@runtime_checkable
class AgeMarkReader(Protocol):
    """An adapter whose platform marks channels that only adults may read. It calls `Inbox.opened` when one changes."""

    def age_restricted(self, channel: ChannelRef) -> bool | None:
        """Whether a channel is marked now; None while that is not known. No I/O."""
        ...

    def now(self) -> datetime:
        """The time of day by the clock that dates the platform's messages. No I/O."""
        ...
