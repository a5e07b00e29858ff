"""Whose messages do not cross: whoever the operator has blocked, or a policy list that the operator follows.

Nobody is banned, and nothing is removed: what moderators of one place decide about an account holds on the other side
only in that its words do not come over. A pair follows the lists that its settings name, and no others.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from relay.core.moderation.age_marks import AgeMarks
from relay.core.moderation.bans import Bans
from relay.core.moderation.ports import PolicyListReader
from relay.core.moderation.rules import RuleSet, from_text, to_text
from relay.core.offload import Conversions
from relay.core.people.directory import PeopleDirectory, Person
from relay.core.ports import Clock
from relay.core.recent import keep
from relay.core.storage import Store, UnitOfWork
from relay.domain.events import PolicyListRead, PolicyRule
from relay.domain.ids import ChannelAddress, Platform, UserRef
from relay.domain.jsontext import as_list
from relay.domain.pair import LaneKey, Pair
from relay.logs import get_logger

_log = get_logger(__name__)

_TOLD_AGAIN = 3600.0
"""Seconds after which it is logged once more that somebody is kept from crossing."""

_MOST_TOLD = 1_000

_LISTS = "policy lists"
"""The key under which the store has the addresses of the lists whose rules it has."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Moderation:
    """Knows the rules, and is asked about every message that is to cross."""

    store: Store
    people: PeopleDirectory
    clock: Clock
    conversions: Conversions
    readers: Mapping[Platform, PolicyListReader]
    bans: Bans
    age_marks: AgeMarks
    # The lists that are followed, and what is known of them.
    _wanted: frozenset[ChannelAddress] = field(init=False, default=frozenset())
    _lists: dict[ChannelAddress, RuleSet] = field(init=False, default_factory=dict)
    # How many rules of a list are about the relay itself.
    _ignored: dict[ChannelAddress, int] = field(init=False, default_factory=dict)
    # What the pairs' settings say, compiled.
    _blocked: dict[tuple[tuple[Platform, str], ...], Mapping[Platform, RuleSet]] = field(
        init=False, default_factory=dict
    )
    # Of whom it was logged, and when, that they are kept from crossing.
    _told: OrderedDict[tuple[str, UserRef, str], float] = field(init=False, default_factory=OrderedDict)

    # --- What is declared ---------------------------------------------------------------------------------

    async def declare(self, pairs: Iterable[Pair]) -> None:
        """The pairs from now on, and with them the lists that are followed. Raises `StoreUnavailable`.

        What is known of a list is kept in the store: it holds before the list is read again, and while it cannot be.
        """
        self._blocked = {}
        wanted = {address for pair in pairs if pair.destinations for address in pair.policy.policy_lists}
        self._wanted = frozenset(wanted)
        for platform, reader in self.readers.items():
            await reader.watch_lists(frozenset(address for address in wanted if address.platform is platform))
        unknown = tuple(wanted - self._lists.keys())
        async with self.store.look() as uow:
            known, *texts = await uow.key_values.several(_LISTS, *map(_key, unknown))
        saved = frozenset(_addresses(known))
        kept = {address: from_text(text) for address, text in zip(unknown, texts, strict=True) if text}
        for address, rules in kept.items():
            if address not in self._lists:  # else it has been read meanwhile
                await self._compile(address, rules)
        gone = (saved | self._lists.keys()) - wanted
        for address in gone:
            self._lists.pop(address, None)
            self._ignored.pop(address, None)
            _log.info("policy list no longer followed", list=address.value)
        if gone & saved:
            async with self.store.write() as uow:
                for address in gone & saved:
                    await uow.key_values.put(_key(address), "")
                await uow.key_values.put(_LISTS, _addresses_text(saved - gone))

    async def save(self, uow: UnitOfWork, read: PolicyListRead) -> None:
        """Write down what a list says now."""
        if read.address not in self._wanted:
            return
        await uow.key_values.put(_key(read.address), to_text(read.rules))
        saved = set(_addresses(await uow.key_values.get(_LISTS)))
        if read.address not in saved:
            await uow.key_values.put(_LISTS, _addresses_text(saved | {read.address}))

    async def use(self, read: PolicyListRead) -> None:
        """A list says this from now on, and that has been written down."""
        if read.address not in self._wanted:
            return  # it was taken out of the settings meanwhile
        before = self._lists.get(read.address)
        await self._compile(read.address, read.rules)
        old, new = set(before.rules) if before is not None else set(), set(self._lists[read.address].rules)
        _log.info(
            "policy list read",
            list=read.address.value,
            rules=len(new),
            added=len(new - old),
            removed=len(old - new),
            unused=self._lists[read.address].unused,
        )

    async def _compile(self, address: ChannelAddress, rules: tuple[PolicyRule, ...]) -> None:
        reader = self.readers.get(address.platform)
        if reader is None:
            return
        size = sum(len(rule.entity) for rule in rules)
        compiled, ignored = await self.conversions.run(size, _compiled, rules, reader)
        # Whoever keeps a list may not end the mirroring of everything with one rule.
        if ignored and self._ignored.get(address) != len(ignored):
            words = ", ".join(rule.entity for rule in ignored[:3])
            _log.warning("rules about the relay itself are not followed", list=address.value, rules=words)
        self._ignored[address] = len(ignored)
        self._lists[address] = compiled

    # --- What is asked ------------------------------------------------------------------------------------

    async def refusal(self, pair: Pair, lane: LaneKey, user: UserRef, uow: UnitOfWork | None = None) -> str | None:
        """Why what somebody writes does not cross a lane, in words for the operator; None if it does.

        Accounts that are linked are one person. Raises `StoreUnavailable`.
        """
        policy = pair.policy
        if not (policy.blocked or policy.policy_lists or policy.follow_bans):
            return None
        person = await self.people.of(user, uow)
        why = self._blocked_by_operator(pair, user, person) or self._listed(pair, lane, user, person)
        if why is None and policy.follow_bans:
            people = [person, *[await self.people.of(one, uow) for one in person.linked.values()]]
            why = self.bans.refusal(lane, frozenset().union(*(one.banned_from for one in people)))
        return why

    def _blocked_by_operator(self, pair: Pair, user: UserRef, person: Person) -> str | None:
        if not pair.policy.blocked:
            return None
        rules = self._blocked.get(pair.policy.blocked)
        if rules is None:
            rules = self._blocked[pair.policy.blocked] = _by_platform(pair.policy.blocked)
        for account in (user, *person.linked.values()):
            found = rules[account.platform].rule_for(account) if account.platform in rules else None
            if found is not None:
                return f"the operator has blocked {found.entity}"
        return None

    def _listed(self, pair: Pair, lane: LaneKey, user: UserRef, person: Person) -> str | None:
        for address in pair.policy.policy_lists:
            rules, reader = self._lists.get(address), self.readers.get(address.platform)
            if rules is None or reader is None:
                continue
            account = user if user.platform is address.platform else person.linked.get(address.platform)
            found = None if account is None else rules.rule_for(account)
            if found is None and pair.policy.ghosts and lane.destination.platform is address.platform:
                # The account that stands for somebody there may be listed, but the relay's own server is not theirs.
                stand_in = reader.stand_in(user)
                found = None if stand_in is None else rules.rule_for(stand_in, by_home=False)
            if found is not None:
                reason = f" ({found.reason})" if found.reason else ""
                return f"{found.entity} is on the policy list {address.value}{reason}"
        return None

    def notes(self, pair: Pair) -> tuple[str, ...]:
        """What the operator may correct about the lists that a pair follows. No I/O."""
        found = []
        for address in pair.policy.policy_lists if pair.destinations else ():
            reader = self.readers.get(address.platform)
            problem = None if reader is None else reader.list_problem(address)
            rules = self._lists.get(address)
            if problem is not None:
                known = "nobody is kept from crossing by it" if rules is None else "the rules that were read last hold"
                found.append(f"{problem.rstrip('.')}. Until it can be read, {known}.")
            if rules is not None and rules.unused:
                found.append(f"Rules of {address.value} that are too long, or too many, to be used: {rules.unused}.")
            if self._ignored.get(address):
                found.append(
                    f"Rules of {address.value} about the relay itself, which are not used: {self._ignored[address]}."
                )
        return (*found, *self.bans.notes(pair), *self.age_marks.notes(pair))

    def tell(self, pair: Pair, user: UserRef, why: str) -> None:
        """Log that somebody was kept from crossing: once, and again after an hour, however much they write."""
        key, now = (pair.name, user, why), self.clock.monotonic()
        told = self._told.get(key)
        if told is not None and now - told < _TOLD_AGAIN:
            return
        keep(self._told, key, now, _MOST_TOLD)
        _log.info("messages do not cross", pair=pair.name, platform=str(user.platform), user=user.id, why=why)


def _compiled(rules: tuple[PolicyRule, ...], reader: PolicyListReader) -> tuple[RuleSet, tuple[PolicyRule, ...]]:
    return RuleSet(rules, reader.home_of).without((reader.own_account,))


def _by_platform(blocked: Iterable[tuple[Platform, str]]) -> Mapping[Platform, RuleSet]:
    rules: dict[Platform, list[PolicyRule]] = {}
    for platform, glob in blocked:
        rules.setdefault(platform, []).append(PolicyRule("account", glob))
    return {platform: RuleSet(tuple(found), _no_home) for platform, found in rules.items()}


def _no_home(user: UserRef) -> str:
    return ""


def _key(address: ChannelAddress) -> str:
    return f"policy list {address.platform} {address.value}"


def _addresses(text: str | None) -> tuple[ChannelAddress, ...]:
    try:
        saved = as_list(json.loads(text)) if text else []
    except ValueError:
        return ()
    platforms = frozenset(map(str, Platform))
    return tuple(ChannelAddress(Platform(row[0]), row[1]) for row in saved if _is_address(row) and row[0] in platforms)


def _is_address(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)


def _addresses_text(addresses: Iterable[ChannelAddress]) -> str:
    return json.dumps([[address.platform, address.value] for address in sorted(addresses)])
