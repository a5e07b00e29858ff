"""What is wrong now, in all pairs and both directions, as readers see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.chaos import replies
from tests.chaos.check import Verdict, check
from tests.chaos.chronicle import Chronicle
from tests.chaos.reading import Standing
from tests.chaos.sides import View
from tests.chaos.traffic import Traffic


@dataclass(slots=True)
class Look:
    """One look at everything: what is wrong, and what stands where. `replies`, `batches`, `moved`: how many."""

    verdict: Verdict = field(default_factory=Verdict)
    seen: list[View] = field(default_factory=list)
    replies: int = 0
    batches: int = 0
    moved: int = 0


class Judge:
    """Remembers what stood where, and judges what stands."""

    def __init__(self, pairs: Sequence[str], trace: Callable[[str], None]) -> None:
        self._chronicles = {pair: Chronicle() for pair in pairs}
        self._trace = trace

    def webhook_deleted(self, pair: str) -> None:
        """Somebody deleted the webhook of a pair's channel just now."""
        self._chronicles[pair].webhook_deleted()

    def copy_stands(self, pair: str, copy: Standing, *, new: bool) -> None:
        """A copy was posted on Discord just now, or says something else."""
        chronicle = self._chronicles[pair]
        (chronicle.posted if new else chronicle.changed)(copy)

    async def look(self, traffic: Sequence[Traffic]) -> Look:
        """Look at everything. `traffic`: the people of either side."""
        look = Look()
        for pair in self._chronicles:
            views = [await people.side.view(pair) for people in traffic]
            look.seen += views
            look.batches += sum(len(copy.said) > 1 for view in views for copy in view.copies)
            for here, there in ((0, 1), (1, 0)):
                self._judge(look, pair, traffic[here], views[here], traffic[there], views[there])
        return look

    def _judge(self, look: Look, pair: str, people: Traffic, here: View, others: Traffic, there: View) -> None:
        """Everything of one direction: from `people`, who see `here`, to the `others`, who see `there`."""
        written = people.ledgers[pair].written
        to_discord = others.side.letter == "d"
        chronicle = self._chronicles[pair]
        moved = chronicle.moved(written, there.copies) if to_discord else frozenset()
        verdict = check(written, there.copies, moved)
        scene = replies.Scene(
            written=written,
            copies_here=here.copies,
            written_there=others.ledgers[pair].written,
            copies_there=there.copies,
            there=others.side.place(pair),
            stood_as=chronicle.stood_as if to_discord else lambda _: frozenset(),
        )
        judged, verdict.wrong_reply = replies.check(scene)
        look.replies += judged
        look.moved += len(moved)
        look.verdict.add(f"{pair} {people.side.letter}", verdict)
        look.verdict.add(f"{pair} {people.side.letter} at home", check(written, here.originals))

    def write_down(self, look: Look, traffic: Sequence[Traffic]) -> None:
        """What is wrong, all that readers see and all that was written: for whoever looks for the cause."""
        for line in look.verdict.lines():
            self._trace(f"BROKEN {line}")
        views = iter(look.seen)
        for pair in self._chronicles:
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
