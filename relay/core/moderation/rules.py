"""Rules about accounts, from the operator or from a policy list, made ready to be asked about each message."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from relay.core.moderation.globs import GlobSet
from relay.core.recent import Recent
from relay.domain.events import PolicyRule
from relay.domain.ids import UserRef
from relay.domain.jsontext import as_list

_MEMORY = 1024 * 1024
"""Bytes of the answers that are remembered for each list."""


@dataclass(slots=True, eq=False)
class RuleSet:
    """Some rules, compiled. Immutable but for the answers that it remembers."""

    rules: tuple[PolicyRule, ...]
    # See `PolicyListReader.home_of`.
    home_of: Callable[[UserRef], str]
    _accounts: GlobSet = field(init=False)
    _homes: GlobSet = field(init=False)
    _account_rules: list[PolicyRule] = field(init=False)
    _home_rules: list[PolicyRule] = field(init=False)
    _known: Recent[tuple[UserRef, bool], PolicyRule | None] = field(init=False, default_factory=lambda: Recent(_MEMORY))

    def __post_init__(self) -> None:
        self._account_rules = [rule for rule in self.rules if rule.kind == "account"]
        self._home_rules = [rule for rule in self.rules if rule.kind == "home"]
        self._accounts = GlobSet(rule.entity for rule in self._account_rules)
        self._homes = GlobSet(rule.entity for rule in self._home_rules)

    @property
    def unused(self) -> int:
        """How many of the rules are too long, or too many, to be used."""
        return len(self._accounts.unused) + len(self._homes.unused)

    def rule_for(self, user: UserRef, *, by_home: bool = True) -> PolicyRule | None:
        """The first rule that is about an account; None if none is. `by_home`: rules about its server count, too."""
        key = user, by_home
        if key in self._known:
            return self._known[key]
        found = self._known[key] = next(self._matching(user, by_home=by_home), None)
        return found

    def _matching(self, user: UserRef, *, by_home: bool = True) -> Iterator[PolicyRule]:
        yield from (self._account_rules[place] for place in self._accounts.matching(user.id))
        if by_home and (home := self.home_of(user)):
            yield from (self._home_rules[place] for place in self._homes.matching(home))

    def without(self, users: Iterable[UserRef]) -> tuple["RuleSet", tuple[PolicyRule, ...]]:
        """These rules but for those that are about one of these accounts, and those."""
        left_out = tuple(dict.fromkeys(rule for user in users for rule in self._matching(user)))
        if not left_out:
            return self, ()
        unwanted = frozenset(left_out)
        return RuleSet(tuple(rule for rule in self.rules if rule not in unwanted), self.home_of), left_out


def to_text(rules: Iterable[PolicyRule]) -> str:
    """For the store."""
    return json.dumps([[rule.kind, rule.entity, rule.reason] for rule in rules], ensure_ascii=False)


def from_text(text: str) -> tuple[PolicyRule, ...]:
    """What `to_text` made. Of a damaged row what can be read."""
    try:
        saved = as_list(json.loads(text))
    except ValueError:
        return ()
    found: list[PolicyRule] = []
    for row in saved:
        match row:
            case ["account" | "home" as kind, str(entity), str(reason)]:
                found.append(PolicyRule(kind, entity, reason))
            case _:
                pass
    return tuple(found)
