"""The status page: one HTML document, made on the server, without scripts. Everything in it is escaped."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from html import escape as html_escape

from relay.core.ports import SideHealth
from relay.core.status.report import DirectionStatus, PairStatus, Report

REFRESH_SECONDS = 5

_WORDS = {"ready": "connected", "catching_up": "catching up", "connecting": "connecting", "failed": "failed"}
_DIRECTIONS = {"to_matrix": "Discord → Matrix", "to_discord": "Matrix → Discord"}
_FIRST_NUMBER = 4
_LONGEST_TEXT = 500
_AGES = (
    (timedelta(days=1), "d"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
    (timedelta(seconds=1), "s"),
)


def _escape(text: str) -> str:
    """`text` as safe HTML: not too long, and without control characters that change how the rest is shown."""
    shown = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return html_escape("".join(it if it.isprintable() else repr(it)[1:-1] for it in shown))


def render(report: Report) -> str:
    """The HTML document."""
    troubled = [pair for pair in report.pairs if pair.problem]
    well = report.ready and not troubled
    verdict = "All is well" if well else "Something needs attention" if report.ready else "Not ready"
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><meta name="color-scheme" content="light dark">',
            f"<title>{_escape(verdict)} · relay</title>",
            '<link rel="icon" href="data:,"><link rel="stylesheet" href="page.css"></head><body>',
            f'<header><h1>relay</h1><p class="{"good" if well else "bad"}">{_escape(verdict)}</p></header><main>',
            _sides(report),
            _problems(troubled),
            _notes(report.pairs),
            _pairs(report),
            _undeclared(report),
            _drops(report.pairs),
            f"</main><footer>As of {_moment(report.taken_at)}, renewed every {REFRESH_SECONDS} seconds.</footer>",
            "</body></html>",
        )
    )


def _sides(report: Report) -> str:
    cards = [_side(name, side) for name, side in report.sides.items()]
    if report.store_problem:
        cards.append(_card("Store", "bad", "not usable", report.store_problem))
    return f'<section class="sides" aria-label="The two sides">{"".join(cards)}</section>'


def _side(name: str, side: SideHealth) -> str:
    tone = {"ready": "good", "failed": "bad"}.get(side.state, "busy")
    return _card(name.capitalize(), tone, _WORDS[side.state], side.detail)


def _card(title: str, tone: str, state: str, detail: str) -> str:
    more = f"<p>{_escape(detail)}</p>" if detail else ""
    return f'<article><h2>{_escape(title)}</h2><p class="{tone}">{_escape(state)}</p>{more}</article>'


def _notes(pairs: Iterable[PairStatus]) -> str:
    items = "".join(f"<li><b>{_escape(pair.name)}</b>: {_escape(pair.note)}</li>" for pair in pairs if pair.note)
    return f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>' if items else ""


def _problems(troubled: Iterable[PairStatus]) -> str:
    items = "".join(f"<li><b>{_escape(pair.name)}</b>: {_escape(pair.problem or '')}</li>" for pair in troubled)
    return f'<section class="problems"><h2>Problems</h2><ul>{items}</ul></section>' if items else ""


def _pairs(report: Report) -> str:
    if not report.pairs:
        return "<p>No pairs are declared.</p>"
    heads = ("Pair", "Way", "Last", "Longest wait", "Crossed", "Waiting", "Retries", "Dropped", "Dead letters")
    head = "".join(f'<th scope="col"{_numeric(place >= _FIRST_NUMBER)}>{text}</th>' for place, text in enumerate(heads))
    groups = "".join(_group(pair, heads[1:], report.taken_at) for pair in report.pairs)
    return (
        '<section><h2>Pairs</h2><div class="scroll" tabindex="0" role="region" aria-label="Pairs">'
        f'<table class="pairs"><thead><tr>{head}</tr></thead>{groups}</table></div></section>'
    )


def _undeclared(report: Report) -> str:
    """What waits for pairs that are not declared. It is not delivered."""
    if not report.undeclared:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_escape(lane.pair or "")}</th>'
        f"<td>{_escape(_DIRECTIONS.get(lane.lane.direction, ''))}</td>"
        f"<td>{_escape(lane.lane.source.id)} → {_escape(lane.lane.destination.id)}</td>"
        f"{_number(lane.waiting, notable=True)}{_number(lane.dead)}</tr>"
        for lane in report.undeclared
    )
    return (
        '<section class="undeclared"><h2>Not declared</h2><p>This waits for pairs that are not in the file, and is not'
        " posted. It is delivered if they come back.</p>"
        '<div class="scroll"><table><thead><tr><th scope="col">Pair</th><th scope="col">Way</th>'
        '<th scope="col">Channels</th><th scope="col" class="number">Waiting</th>'
        f'<th scope="col" class="number">Dead letters</th></tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _group(pair: PairStatus, heads: Iterable[str], now: datetime) -> str:
    """One pair: a row for each direction, with one name cell."""
    tone = ' class="bad"' if pair.problem else ""
    name = f'<th scope="rowgroup" rowspan="{len(pair.directions)}"{tone}>{_escape(pair.name)}</th>'
    rows = []
    for direction, values in pair.directions.items():
        cells = (f"<td>{_escape(_DIRECTIONS.get(direction, direction))}</td>", *_cells(values, now))
        # On a narrow screen each cell is on a line of its own, behind its label.
        labelled = (cell.replace("<td", f'<td data-label="{head}"', 1) for cell, head in zip(cells, heads, strict=True))
        rows.append(f"<tr>{name}{''.join(labelled)}</tr>")
        name = ""
    return f"<tbody>{''.join(rows)}</tbody>"


def _cells(direction: DirectionStatus, now: datetime) -> tuple[str, ...]:
    last, waits = direction.last_message_at, direction.oldest_undelivered_seconds
    return (
        f"<td>{_age(now - last)} ago</td>" if last else '<td class="nothing">–</td>',
        f"<td>{_age(timedelta(seconds=waits))}</td>" if waits is not None else '<td class="nothing">–</td>',
        _number(direction.messages),
        _number(direction.backlog, notable=direction.backlog > 0),
        _number(direction.retries),
        _number(sum(direction.dropped.values())),
        _number(direction.dead_letters, notable=direction.dead_letters > 0),
    )


def _number(value: int, *, notable: bool = False) -> str:
    tone = " notable" if notable else "" if value else " nothing"
    return f'<td class="number{tone}">{value:,}</td>'


def _numeric(yes: bool) -> str:
    return ' class="number"' if yes else ""


def _drops(pairs: Iterable[PairStatus]) -> str:
    total: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        for name, direction in pair.directions.items():
            for feature, count in direction.dropped.items():
                total[feature, name] += count
    if not total:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_escape(feature)}</th>'
        f"<td>{_escape(_DIRECTIONS.get(name, name))}</td>{_number(count)}</tr>"
        for (feature, name), count in total.most_common()
    )
    return (
        '<section><h2>What does not cross</h2><div class="scroll"><table><thead><tr><th scope="col">Feature</th>'
        '<th scope="col">Way</th><th scope="col" class="number">Dropped</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _age(span: timedelta) -> str:
    for unit, sign in _AGES:
        if span >= unit:
            return f"{span // unit} {sign}"
    return "0 s"


def _moment(at: datetime) -> str:
    return f'<time datetime="{at.isoformat()}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'
