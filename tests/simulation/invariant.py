"""The promise, as CONTRIBUTING states it, checked on what readers see and on the message map."""

import sqlite3
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.store.tables import unpacked
from tests.support.platform import MemoryPlatform, Message

Copies = dict[MessageRef, list[MessageRef]]


def violations(
    store: Path,
    platforms: tuple[MemoryPlatform, MemoryPlatform],
    channels: tuple[str, ...],
    removed: set[MessageRef],
    since: datetime | None,
) -> list[str]:
    """What is wrong, a sentence each; nothing if the promise was kept.

    `removed`: copies that a moderator deleted. They stay gone, and how many parts remain of their originals is not
    the relay's to say. `since`: when the relay was first ready; nothing older has to cross.
    """
    copies = _copies(store)
    batches = _batches(store)
    found: list[str] = []
    for source, target in (platforms, platforms[::-1]):
        for name in channels:
            found += _direction(
                source, target, source.channel(name), target.channel(name), copies, batches, removed, since
            )
    with sqlite3.connect(store) as connection:
        waiting = connection.execute("SELECT count(*) FROM outbox").fetchone()[0]
    connection.close()
    if waiting:
        found.append(f"{waiting} commands are left in the outbox")
    return found


def _direction(
    source: MemoryPlatform,
    target: MemoryPlatform,
    here: ChannelRef,
    there: ChannelRef,
    copies: Copies,
    batches: set[str],
    removed: set[MessageRef],
    since: datetime | None,
) -> list[str]:
    found: list[str] = []
    shared = _shared(source, here, copies, batches)
    shown = {message.ref: message for message in target.shown(there) if message.author.is_self}
    accounted: set[MessageRef] = set()
    last = ""
    for original in source.shown(here):
        if original.author.is_self:
            continue
        refs = copies.get(original.ref, [])
        accounted.update(refs)
        if not refs:
            if since is None or original.created_at < since:
                continue
            found.append(f"lost: {source.platform} {original.ref.id} {original.text[:30]!r}")
            continue
        if removed.intersection(refs):
            continue
        gone = [ref.id for ref in refs if ref not in shown]
        if gone:
            found.append(f"lost: {source.platform} {original.ref.id}: its copies {gone} are gone")
            continue
        first, *rest = (_own_words(shown[ref]) for ref in refs)
        if refs[0] in shared:
            first = _words_in(first, original, shared[refs[0]])
        text = " ".join((first, *rest))
        if text != original.text:
            found.append(f"wrong text: {source.platform} {original.ref.id} {original.text[:40]!r} shows {text[:40]!r}")
        if refs[0].id < last:
            found.append(f"out of order: {source.platform} {original.ref.id}")
        last = max(last, refs[0].id)
    strays = [ref for ref in shown if ref not in accounted]
    for ref in strays:
        of = next((original for original, refs in copies.items() if ref in refs), None)
        kind = "doubled" if of is None else f"undeleted (its original {of.id} is gone)"
        found.append(f"{kind}: {target.platform} {ref.id} {shown[ref].text[:30]!r}")
    return found


def _shared(
    source: MemoryPlatform, here: ChannelRef, copies: Copies, batches: set[str]
) -> dict[MessageRef, list[Message]]:
    """The copies that several originals stand in, or stood in once, with those originals in order."""
    standing: dict[MessageRef, list[Message]] = defaultdict(list)
    for original in source.shown(here):
        for ref in copies.get(original.ref, [])[:1]:
            standing[ref].append(original)
    return {ref: originals for ref, originals in standing.items() if len(originals) > 1 or ref.id in batches}


def _words_in(text: str, original: Message, together: list[Message]) -> str:
    """What a shared copy says of one of its originals; the whole text if it is not built as it should be."""
    lines = [line for line in text.split("\n") if not line.startswith("↪ ")]
    if len(lines) != len(together):
        return text
    # Signed where several have written in it, some of whom may have left it since.
    return lines[together.index(original)].removeprefix(f"{original.author.name}: ")


def _own_words(message: Message) -> str:
    """The words of a copy without the quoted line of a reply."""
    lines = message.text.split("\n")
    return "\n".join(lines[1:] if lines[0].startswith("↪ ") else lines)


def _batches(store: Path) -> set[str]:
    with sqlite3.connect(store) as connection:
        found = {unpacked(row[0]) for row in connection.execute("SELECT native_id FROM batch")}
    connection.close()
    return found


def _copies(store: Path) -> Copies:
    with sqlite3.connect(store) as connection:
        rows = connection.execute(
            "SELECT f.platform, f.native_id, m.native_id, t.platform, t.native_id, c.native_id"
            " FROM message m JOIN message_copy c ON c.message_id = m.id"
            " JOIN channel f ON f.id = m.channel_id JOIN channel t ON t.id = c.channel_id ORDER BY m.id, c.part"
        ).fetchall()
    connection.close()
    copies: Copies = defaultdict(list)
    for from_platform, from_channel, original, to_platform, to_channel, copy in rows:
        ref = MessageRef(ChannelRef(Platform(from_platform), from_channel), unpacked(original))
        copies[ref].append(MessageRef(ChannelRef(Platform(to_platform), to_channel), unpacked(copy)))
    return copies
