"""A long answer of which some values are read later, one after the other.

Read in one go, the state of all rooms is ten times its text, in small objects. What is made beside them meanwhile stays
for long, and keeps the memory around it from going back to the system: 15 KiB a room, of which nothing is used.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relay.domain.jsontext import as_dict, loads

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Unread:
    """A value in an answer."""

    # The values that are left of the answer, UTF-8.
    raw: bytes
    begin: int
    end: int
    # As `loads` takes them.
    levels: int
    max_containers: int | None

    def __len__(self) -> int:
        """In bytes."""
        return self.end - self.begin

    def read(self) -> Any:
        """The value. Each time it is made anew."""
        return loads(self.raw[self.begin : self.end], levels=self.levels, max_containers=self.max_containers)


def read_partly(raw: bytes, path: Sequence[str], *, levels: int, max_containers: int | None) -> Any:
    """As `loads`, but the values of the object at `path` are left `Unread`, if there is one."""
    text = raw.decode(json.detect_encoding(raw), "surrogatepass")
    found = _Scanner(text)
    try:
        found.look(path, levels)
    except (ValueError, RecursionError):
        found.end = 0  # Not JSON, or something in it is too deep or too long for what is used here.
    if not found.end:
        return loads(text, levels=levels, max_containers=max_containers)
    answer = loads(f"{text[: found.begin]}{{}}{text[found.end :]}", levels=levels, max_containers=max_containers)
    kept, places, size = [], {}, 0
    for name, (begin, end) in found.values.items():
        value = text[begin:end].encode("utf-8", "surrogatepass")
        kept.append(value)
        places[name] = (size, size + len(value))
        size += len(value)
    left, holder = b"".join(kept), answer
    for name in path:
        holder = as_dict(as_dict(holder).get(name))
    holder |= {name: Unread(left, *place, levels - len(path), max_containers) for name, place in places.items()}
    return answer


class _Scanner:
    """Goes through a document, and keeps nothing of it. Raises ValueError if it is not JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._skip_space()
        # Where the object is that was looked for, and its values; nowhere yet.
        self.begin = self.end = 0
        self.values: dict[str, tuple[int, int]] = {}

    def look(self, path: Sequence[str], levels: int) -> None:
        """Find the object at `path`, below the one that begins here."""
        for name in self._members():
            begin = self._at
            if not path:
                self._pass(levels - 1)
                self.values[name] = (begin, self._at)
            elif name != path[0] or self._sign() != "{":
                self._pass(levels - 1)
            elif len(path) > 1:
                self.look(path[1:], levels - 1)
            else:
                self.values.clear()  # Of two with the same name the last one counts.
                self.look((), levels - 1)
                self.begin, self.end = begin, self._at

    def _pass(self, levels: int) -> None:
        """Go behind a value, in as small steps as `loads` does."""
        if levels > 0 and self._sign() == "{":
            for _ in self._members():
                self._pass(levels - 1)
        elif levels > 0 and self._sign() == "[":
            for _ in self._items("]"):
                self._pass(0)
        else:
            _, self._at = _decode(self._text, self._at)

    def _members(self) -> Iterator[str]:
        """The name of each member of an object. Whoever gets one goes behind its value."""
        if self._sign() != "{":
            raise ValueError("no object")
        for _ in self._items("}"):
            name, self._at = _decode(self._text, self._at)
            if not isinstance(name, str):
                raise ValueError("a name is missing")
            self._skip_space()
            self._take(":")
            yield name

    def _items(self, closing: str) -> Iterator[None]:
        """Once for each item. Whoever gets it goes behind it."""
        self._take(self._sign())
        if self._sign() != closing:
            yield
            self._skip_space()
            while self._sign() == ",":
                self._take(",")
                yield
                self._skip_space()
        if self._sign() != closing:
            raise ValueError(f"{closing} is missing")
        self._at += 1

    def _sign(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, sign: str) -> None:
        if self._sign() != sign:
            raise ValueError(f"{sign} is missing")
        self._at += 1
        self._skip_space()

    def _skip_space(self) -> None:
        if (space := _SPACE.match(self._text, self._at)) is not None:
            self._at = space.end()
