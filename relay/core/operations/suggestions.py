"""Which channels of two platforms belong together, by what people call them: what `relay init` offers. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from relay.core.operations.findings import VisibleChannel

# From 0 to 1. Less alike than this is chance.
_ALIKE = 0.75
# For each word that only the longer name has: "help" belongs rather to "stash help" than to "stash help german".
_PER_FURTHER_WORD = 0.04
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Two channels that seem to belong together."""

    here: VisibleChannel
    there: VisibleChannel

    @property
    def usable(self) -> bool:
        """Whether both can be in a pair as they are."""
        return self.here.problem is None and self.there.problem is None


def suggest(here: Sequence[VisibleChannel], there: Sequence[VisibleChannel]) -> list[Suggestion]:
    """Each channel with the one on the other side that is most like it, each channel once; the best first."""
    words_here, words_there = [_names(one) for one in here], [_names(one) for one in there]
    found = [
        (likeness, left, right)
        for left, names in enumerate(words_here)
        for right, others in enumerate(words_there)
        if (likeness := max((_likeness(a, b) for a in names for b in others), default=0.0)) >= _ALIKE
    ]
    # Of equal ones, what works comes first, then the order of the lists.
    found.sort(key=lambda one: (-one[0], bool(here[one[1]].problem or there[one[2]].problem), one[1], one[2]))
    left_over, right_over = set(range(len(here))), set(range(len(there)))
    chosen: list[Suggestion] = []
    for _, left, right in found:
        if left in left_over and right in right_over:
            left_over.discard(left)
            right_over.discard(right)
            chosen.append(Suggestion(here[left], there[right]))
    return chosen


def pair_names(channels: Sequence[VisibleChannel], used: Iterable[str] = ()) -> Iterator[str]:
    """A name for the pair of each channel, as it is called on its side; no name twice, and none that is `used`."""
    used = {name.casefold() for name in used}
    for channel in channels:
        plain = "".join(one for one in channel.name.lstrip("#") if one.isprintable()).strip() or channel.address
        name, number = plain, 1
        while name.casefold() in used:
            number += 1
            name = f"{plain}-{number}"
        used.add(name.casefold())
        yield name


def _names(channel: VisibleChannel) -> list[tuple[str, ...]]:
    """The words of everything that a channel is called."""
    aliases = [address.partition(":")[0] for address in (channel.address, *channel.also) if address.startswith("#")]
    return [words for name in dict.fromkeys([channel.name, *sorted(aliases)]) if (words := _words(name))]


def _words(name: str) -> tuple[str, ...]:
    folded = unicodedata.normalize("NFKD", name).casefold()
    return tuple(_WORD.findall("".join(one for one in folded if not unicodedata.combining(one))))


def _likeness(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    if "".join(one) == "".join(other):
        return 1.0
    shorter, longer = sorted((set(one), set(other)), key=len)
    if shorter <= longer:
        return 0.96 - _PER_FURTHER_WORD * (len(longer) - len(shorter))
    a, b = " ".join(one), " ".join(other)
    if 2 * min(len(a), len(b)) < max(len(a), len(b)):
        return 0.0
    return 0.94 * SequenceMatcher(None, a, b, autojunk=False).ratio()
