"""The status page: HTML made on the server. Everything in it is escaped, and it works without its script.

In the order of `relay status`: what is wrong first, each with its reason and remedy, then the other pairs, a line each.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape as html_escape

from relay import __version__
from relay.core.operations.dead_letters import summary, what_died
from relay.core.ports import ChannelInfo, SideHealth
from relay.core.status.report import ChannelStatus, DirectionStatus, PairStatus, Report
from relay.core.storage import DeadLetter
from relay.domain.ids import ChannelRef
from relay.errors import how_many
from relay.web.access import FORM_TOKEN

REFRESH_SECONDS = 5

_WORDS = {"ready": "connected", "catching_up": "catching up", "connecting": "connecting", "failed": "failed"}
_DIRECTIONS = {"to_matrix": "Discord → Matrix", "to_discord": "Matrix → Discord"}
_ARROWS = {"to_matrix": ("→", "to Matrix"), "to_discord": ("←", "to Discord")}
_LONGEST_TEXT = 500
_AGES = (
    (timedelta(days=1), "d"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
    (timedelta(seconds=1), "s"),
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at the page."""

    # Stands in the forms of whoever has signed in; None: there are no buttons.
    form_token: str | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """The dead letters that are shown."""

    newest: Sequence[DeadLetter] = ()
    total: int = 0


def render(report: Report, dead: Dead = Dead(), visitor: Visitor = Visitor()) -> str:
    """The status page."""
    troubled = [pair for pair in report.pairs if pair.problems]
    wrong = any(finding.state == "wrong" for finding in report.findings)
    well = report.ready and bool(report.pairs) and not troubled and not wrong
    verdict = "All is well" if well else "Something needs attention" if report.ready else "Not ready"
    tone = "good" if well else "bad"
    if report.stands_by_for:
        verdict, tone = f"This relay stands by for {report.stands_by_for}", "busy"
    body = (
        _header(report, verdict, tone),
        '<p id="away" role="alert" hidden></p><main id="now">',
        _sides(report),
        _findings(report),
        _troubled(troubled, report.taken_at),
        _others([pair for pair in report.pairs if not pair.problems], len(troubled), report),
        _dead(dead, report.taken_at, visitor),
        _undeclared(report),
        _drops(report.pairs),
        f'<p class="faint">As of {_moment(report.taken_at)}.</p></main><footer>{_sign_out(visitor)}</footer>',
        '<script src="page.js" defer></script>',
    )
    refresh = f'<noscript><meta http-equiv="refresh" content="{6 * REFRESH_SECONDS}"></noscript>'
    return _document(f"{verdict} · relay", "\n".join(body), refresh)


def _header(report: Report, verdict: str, tone: str) -> str:
    since = report.daemon.since
    up = f" · up for {_age(report.taken_at - since)}" if since is not None else ""
    return (
        f'<header><h1>relay</h1><p id="verdict" role="status" class="{tone}">{_escape(verdict)}</p>'
        f'<p class="faint" id="process">{_escape(__version__)}{up}</p></header>'
    )


def render_sign_in(*, wrong: bool = False) -> str:
    """The page for whoever has not signed in."""
    said = '<p id="wrong" class="bad" role="alert">That is not the token.</p>' if wrong else ""
    described = ' aria-describedby="wrong" aria-invalid="true"' if wrong else ""
    return _document(
        "Sign in · relay",
        f'<header><h1>relay</h1></header><main><form class="card" method="post" action="sign-in">{said}'
        '<label for="token">The token in <code>[web] token</code> of relay.toml</label>'
        f'<input id="token" name="token" type="password" autocomplete="current-password" required autofocus{described}>'
        "<button>Sign in</button></form></main>",
    )


def _document(title: str, body: str, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{_escape(title)}</title>'
        f'<link rel="icon" href="data:,"><link rel="stylesheet" href="page.css">{head}</head>\n'
        f"<body>{body}</body></html>"
    )


# --- The two sides -------------------------------------------------------------------------


def _sides(report: Report) -> str:
    cards = [_side(name, side) for name, side in report.sides.items()]
    if report.store_problem:
        cards.append(_card("Store", "bad", "not usable", report.store_problem))
    return f'<section class="sides" aria-label="The two sides">{"".join(cards)}</section>'


def _side(name: str, side: SideHealth) -> str:
    tone = {"ready": "good", "failed": "bad"}.get(side.state, "busy")
    return _card(name.capitalize(), tone, _WORDS.get(side.state, side.state), side.detail)


def _card(title: str, tone: str, state: str, detail: str) -> str:
    more = f"<p>{_escape(detail)}</p>" if detail else ""
    return f'<article class="card"><h2>{_escape(title)}</h2> <p class="{tone}">{_escape(state)}</p>{more}</article>'


def _findings(report: Report) -> str:
    """What the daemon found that is about no pair."""
    signs = {"wrong": ("✗", "bad", "wrong: "), "note": ("–", "busy", "note: ")}
    lines = "".join(
        f'<li><span class="mark {tone}" aria-hidden="true">{mark}</span><span><span class="unseen">{said}</span>'
        f"{_escape(str(finding))}</span></li>"
        for finding in report.findings
        for mark, tone, said in [signs.get(finding.state, signs["note"])]
    )
    return f'<ul class="findings card" aria-label="Found">{lines}</ul>' if lines else ""


# --- The pairs --------------------------------------------------------------------------------------------


# Once, above the first pairs. A screen reader is told with each time.
_LEGEND = (
    '<p class="legend faint" aria-hidden="true">→ to Matrix, ← to Discord: how long ago the last message crossed</p>'
)


def _troubled(pairs: Sequence[PairStatus], now: datetime) -> str:
    if not pairs:
        return ""
    return (
        f'<section><h2>In trouble</h2>{_LEGEND}<ul class="pairs">'
        f"{''.join(_pair(pair, now) for pair in pairs)}</ul></section>"
    )


def _others(pairs: Sequence[PairStatus], troubled: int, report: Report) -> str:
    if not report.pairs:
        return "<p>No pairs are declared.</p>"
    if not pairs:
        return ""
    count = how_many(len(pairs), "pair")
    title = f"{count} well" if not troubled else f"The other {count}"
    if not (connected := all(side.connected for side in report.sides.values())):
        # As in `relay status`: nothing crosses now.
        title = f"{count} with no trouble of {'its' if len(pairs) == 1 else 'their'} own"
    return (
        f'<section><h2>{title}</h2>{"" if troubled else _LEGEND}<ul class="pairs">'
        f"{''.join(_pair(pair, report.taken_at, connected=connected) for pair in pairs)}</ul></section>"
    )


def _pair(pair: PairStatus, now: datetime, *, connected: bool = True) -> str:
    """A line with the name and the last message each way; behind it, everything else."""
    mark, said, tone = _mark(pair, connected=connected)
    last = "".join(_last(name, direction, now) for name, direction in _directions(pair).items())
    waiting = sum(direction.backlog for direction in pair.directions.values())
    badges = (
        _badge(waiting, "waiting", "busy"),
        _badge(_dead_of(pair), "dead", "bad"),
        f'<span class="badge faint">{how_many(len(pair.notes), "note")}</span>' if pair.notes else "",
    )
    problems = "".join(f'<p class="why">{_escape(problem)}</p>' for problem in pair.problems)
    channels = " ⇄ ".join(_escape(channel.label) for channel in pair.channels.values())
    key = hashlib.sha256(pair.name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return (
        f'<li><details id="pair-{key}"><summary><span class="mark {tone}" aria-hidden="true">{mark}</span>'
        f'<span class="name">{_escape(pair.name)}<span class="unseen">, {said}</span></span>'
        f'<span class="channels faint">{channels}</span>'
        f'<span class="badges">{"".join(badges)}</span>{last}</summary>{_details(pair, now)}</details>{problems}</li>'
    )


def _directions(pair: PairStatus) -> Mapping[str, DirectionStatus]:
    """In the same order for all pairs, and as in `relay status`."""
    known = {name: pair.directions[name] for name in _ARROWS if name in pair.directions}
    return {**known, **pair.directions}


def _mark(pair: PairStatus, *, connected: bool) -> tuple[str, str, str]:
    if pair.problems:
        return "✗", "in trouble", "bad"
    if not pair.carried:
        return "–", "archived or paused", "faint"
    if _dead_of(pair):
        return "!", "works, with dead letters", "busy"
    return ("✓", "well", "good") if connected else ("–", "waits for a side that is out of reach", "faint")


def _dead_of(pair: PairStatus) -> int:
    return sum(direction.dead_letters for direction in pair.directions.values())


def _badge(count: int, what: str, tone: str) -> str:
    return f'<span class="badge {tone}">{count:,} {what}</span>' if count else ""


def _last(name: str, direction: DirectionStatus, now: datetime) -> str:
    arrow, words = _ARROWS.get(name, ("", name))
    last = direction.last_message_at
    ago = "never" if last is None else f"{_age(now - last)} ago"
    shown = "–" if last is None else _age(now - last)
    return (
        f'<span class="last{" faint" if last is None else ""}"><span aria-hidden="true">{arrow} {shown}</span>'
        f'<span class="unseen">, last {_escape(words)} {ago}</span></span>'
    )


def _details(pair: PairStatus, now: datetime) -> str:
    channels = "".join(_channel(name, channel) for name, channel in pair.channels.items())
    notes = "".join(f"<p>{_escape(note)}</p>" for note in pair.notes)
    directions = _directions(pair)
    heads = ("", *(_DIRECTIONS.get(name, name) for name in directions))
    head = "".join(f'<th scope="col">{_escape(text)}</th>' if text else "<td></td>" for text in heads)
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>' for label, cells in _rows(directions.values(), now)
    )
    return (
        f'<div class="details">{notes}<dl>{channels}</dl><div class="scroll" tabindex="0" role="region"'
        f' aria-label="{_escape(pair.name)} in numbers"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _channel(platform: str, channel: ChannelStatus) -> str:
    link = channel.info.link if channel.info is not None else ""
    label = _escape(channel.label)
    if link.startswith("https://"):
        label = f'<a href="{html_escape(link)}" rel="noreferrer">{label}</a>'
    address = f' <span class="faint">{_escape(channel.address)}</span>' if channel.label != channel.address else ""
    return f"<dt>{_escape(platform.capitalize())}</dt><dd>{label}{address}</dd>"


def _rows(directions: Iterable[DirectionStatus], now: datetime) -> Iterator[tuple[str, list[str]]]:
    each = list(directions)
    lasts = [it.last_message_at for it in each]
    waits = [it.oldest_undelivered_seconds for it in each]
    yield "Last message", [f"<td>{_age(now - at)} ago</td>" if at else _NOTHING for at in lasts]
    yield "Crossed", [_number(it.messages) for it in each]
    yield "Waiting", [_number(it.backlog, notable=it.backlog > 0) for it in each]
    yield (
        "Longest wait",
        [f"<td>{_age(timedelta(seconds=it))}</td>" if it is not None else _NOTHING for it in waits],
    )
    yield "Tried again", [_number(it.retries) for it in each]
    yield "Dead letters", [_number(it.dead_letters, notable=it.dead_letters > 0) for it in each]
    yield "Dropped", [_dropped(it) for it in each]


_NOTHING = '<td class="faint">–</td>'


def _number(value: int, *, notable: bool = False) -> str:
    tone = "busy" if notable else "" if value else "faint"
    return f'<td class="{tone}">{value:,}</td>'


def _dropped(direction: DirectionStatus) -> str:
    named = [f"{_escape(feature)} {count:,}" for feature, count in sorted(direction.dropped.items())]
    return f'<td class="words">{", ".join(named)}</td>' if named else _NOTHING


# --- What did not cross -----------------------------------------------------------------------------------


def _dead(dead: Dead, now: datetime, visitor: Visitor) -> str:
    if not dead.total and not dead.newest:
        return ""
    items = "".join(_letter(letter, now, visitor) for letter in reversed(dead.newest))
    shown = f"<p>The newest {len(dead.newest)} of {dead.total}.</p>" if dead.total > len(dead.newest) else ""
    how = (
        ""
        if visitor.form_token is not None
        else '<p class="faint">With <code>[web] token</code> there are buttons here to try them again or to discard '
        "them; <code>relay dead</code> does so, too.</p>"
    )
    return f'<section><h2 id="dead-letters">Dead letters</h2>{shown}{how}<ul class="letters">{items}</ul></section>'


def _letter(letter: DeadLetter, now: datetime, visitor: Visitor) -> str:
    it = summary(letter)
    number = letter.entry.id
    # Whoever is not signed in need not know who wrote it.
    author = f" by {_escape(str(it['author']))}" if it["author"] and visitor.form_token is not None else ""
    way = _DIRECTIONS.get(str(it["direction"]), str(it["direction"]))
    buttons = ""
    if visitor.form_token is not None:
        token = _form_token(visitor.form_token)
        entry = f'{token}<input type="hidden" name="id" value="{number}">'
        buttons = (
            f'<div class="buttons"><form method="post" action="dead-letters">{entry}'
            f'<button name="act" value="retry" aria-label="Try again: {number}">Try again</button></form>'
            f'<details id="discard-{number}"><summary>Discard</summary>'
            f'<form method="post" action="dead-letters">{entry}'
            f'<button class="bad" name="act" value="discard" aria-label="Discard it for good: {number}">'
            "Discard it for good</button></form></details></div>"
        )
    what = _escape(what_died(letter))
    return (
        f'<li class="card"><p><b>{_escape(letter.pair or "?")}</b> {_escape(way)}: {what}{author},'
        f" {_age(now - letter.died_at)} ago</p><p>{_escape(letter.reason)}</p>{buttons}</li>"
    )


def _undeclared(report: Report) -> str:
    """What waits for pairs that are not declared. It is not delivered."""
    if not report.undeclared:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_escape(lane.pair or "")}</th>'
        f"<td>{_escape(_DIRECTIONS.get(lane.lane.direction, ''))}</td>"
        f'<td class="words">{_place(lane.source, lane.lane.source)} →'
        f" {_place(lane.destination, lane.lane.destination)}</td>"
        f"{_number(lane.waiting, notable=True)}{_number(lane.dead)}</tr>"
        for lane in report.undeclared
    )
    return (
        "<section><h2>Not declared</h2><p>This waits for pairs that are not in the file, and is not"
        " posted. It is delivered if they come back.</p>"
        f"{_table('Not declared', ('Pair', 'Way', 'Channels', 'Waiting', 'Dead letters'), rows)}</section>"
    )


def _place(info: ChannelInfo | None, channel: ChannelRef) -> str:
    return _escape(channel.id if info is None else info.label)


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
    table = _table("What does not cross", ("Feature", "Way", "Dropped"), rows)
    return f"<section><h2>What does not cross</h2>{table}</section>"


def _table(label: str, heads: Iterable[str], rows: str) -> str:
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        f'<div class="scroll card" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


# --- All of them ------------------------------------------------------------------------------------------


def _form_token(token: str) -> str:
    return f'<input type="hidden" name="{FORM_TOKEN}" value="{html_escape(token)}">'


def _sign_out(visitor: Visitor) -> str:
    if visitor.form_token is None:
        return ""
    token = _form_token(visitor.form_token)
    return f'<form method="post" action="sign-out">{token}<button>Sign out</button></form>'


def _escape(text: str) -> str:
    """`text` as safe HTML: not too long, and without control characters that change how the rest is shown."""
    shown = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return html_escape("".join(it if it.isprintable() else repr(it)[1:-1] for it in shown))


def _age(span: timedelta) -> str:
    for unit, sign in _AGES:
        if span >= unit:
            return f"{span // unit} {sign}"
    return "0 s"


def _moment(at: datetime) -> str:
    return f'<time datetime="{at.isoformat()}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'
