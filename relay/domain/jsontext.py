"""Reading JSON from outside, whatever is in it: one member's odd value must not cost the whole answer.

`json` refuses a whole document if one value in it is nested some hundred levels deep, or is an integer of thousands of
digits. What it does read may be too deep for later code, or hold so many lists that garbage collection stops the
process. Here such a value reads as null. `json` also reads a document in one go, and no other thread runs meanwhile;
`levels` says how far down each value is read separately.
"""

import json
import re
from typing import Any

# A JSON object.
Json = dict[str, Any]

# How deep a value may be nested: far deeper than anything that either platform defines.
MAX_LEVELS = 64

# Characters that are read in one go: well below a thousandth of a second.
_SMALL = 64 * 1024

_HOLDERS = frozenset({dict, list})
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r'[\[{]|[\]}]|"[^"\\]*(?>(?:\\.[^"\\]*)*)"?', re.DOTALL)


def _integer(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        return None  # More digits than Python turns into a number.


_read = json.JSONDecoder().raw_decode
_read_any_number = json.JSONDecoder(parse_int=_integer).raw_decode


def loads(raw: str | bytes, *, levels: int = 0, max_containers: int | None = None) -> Any:
    """The value of the document `raw`. Raises ValueError if it is not JSON. Linear.

    `levels`: how far down the values of objects are read separately; an item of a list is always read in one go.
    `max_containers`: how many lists and objects are kept of each value that is read in one go, the outer ones first.
    """
    text = raw if isinstance(raw, str) else raw.decode(json.detect_encoding(raw), "surrogatepass")
    most = len(text) if max_containers is None else max_containers
    at = _start(text, 0)
    value, end = _at_once(text, at, most) or _value(text, at, levels, most)
    if _start(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def as_dict(value: Any) -> Json:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_string(value: Any) -> str:
    """`value` if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def _at_once(text: str, at: int, max_containers: int) -> tuple[Any, int] | None:
    """As `_value`, where all of the text is small and nothing in it is too deep, as nearly always; else None."""
    containers = text.count("[") + text.count("{")
    if containers > max_containers or (containers > MAX_LEVELS and len(text) > _SMALL):
        return None
    try:
        found = _read_whole(text, at)
    except RecursionError:
        return None
    return found if containers <= MAX_LEVELS or _is_shallow(found[0]) else None


def _is_shallow(value: Any) -> bool:
    """Whether no list or object in it is too deep."""
    level: list[Any] = [[value]]
    for _ in range(MAX_LEVELS + 1):
        level = [
            child
            for holder in level
            for child in (holder.values() if type(holder) is dict else holder)
            if type(child) in _HOLDERS
        ]
        if not level:
            return True
    return False


def _value(text: str, at: int, levels: int, max_containers: int) -> tuple[Any, int]:
    """The value at `at`, and where it ends. Down to `levels` it is taken apart here, below it is read in one go."""
    opening = text[at : at + 1]
    if levels > 0 and opening == "[":
        return _list(text, at, max_containers)
    if levels > 0 and opening == "{":
        return _object(text, at, levels - 1, max_containers)
    try:
        value, end = _read_whole(text, at)
    except RecursionError:
        shallow, end = _cut(text, at)
        value, _ = _read_whole(shallow, 0)
    # Counting in the text is quick, and shows that nearly all values are small.
    if text.count("[", at, end) + text.count("{", at, end) > min(MAX_LEVELS, max_containers):
        _prune(value, max_containers)
    return value, end


def _read_whole(text: str, at: int) -> tuple[Any, int]:
    try:
        return _read(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _read_any_number(text, at)


def _list(text: str, at: int, max_containers: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = _start(text, at + 1)
    if text[at : at + 1] == "]":
        return found, at + 1
    while True:
        value, at = _value(text, at, 0, max_containers)
        found.append(value)
        at = _start(text, at)
        if text[at : at + 1] == "]":
            return found, at + 1
        at = _past(text, at, ",")


def _object(text: str, at: int, levels: int, max_containers: int) -> tuple[Json, int]:
    found: Json = {}
    at = _start(text, at + 1)
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a name", text, at)
        name, at = _read(text, at)
        at = _past(text, _start(text, at), ":")
        found[name], at = _value(text, at, levels, max_containers)
        at = _start(text, at)
        if text[at : at + 1] == "}":
            return found, at + 1
        at = _past(text, at, ",")


def _cut(text: str, at: int) -> tuple[str, int]:
    """The value at `at`, with null in place of what is too deep, and where it ends in `text`."""
    kept: list[str] = []
    depth = 0
    for token in _TOKEN.finditer(text, at):
        sign = token[0]
        if sign in "[{":
            depth += 1
            if depth == MAX_LEVELS + 1:
                kept += text[at : token.start()], "null"
        elif sign in "]}":
            if depth == MAX_LEVELS + 1:
                at = token.end()
            depth -= 1
            if depth == 0:
                kept.append(text[at : token.end()])
                return "".join(kept), token.end()
    raise json.JSONDecodeError("Expecting an end", text, len(text))


def _prune(value: Any, max_containers: int) -> None:
    """Put null in place of what is too deep in `value`, and of lists and objects that are too many."""
    level = [value]
    for left in range(MAX_LEVELS - 1, -1, -1):
        max_containers -= len(level)
        room = max_containers if left else 0
        inner = [
            child
            for holder in level
            for child in (holder.values() if type(holder) is dict else holder)
            if type(child) in _HOLDERS
        ]
        if len(inner) > room:
            _keep(level, room)
            del inner[room:]
        if not inner:
            break
        level = inner


def _keep(holders: list[Any], room: int) -> None:
    """Keep the first `room` lists and objects in all `holders` together, and put null in place of the others."""
    for holder in holders:
        for key, child in holder.items() if type(holder) is dict else enumerate(holder):
            if type(child) in _HOLDERS:
                room -= 1
                if room < 0:
                    holder[key] = None


def _start(text: str, at: int) -> int:
    """The next place that is not white space."""
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _past(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, at)
    return _start(text, at + 1)
