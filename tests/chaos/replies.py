"""Whether replies answer the right message on the other side. Pure.

Somebody answers a message of their own side, or a copy. Over there, the answer has to lead to where the first stands as
a copy, or to the original of the second. What has been deleted since may be answered in any way, or in none.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from tests.chaos.ledger import SAME, Written, key_of
from tests.chaos.reading import Quote, Said, Standing

_DISCORD_LINK = re.compile(r"\Ahttps://discord\.com/channels/(\d+)/(\d+)/(\d+)\Z")
_MATRIX_LINK = re.compile(r"\Ahttps://matrix\.to/#/([^/?]+)/([^/?]+)(?:\?.*)?\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """A channel as links name it: `<guild>/<channel>` on Discord, the room's ID on Matrix."""

    name: str

    def led_to(self, url: str) -> str:
        """The ID of the message that a link leads to; "" for one that leads elsewhere."""
        if (found := _DISCORD_LINK.match(url)) is not None:
            return found[3] if f"{found[1]}/{found[2]}" == self.name else ""
        if (found := _MATRIX_LINK.match(url)) is not None:
            return unquote(found[2]) if unquote(found[1]) == self.name else ""
        return ""


@dataclass(frozen=True, slots=True)
class Scene:
    """One direction of one pair.

    `written` and `copies_here` are on the side where people answer, `written_there` and `copies_there` on the other;
    `there` is the channel of that. `stood_as`: the IDs of all copies over there that ever showed a key.
    """

    written: Sequence[Written]
    copies_here: Sequence[Standing]
    written_there: Sequence[Written]
    copies_there: Sequence[Standing]
    there: Place
    stood_as: Callable[[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Target:
    """What an answer may lead to: messages of the other side by ID, all of one author; `key` says the same."""

    ids: frozenset[str]
    authors: frozenset[str]
    keys: frozenset[str]


def check(scene: Scene) -> tuple[int, list[str]]:
    """How many answers could be judged, and what is wrong with them, a line each."""
    shown: dict[str, tuple[Standing, Said]] = {}
    for message in scene.copies_there:
        for said in message.said:
            shown.setdefault(said.key, (message, said))
    judged = 0
    wrong: list[str] = []
    for answer in scene.written:
        if answer.deleted or answer.key in SAME or answer.key not in shown:
            continue
        message, said = shown[answer.key]
        if not answer.reply_to:
            if said.quote is not None or message.reply_to:
                wrong.append(f"{answer.name} answers nothing, and stands as an answer")
            continue
        target = _target(scene, answer)
        if target is not None:
            judged += 1
            wrong += [f"{answer.name} {problem}" for problem in _problems(scene.there, target, message, said)]
    return judged, wrong


def _target(scene: Scene, answer: Written) -> _Target | None:
    """What `answer` has to lead to; None where that is gone."""
    own = next((message for message in scene.written if message.id == answer.reply_to), None)
    if own is not None:
        if own.deleted:
            return None
        # Messages that say the same cannot be told apart.
        alike = [message for message in scene.written if not message.deleted and message.key == own.key]
        ids = {copy.id for copy in scene.copies_there if own.key in copy.keys}
        # The answer leads to where it stood when it was answered, and what it said then.
        ids = ids.union(*(scene.stood_as(key) for key in (own.key, *answer.reply_keys)))
        return _Target(frozenset(ids), frozenset(message.author for message in alike), frozenset({own.key}))
    copy = next((copy for copy in scene.copies_here if copy.id == answer.reply_to), None)
    if copy is None:
        return None
    # An answer to several messages in one is an answer to the last of them, as it was then or has become since.
    last = {keys[-1] for keys in (answer.reply_keys, copy.keys) if keys}
    originals = [message for message in scene.written_there if message.key in last]
    # Where pairs were changed, those that say the same are left out of both: then the last one may be one of them.
    is_unclear = not last.intersection(SAME).issubset(message.key for message in scene.written_there)
    if is_unclear or not originals or any(message.deleted for message in originals):
        return None
    return _Target(
        frozenset(message.id for message in originals),
        frozenset(message.author for message in originals),
        frozenset(last),
    )


def _problems(there: Place, target: _Target, message: Standing, said: Said) -> list[str]:
    quote = said.quote
    if quote is None:
        if not message.reply_to:
            return ["does not stand as an answer"]
        return [] if message.reply_to in target.ids else [f"answers {message.reply_to}, not {sorted(target.ids)}"]
    problems = []
    if message.reply_to:
        problems.append("stands as two answers")
    if quote.author not in target.authors:
        problems.append(f"names {quote.author}, not {sorted(target.authors)}")
    if not _quotes(quote, target):
        problems.append(f"quotes {quote.words[:30]!r}, not {sorted(target.keys)}")
    if quote.url:
        if there.led_to(quote.url) not in target.ids:
            problems.append(f"leads to {quote.url}, not to {sorted(target.ids)}")
    elif message.id not in target.ids:
        problems.append("has no link, and what it answers does not stand beside it")
    return problems


def _quotes(quote: Quote, target: _Target) -> bool:
    """Whether the excerpt is the target's, which may have said what others say too before it was edited."""
    key = key_of(quote.words)
    return key in target.keys or key in SAME
