"""What an adapter may be able to do about people, as protocols: an adapter that is no instance cannot."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from relay.domain.content import Author
from relay.domain.ids import ChannelRef, UserRef


@runtime_checkable
class MemberMirror(Protocol):
    """An adapter on whose platform people of the other side may have accounts of their own."""

    async def channels_of(self, user: UserRef) -> frozenset[ChannelRef]:
        """In which channels somebody of the other side has one, as far as is on record. Raises `StoreUnavailable`."""
        ...

    async def members_of(self, channel: ChannelRef) -> frozenset[UserRef]:
        """Who has one in a channel, as far as is on record. Raises `StoreUnavailable`."""
        ...

    async def remove_member(self, channel: ChannelRef, user: UserRef) -> None:
        """Take it out of a channel; to do it again does no harm. Raises `Transient`, or `Permanent`: it stays there."""
        ...

    def wants_everybody(self, channel: ChannelRef) -> bool:
        """Whether everybody who may read the other side is to have one in a channel, before they speak. No I/O."""
        ...

    async def add_member(self, channel: ChannelRef, author: Author) -> bool:
        """Bring it into a channel, however long that has to wait; False if it is there, or cannot be.

        Raises `Transient`, `StoreUnavailable`.
        """
        ...


@runtime_checkable
class MemberLister(Protocol):
    """An adapter that can list who may read a channel."""

    def members(self, channel: ChannelRef) -> AsyncIterator[Sequence[Author]]:
        """They, a page at a time. Raises a `DeliveryError`."""
        ...


@runtime_checkable
class DepartureFinder(Protocol):
    """An adapter that can tell who has left, of those who were among the people of a channel."""

    async def departed(self, channel: ChannelRef, people: frozenset[UserRef]) -> frozenset[UserRef]:
        """They; none where the operator does not want that to be asked. Raises a `DeliveryError`."""
        ...


@runtime_checkable
class CommandReader(Protocol):
    """An adapter on whose platform people may give commands."""

    @property
    def command_prefix(self) -> str:
        """What people write in front of a command's name, as answers quote it."""
        ...

    def person(self, written: str) -> UserRef | None:
        """The account whose ID somebody wrote; None if that is no ID of this platform. No I/O."""
        ...


@runtime_checkable
class PersonForgetter(Protocol):
    """An adapter, or a part of one, that keeps something of people: their pictures, accounts that it made for them."""

    async def forget_person(self, user: UserRef) -> None:
        """Remove what is kept of somebody; to do it again does no harm. Raises a `DeliveryError` to be tried again."""
        ...


@runtime_checkable
class RoleReader(Protocol):
    """An adapter on whose platform people have roles, by which a text can call them."""

    async def having_role(self, channel: ChannelRef, role: str, people: Collection[UserRef]) -> frozenset[UserRef]:
        """Which of these people have a role where `channel` is. Best effort: what takes long is left out."""
        ...


@runtime_checkable
class PictureKeeper(Protocol):
    """An adapter that has to make a person's picture ready before it can be shown."""

    def expect(self, author: Author) -> None:
        """Make the picture of somebody ready who has spoken there before, and may again. No I/O."""
        ...


@runtime_checkable
class NameReader(Protocol):
    """An adapter on whose platform a text may refer to somebody whose name does not come along with it."""

    async def names(
        self, channel: ChannelRef, wanted: Sequence[UserRef | ChannelRef]
    ) -> Mapping[UserRef | ChannelRef, str]:
        """What people and channels are called where `channel` is. Best effort: without those that are not known."""
        ...
