"""Whose accounts are linked, and who has opted out: asked for each message, so it is kept in memory, up to a size."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from relay.core.recent import Recent
from relay.core.storage import Store, UnitOfWork
from relay.domain.ids import PlaceRef, Platform, UserRef

_MEMORY = 4 * 1024 * 1024
"""Bytes of what is kept in memory: 10,000 accounts or so."""

_NOBODY: Mapping[Platform, UserRef] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Person:
    """What is known of an account."""

    has_opted_out: bool = False
    # Where moderators have banned the account.
    banned_from: frozenset[PlaceRef] = frozenset()
    # Other accounts of the same person.
    linked: Mapping[Platform, UserRef] = field(default_factory=lambda: _NOBODY)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class PeopleDirectory:
    """Answers from memory, and from the store what is not there.

    Whoever changes something in a transaction calls `change` before the first write and `settle` once the transaction
    has ended, however it ended.
    """

    store: Store
    # Set whenever a transaction has ended that changed something.
    settled: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    # Links that the operator declared, from either side. They take precedence.
    _declared: Mapping[UserRef, UserRef] = field(init=False, default_factory=dict)
    _known: Recent[UserRef, Person] = field(init=False, default_factory=lambda: Recent(_MEMORY))
    # Accounts that running transactions change: what is read of them now may not be what is true afterwards.
    _changing: Counter[UserRef] = field(init=False, default_factory=Counter)
    # How often something was changed: what was read before that is not kept.
    _version: int = field(init=False, default=0)

    def declare(self, links: Iterable[tuple[UserRef, UserRef]]) -> bool:
        """The links that the operator declares from now on; whether they are others than before."""
        declared = {one: other for pair in links for one, other in (pair, pair[::-1])}
        if declared == self._declared:
            return False
        self._declared = declared
        self._known.clear()
        self._version += 1
        return True

    def is_declared(self, user: UserRef) -> bool:
        """Whether the operator has declared a link of this account."""
        return user in self._declared

    async def of(self, user: UserRef, uow: UnitOfWork | None = None) -> Person:
        """What is known of an account; read in the transaction `uow` if there is one. Raises `StoreUnavailable`."""
        known = self._known.get(user)
        if known is not None:
            return known
        version = self._version
        if uow is not None:
            person = await self._read(uow, user)
        else:
            async with self.store.read() as reading:
                person = await self._read(reading, user)
        if version == self._version and user not in self._changing:
            self._known[user] = person
        return person

    async def linked(self, user: UserRef, platform: Platform, uow: UnitOfWork | None = None) -> UserRef | None:
        """The account of the same person on another platform; None if there is none. Raises `StoreUnavailable`."""
        return (await self.of(user, uow)).linked.get(platform)

    async def links_of(self, platform: Platform, other: Platform, limit: int) -> Mapping[UserRef, UserRef]:
        """Some accounts of a platform that are linked with one on another platform. Raises `StoreUnavailable`."""
        async with self.store.read() as uow:
            found = await uow.people.links_of(platform, other, limit)
        declared = {one: it for one, it in self._declared.items() if one.platform is platform and it.platform is other}
        taken = set(declared.values())
        return declared | {one: it for one, it in found.items() if one not in declared and it not in taken}

    async def _read(self, uow: UnitOfWork, user: UserRef) -> Person:
        linked = {
            platform: other
            for platform, other in (await uow.people.linked(user)).items()
            if other not in self._declared  # the operator says whose account that is
        }
        if (declared := self._declared.get(user)) is not None:
            linked[declared.platform] = declared
        opted_out, banned_from = await uow.people.has_opted_out(user), await uow.people.banned_from(user)
        return Person(opted_out, banned_from, linked or _NOBODY)

    def change(self, users: Iterable[UserRef], changed: set[UserRef]) -> None:
        """A transaction changes something about these accounts. `changed`: of the transaction; for `settle`."""
        for user in users:
            self._known.pop(user, None)
            if user not in changed:
                changed.add(user)
                self._changing[user] += 1

    def settle(self, changed: set[UserRef]) -> None:
        """The transaction has ended."""
        if not changed:
            return
        self._version += 1
        for user in changed:
            self._known.pop(user, None)
            self._changing[user] -= 1
            if not self._changing[user]:
                del self._changing[user]
        changed.clear()
        self.settled.set()
