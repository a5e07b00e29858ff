"""Whether the promise was kept: what should have crossed against what readers see. Pure."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from tests.chaos.ledger import SAME, Written
from tests.chaos.reading import Said, Standing

# What is told after the operator gave the channel another room, of an edit and of a deletion that the relay may not
# carry out over there at that moment: the only failures that are expected.
_FORMER = re.compile(
    r"(This message|\d+ messages here) did not cross: its copy stands where this channel is not mirrored to any more"
    r"( \(\d+\))?\."
    r"|A message that was deleted here still stands where this channel was mirrored to before, .*"
    # And what stands above what was said before the first start.
    r"|Said before the relay was here, on .*:"
)


@dataclass(slots=True)
class Verdict:
    """What is wrong, a line each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_text: list[str] = field(default_factory=list)
    wrong_author: list[str] = field(default_factory=list)
    wrong_file: list[str] = field(default_factory=list)
    wrong_reply: list[str] = field(default_factory=list)
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


def check(written: Sequence[Written], seen: Sequence[Standing], moved: frozenset[str] = frozenset()) -> Verdict:
    """Hold what is `seen`, in its order, against what was `written`, in its order.

    `moved`: the IDs of those that may stand at another place, for a reason that is known. Replies are
    `replies.check`'s.
    """
    verdict = Verdict()
    parts: dict[str, list[Said]] = defaultdict(list)
    for said in (said for message in seen for said in message.said):
        parts[said.key].append(said)
    living = [message for message in written if not message.deleted]
    _continue(living, seen, parts)
    for message in living:
        if message.key not in SAME:
            _one(message, parts.get(message.key, []), verdict)
    _same(written, parts, verdict)
    _nothing_else(written, parts, verdict)
    excused = {key for message in seen if message.id in moved for key in message.keys if key not in SAME}
    standing = [message for message in seen if message.id not in moved]
    for past in (True, False):  # what was said before the first start crosses later, and stands behind
        expected = [message.key for message in living if message.past is past and message.key not in excused]
        verdict.out_of_order += _disorder(expected, _first_places(standing, frozenset(expected)))
    return verdict


def _continue(written: Iterable[Written], seen: Iterable[Standing], parts: dict[str, list[Said]]) -> None:
    """Give a message its last words where they stand by themselves: it has grown in a copy that others share.

    Such a copy is full at some time. Nothing in these words says whose they are, but that they are the very ones.
    """
    shared = {key for message in seen if len(message.said) > 1 for key in message.keys}
    for message in written:
        found = parts.get(message.key, [])
        if message.key in SAME or message.key not in shared or len(found) != 1:
            continue
        words, shown = message.text.split(), found[0].text.split()
        rest = " ".join(words[len(shown) :])
        by_themselves = parts.get(rest, [])
        if rest and words[: len(shown)] == shown and [said.author for said in by_themselves] == [message.author]:
            found += parts.pop(rest)


def _one(message: Written, parts: list[Said], verdict: Verdict) -> None:
    what = f"{message.name} {_short(message.text)}"
    if not parts:
        verdict.lost.append(what)
        return
    if len({(said.text, said.files) for said in parts}) < len(parts):
        verdict.doubled.append(f"{what}: {len(parts)} messages")
        return
    if " ".join(said.text for said in parts).split() != message.text.split():
        verdict.wrong_text.append(f"{what} shows {_short(' | '.join(said.text for said in parts))}")
    if strangers := {said.author for said in parts} - {message.author}:
        verdict.wrong_author.append(f"{what} of {message.author} stands under {', '.join(sorted(strangers))}")
    files = [file for said in parts for file in said.files]
    if files != ([] if message.file is None else [message.file]):
        verdict.wrong_file.append(f"{what} with {message.file} stands with {files}")


def _same(written: Sequence[Written], parts: Mapping[str, list[Said]], verdict: Verdict) -> None:
    """Messages that say what others say too: their number has to be right, and how many are whose."""
    for text in SAME:
        living = Counter(message.author for message in written if not message.deleted and message.key == text)
        gone = Counter(message.author for message in written if message.deleted and message.key == text)
        standing = Counter(said.author for said in parts.get(text, ()))
        surplus = standing.total() - living.total()
        verdict.lost += [_short(text)] * max(0, -surplus)
        undeleted = max(0, min(surplus, gone.total()))
        verdict.undeleted += [_short(text)] * undeleted
        verdict.doubled += [_short(text)] * (max(0, surplus) - undeleted)
        if surplus == 0 and standing != living:
            verdict.wrong_author.append(f"{_short(text)} stands under {dict(standing)}, not {dict(living)}")


def _nothing_else(written: Sequence[Written], parts: Mapping[str, list[Said]], verdict: Verdict) -> None:
    living = {message.key for message in written if not message.deleted}
    gone = {key for message in written if message.deleted for key in (message.name, message.key)}
    for key, said in parts.items():
        if key in living or key in SAME:
            continue
        others = [each.text for each in said if not _FORMER.fullmatch(each.text)]
        if others:
            (verdict.undeleted if key in gone else verdict.stray).append(_short(" | ".join(others)))


# --- Order --------------------------------------------------------------------------------------------------


def _first_places(seen: Iterable[Standing], expected: frozenset[str]) -> list[str]:
    """The keys in the order in which readers meet them; a long message counts at the place of its first part."""
    met: set[str] = set()
    places: list[str] = []
    for key in (key for message in seen for key in message.keys):
        if key not in expected or key in met:
            continue
        if key not in SAME:
            met.add(key)
        places.append(key)
    return places


def _disorder(expected: list[str], places: list[str]) -> list[str]:
    """The messages that would have to move. Those that are missing or too many are no matter of order."""
    start, end = _agreement(expected, places), 0
    if start < min(len(expected), len(places)):
        end = _agreement(expected[start:][::-1], places[start:][::-1])
    expected, places = expected[start : len(expected) - end], places[start : len(places) - end]
    there = Counter(expected) & Counter(places)
    return [_short(key) for key in (there - Counter(_longest_common(expected, places))).elements()]


def _agreement(one: list[str], other: list[str]) -> int:
    """How far two lists are the same from their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


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
