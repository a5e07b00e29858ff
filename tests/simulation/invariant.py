"""The promise, as CONTRIBUTING states it, checked on what readers see and on the message map."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection
from datetime import datetime

from relay.domain.content import Content
from relay.domain.ids import ChannelRef, MessageRef, Platform
from relay.domain.text.nodes import plain_text
from relay.store.tables import unpacked
from tests.simulation.moderators import MAL
from tests.simulation.operator import Operator
from tests.simulation.past import Past
from tests.simulation.people import EVE
from tests.simulation.place import Place
from tests.support.platform import RELAY, MemoryPlatform, Message

Copies = dict[MessageRef, list[MessageRef]]


def violations(
    store: Place,
    platforms: tuple[MemoryPlatform, MemoryPlatform],
    operator: Operator,
    removed: set[MessageRef],
    since: datetime | None,
    past: Past | None = None,
) -> list[str]:
    """What is wrong, a sentence each; nothing if the promise was kept.

    `removed`: copies that a moderator deleted. They stay gone, and how many parts remain of their originals is not
    the relay's to say. `since`: when the relay was first ready; nothing older has to cross, but for what is asked for
    of the `past`.
    """
    copies, from_past = copies_in(store), _from_past(store)
    batches = _batches(store)
    left, undeclared = _left_over(store, operator)
    found = [f"{left} commands are left in the outbox"] if left else []
    for source, target in (platforms, platforms[::-1]):
        found += _direction(source, target, operator, copies, batches, removed, since, undeclared, past, from_past)
    for original, refs in copies.items():
        came_later = past is not None and original in from_past
        partner = past.leads.get(original.channel) if past and came_later else operator.said.get(original)
        if refs and original in operator.unsaid and not came_later and not _was_command(original, platforms):
            found.append(f"said while its pair was paused: {original.platform} {original.id}")
        found += [
            f"in a room where it was not said: {ref.platform} {ref.id} in {ref.channel.id}, of {original.id}"
            for ref in refs
            if partner is not None and ref.channel != partner
        ]
    return found


def _was_command(ref: MessageRef, platforms: tuple[MemoryPlatform, MemoryPlatform]) -> bool:
    """Whether a message was a command at first: it crosses when it is edited into something else."""
    platform = next(one for one in platforms if one.platform is ref.platform)
    versions = platform.edits.get(ref, [])
    content = versions[0][1] if versions else platform.messages[ref].content
    return _is_command(content)


def crossed_in_secret(store: Place, secret: set[MessageRef]) -> list[str]:
    """What crossed although its author had opted out."""
    return [f"crossed: {ref.platform} {ref.id}, of somebody who opted out" for ref in secret & copies_in(store).keys()]


def wrongly_linked(store: Place, as_told: bool | None) -> list[str]:
    """What is wrong about links: one that nobody made, half of one, or not what Eve was told (None: she was not)."""
    links = set(store.rows("SELECT platform, account, other_platform, other_account FROM person_link"))
    both = {("discord", EVE, "matrix", EVE), ("matrix", EVE, "discord", EVE)}
    if links not in (set(), both):
        return [f"linked: {sorted(links)}"]
    if as_told is not None and bool(links) != as_told:
        return [f"eve was told that she is {'' if as_told else 'not '}linked"]
    return []


def _left_over(store: Place, operator: Operator) -> tuple[int, Counter[ChannelRef]]:
    """How much is in the outbox that should not be: everything but rows of undeclared pairs, and damaged ones.

    And what may have been sent to each channel and is not on record, because it waits for an undeclared pair: what is
    at the head of its lane, each part of it.
    """
    rows = store.rows(
        "SELECT o.state, coalesce(o.reason, ''), o.command, l.source_platform, l.source_channel,"
        " l.destination_platform, l.destination_channel"
        " FROM outbox o JOIN lane l ON l.id = o.lane_id ORDER BY o.state DESC, o.position"
    )
    left = 0
    undeclared: dict[tuple[ChannelRef, ChannelRef], int] = {}
    for state, reason, command, *channels in rows:
        here, there = ChannelRef(Platform(channels[0]), channels[1]), ChannelRef(Platform(channels[2]), channels[3])
        partner = operator.partner(here)
        if partner is None or there not in (here, partner):
            undeclared.setdefault((here, there), _most_parts(command))
        elif not (state == "dead" and "cannot be read" in reason):
            left += 1
    found = Counter[ChannelRef]()
    for (_, there), parts in undeclared.items():
        found[there] += parts
    return left, found


def _most_parts(command: str) -> int:
    """As how many messages a command may have been sent."""
    try:
        read = json.loads(command)
    except ValueError:
        return 1  # a damaged row
    parts = read.get("parts") if isinstance(read, dict) else None
    return max(1, len(parts or ()))


def _direction(
    source: MemoryPlatform,
    target: MemoryPlatform,
    operator: Operator,
    copies: Copies,
    batches: set[str],
    removed: set[MessageRef],
    since: datetime | None,
    undeclared: Counter[ChannelRef],
    past: Past | None,
    from_past: Collection[MessageRef],
) -> list[str]:
    found: list[str] = []
    shown = {
        it.ref: it
        for it in target.messages.values()
        if it.author.is_self and not it.deleted and it.shown_as != RELAY  # what it says itself is of no original
    }
    accounted: set[MessageRef] = set()
    for link in operator.links:
        here = source.channel(getattr(link, source.platform.value))
        shared = _shared(source, here, copies, batches)
        last = {True: "", False: ""}  # the past crosses in an order of its own
        for original in source.shown(here):
            if original.author.is_self:
                continue
            refs = copies.get(original.ref, [])
            accounted.update(refs)
            was_command = _was_command(original.ref, (source, target))
            if was_command and not source.edits.get(original.ref):
                found += _command(source, original, refs)
                continue
            said = original.ref not in operator.unsaid and original.author.name not in (EVE, MAL)
            if not said or not _strict(original.ref, operator):
                continue
            is_past = original.ref in from_past
            if not refs:
                if (since is None or original.created_at < since) and not (past and past.crosses(original.ref)):
                    continue
                found.append(f"lost: {source.platform} {original.ref.id} {original.text[:30]!r}")
                continue
            if removed.intersection(refs):
                continue
            if wrong := _parts(original, refs, shown):
                found.append(wrong)
                continue
            together = shared.get(refs[0], [])
            if all(_strict(other.ref, operator) and other.author.name not in (EVE, MAL) for other in together):
                first, *rest = (_own_words(shown[ref]) for ref in refs)
                if together:
                    commands = {one.ref for one in together if _was_command(one.ref, (source, target))}
                    first = _words_in(first, original, together, commands)
                text = " ".join((first, *rest))
                torn = bool(together and rest)  # what has outgrown a shared copy goes on behind it, be it within a word
                if text != original.text and not (torn and _letters(text) == _letters(original.text)):
                    found.append(
                        f"wrong text: {source.platform} {original.ref.id} {original.text[:40]!r} shows {text[:40]!r}"
                    )
            anew = shown[refs[0]].key.endswith("a") or (target.orphaned and original.edited_at is not None)
            if was_command or anew:
                continue  # it has crossed, or been posted anew, only since it was edited
            if refs[0].id < last[is_past]:
                found.append(f"out of order: {source.platform} {original.ref.id}")
            last[is_past] = max(last[is_past], refs[0].id)
    strays = {ref: shown[ref] for ref in shown if ref not in accounted}
    return found + _too_many(strays, operator, copies, undeclared)


def _parts(original: Message, refs: list[MessageRef], shown: Collection[MessageRef]) -> str | None:
    """What is wrong about where the parts of a copy stand."""
    gone, parts = [ref.id for ref in refs if ref not in shown], [ref.id for ref in refs]
    if gone:
        return f"lost: {original.ref.platform} {original.ref.id}: its copies {gone} are gone"
    if parts != sorted(parts):
        return f"out of order: the parts {parts} of {original.ref.platform} {original.ref.id}"
    return None


def _command(source: MemoryPlatform, asked: Message, refs: list[MessageRef]) -> list[str]:
    """What is wrong about a command: it crossed, or was carried out twice."""
    answers = [it for it in source.messages.values() if it.author.is_self and it.reply_to == asked.ref]
    notices = [it for it in answers if it.shown_as == RELAY]
    found = [f"crossed: the command {asked.ref.id}"] if refs else []
    return found + ([f"answered {len(notices)} times: the command {asked.ref.id}"] if len(notices) > 1 else [])


def _too_many(
    strays: dict[MessageRef, Message], operator: Operator, copies: Copies, undeclared: Counter[ChannelRef]
) -> list[str]:
    """Copies of messages that do not exist."""
    found = []
    for ref, stray in strays.items():
        of = next((original for original, refs in copies.items() if ref in refs), None)
        if of is not None and not _strict(of, operator):
            continue
        if of is None and undeclared[ref.channel]:
            # What was at the head of a lane may have been sent when its pair was taken out: on record once it is back.
            undeclared[ref.channel] -= 1
            continue
        kind = "doubled" if of is None else f"undeleted (its original {of.id} is gone)"
        found.append(f"{kind}: {ref.platform} {ref.id} {stray.text[:30]!r}")
    return found


def _strict(original: MessageRef, operator: Operator) -> bool:
    """Whether the pair in which a message was written has been the same since, and is declared."""
    partner = operator.said.get(original)
    return original not in operator.loose and (partner is None or operator.partner(original.channel) == partner)


def _shared(
    source: MemoryPlatform, here: ChannelRef, copies: Copies, batches: set[str]
) -> dict[MessageRef, list[Message]]:
    """The copies that show several originals, or did once, with those originals in order."""
    standing: dict[MessageRef, list[Message]] = defaultdict(list)
    for original in source.shown(here):
        for ref in copies.get(original.ref, [])[:1]:
            standing[ref].append(original)
    return {ref: originals for ref, originals in standing.items() if len(originals) > 1 or ref.id in batches}


def _is_command(content: Content) -> bool:
    return plain_text(content.text).startswith("!relay ")


def _words_in(text: str, original: Message, together: list[Message], commands: Collection[MessageRef]) -> str:
    """What a shared copy says of one of its originals; the whole text if it is not built as it should be.

    `commands`: those that were commands first. They cross when they are edited into something else, and so may stand
    behind what was said later.
    """
    lines = [line for line in text.split("\n") if not line.startswith("↪ ")]
    if len(lines) != len(together):
        return text
    # Signed where several have written in it, some of whom may have left it since.
    for former in (one for one in together if one.ref in commands):
        line = next((one for one in lines if one.removeprefix(f"{former.author.name}: ") == former.text), None)
        if line is None or former is original:
            return text if line is None else former.text
        lines.remove(line)
    in_order = [one for one in together if one.ref not in commands]
    return lines[in_order.index(original)].removeprefix(f"{original.author.name}: ")


def _own_words(message: Message) -> str:
    """The words of a copy without the quoted line of a reply."""
    lines = message.text.split("\n")
    return "\n".join(lines[1:] if lines[0].startswith("↪ ") else lines)


def _letters(text: str) -> str:
    return "".join(text.split())


def _batches(store: Place) -> set[str]:
    return {unpacked(row[0]) for row in store.rows("SELECT native_id FROM batch")}


def _from_past(store: Place) -> frozenset[MessageRef]:
    """What came by a backfill."""
    rows = store.rows(
        "SELECT c.platform, c.native_id, m.native_id FROM message m JOIN channel c ON c.id = m.channel_id"
        " WHERE m.from_past"
    )
    return frozenset(MessageRef(ChannelRef(Platform(one), channel), unpacked(ref)) for one, channel, ref in rows)


def copies_in(store: Place) -> Copies:
    """Where the parts of each original stand, or stood."""
    rows = store.rows(
        "SELECT f.platform, f.native_id, m.native_id, t.platform, t.native_id, c.native_id"
        " FROM message m JOIN message_copy c ON c.message_id = m.id"
        " JOIN channel f ON f.id = m.channel_id JOIN channel t ON t.id = c.channel_id"
        " ORDER BY m.id, c.superseded, c.part"
    )
    copies: Copies = defaultdict(list)
    for from_platform, from_channel, original, to_platform, to_channel, copy in rows:
        ref = MessageRef(ChannelRef(Platform(from_platform), from_channel), unpacked(original))
        copies[ref].append(MessageRef(ChannelRef(Platform(to_platform), to_channel), unpacked(copy)))
    return copies
