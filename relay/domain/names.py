"""What a name shows, and when two names look the same: for every place where people are told apart by their names.

The one table of characters that show nothing is here.
"""

import mimetypes
import re
import unicodedata
from dataclasses import replace
from functools import lru_cache

from relay.domain.text import nodes as n
from relay.domain.text.rewrite import map_inline

# Control and formatting characters (invisible and bidirectional ones among them), surrogates, private ones, what is
# no character, line and paragraph separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters, marks and symbols that show nothing although their category says that they do.
_BLANKS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0\U00016fe4\U0001d159"
)
_JOINER = "\u200d"
_EMOJI_STYLE = "\ufe0f"
# More marks on one letter than any script needs cover the lines around it.
_MOST_MARKS = 3
# Characters of the longest emoji that there are: two people, each with a skin, a heart, and what joins them.
_LONGEST_SEQUENCE = 12

LONGEST = 80
"""Characters that a name has at most: what the strictest platform takes."""

LONGEST_IN_BYTES = 255
"""The same in UTF-8, for the platforms that count so."""


def is_hidden(char: str) -> bool:
    """Whether `char` shows nothing and is no ordinary space."""
    return (
        unicodedata.category(char) in _HIDDEN_CATEGORIES
        or char in _BLANKS
        or "\ufe00" <= char <= _EMOJI_STYLE
        or "\U000e0100" <= char <= "\U000e01ef"
    )


def visible(name: str) -> str:
    """`name` in one line, without what shows nothing; "" where nothing is left to see.

    What holds an emoji together stays.
    """
    if name.isascii() and name.isprintable():
        return " ".join(name.split())
    kept: list[str] = []
    marks = 0
    for index, char in enumerate(name):
        if char.isspace():
            kept.append(" ")
        elif char == _JOINER:
            # Inside an emoji sequence it is what makes the family one picture.
            if kept and _pictorial(kept[-1]) and index + 1 < len(name) and _pictorial(name[index + 1]):
                kept.append(char)
        elif char == _EMOJI_STYLE:
            if kept and _shows(kept[-1]):
                kept.append(char)
        elif not is_hidden(char):
            marks = marks + 1 if unicodedata.category(char)[0] == "M" else 0
            if marks <= _MOST_MARKS:
                kept.append(char)
    shown = " ".join("".join(kept).split()).rstrip(_JOINER)
    return shown if any(map(_shows, shown)) else ""


def shortened(name: str, *, most: int = LONGEST, most_bytes: int = LONGEST_IN_BYTES) -> str:
    """The beginning of `name` that has room, also after a platform has written it in compatibility forms (NFKC).

    Of U+FDFA, one character that becomes eighteen, four have room. So nothing has to be cut where names are shown.
    """
    if name.isascii():
        cut = name[: min(most, most_bytes)]
    else:
        cut = name
        room, room_in_bytes = most, most_bytes
        for index, char in enumerate(name):
            size, size_in_bytes = _size(char)
            room, room_in_bytes = room - size, room_in_bytes - size_in_bytes
            if min(room, room_in_bytes) < 0:
                cut = name[: _between_characters(name, index)]
                break
    return cut if cut == name else cut.rstrip(f" {_JOINER}")


def _between_characters(name: str, index: int) -> int:
    """Where to cut at or before `index`, so that no emoji and no letter loses a part that it is joined with."""
    for place in range(index, max(index - _LONGEST_SEQUENCE, 0), -1):
        if name[place - 1] != _JOINER and not _joins(name[place]):
            return place
    return index  # whoever joins more than any emoji does


def _joins(char: str) -> bool:
    """Whether `char` belongs to what stands before it."""
    return (
        char in (_JOINER, _EMOJI_STYLE) or "\U0001f3fb" <= char <= "\U0001f3ff" or unicodedata.category(char)[0] == "M"
    )


@lru_cache(maxsize=2_000)
def _size(char: str) -> tuple[int, int]:
    """Characters and bytes that `char` takes at most, as it is or in its compatibility form."""
    forms = (char, unicodedata.normalize("NFKC", char))
    return max(map(len, forms)), max(len(form.encode("utf-8", "replace")) for form in forms)


def with_suffix(name: str, suffix: str) -> str:
    """`name` and `suffix`, which stays in sight: where both do not fit, the name is cut."""
    room, room_in_bytes = LONGEST - len(suffix) - 1, LONGEST_IN_BYTES - len(suffix.encode("utf-8", "replace")) - 1
    return f"{shortened(name, most=room, most_bytes=room_in_bytes)} {suffix}"


@lru_cache(maxsize=2_000)
def skeleton(name: str) -> str:
    """What `name` looks like: two names with the same skeleton cannot be told apart at a glance.

    Case, accents, spaces and punctuation do not count, nor do letters of other scripts that look like Latin ones.
    """
    looks = "".join(_look(char) for char in visible(name) if char != " ").replace(" ", "")
    bare = "".join(char for char in looks if unicodedata.category(char)[0] in "LNS")
    return (bare or looks).replace("rn", "m")


def folded_letters(name: str) -> list[tuple[int, str]]:
    """`name` without case, accents and styles of letters: each letter with the place in `name` that it comes from."""
    return [(index, letter) for index, char in enumerate(name) for letter in _folded(char)]


def _pictorial(char: str) -> bool:
    return unicodedata.category(char) in {"So", "Sk"} or char == _EMOJI_STYLE


def _shows(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNPS"


def _bare(char: str) -> str:
    decomposed = unicodedata.normalize("NFKD", char)
    return "".join(part for part in decomposed if unicodedata.category(part)[0] != "M")


@lru_cache(maxsize=2_000)
def _folded(char: str) -> str:
    # Up and down again: a dotless i and a long s have capitals that are everybody's.
    return _bare(_bare(char).upper().lower())


@lru_cache(maxsize=2_000)
def _look(char: str) -> str:
    bare = _bare(char).translate(_CAPITAL_TWINS)
    return _bare(bare.upper().lower()).translate(_TWINS)


def _twins(*rows: tuple[str, str]) -> dict[int, str]:
    return {ord(twin): letter for letter, twins in rows for twin in twins}


# After https://www.unicode.org/reports/tr39/#Confusable_Detection, as far as it is about Latin letters in everyday
# fonts. Capitals first: some look like a letter that their small form does not look like.
_CAPITAL_TWINS = _twins(("b", "ВΒ"), ("h", "НΗ"), ("n", "Ν"), ("y", "ΥҮ"), ("p", "РΡ"), ("x", "ХΧ"), ("m", "МΜ")) | {
    first + number: letter
    for first in (0x1F150, 0x1F170, 0x1F1E6)  # letters in black circles, in black squares, of flags
    for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")
}
_TWINS = _twins(
    ("a", "аɑαᴀ"),
    ("b", "ƅьƀʙ"),
    ("c", "сϲᴄ"),
    ("d", "ԁɗđժᴅ"),
    ("e", "еҽɛєᴇ"),
    ("f", "ƒꜰ"),
    ("g", "ɡցɢ"),
    ("h", "һհħʜ"),
    ("j", "јϳᴊ"),
    ("k", "кκᴋ"),
    ("l", "i1|ıіιɩӏǀłɨɪʟ"),
    ("m", "мᴍ"),
    ("n", "ոɴ"),
    ("o", "0оοօσøɵᴏ"),
    ("p", "рρᴘ"),
    ("q", "ԛ"),
    ("r", "гʀ"),
    ("s", "ѕꜱ"),
    ("t", "тτŧᴛ"),
    ("u", "υսʉᴜ"),
    ("v", "νѵᴠ"),
    ("w", "ѡԝᴡω"),
    ("x", "хχ"),
    ("y", "уγүყʏ"),
    ("z", "ᴢ"),
    # Letters and symbols by what they look like, punctuation, which does not count.
    (":", "꞉"),
    ("'", "`ˋ"),
)


# --- Control characters: they steer a terminal or a printer, and say nothing to a reader ---------------------


# Sequences that colour text, move the cursor or set a window's title (ECMA-48); then C0 and C1 alone, but for line
# breaks and tabs.
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*+(?:\x07|\x1b\\|\x9c)"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def without_controls(text: str) -> str:
    """`text` without them; linear in its length."""
    return text if _CONTROLS.search(text) is None else _CONTROLS.sub("", text)


# --- The signs that only the relay makes: what a member writes can never look like its headings --------------

# What stands under a quoted line, a forward's heading or the names of several is taken for somebody else's words. (What
# the relay says of a message's own author, a file that it names or a poll, anybody may say of themselves.)


MARK = "↪"
"""Stands in front of whom a message answers, and above what it forwards."""

_STAND_IN = "→"

_BRACKETS = str.maketrans("⟨⟩〈〉《》❬❭❰❱" + MARK, "()()()()()" + _STAND_IN)


def unmarked(text: n.RichText) -> n.RichText:
    """What a member wrote, with another arrow for the relay's own wherever it is not code.

    Anywhere, not only where a line begins: a long text is cut between any two words.
    """
    return map_inline(text, _unmarked)


def unmarked_name(name: str) -> str:
    """A member's name without the relay's signs."""
    return name.translate(_BRACKETS)


def bracketed(sign: str) -> str:
    """`sign` in brackets that no member's name can hold."""
    return f"⟨{sign}⟩"


def _unmarked(node: n.Inline) -> n.Inline:
    match node:
        case n.Text(words) if MARK in words:
            return replace(node, text=words.replace(MARK, _STAND_IN))
        case n.InlineImage(alt) if MARK in alt:
            return replace(node, alt=alt.replace(MARK, _STAND_IN))
        case _:
            return node


# --- What a file may be called -------------------------------------------------------------------------------


_UNKNOWN = "application/octet-stream"
_LONGEST_NAME = 120
# `mimetypes` depends on the machine for these.
_SUFFIXES = {
    "image/png": ".png",
    "image/apng": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
}
# Not in a name on one system or another.
_FORBIDDEN = frozenset('/\\:*?"<>|')


def file_name(name: str, kind: str) -> str:
    """`name` as any system takes it: one path segment, no hidden characters, an ending where it had none."""
    shown = "".join(
        "_" if char in _FORBIDDEN else char for char in unicodedata.normalize("NFC", name) if not is_hidden(char)
    )
    shown = " ".join(shown.split()).strip(". ") or "file"
    stem, dot, ending = shown.rpartition(".")
    if not (dot and stem and ending.isalnum() and len(ending) <= 10):
        stem, ending = shown, _suffix(kind).removeprefix(".")
    stem = stem[: _LONGEST_NAME - len(ending) - 1].rstrip(". ") or "file"
    return f"{stem}.{ending}" if ending else stem


def _suffix(kind: str) -> str:
    return _SUFFIXES.get(kind) or ("" if kind == _UNKNOWN else mimetypes.guess_extension(kind) or "")
