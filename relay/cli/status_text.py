"""The report as lines for a terminal, or for whatever reads the output of one: 80 columns, one line a pair."""

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import typer
from rich.cells import cell_len, set_cell_size

from relay.cli.common import is_terminal, printable, wrapped
from relay.cli.common import way as in_words
from relay.errors import how_many

if TYPE_CHECKING:
    from relay.core.ports import ChannelInfo, SideHealth
    from relay.core.status.report import ChannelStatus, DaemonEnd, DirectionStatus, PairStatus, Report, UndeclaredLane

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_ARROWS = {"to_matrix": "→", "to_discord": "←"}
# Where the terminal's encoding has no such signs.
_PLAIN = str.maketrans({"→": ">", "←": "<", "✓": "+", "✗": "!", "⇄": "=", "–": "-", "…": "~"})
_WIDEST, _NARROWEST, _PIPED = 120, 40, 10_000
_ROW_COLUMNS = 80
_LONGEST_NAME = 28
_TIME_COLUMNS = 9
# A screen that is longer has no empty lines.
_LONG_SCREEN = 60
# A longer one says less of each pair in trouble; but so many lines besides those of the pairs do no harm.
_MOST_LINES = 70
_OTHER_LINES = 10
_INDENT = "  "
# Pairs that are named where many have the same note.
_FEW = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and its colour."""

    text: str = ""
    color: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What is shown of a report."""

    # The names of pairs to show in detail; none: all pairs, a line each.
    wanted: Sequence[str] = ()
    problems_only: bool = False

    def show(self, report: "Report") -> None:
        """Print it. Where the output is no terminal there are no colours, and a sentence stays on one line."""
        width = min(max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST), _WIDEST)
        encoding = sys.stdout.encoding or "ascii"
        for line in self.lines(report, width if is_terminal() else _PIPED):
            typer.secho(encodable(line.text, encoding), fg=line.color)

    def lines(self, report: "Report", width: int) -> list[Line]:
        """All of it, in lines of at most `width` columns."""
        if self.wanted:
            chosen = [pair for pair in report.pairs if pair.name in self.wanted]
            blocks: list[Iterable[Line]] = [
                _head(report, width),
                *(_detail(pair, report.taken_at, width) for pair in chosen),
            ]
        else:
            blocks = self._overview(report, width)
        shown = [block for block in map(list, blocks) if block]
        spaced = sum(map(len, shown)) + len(shown) <= _LONG_SCREEN
        return [line for number, block in enumerate(shown) for line in ([Line()] if spaced and number else []) + block]

    def _overview(self, report: "Report", width: int) -> list[Iterable[Line]]:
        """All pairs, with as much about those in trouble as leaves about a line for each, or all that is asked for."""
        most = max(_MOST_LINES, len(report.pairs) + _OTHER_LINES)
        shorter: Sequence[ShowTroubled] = (_each_explained, _explained_together, _explained_beside)
        # What could be better gives way before what is wrong, and a remedy last.
        for troubled, notes in ((shorter[0], None), (shorter[1], None), *((one, 0) for one in shorter)):
            blocks: list[Iterable[Line]] = [
                list(block) for block in self._blocks(report, width, troubled, most_notes=notes)
            ]
            if sum(len(list(block)) for block in blocks) <= most:
                return blocks
        if self.problems_only:
            return self._blocks(report, width, _explained_together)
        return self._blocks(report, width, _in_one_line, most_notes=_FEW)

    def _blocks(
        self, report: "Report", width: int, show_troubled: "ShowTroubled", *, most_notes: int | None = None
    ) -> list[Iterable[Line]]:
        troubled = [pair for pair in report.pairs if pair.problems]
        well = [pair for pair in report.pairs if not pair.problems]
        names = max((cell_len(printable(pair.name)) for pair in report.pairs), default=0)
        column = min(names, _LONGEST_NAME)
        lines: list[Iterable[Line]] = [_head(report, width, counted=most_notes == 0)]
        if troubled:
            lines.append(show_troubled(troubled, report, column, width))
        if well and not self.problems_only:
            lines.append(_others(well, report, column, width))
        elif well:
            lines.append([Line(f"{_count_others(report, len(well))}.")])
        if not report.pairs:
            lines.append(_wrapped("There are no pairs, so nothing crosses: add [[pairs]] to the file.", width, "red"))
        lines.append(_undeclared(report.undeclared, width))
        if not self.problems_only:
            lines.append(_notes(report.pairs, width, most_notes))
        lines.append(_sums(report.pairs, width))
        return lines


# --- The daemon and its sides -----------------------------------------------------------------------------


def _head(report: "Report", width: int, *, counted: bool = False) -> Iterator[Line]:
    """The daemon and its sides. `counted`: what could be better about them is only counted."""
    yield from _daemon(report, width)
    for who in report.standbys:
        yield from _wrapped(f"{printable(who).capitalize()} stands by, and goes on where that one ends.", width)
    yield from _sides(report, width)
    found = report.findings if report.daemon.running else ()
    better = [one for one in found if one.state == "note"] if counted else []
    for finding in (one for one in found if one not in better):
        mark, color = ("✗", "red") if finding.state == "wrong" else ("–", "yellow")
        yield from _wrapped(f"{mark} {printable(str(finding))}", width, color, hanging=_INDENT)
    if better:
        yield Line(f"– {how_many(len(better), 'thing')} could be better: `relay check` names them.", "yellow")


def _daemon(report: "Report", width: int) -> Iterator[Line]:
    daemon, now = report.daemon, report.taken_at
    if daemon.running:
        process = f" (process {daemon.pid} on {printable(daemon.host or '?')})" if daemon.pid else ""
        since = f" for {_age(now, daemon.since)}" if daemon.since and daemon.pid else ""
        yield from _wrapped(f"The daemon runs{since}{process}.", width)
        previous = daemon.previous
        if previous is not None and previous.of_a_copy:
            yield from _wrapped(_of_a_copy(previous, now), width, "yellow")
        elif previous is not None and not previous.wanted:
            when = f" {_age(now, previous.at)} ago" if previous.at else ""
            yield from _wrapped(f"The one before ended{when}. {printable(previous.reason)}", width, "yellow")
    elif daemon.ended is None:
        yield Line("The daemon has never run here.", "red")
        yield Line("Start it with `relay run`.", "red")
    else:
        ended = daemon.ended
        if ended.of_a_copy:
            yield from _wrapped(f"The daemon is not running. {_of_a_copy(ended, now)} {ended.remedy}", width, "yellow")
            return
        what = "was last seen" if ended.unseen else "ended"
        when = "" if ended.at is None else f"; it {what} {_age(now, ended.at)} ago ({_moment(ended.at)})"
        color = "yellow" if ended.wanted else "red"
        yield from _wrapped(f"The daemon is not running{when}.", width, color)
        yield from _wrapped(f"{printable(ended.reason)} {printable(ended.remedy)}", width, color)


def _of_a_copy(end: "DaemonEnd", now: datetime) -> str:
    when = f" That was {_age(now, end.at)} ago ({_moment(end.at)})." if end.at else ""
    return f"{printable(end.reason)}{when}"


def _sides(report: "Report", width: int) -> Iterator[Line]:
    """The sides that are well share a line with how many pairs are not."""
    troubled = sum(bool(pair.problems) for pair in report.pairs)
    words = [f"✓ {name.capitalize()}" for name, side in report.sides.items() if side.problem is None]
    words += [f"✗ {how_many(troubled, 'pair')} in trouble"] if troubled else []
    if words:
        yield Line("   ".join(words), "red" if troubled else "green")
    for name, side in report.sides.items() if report.daemon.running else ():
        if side.problem is not None:
            yield from _side(name, side, width)
    if report.store_problem:
        yield from _wrapped(f"✗ Store: {printable(report.store_problem)}", width, "red", hanging=_INDENT)


def _side(name: str, side: "SideHealth", width: int) -> Iterator[Line]:
    mark, color = ("–", "yellow") if side.connected else ("✗", "red")
    yield from _wrapped(f"{mark} {name.capitalize()}: {printable(side.problem or '')}", width, color, hanging=_INDENT)


# --- The pairs ----------------------------------------------------------------------------------------------


ShowTroubled = Callable[[Sequence["PairStatus"], "Report", int, int], Iterator[Line]]
"""Lines about the pairs in trouble, whose names have a column of a width, in lines of a width."""


def _each_explained(pairs: Sequence["PairStatus"], report: "Report", column: int, width: int) -> Iterator[Line]:
    for pair in pairs:
        yield Line(_row(pair, "✗", report.taken_at, column, min(width, _ROW_COLUMNS)), "red")
        for problem in pair.problems:
            yield from _wrapped(printable(problem), width, indent=_INDENT)


def _explained_together(pairs: Sequence["PairStatus"], report: "Report", column: int, width: int) -> Iterator[Line]:
    """What is wrong with several pairs is said once, below them."""
    alike: dict[Sequence[str], list[PairStatus]] = {}
    for pair in pairs:
        alike.setdefault(tuple(pair.problems), []).append(pair)
    for problems, those in alike.items():
        for pair in those:
            yield Line(_row(pair, "✗", report.taken_at, column, min(width, _ROW_COLUMNS)), "red")
        of = f"Each of these {len(those)}: " if len(those) > 1 else ""
        for problem in problems:
            yield from _wrapped(f"{of}{printable(problem)}", width, indent=_INDENT)


def _explained_beside(pairs: Sequence["PairStatus"], report: "Report", column: int, width: int) -> Iterator[Line]:
    """What is wrong begins in the pair's own line, without what crossed."""
    for pair in pairs:
        words = f"{cut(printable(pair.name), column)} ✗ {printable(' '.join(pair.problems))}"
        yield from (Line(line, "red") for line in wrapped(words, width, indent=_INDENT))


def _in_one_line(pairs: Sequence["PairStatus"], report: "Report", column: int, width: int) -> Iterator[Line]:
    """The beginning of what is wrong with each pair has to do."""
    for pair in pairs:
        yield Line(
            shortened(f"{cut(printable(pair.name), column)} ✗ {printable(' '.join(pair.problems))}", width), "red"
        )
    yield from _wrapped("`relay status --problems` shows all that is wrong, and what to do about it.", width)


def _others(pairs: Sequence["PairStatus"], report: "Report", column: int, width: int) -> Iterator[Line]:
    legend = "→ to Matrix, ← to Discord: age of last message"
    color = "green" if _all_connected(report) else None
    yield from _wrapped(f"{_count_others(report, len(pairs))} ({legend}):", width, color)
    for pair in pairs:
        works = pair.carried and not pair.paused and _all_connected(report)
        mark = "✓" if works else "–"
        yield Line(_row(pair, mark, report.taken_at, column, min(width, _ROW_COLUMNS)))


def _all_connected(report: "Report") -> bool:
    return report.daemon.running and all(side.connected for side in report.sides.values())


def _count_others(report: "Report", number: int) -> str:
    """Nothing is well while no daemon runs, or a side is out of reach."""
    if _all_connected(report):
        return f"{how_many(number, 'pair')} well"
    if report.daemon.running:
        return f"{how_many(number, 'pair')} with no trouble of {'its' if number == 1 else 'their'} own"
    return f"{how_many(number, 'pair')}{' as it left them' if report.daemon.ended else ''}"


def _row(pair: "PairStatus", mark: str, now: datetime, column: int, width: int) -> str:
    """One line: name, mark, how long ago something crossed each way, and what is worth knowing besides."""
    times = "".join(
        cut(f"{arrow} {_last(pair, way, now)}", _TIME_COLUMNS)
        for way, arrow in _ARROWS.items()
        if way in pair.directions
    )
    start = f"{cut(printable(pair.name), column)} {mark} {times}"
    more = _facts(pair) or _channels(pair)
    return cut(f"{start}{more}", width).rstrip()


def _last(pair: "PairStatus", way: str, now: datetime) -> str:
    if way not in pair.carried:
        return "off"
    at = pair.directions[way].last_message_at
    return "–" if at is None else _age(now, at)


def _facts(pair: "PairStatus") -> str:
    """What waits and what is dead, whatever the way."""
    waits = list(pair.directions.values())
    backlog, dead = sum(way.backlog for way in waits), sum(way.dead_letters for way in waits)
    oldest = max((way.oldest_undelivered_seconds or 0.0 for way in waits), default=0.0)
    facts = []
    if pair.pending:
        facts.append(pair.pending)
    elif pair.paused or not pair.carried:
        facts.append("paused" if pair.carried else "archived")
    if backlog:
        facts.append(f"{backlog:,} waiting{f' for {_seconds(oldest)}' if oldest else ''}")
    if dead:
        facts.append(f"{dead:,} dead")
    return ", ".join(facts)


def _channels(pair: "PairStatus") -> str:
    """The names of the two channels, where they are known and say more than the pair's own."""
    known = [channel.info for channel in pair.channels.values()]
    return " ⇄ ".join(printable(info.name) for info in known if info is not None) if all(known) else ""


def _detail(pair: "PairStatus", now: datetime, width: int) -> Iterator[Line]:
    """All that is known of one pair."""
    state = "in trouble" if pair.problems else "archived" if not pair.carried else "paused" if pair.paused else "well"
    if pair.pending:
        state = f"{state}, {pair.pending}"
    yield Line(f"{printable(pair.name)}: {state}", "red" if pair.problems else "green")
    for problem in pair.problems:
        yield from _wrapped(printable(problem), width, "red", indent=_INDENT)
    for note in pair.notes:
        yield from _wrapped(printable(note), width, "yellow", indent=_INDENT)
    for name, channel in pair.channels.items():
        yield from _wrapped(f"{name.capitalize()}: {_channel(channel)}", width, indent=_INDENT, hanging=_INDENT)
    for name in sorted(pair.directions, key=list(_ARROWS).index):  # as in the line of a pair
        words = _way(pair.directions[name], now) if name in pair.carried else "off"
        yield from _wrapped(
            f"{_ARROWS.get(name, ' ')} {in_words(name)}: {words}", width, indent=_INDENT, hanging=_INDENT
        )


def _channel(channel: "ChannelStatus") -> str:
    ids = ", ".join(dict.fromkeys(printable(text) for text in (channel.address, channel.id)))
    if channel.info is None:
        return ids
    return f"{printable(channel.label)} ({ids}) {printable(channel.info.link)}".rstrip()


def _way(way: "DirectionStatus", now: datetime) -> str:
    last = "no message yet" if way.last_message_at is None else f"last message {_age(now, way.last_message_at)} ago"
    facts = [last, f"{way.messages:,} so far"]
    if way.backlog:
        facts.append(f"{way.backlog:,} waiting for {_seconds(way.oldest_undelivered_seconds or 0.0)}")
    facts.append(f"{way.retries:,} tried again")
    facts.append(f"{way.dead_letters:,} dead")
    dropped = _features(Counter(way.dropped))
    return f"{'; '.join(facts)}{f'; dropped: {dropped}' if dropped else ''}"


# --- What is below the pairs --------------------------------------------------------------------------------


def _undeclared(lanes: Sequence["UndeclaredLane"], width: int) -> Iterator[Line]:
    for lane in lanes:
        name = printable(lane.pair or "A pair whose name is not known")
        source, destination = (
            _known(lane.source, lane.lane.source.id),
            _known(lane.destination, lane.lane.destination.id),
        )
        ids = f"--channels {shlex.quote(lane.lane.source.id)} {shlex.quote(lane.lane.destination.id)}"
        which = printable(ids if lane.pair is None else f"--pair {shlex.quote(lane.pair)}")
        oldest = "" if lane.oldest_seconds is None else f" for {_seconds(lane.oldest_seconds)}"
        yield from _wrapped(
            f"{name} is not declared ({source} → {destination}): {lane.waiting:,} waiting{oldest}, {lane.dead:,} dead. "
            f"`relay outbox discard {which}` forgets what waits.",
            width,
            "yellow",
        )


def _known(info: "ChannelInfo | None", native: str) -> str:
    return printable(native if info is None else f"{info.label}, {native}")


def _notes(pairs: Iterable["PairStatus"], width: int, most: int | None) -> Iterator[Line]:
    """What works, and could be better: each once, with the pairs that it is about. More than `most` are counted."""
    about: dict[str, list[str]] = {}
    for pair in pairs:
        for note in pair.notes:
            about.setdefault(note, []).append(shortened(printable(pair.name), _LONGEST_NAME))
    if most is not None and len(about) > most:
        yield from _wrapped(f"{how_many(len(about), 'note')}: `relay status PAIR` shows them.", width, "yellow")
        return
    for note, names in about.items():
        listed = ", ".join(names) if len(names) <= _FEW else f"{', '.join(names[:_FEW])} and {len(names) - _FEW} more"
        yield from _wrapped(f"Note ({listed}): {printable(note)}", width, "yellow")


def _sums(pairs: Iterable["PairStatus"], width: int) -> Iterator[Line]:
    dropped: Counter[str] = Counter()
    dead = 0
    for pair in pairs:
        for way in pair.directions.values():
            dropped.update(way.dropped)
            dead += way.dead_letters
    if dead:
        yield Line(f"{how_many(dead, 'dead letter')}: `relay dead list` shows why, and what to do.", "yellow")
    if dropped:
        yield from _wrapped(f"Dropped so far, because it cannot cross: {_features(dropped)}.", width)


# --- Words and widths ---------------------------------------------------------------------------------------


def _features(dropped: Counter[str]) -> str:
    return ", ".join(f"{printable(feature)} {count:,}" for feature, count in dropped.most_common())


def _moment(moment: datetime) -> str:
    """In the operator's own zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _age(now: datetime, then: datetime) -> str:
    return _seconds((now - then).total_seconds())


def _seconds(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"


def cut(text: str, width: int) -> str:
    """`text` in exactly so many columns."""
    return set_cell_size(shortened(text, width), width)


def shortened(text: str, width: int) -> str:
    """`text` in at most so many columns."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def _wrapped(text: str, width: int, color: str | None = None, indent: str = "", *, hanging: str = "") -> Iterator[Line]:
    """Lines between words. A word that is longer than a line (a link) keeps its line to itself, and is not broken.

    `indent`: before each line; `hanging`: before each but the first, too.
    """
    yield from (Line(line, color) for line in wrapped(text, width, indent=indent + hanging, first=indent))


def encodable(text: str, encoding: str) -> str:
    """`text` with other signs where an encoding has not ours."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text
