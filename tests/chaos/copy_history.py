"""Which copies were on Discord, and when: so that only what had to be posted again may be in another place.

A copy whose webhook was deleted can never be changed again, and one that the bot posted itself cannot grow into what
only a webhook may say. An edit of its original then makes another, at another place.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.chaos.ledger import Written
from tests.chaos.reading import Standing


@dataclass(frozen=True, slots=True)
class Posted:
    """A copy at the moment when it was posted. `at` in seconds."""

    id: str
    at: float
    by_bot: bool


@dataclass(slots=True)
class CopyHistory:
    """One channel's. `clock` in seconds."""

    clock: Callable[[], float] = time.monotonic
    webhook_deleted_at: list[float] = field(default_factory=list)
    _first: dict[str, Posted] = field(default_factory=dict)
    _posts: dict[str, Posted] = field(default_factory=dict)
    _stood_as: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def posted(self, copy: Standing) -> None:
        """A copy was posted just now."""
        post = self._posts.setdefault(copy.id, Posted(copy.id, self.clock(), copy.by_bot))
        for key in copy.keys:
            self._first.setdefault(key, post)
            self._stood_as[key].add(copy.id)

    def changed(self, copy: Standing) -> None:
        """A copy says something else now."""
        for key in copy.keys:
            self._stood_as[key].add(copy.id)

    def webhook_deleted(self) -> None:
        """Somebody deleted a webhook just now."""
        self.webhook_deleted_at.append(self.clock())

    def stood_as(self, key: str) -> frozenset[str]:
        """The IDs of all messages that ever showed `key`."""
        return frozenset(self._stood_as[key])

    def moved(self, written: Iterable[Written], standing: Sequence[Standing]) -> frozenset[str]:
        """The IDs of the copies that may be in another place than their message was at first."""
        places: defaultdict[str, list[str]] = defaultdict(list)
        for copy in standing:
            for key in copy.keys:
                places[key].append(copy.id)
        messages = list(written)
        said = Counter(message.key for message in messages)
        alone = (message for message in messages if said[message.key] == 1 and message.key in places)
        moved = {places[message.key][0] for message in alone if self._is_excused(message, places[message.key][0])}
        moved.update(*(self._alike(key, places[key]) for key, times in said.items() if times > 1))
        return frozenset(moved)

    def _alike(self, key: str, standing: Sequence[str]) -> set[str]:
        """Of copies that say the same: those that may take the place of a deleted one."""
        posts = [self._posts[copy] for copy in self._stood_as[key] if copy in self._posts]
        gone = [post for post in posts if post.id not in standing]
        return {
            post.id
            for post in posts
            if post.id in standing and any(one.by_bot or self._unchangeable(one.at, post.at) for one in gone)
        }

    def _is_excused(self, message: Written, stands: str) -> bool:
        post = self._posts.get(stands)
        first = self._first.get(message.key)
        if post is None or first is None:
            return False
        if first.id == stands:
            # Its first copy need not have told whose it was.
            return message.plain_at_first and self._unchangeable(message.at, post.at)
        return first.by_bot or self._unchangeable(first.at, post.at)

    def _unchangeable(self, since: float, until: float) -> bool:
        return any(since < at < until for at in self.webhook_deleted_at)
