"""The directory of rooms as Markdown and as HTML, fit to be published.

Members write the names and topics of rooms. They are plain text here: nothing in them becomes markup, a link or HTML.
What the operator wrote may have `code` and [links](https://example.org) in it.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from html import escape
from importlib.resources import files

from relay.web.directory import Address, Directory, Room, RoomGroup

_CLIENTS = "https://matrix.org/ecosystem/clients/"
_HOMESERVERS = "https://servers.joinmatrix.org/"

_LEGEND = {
    "[NSFW]": "may show media for adults only.",
    "(bridged)": "are channels on Discord, too: what is said on one side appears on the other.",
    "(archived)": "are kept to be read: nothing is mirrored there any more.",
}

# What is said of a pair of one direction: who writes there otherwise wonders why nobody answers.
_ONE_WAY = {
    "to_matrix": "only what is said on Discord appears on the other side",
    "to_discord": "only what is said on Matrix appears on the other side",
}

# --- The inline markup of a purpose -----------------------------------------------------------------------

_INLINE = re.compile(r"`([^`]+)`|\[([^\[\]]+)\]\(((?:https?://|mailto:|/(?!/))[^\s()<>\"'`\\]+)\)")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a line: plain text, code, or the text of a link."""

    text: str
    is_code: bool = False
    url: str = ""


def _pieces(text: str, *, is_plain: bool = False) -> Iterator[_Piece]:
    end = 0
    for match in () if is_plain else _INLINE.finditer(text):
        if before := text[end : match.start()]:
            yield _Piece(before)
        yield _Piece(match[1], is_code=True) if match[1] else _Piece(match[2], url=match[3])
        end = match.end()
    if rest := text[end:]:
        yield _Piece(rest)


def _one_way(room: Room) -> str:
    return _ONE_WAY.get(room.direction, "") if room.bridged and not room.archived else ""


def _legend(directory: Directory) -> list[tuple[str, str]]:
    """The marks that rooms have, and what is said of each behind "Rooms marked …"."""
    used = {mark for room in directory.rooms for mark in room.marks}
    what = "Reactions and threads" if directory.threads_stay else "Reactions"
    more = {"(bridged)": f" {what} stay on their side."}
    return [(mark, words + more.get(mark, "")) for mark, words in _LEGEND.items() if mark in used]


# --- Markdown ---------------------------------------------------------------------------------------------

# What means something in some kind of Markdown (CommonMark, GitHub's, kramdown), within a line. Addresses are not
# linked by themselves: somebody else's topic must not put links into the community's page.
_SPECIAL = re.compile(r"[\\`*\[\]<~|${]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|@(?=\w)|:(?=//)|(?<=[wW]{3})\.")
_BACKSLASH = frozenset("\\`*[]_")
_STARTS_BLOCK = re.compile(r"[#>+=:-]|[0-9]+[.)]")


def markdown(directory: Directory) -> str:
    """The page as Markdown."""
    blocks = [f"# {_md(directory.title)}"]
    if directory.description:
        blocks.append(_md_paragraph(directory.description))
    blocks.append("## How to join")
    if directory.discord_invite:
        blocks.append(f"**On Discord**: [join the server]({_md_url(directory.discord_invite)}).")
    blocks.append(
        "**On Matrix**: you need an account at a homeserver; any will do, as with e-mail. "
        f"[Choose a client]({_CLIENTS}), and make one there; "
        f"[these homeservers]({_HOMESERVERS}) are open to everybody. {_md_entrance(directory)}"
    )
    if legend := _legend(directory):
        blocks.append("\n".join(f"- Rooms marked {mark} {words}" for mark, words in legend))
    for section in directory.sections:
        blocks.append(f"## {_md(section.name)}")
        blocks.append("\n".join(_md_room(room) for room in section.rooms))
    return "\n\n".join(blocks) + "\n"


def _md_entrance(directory: Directory) -> str:
    if directory.space is None:
        return "Then open the address of a room below."
    space = f"our space {_md_address(directory.space)}"
    if not directory.space.is_readable:
        space = f"[our space]({directory.space.link})"
    others = ", ".join(map(_md_address, directory.space_alternatives))
    also = f" (also {others})" if others else ""
    return f"Then open {space}{also} and enter rooms from there, or open the address of a room below."


def _md_room(room: Room) -> str:
    name = f"**{_md(room.name)}**" if room.name else ""
    address = _md_address(room.address)
    if name and not room.address.is_readable:
        name, address = "", f"[{name}]({room.address.link})"
    also = f" (also {', '.join(map(_md_address, room.alternatives))})" if room.alternatives else ""
    parts = [*filter(None, [name]), f"{address}{also}", *room.marks]
    if room.purpose:
        parts.append("".join(_md_piece(piece) for piece in _pieces(room.purpose, is_plain=room.is_topic)))
    one_way = f" ({words})" if (words := _one_way(room)) else ""
    return f"- {' - '.join(parts)}{one_way}"


def _md_piece(piece: _Piece) -> str:
    if piece.is_code:
        return f"`{piece.text}`"
    return f"[{_md(piece.text)}]({_md_url(piece.url)})" if piece.url else _md(piece.text)


def _md_address(address: Address) -> str:
    return f"[{_md(address.text)}]({address.link})"


def _md_url(url: str) -> str:
    return re.sub(r"[\s<>()\\`\"]", lambda match: f"%{ord(match[0]):02X}", url)


def _md(text: str) -> str:
    """Text within a line, as it is."""
    return _SPECIAL.sub(lambda match: f"\\{match[0]}" if match[0] in _BACKSLASH else f"&#{ord(match[0])};", text)


def _md_paragraph(text: str) -> str:
    """A paragraph, which must not become a heading or a list."""
    words = "".join(map(_md_piece, _pieces(text)))
    return f"&#{ord(words[0])};{words[1:]}" if _STARTS_BLOCK.match(words) else words


# --- HTML -------------------------------------------------------------------------------------------------


@lru_cache
def style() -> str:
    """The style sheet, which is part of the page."""
    return files("relay.web").joinpath("directory.css").read_text(encoding="utf-8")


@lru_cache
def page_policy() -> str:
    """What a browser may load for the page: the style sheet in it, and nothing else."""
    digest = b64encode(sha256(style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def html(directory: Directory) -> str:
    """The page as one HTML document, without scripts and without anything from elsewhere."""
    title = escape(directory.title)
    description = f'<p class="lead">{_html_text(directory.description)}</p>' if directory.description else ""
    groups = [(f"section-{number}", group) for number, group in enumerate(directory.sections, 1)]
    links = "".join(f'<li><a href="#{key}"><bdi>{escape(group.name)}</bdi></a></li>' for key, group in groups)
    contents = f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if len(groups) > 1 else ""
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="color-scheme" content="light dark"><title>{title}</title>',
            f'<link rel="icon" href="data:,"><style>{style()}</style></head><body>',
            f"<header><h1>{title}</h1>{description}</header><main>",
            _html_joining(directory),
            _html_legend(_legend(directory)),
            contents,
            *(_html_section(key, group) for key, group in groups),
            "</main></body></html>\n",
        )
    )


def _html_joining(directory: Directory) -> str:
    discord = ""
    if directory.discord_invite:
        discord = (
            "<article><h3>On Discord</h3><p>Our server has a channel for each room marked (bridged).</p>"
            f'<p><a class="button" href="{escape(directory.discord_invite)}" rel="noopener">Join the server</a></p>'
            "</article>"
        )
    space = directory.space
    words, button = "Then open the address of a room below.", ""
    if space is not None:
        also = ", ".join(map(_html_address, directory.space_alternatives))
        named = f" {_html_address(space)}" if space.is_readable else ""
        words = (
            f"Then open our space{named}{f' (also {also})' if also else ''} and enter rooms from "
            "there, or open the address of a room below."
        )
        button = f'<p><a class="button" href="{escape(space.link)}" rel="noopener">Open the space</a></p>'
    return (
        f'<section><h2>How to join</h2><div class="cards">{discord}<article><h3>On Matrix</h3>'
        "<p>You need an account at a homeserver; any will do, as with e-mail. "
        f'<a href="{_CLIENTS}" rel="noopener">Choose a client</a>, and make one there; '
        f'<a href="{_HOMESERVERS}" rel="noopener">these homeservers</a> are open to everybody. {words}</p>'
        f"{button}</article></div></section>"
    )


def _html_legend(legend: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<li>Rooms marked {_html_mark(mark)} {escape(words)}</li>" for mark, words in legend)
    return f'<ul class="legend">{items}</ul>' if items else ""


def _html_section(key: str, section: RoomGroup) -> str:
    rooms = "".join(_html_room(room) for room in section.rooms)
    return f'<section id="{key}"><h2><bdi>{escape(section.name)}</bdi></h2><ul class="rooms">{rooms}</ul></section>'


def _html_room(room: Room) -> str:
    name, address = "", _html_address(room.address)
    if room.name and room.address.is_readable:
        name = f'<bdi class="name">{escape(room.name)}</bdi> '
    elif room.name:
        address = (
            f'<a class="name" href="{escape(room.address.link)}" rel="noopener"><bdi>{escape(room.name)}</bdi></a>'
        )
    marks = " ".join(map(_html_mark, room.marks))
    purpose = f"<p>{_html_text(room.purpose, is_plain=room.is_topic)}</p>" if room.purpose else ""
    more = []
    if room.channel_link:
        more.append(
            f'on Discord <a href="{escape(room.channel_link)}" rel="noopener"><bdi>{escape(room.channel)}</bdi></a>'
        )
    if words := _one_way(room):
        more.append(words)
    if room.alternatives:
        more.append(f"also {', '.join(map(_html_address, room.alternatives))}")
    small = f'<p class="more">{" · ".join(more)}</p>' if more else ""
    head = f'<p class="head">{name}{address} {marks}</p>'
    return f"<li>{head}{purpose}{small}</li>"


def _html_mark(mark: str) -> str:
    return f'<span class="mark {mark[1:-1].lower()}">{escape(mark)}</span>'


def _html_address(address: Address) -> str:
    return f'<a class="address" href="{escape(address.link)}" rel="noopener"><bdi>{escape(address.text)}</bdi></a>'


def _html_text(text: str, *, is_plain: bool = False) -> str:
    return f"<bdi>{''.join(map(_html_piece, _pieces(text, is_plain=is_plain)))}</bdi>"


def _html_piece(piece: _Piece) -> str:
    if piece.is_code:
        return f"<code>{escape(piece.text)}</code>"
    if piece.url:
        return f'<a href="{escape(piece.url)}" rel="noopener">{escape(piece.text)}</a>'
    return escape(piece.text)
