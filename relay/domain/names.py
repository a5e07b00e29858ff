"""What a name shows, when two names look the same, and which characters never cross.

The one table of hidden characters is here.
"""

import mimetypes
import re
import unicodedata
from dataclasses import replace
from functools import lru_cache

from relay.domain.text import nodes as n
from relay.domain.text.rewrite import map_inline

# --- Hidden characters ------------------------------------------------------------------------------------

# Control and format characters (also invisible and bidirectional ones), surrogates, private use, unassigned, line and
# paragraph separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters, marks and symbols that show nothing, although their category says otherwise.
_BLANKS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0\U00016fe4\U0001d159"
)
_JOINER = "\u200d"
_EMOJI_STYLE = "\ufe0f"
# No script needs more marks on one letter; more of them cover the lines above and below.
_MAX_MARKS = 3
# Characters of the longest emoji: two people, each with a skin colour, a heart, and the joiners between them.
_MAX_SEQUENCE_LENGTH = 12

# The most characters of a name: the strictest platform's limit.
MAX_NAME_LENGTH = 80

# The most bytes of a name in UTF-8, for platforms that count bytes.
MAX_NAME_BYTES = 255


def is_hidden(char: str) -> bool:
    """Whether `char` shows nothing, and is not an ordinary space."""
    return (
        unicodedata.category(char) in _HIDDEN_CATEGORIES
        or char in _BLANKS
        or "\ufe00" <= char <= _EMOJI_STYLE
        or "\U000e0100" <= char <= "\U000e01ef"
    )


def visible(name: str) -> str:
    """`name` on one line, without hidden characters; "" if nothing visible is left.

    Joiners inside an emoji stay.
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
            if marks <= _MAX_MARKS:
                kept.append(char)
    shown = " ".join("".join(kept).split()).rstrip(_JOINER)
    return shown if any(map(_shows, shown)) else ""


def shortened(name: str, *, max_length: int = MAX_NAME_LENGTH, max_bytes: int = MAX_NAME_BYTES) -> str:
    """As much of `name` as fits, also after a platform has normalised it to NFKC.

    U+FDFA, for example, is one character that NFKC makes eighteen of: four of them fit. So no name has to be cut again
    where it is shown.
    """
    if name.isascii():
        cut = name[: min(max_length, max_bytes)]
    else:
        cut = name
        room, room_in_bytes = max_length, max_bytes
        for index, char in enumerate(name):
            size, size_in_bytes = _size(char)
            room, room_in_bytes = room - size, room_in_bytes - size_in_bytes
            if min(room, room_in_bytes) < 0:
                cut = name[: _between_characters(name, index)]
                break
    return cut if cut == name else cut.rstrip(f" {_JOINER}")


def _between_characters(name: str, index: int) -> int:
    """Where to cut, at or before `index`, so that no emoji and no letter loses a part."""
    for place in range(index, max(index - _MAX_SEQUENCE_LENGTH, 0), -1):
        if name[place - 1] != _JOINER and not _joins(name[place]):
            return place
    return index  # more characters are joined here than in any emoji


def _joins(char: str) -> bool:
    """Whether `char` belongs to the character before it."""
    return (
        char in (_JOINER, _EMOJI_STYLE) or "\U0001f3fb" <= char <= "\U0001f3ff" or unicodedata.category(char)[0] == "M"
    )


@lru_cache(maxsize=2_000)
def _size(char: str) -> tuple[int, int]:
    """How many characters and bytes `char` takes at most, as it is or in NFKC."""
    forms = (char, unicodedata.normalize("NFKC", char))
    return max(map(len, forms)), max(len(form.encode("utf-8", "replace")) for form in forms)


def with_suffix(name: str, suffix: str) -> str:
    """`name` and `suffix`. If both do not fit, the name is cut, never the suffix."""
    room, room_in_bytes = MAX_NAME_LENGTH - len(suffix) - 1, MAX_NAME_BYTES - len(suffix.encode("utf-8", "replace")) - 1
    return f"{shortened(name, max_length=room, max_bytes=room_in_bytes)} {suffix}"


def skeleton(name: str) -> str:
    """What `name` looks like: readers mix up two names that have the same skeleton.

    Case, accents, spaces and punctuation do not count; letters of other scripts count as the Latin ones they look like.
    """
    # Longer ones are not kept: there is no limit to what somebody may call themselves.
    return (_skeleton if len(name) <= MAX_NAME_LENGTH else _skeleton.__wrapped__)(name)


@lru_cache(maxsize=2_000)
def _skeleton(name: str) -> str:
    looks = "".join(_look(char) for char in visible(name) if char != " ").replace(" ", "")
    bare = "".join(char for char in looks if unicodedata.category(char)[0] in "LNS")
    return (bare or looks).replace("rn", "m")


def folded_letters(name: str) -> list[tuple[int, str]]:
    """The letters of `name` without case, accents and styles, each with its place in `name`."""
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
    # Upper case first, then lower: a dotless i and a long s share their capitals with i and s.
    return _bare(_bare(char).upper().lower())


@lru_cache(maxsize=2_000)
def _look(char: str) -> str:
    bare = _bare(char).translate(_CAPITAL_TWINS)
    return _bare(bare.upper().lower()).translate(_TWINS)


def _twins(*rows: tuple[str, str]) -> dict[int, str]:
    return {ord(twin): letter for letter, twins in rows for twin in twins}


# After https://www.unicode.org/reports/tr39/#Confusable_Detection, for Latin letters in everyday fonts. Capitals first:
# some look like a letter that their small form does not look like.
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
    # What looks like punctuation, which does not count.
    (":", "꞉"),
    ("'", "`ˋ"),
)


# --- Control characters: they steer a terminal or a printer, and show nothing ------------------------------

# Sequences that colour text, move the cursor or set a window's title (ECMA-48); then single C0 and C1 characters, but
# not line breaks and tabs.
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*+(?:\x07|\x1b\\|\x9c)"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def without_controls(text: str) -> str:
    """`text` without control characters. Linear in its length."""
    return text if _CONTROLS.search(text) is None else _CONTROLS.sub("", text)


# --- Signs that only the relay makes ----------------------------------------------------------------------

# Readers take what is under a quoted line, under the heading of a forward or under several names for somebody else's
# words. So nothing that a member writes may look like these headings. (What the relay says about the author of a
# message itself, about a file or a poll, anybody may say about themselves.)

# In front of the name that a message replies to, and above a forwarded message.
REPLY_ARROW = "↪"

_OTHER_ARROW = "→"
_SIGNS = str.maketrans("⟨⟩〈〉《》❬❭❰❱" + REPLY_ARROW, "()()()()()" + _OTHER_ARROW)


def without_reply_arrow(text: n.RichText) -> n.RichText:
    """What a member wrote, with another arrow instead of the relay's, except in code.

    Everywhere, not only at the beginning of a line: a long text is cut between any two words.
    """
    return map_inline(text, _without_reply_arrow)


def _without_reply_arrow(node: n.Inline) -> n.Inline:
    match node:
        case n.Text(words) if REPLY_ARROW in words:
            return replace(node, text=words.replace(REPLY_ARROW, _OTHER_ARROW))
        case n.InlineImage(alt) if REPLY_ARROW in alt:
            return replace(node, alt=alt.replace(REPLY_ARROW, _OTHER_ARROW))
        case _:
            return node


def without_relay_signs(name: str) -> str:
    """A member's name without the relay's brackets and arrow."""
    return name.translate(_SIGNS)


# `://` of an address, and the dot in one without a scheme (Discord's invitations are links without one).
_ADDRESS = re.compile(r":(?=//)|(?<=\w)\.(?=\w+/)")
_ADDRESS_LOOKALIKES = {":": "꞉", ".": "․"}


def unlinked(name: str) -> str:
    """A name for use in a text, with look-alikes where a client would make a link of it."""
    return _ADDRESS.sub(lambda sign: _ADDRESS_LOOKALIKES[sign.group()], name)


def bracketed(sign: str) -> str:
    """`sign` in brackets that no member's name can hold."""
    return f"⟨{sign}⟩"


# --- File names -------------------------------------------------------------------------------------------

_UNKNOWN = "application/octet-stream"
_MAX_FILE_NAME_LENGTH = 120
# For these types `mimetypes` gives different endings on different machines.
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
# Not allowed in file names, on one system or another.
_FORBIDDEN = frozenset('/\\:*?"<>|')


def file_name(name: str, kind: str) -> str:
    """`name` as every system takes it: one path segment, no hidden characters, an ending (by `kind` if missing)."""
    shown = "".join(
        "_" if char in _FORBIDDEN else char
        for char in " ".join(unicodedata.normalize("NFC", name).split())
        if not is_hidden(char)
    )
    shown = " ".join(shown.split()).strip(". ") or "file"
    stem, dot, ending = shown.rpartition(".")
    if not (dot and stem and ending.isalnum() and len(ending) <= 10):
        stem, ending = shown, _suffix(kind).removeprefix(".")
    stem = stem[: _MAX_FILE_NAME_LENGTH - len(ending) - 1].rstrip(". ") or "file"
    return f"{stem}.{ending}" if ending else stem


def content_type(name: str) -> str:
    """What a file is by the ending of its `name`."""
    ending = name[name.rfind(".") :].lower()
    if not ending[1:].isalnum():
        return _UNKNOWN  # since Python 3.12 it would be read as an address, and refused where it is none
    known = next((kind for kind, suffix in _SUFFIXES.items() if suffix == ending), None)
    return known or mimetypes.guess_type(f"file{ending}")[0] or _UNKNOWN


def _suffix(kind: str) -> str:
    return _SUFFIXES.get(kind) or ("" if kind == _UNKNOWN else mimetypes.guess_extension(kind) or "")
