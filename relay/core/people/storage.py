"""What the core needs of the store about people: what they chose, their accounts and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from relay.domain.ids import ChannelRef, MediaRef, PlaceRef, Platform, UserRef


@dataclass(frozen=True, slots=True)
class LinkCode:
    """A code that links two accounts, once one of them says it."""

    asked_by: UserRef
    # What people call that account.
    name: str
    # The only account that may say the code.
    bound_to: UserRef
    # The code itself is not stored.
    digest: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Somebody is to be forgotten, and that is under way."""

    user: UserRef
    # The copies of what they wrote go too.
    copies: bool
    # The last row of the message map that was looked at.
    position: int = 0


@dataclass(frozen=True, slots=True)
class AvatarRecord:
    """A picture of a person, and where it stands on the other side."""

    user: UserRef
    source: str  # what it was made of, as the other side's adapter names it
    name: str  # the same for the same picture
    copy: MediaRef
    used: int = 0  # seconds since 1970; the store sets it


class Avatars(Protocol):
    """Which pictures of people stand on the other side. Several people may share one."""

    async def known(self, platform: Platform, most: int) -> Sequence[AvatarRecord]:
        """The records of copies on a platform that were used last, at most so many."""
        ...

    async def put(self, record: AvatarRecord) -> None:
        """Remember a picture; it replaces an earlier one of the same person and source."""
        ...

    async def use(self, records: Sequence[AvatarRecord]) -> None:
        """These were used just now."""
        ...

    async def trim(self, platform: Platform, most: int) -> None:
        """Forget the records that have not been used for longest, so that at most so many are left."""
        ...

    async def forget_copy(self, copy: MediaRef) -> None:
        """A copy does not stand any more."""
        ...

    async def disown(self, user: UserRef) -> None:
        """Forget a person. What was nobody else's picture is among the `unowned` until `forget_copy`."""
        ...

    async def unowned(self, platform: Platform) -> Sequence[MediaRef]:
        """The copies on a platform that have to be deleted."""
        ...


@dataclass(frozen=True, slots=True)
class Ghost:
    """An account that the relay made on one platform for somebody of another."""

    account: str  # its ID on its platform
    device: str = ""  # as which it acts; "" where the platform has none
    avatar: str = ""  # where the picture is that it was given last; "" for none


class Ghosts(Protocol):
    """The accounts that the relay made for people of the other side, and the channels that they are in."""

    async def get(self, account: str) -> Ghost | None:
        """What is known of an account; None if it has not been made yet."""
        ...

    async def put(self, ghost: Ghost) -> None:
        """Remember an account; it replaces what was known of it."""
        ...

    async def profile(self, account: str, channel: ChannelRef) -> str | None:
        """A digest of the name and picture that it has in a channel; None if it is not in there."""
        ...

    async def join(self, account: str, channel: ChannelRef, profile: str) -> None:
        """It is in a channel, with that profile. The account is known."""
        ...

    async def leave(self, account: str, channel: ChannelRef) -> None:
        """It is not in a channel any more."""
        ...

    async def channels(self, account: str) -> Sequence[ChannelRef]:
        """Where it is."""
        ...

    async def forget(self, account: str) -> None:
        """Nothing is known of an account any more."""
        ...

    async def inside(self, channel: ChannelRef) -> Sequence[str]:
        """The accounts that are in a channel, as far as is on record."""
        ...


class People(Protocol):
    """Whose accounts are linked, who has opted out, and who is to be forgotten."""

    async def linked(self, user: UserRef) -> Mapping[Platform, UserRef]:
        """The accounts that an account is linked with, at most one on each platform."""
        ...

    async def links_of(self, platform: Platform, other: Platform, limit: int) -> Mapping[UserRef, UserRef]:
        """At most `limit` accounts of a platform that are linked with one on another platform, each with that."""
        ...

    async def link(self, one: UserRef, other: UserRef, since: datetime) -> None:
        """The two accounts belong to one person."""
        ...

    async def unlink(self, user: UserRef) -> None:
        """Forget every link of an account."""
        ...

    async def put_code(self, code: LinkCode) -> None:
        """Remember a code. It replaces the one that the same account asked for before."""
        ...

    async def codes_for(self, user: UserRef, limit: int) -> Sequence[LinkCode]:
        """At most `limit` codes that this account may say, the expired ones included."""
        ...

    async def forget_code(self, asked_by: UserRef) -> None:
        """The code that an account asked for is not valid any more."""
        ...

    async def forget_codes(self, before: datetime) -> None:
        """Forget the codes that expired before this moment."""
        ...

    async def has_opted_out(self, user: UserRef) -> bool:
        """Whether what this account writes must not cross."""
        ...

    async def opt_out(self, user: UserRef, since: datetime) -> None:
        """What this account writes must not cross."""
        ...

    async def opt_in(self, user: UserRef) -> None:
        """What this account writes crosses again."""
        ...

    async def ban(self, place: PlaceRef, user: UserRef, because: UserRef) -> bool:
        """This account is banned from a place, because `because` is, who is the same person; False if it was."""
        ...

    async def unban(self, place: PlaceRef, because: UserRef) -> Sequence[UserRef]:
        """Forget the bans from a place because of an account; whose they were."""
        ...

    async def banned_from(self, user: UserRef) -> frozenset[PlaceRef]:
        """From where an account is banned."""
        ...

    async def banned(self, place: PlaceRef) -> frozenset[UserRef]:
        """Who is banned from a place by themselves."""
        ...

    async def put_request(self, request: ForgetRequest) -> None:
        """Remember that somebody is to be forgotten, and how far that has come."""
        ...

    async def requests(self, limit: int, after: UserRef | None = None) -> Sequence[ForgetRequest]:
        """At most `limit` of those who are to be forgotten, in an order that stays: those that come after `after`."""
        ...

    async def request_of(self, user: UserRef) -> ForgetRequest | None:
        """Whether somebody is to be forgotten, and how far that has come."""
        ...

    async def forget_request(self, user: UserRef) -> None:
        """Somebody has been forgotten."""
        ...
