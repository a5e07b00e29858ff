"""Characters that would be markup on Discord, made to be read as themselves.

A backslash is enough for what only clients read. It is not for what the *server* reads: it finds mentions without
looking at backslashes (discord.py's `escape_mentions` does not use them either), so a zero-width space goes into
those. Clients also honour no escape inside `||` and `~~`, nor in the words of a masked link.
"""

import re
from dataclasses import dataclass

ZERO_WIDTH = "\u200b"

_SPECIAL = re.compile(r"([\\*_~|`<\[@:])(?>\1*)")
_ANGLE = re.compile(r"<(?:[#:/]|a:|t:|id:|https?:|mailto:)", re.IGNORECASE)
_MENTION = re.compile(r"@(?=everyone|here|[!&]?\d)")
_SHORTCODE = re.compile(r":(?!\d++:)[\w+-]+:|:1(?:00|234):", re.ASCII)
_LINE_MARK = re.compile(r"^( *)(?=#{1,3}\s|-#\s|[-*]\s|>(?:\s|$|>>\s))", re.MULTILINE)
_LINE_NUMBER = re.compile(r"^( *\d{1,9})(?=\.\s)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text stands.

    `joined_before`, `joined_after`: something other than a line's edge is there. `stars`, `lines`: inside italics that
    `*` or `_` delimits. `brackets`: an opening bracket could begin a masked link. `escapes`: clients honour
    backslashes there.
    """

    joined_before: bool = False
    joined_after: bool = False
    stars: bool = False
    lines: bool = False
    brackets: bool = False
    escapes: bool = True


def may_be_markup(text: str) -> bool:
    """Whether there is anything in `text` that `escape` might change."""
    return _SPECIAL.search(text) is not None


def escape(text: str, place: Place) -> str:
    """`text` so that a client shows these very characters, and the server finds no mention in them."""
    done: list[str] = []
    start = 0
    for match in _SPECIAL.finditer(text):
        index = match.start()
        done.append(text[start:index])
        start = match.end()
        if start - index > 1:
            # In a run, what decides about all but the last is the next one.
            done.append((start - index - 1) * _escaped(text, index, place))
        done.append(_escaped(text, start - 1, place))
    done.append(text[start:])
    return "".join(done)


def escape_lines(text: str) -> str:
    """`text`, finished otherwise, with what would make a line of it a heading, a quote or a list item escaped."""
    return _LINE_NUMBER.sub(r"\1\\", _LINE_MARK.sub(r"\1\\", text))


def _escaped(text: str, index: int, place: Place) -> str:
    char = text[index]
    if char == "@":
        return "@" + ZERO_WIDTH if _MENTION.match(text, index) else "@"
    return "\\" + char if place.escapes and _is_markup(text, index, place) else char


def _is_markup(text: str, index: int, place: Place) -> bool:
    char = text[index]
    before = text[index - 1] if index else ""
    after = text[index + 1] if index + 1 < len(text) else ""
    match char:
        case "\\":
            return not after or not ((after.isascii() and after.isalnum()) or after.isspace())
        case "*":
            return place.stars or not (before.isspace() and after.isspace())
        case "_":
            return place.lines or not (_is_word(before) and _is_word(after))
        case "~" | "|":
            joined = (not before and place.joined_before) or (not after and place.joined_after)
            return joined or char in (before, after)
        case "<":
            return bool(_ANGLE.match(text, index)) or (not after and place.joined_after)
        case "[":
            return place.brackets
        case ":":
            return bool(_SHORTCODE.match(text, index)) or (
                text.startswith("://", index) and text[max(0, index - 5) : index].lower().endswith(("http", "https"))
            )
        case _:
            return True


def _is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()
