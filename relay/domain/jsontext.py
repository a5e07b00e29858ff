"""JSON from outside, read whatever is in it: one member's odd value must not cost the answer that it stands in.

`json` gives up a whole document where one value in it is nested some hundred levels deep, or is a whole number of
thousands of digits; and what it does read may be too deep for everything that goes through it later. Here such a value
reads as null. It also reads in one go, during which no other thread runs; `levels` is how far down each value is read
by itself.
"""

import json
import re
from typing import Any

MOST_LEVELS = 64
"""How deep a value may be nested: far deeper than anything that either platform defines."""

_read = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r'[\[\]{}]|"(?>(?:[^"\\]|\\.)*)"', re.DOTALL)
_DIGITS = re.compile(r"[-+0-9.eE]+")


def loads(raw: str | bytes, *, levels: int = 0) -> Any:
    """The value that `raw` holds. Raises ValueError where it is no JSON. Linear."""
    text = raw if isinstance(raw, str) else raw.decode(json.detect_encoding(raw), "surrogatepass")
    value, end = _value(text, _start(text, 0), levels, MOST_LEVELS + levels)
    if _start(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _value(text: str, at: int, levels: int, most: int) -> tuple[Any, int]:
    """What stands at `at`, and where it ends. Above `levels` it is taken apart here, below in one go."""
    opening = text[at : at + 1]
    if levels <= 0:
        try:
            value, end = _read(text, at)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError):
            pass
        else:
            if _is_shallow(value, most):
                return value, end
        levels = most
    if most <= 0:
        return None, _behind(text, at)
    if opening == "[":
        return _list(text, at, levels - 1, most - 1)
    if opening == "{":
        return _object(text, at, levels - 1, most - 1)
    return _scalar(text, at)


def _list(text: str, at: int, levels: int, most: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = _start(text, at + 1)
    if text[at : at + 1] == "]":
        return found, at + 1
    while True:
        value, at = _value(text, at, levels, most)
        found.append(value)
        at = _start(text, at)
        if text[at : at + 1] == "]":
            return found, at + 1
        at = _past(text, at, ",")


def _object(text: str, at: int, levels: int, most: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _start(text, at + 1)
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a name", text, at)
        name, at = _read(text, at)
        at = _past(text, _start(text, at), ":")
        found[name], at = _value(text, at, levels, most)
        at = _start(text, at)
        if text[at : at + 1] == "}":
            return found, at + 1
        at = _past(text, at, ",")


def _scalar(text: str, at: int) -> tuple[Any, int]:
    try:
        return _read(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # More digits than Python turns into a number.
        number = _DIGITS.match(text, at)
        return None, at if number is None else number.end()


def _behind(text: str, at: int) -> int:
    """The end of a value that is not to be read."""
    if text[at : at + 1] not in ("[", "{"):
        return _scalar(text, at)[1]
    depth = 0
    for token in _TOKEN.finditer(text, at):
        sign = token.group()
        depth += 1 if sign in ("[", "{") else -1 if sign in ("]", "}") else 0
        if depth == 0:
            return token.end()
    raise json.JSONDecodeError("Expecting an end", text, len(text))


def _is_shallow(value: Any, most: int) -> bool:
    """Whether no more than `most` levels stand in each other."""
    level = [value]
    for _ in range(most + 1):
        level = [
            child
            for held in level
            if isinstance(held, dict | list)
            for child in (held.values() if isinstance(held, dict) else held)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False


def _start(text: str, at: int) -> int:
    """Where what stands behind white space begins."""
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _past(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, at)
    return _start(text, at + 1)
