"""How much memory a value takes, roughly: what bounds a cache, and tells a long text from a short one."""

import dataclasses
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

_OBJECT = 48
_POINTER = 8


def weight(value: Any) -> int:
    """Bytes of a tree of dataclasses, tuples, lists, dictionaries and strings. Linear in the number of nodes."""
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        total += _OBJECT
        kind: type = type(item)
        if kind is str:
            # Without a look at each character: others than ASCII's take two or four bytes.
            total += len(item) if item.isascii() else 4 * len(item)
        elif kind is tuple or kind is list:
            total += _POINTER * len(item)
            waiting.extend(item)
        elif kind is dict:
            total += 4 * _POINTER * len(item)
            waiting.extend(item)
            waiting.extend(item.values())
        elif (held := _held(kind)) is not None:
            values = held(item)
            total += _POINTER * len(values)
            waiting.extend(values)
    return total


@cache
def _held(kind: type) -> Callable[[Any], tuple[Any, ...]] | None:
    """What reads the fields of a dataclass that are not the same in all of its kind."""
    if not dataclasses.is_dataclass(kind):
        return None
    names = [field.name for field in dataclasses.fields(kind) if field.name != "kind"]
    if len(names) > 1:
        return attrgetter(*names)
    return (lambda item: (getattr(item, names[0]),)) if names else None
