"""What is wrong now, in all pairs and both directions, as readers see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos import replies
from tests.chaos.check import Verdict, check
from tests.chaos.copy_history import CopyHistory
from tests.chaos.pairs import Pairs, sorted_out
from tests.chaos.reading import Standing
from tests.chaos.sides import View
from tests.chaos.traffic import Traffic


@dataclass(slots=True)
class Look:
    """The state of everything: what is wrong, and which message is where. `replies`, `batches`, `moved`: how many."""

    verdict: Verdict = field(default_factory=Verdict)
    seen: list[View] = field(default_factory=list)
    replies: int = 0
    batches: int = 0
    moved: int = 0


class Judge:
    """Remembers where each copy was, and judges what readers see now."""

    def __init__(self, pairs: Sequence[str], led: Pairs, trace: Callable[[str], None]) -> None:
        self._led = led
        self._histories = {pair: CopyHistory() for pair in pairs}
        self._trace = trace

    def webhook_deleted(self, pair: str) -> None:
        """Somebody deleted the webhook of a pair's channel just now."""
        self._histories[pair].webhook_deleted()

    def copy_stands(self, pair: str, copy: Standing, *, new: bool) -> None:
        """A copy was posted on Discord just now, or says something else."""
        history = self._histories[pair]
        (history.posted if new else history.changed)(copy)

    async def look(self, traffic: Sequence[Traffic]) -> Look:
        """Look at everything. `traffic`: the people of either side."""
        look = Look()
        for place in self._histories:
            look.seen += [await people.side.view(place) for people in traffic]
        for view in look.seen:
            look.batches += sum(len(copy.said) > 1 for copy in view.copies)
        views = [dict(zip(self._histories, look.seen[number::2], strict=True)) for number in (0, 1)]
        for place in self._histories:
            for here, there in ((0, 1), (1, 0)):
                self._judge(look, place, traffic[here], views[here], traffic[there], views[there])
        return look

    def _judge(
        self,
        look: Look,
        place: str,
        people: Traffic,
        here: Mapping[str, View],
        others: Traffic,
        there: Mapping[str, View],
    ) -> None:
        """Everything of one direction: from `people`, who see `here`, to the `others`, who see `there`."""
        letter = people.side.letter
        leads_to = self._led.leads_to(letter, place)
        to_discord = others.side.letter == "d"
        history = self._histories[leads_to if to_discord else place]
        # Of what was said before the pair changed, only the place is judged.
        written, written_there = people.tight(place), others.tight(leads_to)
        copies_here, _ = sorted_out(here[place].copies, others.ledgers, place)
        copies, strays = sorted_out(there[leads_to].copies, people.ledgers, leads_to)
        moved = history.moved(written, copies) if to_discord else frozenset()
        verdict = check(written, copies, moved)
        verdict.stray += strays
        scene = replies.Scene(
            written=written,
            copies_here=copies_here,
            written_there=written_there,
            copies_there=copies,
            there=others.side.place(leads_to),
            stood_as=history.stood_as if to_discord else lambda _: frozenset(),
        )
        judged, verdict.wrong_reply = replies.check(scene)
        look.replies += judged
        look.moved += len(moved)
        look.verdict.add(f"{place} {letter}", verdict)
        look.verdict.add(f"{place} {letter} at home", check(people.ledgers[place].written, here[place].originals))

    def write_down(self, look: Look, traffic: Sequence[Traffic]) -> None:
        """What is wrong, all that readers see and all that was written: to look for the cause."""
        for line in look.verdict.lines():
            self._trace(f"BROKEN {line}")
        views = iter(look.seen)
        for pair in self._histories:
            for people in traffic:
                view = next(views)
                for kind, messages in (("original", view.originals), ("copy", view.copies)):
                    for message in messages:
                        self._trace(f"SEEN {pair} {people.side.letter} {kind} {_summary(message)}")
                for written in people.ledgers[pair].written:
                    self._trace(f"WRITTEN {pair} {written}")


def _summary(message: Standing) -> str:
    """A message in one line."""
    said = " / ".join(
        f"{said.author}: {said.text[:24]}{''.join(f' [{f.name}]' for f in said.files)}" for said in message.said
    )
    return f"{message.id} {said}" + (f" (answers {message.reply_to})" if message.reply_to else "")
