"""Which message is a copy of which, and how long each took: found by comparing both sides, as a person would.

Nothing of the daemon is read here. A copy belongs to the author's oldest message that has the same words or file and no
copy yet; a further copy of the same kind is another part of that message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from relay.demo.sides.base import DIRECTION, OTHER, DisplayedMessage, SideName, letters
from relay.domain.jsontext import Json

_KEPT = 200
_LOOK_BACK = 60
_CLOCKS = 5
"""Milliseconds by which the two platforms' clocks may differ: both are on this machine."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: something crossed or was dropped."""

    way: str
    what: str
    who: str
    state: Literal["crossed", "dropped"] = "crossed"
    ms: float | None = None  # how long it took
    why: str = ""  # it was dropped
    source: str = ""  # the ID of the message

    def as_json(self) -> Json:
        """For the page."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class _Link:
    """A message and what became of it. Times in milliseconds since 1970."""

    source: DisplayedMessage
    copies: list[str] = field(default_factory=list)
    ms: float | None = None
    changes: list[Json] = field(default_factory=list)
    followed_to: int = 0
    gone_at: float | None = None


class CopyTracker:
    """Compares both sides each time they are read."""

    def __init__(self) -> None:
        self._links: dict[tuple[SideName, str], _Link] = {}
        self._origins: dict[tuple[SideName, str], _Link] = {}
        self._stays: dict[tuple[SideName, str], list[str]] = {}
        self._taken: list[float] = []

    @property
    def median(self) -> float | None:
        """The median time that the last messages took, in milliseconds."""
        ordered = sorted(self._taken)
        return ordered[len(ordered) // 2] if ordered else None

    def dropped(self, side: SideName, message: str, what: str) -> None:
        """Note that something about a message was dropped."""
        self._stays.setdefault((side, message), []).append(what)

    def look(self, sides: Mapping[SideName, Sequence[DisplayedMessage]], now: float) -> list[Entry]:
        """Read both sides as they are at `now` (milliseconds since 1970); what has crossed since the last time."""
        entries: list[Entry] = []
        here: dict[SideName, dict[str, DisplayedMessage]] = {
            side: {seen.id: seen for seen in messages} for side, messages in sides.items()
        }
        for side, messages in sides.items():
            for seen in messages:
                if seen.kind in ("person", "bot", "system"):
                    link = self._links.setdefault((side, seen.id), _Link(seen))
                    link.source = seen
        for side, messages in sides.items():
            entries += self._arrivals(OTHER[side], side, messages)
        for (side, _), link in list(self._links.items()):
            self._prune(side, link, here)
            entries += self._edit(side, link, here[OTHER[side]])
            entries += self._deletion(side, link, here, now)
        return entries

    def of(self, side: SideName, seen: DisplayedMessage) -> Json | None:
        """What the page shows under a message; None if the relay has nothing to do with it."""
        stays = self._stays.get((side, seen.id), [])
        link = self._links.get((side, seen.id))
        if link is not None:
            state = "crossed" if link.copies else "crossing"
            return {"state": state, "ms": link.ms, "with": link.copies, "changes": link.changes, "dropped": stays}
        origin = self._origins.get((side, seen.id))
        if origin is not None:
            first = origin.copies[:1] == [seen.id]
            ms = origin.ms if first else None
            return {"state": "arrived", "ms": ms, "with": [origin.source.id], "changes": [], "dropped": stays}
        return {"state": "", "ms": None, "with": [], "changes": [], "dropped": stays} if stays else None

    # --- One kind of thing each ---------------------------------------------------------------------------

    def _arrivals(self, source: SideName, side: SideName, messages: Iterable[DisplayedMessage]) -> Iterable[Entry]:
        for seen in messages:
            if seen.kind != "copy" or (side, seen.id) in self._origins:
                continue
            link = self._match(source, seen)
            if link is None:
                continue
            link.copies.append(seen.id)
            self._origins[side, seen.id] = link
            if link.ms is None:
                link.ms = float(max(0, seen.at - link.source.at))
                link.followed_to = max(link.followed_to, link.source.edited_at or 0)
                self._taken = [*self._taken[-_KEPT:], link.ms]
                yield Entry(
                    DIRECTION[source], _kind(link.source), link.source.author.name, ms=link.ms, source=link.source.id
                )

    def _match(self, source: SideName, copy: DisplayedMessage) -> _Link | None:
        candidates = [
            link
            for (side, _), link in list(self._links.items())[-_LOOK_BACK * 2 :]
            if side == source
            and link.source.at <= copy.at + _CLOCKS
            and _same_name(link.source.author.name, copy.author.name)
        ][-_LOOK_BACK:]
        waiting = [link for link in candidates if not link.copies]
        alike = [link for link in candidates if _is_like(link.source, copy)]
        fresh = [link for link in alike if not link.copies]
        return next(iter(fresh), None) or next(reversed(alike), None) or next(iter(waiting), None)

    def _prune(self, side: SideName, link: _Link, here: Mapping[SideName, Mapping[str, DisplayedMessage]]) -> None:
        """An edit may have taken parts back."""
        left = [copy for copy in link.copies if copy in here[OTHER[side]]]
        if left and link.source.id in here[side]:
            link.copies = left

    def _edit(self, side: SideName, link: _Link, there: Mapping[str, DisplayedMessage]) -> Iterable[Entry]:
        edited = link.source.edited_at
        if edited is None or not link.copies or edited <= link.followed_to:
            return
        copies = [there[copy] for copy in link.copies if copy in there]
        latest = max((max(copy.edited_at or 0, copy.at) for copy in copies), default=0)
        if latest < edited:
            return
        link.followed_to = edited
        link.changes = [*link.changes, {"what": "edit", "ms": latest - edited}][-3:]
        yield Entry(DIRECTION[side], "edit", link.source.author.name, ms=latest - edited, source=link.source.id)

    def _deletion(
        self, side: SideName, link: _Link, here: Mapping[SideName, Mapping[str, DisplayedMessage]], now: float
    ) -> Iterable[Entry]:
        if link.source.id in here[side]:
            return
        link.gone_at = link.gone_at or now
        if any(copy in here[OTHER[side]] for copy in link.copies):
            return
        for copy in link.copies:
            self._origins.pop((OTHER[side], copy), None)
        del self._links[side, link.source.id]
        if link.copies:
            yield Entry(DIRECTION[side], "deletion", link.source.author.name, ms=round(now - link.gone_at, 1))


def _kind(seen: DisplayedMessage) -> str:
    """One word for the journal."""
    if seen.files:
        return seen.files[0].kind
    if seen.cards:
        return str(seen.cards[0]["kind"])
    return "system message" if seen.kind == "system" else "reply" if seen.reply else "text"


def _same_name(name: str, shown: str) -> bool:
    return name.casefold() == shown.casefold()


def _is_like(source: DisplayedMessage, copy: DisplayedMessage) -> bool:
    """Whether the words of the copy are among those of the source, markup and quoted lines aside; or its file is."""
    words = letters("\n".join(line for line in copy.body.split("\n") if not (source.reply and line.startswith("> "))))
    if copy.files:
        sizes = {file.size for file in source.files if file.size}
        return any(file.size in sizes for file in copy.files)
    return bool(words) and words in letters(source.words)
