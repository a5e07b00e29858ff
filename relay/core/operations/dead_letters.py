"""What failed for good: listed, queued again, or discarded, from the command line and from the status page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.core.pairs import PairDirectory
from relay.core.storage import DeadLetter, Store, Unreadable
from relay.domain.commands import Digest, DigestItem, EditMessage, PostNotice, RemoveMember, SendMessage
from relay.domain.jsontext import Json

# The kinds of commands, for people.
_WORDS = {
    "send": "a message",
    "edit": "an edit",
    "refresh": "an edit",
    "delete": "a deletion",
    "remove": "a deletion",
    "send_batch": "several messages",
    "late_file": "a file",
    "unreadable": "something that cannot be read",
}


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class DeadLetters:
    """The dead letters of a store. Every call raises `StoreError`."""

    store: Store
    pairs: PairDirectory

    async def newest(self, limit: int | None = None) -> Sequence[DeadLetter]:
        """They, oldest first, each with the current or last name of its pair; at most `limit`."""
        async with self.store.read() as uow:
            letters = await uow.outbox.dead(limit)
        pairs = (self.pairs.pair_for(letter.entry.lane) for letter in letters)
        return [
            letter if pair is None else replace(letter, pair=pair.name)
            for letter, pair in zip(letters, pairs, strict=True)
        ]

    async def retry(self, entry: int) -> bool:
        """Put one back at the end of its lane; False if there is none of that ID. A daemon that runs sees it soon."""
        async with self.store.write() as uow:
            return await uow.outbox.retry(entry)

    async def discard(self, entry: int) -> bool:
        """Delete one; False if there is none of that ID."""
        async with self.store.write() as uow:
            return await uow.outbox.discard(entry)


def summary(letter: DeadLetter) -> Json:
    """All about a dead letter except what it says."""
    command = letter.entry.command
    about = command.items[0] if isinstance(command, Digest) else command
    source = None if isinstance(about, PostNotice | RemoveMember) else about.source
    author = about.author.name if isinstance(about, SendMessage | EditMessage | DigestItem) else None
    return {
        "id": letter.entry.id,
        "pair": letter.pair,
        "direction": letter.entry.lane.direction,
        "kind": _kind(letter),
        "author": author,
        "source": None if source is None else {"channel": source.channel.id, "id": source.id},
        "queued_at": letter.entry.queued_at.isoformat(),
        "died_at": letter.died_at.isoformat(),
        "reason": letter.reason,
    }


def what_died(letter: DeadLetter) -> str:
    """What could not be done, for people: `a message`."""
    kind = _kind(letter)
    return _WORDS.get(kind, kind)


def _kind(letter: DeadLetter) -> str:
    command = letter.entry.command
    return "unreadable" if isinstance(command, Unreadable) else command.kind
