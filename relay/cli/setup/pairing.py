"""Which channels and rooms belong together: offered by name, and chosen by the operator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from relay.cli.setup.asking import Asker, Check, Question, rows, say

if TYPE_CHECKING:
    from relay.config.editing import Scalar
    from relay.core.operations.findings import VisibleChannel


_LONGEST_TOPIC = 200


def choose_pairs(
    asker: Asker,
    channels: "Sequence[VisibleChannel]",
    rooms: "Sequence[VisibleChannel]",
    alias_problem: Check = lambda _: None,
) -> "list[Choice]":
    """Offer channels and rooms that are called alike, then let the operator pair the others.

    `alias_problem`: why an alias names no room, of one that the account is not in.
    """
    from relay.core.operations.suggestions import suggest

    suggestions = suggest(channels, rooms)
    chosen: list[Choice] = []
    if suggestions:
        say("These are called alike:", indent=2)
        rows(
            (f"{number:>2}", _called(one.here, channels), "<->", _called(one.there, rooms), _alias(one.there))
            for number, one in enumerate(suggestions, 1)
        )
        for number, one in enumerate(suggestions, 1):
            for problem in (one.here.problem, one.there.problem):
                if problem:
                    say(f"{number}: {problem}", sign="✗", indent=2)
        usable = [number for number, one in enumerate(suggestions, 1) if one.usable]
        default = "all" if len(usable) == len(suggestions) else _spelled(usable)
        question = Question(key="suggested", words="Which to pair (1 3-5, all, none)", default=default)
        chosen = [
            Choice(suggestions[number - 1].here, suggestions[number - 1].there.address, suggestions[number - 1].there)
            for number in _ask_for_numbers(asker, question, len(suggestions))
        ]
    return _marked(asker, chosen + _by_hand(asker, channels, rooms, chosen, alias_problem), channels)


def _marked(asker: Asker, chosen: "list[Choice]", channels: "Sequence[VisibleChannel]") -> "list[Choice]":
    """The pairs, with the operator's word on which rooms of age-restricted channels are for adults, too."""
    restricted = [one for one in chosen if one.channel.nsfw]
    if not restricted:
        return chosen
    say("Discord shows these channels to adults only. Of a room on Matrix, your word is the mark:", indent=2)
    rows(
        (f"{number:>2}", _called(one.channel, channels), "<->", one.room.name if one.room else one.address)
        for number, one in enumerate(restricted, 1)
    )
    question = Question(key="nsfw", words="Which rooms are for adults, too (1 3-5, all, none)", default="none")
    marked = [restricted[number - 1] for number in _ask_for_numbers(asker, question, len(restricted))]
    if left := [one.channel.name for one in restricted if one not in marked]:
        say(
            f"Nothing crosses between {', '.join(left)} and {'its room' if len(left) == 1 else 'their rooms'} so far: "
            "write nsfw = true in the pair if the room is for adults, or moderation.nsfw_mismatch "
            '= "mirror" to let only words cross.',
            indent=2,
        )
    return [replace(one, for_adults=one in marked) for one in chosen]


def _ask_for_numbers(asker: Asker, question: Question, count: int) -> list[int]:
    """Numbers up to `count`: some, all or none."""
    wrong = f"Write numbers up to {count}, all, or none."
    answer = asker.ask(question, lambda it: wrong if _numbers(it, count) is None else None)
    return _numbers(answer, count) or []


def declared_pairs(chosen: "Sequence[Choice]", used: Sequence[str] = ()) -> "list[tuple[str, dict[str, Scalar]]]":
    """What people call the two channels of each pair, and its settings; no pair has a name that is `used`."""
    from relay.core.operations.suggestions import pair_names

    names = pair_names([one.channel for one in chosen], used)
    return [(one.about, {"name": name, **one.settings}) for one, name in zip(chosen, names, strict=True)]


def _by_hand(
    asker: Asker,
    channels: "Sequence[VisibleChannel]",
    rooms: "Sequence[VisibleChannel]",
    chosen: "Sequence[Choice]",
    alias_problem: Check,
) -> "list[Choice]":
    """Pairs that the operator names."""
    left = [one for one in channels if one not in [choice.channel for choice in chosen]]
    over = [one for one in rooms if one not in [choice.room for choice in chosen]]
    taken = list(chosen)
    if asker.present and not left:
        if not channels:
            say("The bot sees no channels yet. Once it does, `relay pairs add` offers them.", indent=2)
        return []
    if asker.present:
        say("Other channels:", indent=2)
        rows((f"{number:>2}", _called(one, channels), one.problem or one.kind) for number, one in enumerate(left, 1))
        if over:
            say("Other rooms:", indent=2)
            rows((f"{number:>2}", _called(one, rooms), one.problem or "") for number, one in enumerate(over, 1))
        say(
            "Discord leaves out what the bot may not see: a channel that is missing needs View Channel for it.",
            indent=2,
        )
        say("By hand, like “2 1”: a channel's number, then a room's number or its alias.", indent=2)

    def parse(words: str) -> str | None:
        found = _choice(words, left if asker.present else channels, over if asker.present else rooms)
        if isinstance(found, str):
            return found
        for other in taken:
            if other.channel.address == found.channel.address or other.address == found.address:
                if asker.present or other not in chosen:
                    return f"{words}: it is in a pair already."
                if (other.channel, other.address) == (found.channel, found.address):
                    return None  # Whoever writes down pairs need not know what is suggested.
                return f'{words}: it is in a pair already, a suggested one; choose others with "suggested"'
        if found.room is None and found.address.startswith("#") and (wrong := alias_problem(found.address)) is not None:
            return f"{wrong}; write another alias, or the room's ID."
        taken.append(found)
        return None

    asker.pairs(Question(key="pairs", words="Another pair (Enter goes on)", default=""), parse)
    return taken[len(chosen) :]


@dataclass(frozen=True, slots=True)
class Choice:
    """A pair that was chosen."""

    channel: "VisibleChannel"
    # Of the room, which the account may not see yet.
    address: str
    room: "VisibleChannel | None" = None
    # The operator says that only adults are meant to read the room.
    for_adults: bool = False

    @property
    def about(self) -> str:
        """What people call the two."""
        place = f" on {self.channel.place}" if self.channel.place else ""
        return f"{self.channel.name}{place}, and {self.room.name if self.room else self.address}"

    @property
    def topic(self) -> str:
        """What it is for, as its room says, else its channel; in one line."""
        from relay.domain.names import visible

        topics = (self.room.topic if self.room else "", self.channel.topic)
        return next(filter(None, map(visible, topics)), "")[:_LONGEST_TOPIC]

    @property
    def settings(self) -> "dict[str, Scalar]":
        """Of the pair, but for its name."""
        found: dict[str, Scalar] = {
            "discord_channel": int(self.channel.address),
            "matrix_room": self.address,
        }
        if self.channel.section:
            found["section"] = self.channel.section
        if self.for_adults:
            found["nsfw"] = True
        return found


def _choice(words: str, channels: "Sequence[VisibleChannel]", rooms: "Sequence[VisibleChannel]") -> Choice | str:
    """The pair that the operator means, or what is wrong with the words."""
    from relay.config.mistakes import problem_with
    from relay.config.settings import PairSettings

    first, _, second = (part.strip() for part in words.partition(" "))
    if not second:
        return f"{words}: write a channel and a room, with a space between."
    channel = _meant(first, channels)
    if channel is None:
        return f"{first}: there is no such channel, or more than one; write its number in the list, or its ID."
    room = _meant(second, rooms)
    if room is not None:
        return Choice(channel, room.address, room)
    if problem_with(PairSettings, {"discord_channel": channel.address, "matrix_room": second}) is not None:
        return f"{second}: there is no such room; write its number in the list, or its alias, like #help:example.org."
    return Choice(channel, second)


def _meant(words: str, listed: "Sequence[VisibleChannel]") -> "VisibleChannel | None":
    if words.isascii() and words.isdigit() and 0 < int(words) <= len(listed):
        return listed[int(words) - 1]
    same = [one for one in listed if words == one.address or words in one.also]
    bare = words.casefold().removeprefix("#")
    found = same or [one for one in listed if bare == one.name.casefold().removeprefix("#")]
    return found[0] if len(found) == 1 else None


def _called(channel: "VisibleChannel", among: "Sequence[VisibleChannel]") -> str:
    """What people call a channel, with whatever tells it from others of that name."""
    same = [one for one in among if one.name.casefold() == channel.name.casefold()]
    several_places = len({one.place for one in among}) > 1
    more = channel.place if several_places else channel.address if len(same) > 1 else ""
    return f"{channel.name} ({more})" if more else channel.name


def _alias(room: "VisibleChannel") -> str:
    return room.address if room.address.startswith("#") else ""


def _numbers(words: str, count: int) -> list[int] | None:
    """The numbers that the operator wrote, up to `count`; None if it is none of what can be written."""
    if words.casefold() in {"all", "none"}:
        return list(range(1, count + 1)) if words.casefold() == "all" else []
    found: list[int] = []
    for part in words.replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            return None
        low, high = int(first), int(last or first)
        if not 0 < low <= high <= count:
            return None
        found += range(low, high + 1)
    return list(dict.fromkeys(found)) or None


def _spelled(numbers: Sequence[int]) -> str:
    """Numbers as the operator would write them: "1-3 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "none"
