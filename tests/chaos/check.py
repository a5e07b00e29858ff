"""Whether the promise was kept: what should have crossed against what readers see. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from tests.chaos.ledger import SAME, Written, key_of


@dataclass(slots=True)
class Verdict:
    """What is wrong, a line each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_text: list[str] = field(default_factory=list)
    undeleted: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything is."""
        return any(getattr(self, each.name) for each in fields(self))

    def add(self, where: str, other: "Verdict") -> None:
        """Take over what is wrong elsewhere."""
        for each in fields(self):
            getattr(self, each.name).extend(f"{where}: {line}" for line in getattr(other, each.name))

    def figures(self) -> dict[str, int]:
        """How many of each kind."""
        return {each.name.replace("_", " "): len(getattr(self, each.name)) for each in fields(self)}

    def lines(self) -> list[str]:
        """Everything, each line with its kind."""
        return [f"{each.name.replace('_', ' ')}: {line}" for each in fields(self) for line in getattr(self, each.name)]


def check(written: Sequence[Written], seen: Sequence[str]) -> Verdict:
    """Hold what is `seen`, in its order, against what was `written`, in its order.

    A text of `seen` is one message (one part of a long one) without what stands around the author's words, the names
    of its files included.
    """
    verdict = Verdict()
    parts: dict[str, list[str]] = defaultdict(list)
    for text in seen:
        parts[key_of(text)].append(text)
    living = [message for message in written if not message.deleted]
    for message in living:
        if message.key not in SAME:
            _one(message, parts.get(message.key, []), verdict)
    _same(written, parts, verdict)
    _nothing_else(written, parts, verdict)
    exempt = {message.key for message in living if message.exempt}
    expected = [message.key for message in living if message.key not in exempt]
    verdict.out_of_order += _disorder(expected, _first_places(seen, exempt, frozenset(expected)))
    return verdict


def _one(message: Written, parts: list[str], verdict: Verdict) -> None:
    if not parts:
        verdict.lost.append(f"{message.name} {_short(message.text)}")
        return
    words, expected = " ".join(parts).split(), message.text.split()
    files = all(file in " ".join(parts) for file in message.files)
    said = words[: len(expected)] == expected if message.files else words == expected
    if len(set(parts)) < len(parts):
        verdict.doubled.append(f"{message.name} {_short(message.text)}: {len(parts)} messages")
    elif not said or not files:
        verdict.wrong_text.append(f"{message.name} {_short(message.text)} shows {_short(' | '.join(parts))}")


def _same(written: Sequence[Written], parts: Mapping[str, list[str]], verdict: Verdict) -> None:
    """Messages that say what others say too: their number has to be right."""
    living = Counter(message.key for message in written if not message.deleted)
    gone = Counter(message.key for message in written if message.deleted)
    for text in SAME:
        surplus = len(parts.get(text, ())) - living[text]
        if surplus < 0:
            verdict.lost += [_short(text)] * -surplus
        undeleted = max(0, min(surplus, gone[text]))
        verdict.undeleted += [_short(text)] * undeleted
        verdict.doubled += [_short(text)] * (max(0, surplus) - undeleted)


def _nothing_else(written: Sequence[Written], parts: Mapping[str, list[str]], verdict: Verdict) -> None:
    living = {message.key for message in written if not message.deleted}
    gone = {key for message in written if message.deleted for key in (message.name, message.key)}
    for key, texts in parts.items():
        if key in living or key in SAME:
            continue
        (verdict.undeleted if key in gone else verdict.stray).append(_short(" | ".join(texts)))


def _first_places(seen: Iterable[str], exempt: set[str], expected: frozenset[str]) -> list[str]:
    """The keys in the order in which readers meet them; a long message stands where its first part does."""
    met: dict[str, None] = {}
    places: list[str] = []
    for text in seen:
        key = key_of(text)
        if key in exempt or key not in expected or key in met:
            continue
        if key not in SAME:
            met[key] = None
        places.append(key)
    return places


def _disorder(expected: list[str], places: list[str]) -> list[str]:
    """The messages that would have to move. Those that are missing or too many are no matter of order."""
    if expected == places:
        return []
    there = Counter(expected) & Counter(places)
    return [_short(key) for key in (there - Counter(_longest_common(expected, places))).elements()]


def _longest_common(one: list[str], other: list[str]) -> list[str]:
    """The longest common subsequence."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if left == right else max(lengths[i][j + 1], lengths[i + 1][j])
    kept: list[str] = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            kept.append(one[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] >= lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return kept


def _short(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= 60 else f"{words[:40]}…{words[-18:]}")
