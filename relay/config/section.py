"""Tables of the configuration as frozen values, checked by their annotations. A subclass of `Section` is one table.

pydantic does this, too, and was a tenth of the daemon's memory and a third of its start.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, dataclass_transform, get_args, get_origin

Kind = Literal[
    "told",
    "missing",
    "unknown key",
    "text",
    "switch",
    "whole number",
    "choice",
    "too small",
    "too large",
    "list",
    "table",
    "other",
]

# The path to a value: `("discord", "token")`, `("pairs", 0, "name")`.
Location = tuple[str | int, ...]

_SWITCHES = {
    **dict.fromkeys(("true", "1", "yes", "on", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "off", "n", "f"), False),
}
_REQUIRED: Any = object()


class Wrong(Exception):
    """What a check raises. It does not contain the value, which may be a secret under the wrong key."""

    def __init__(self, kind: Kind, *said: str) -> None:
        super().__init__(kind)
        self.kind = kind
        # "told": what is wrong, and the remedy. Otherwise what would be allowed.
        self.said = said


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that is wrong."""

    location: Location
    kind: Kind
    said: tuple[str, ...] = ()


class Invalid(ValueError):
    """What is wrong with a table: all of it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} mistakes")
        self.problems = problems


class SecretStr:
    """A text that is not shown."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "SecretStr('…')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Before:
    """In an annotation: makes of what was written what the type takes. Raises `Wrong`."""

    check: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class After:
    """In an annotation: looks at a value of the type. Raises `Wrong`."""

    check: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a table."""

    annotation: Any
    default: Any = _REQUIRED
    # As it may be written, for those who have written something else.
    example: str = ""
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def table(self) -> "type[Section] | None":
        """What is in it, if it is a table itself."""
        kinds = (self.annotation, *get_args(self.annotation))
        return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def key(*, example: str, default: Any = _REQUIRED, at_least: float = -math.inf, at_most: float = math.inf) -> Any:
    """Stands in a subclass of `Section` for the value of a key."""
    return Key(None, default, example, at_least, at_most)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(key,))
class Section:
    """A table. It is frozen, refuses unknown keys, and shows no values in errors."""

    keys: ClassVar[Mapping[str, Key]] = {}

    def __init_subclass__(cls) -> None:
        own = {}
        for name, annotation in inspect.get_annotations(cls).items():
            written = cls.__dict__.get(name, _REQUIRED)
            found = written if isinstance(written, Key) else Key(None, written)
            own[name] = Key(annotation, found.default, found.example, found.at_least, found.at_most)
        cls.keys = {**cls.keys, **own}

    def __init__(self, /, **values: Any) -> None:
        """Raises `Invalid`."""
        problems: list[Problem] = []
        for name, one in self.keys.items():
            if name in values:
                found, wrong = _read(one, one.annotation, values[name], (name,))
                problems += wrong
            else:
                found = one.default
                if found is _REQUIRED:
                    problems.append(Problem((name,), "missing"))
            self.__dict__[name] = found
        problems += (Problem((name,), "unknown key") for name in values if name not in self.keys)
        if problems:
            raise Invalid(problems)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The table with these values. Raises `Invalid`."""
        return cls(**values)

    def replace(self, **values: Any) -> Self:
        """The same with other values, which are not checked."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **values)
        return copy

    def __setattr__(self, name: str, value: object) -> None:
        # What begins with an underscore is not in the file.
        if not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} is frozen")
        super().__setattr__(name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self.keys)})"


def _read(one: Key, annotation: Any, value: Any, location: Location) -> tuple[Any, list[Problem]]:
    """The value as its annotation has it, or what is wrong."""
    if get_origin(annotation) is tuple and isinstance(value, list | tuple):
        item = get_args(annotation)[0]
        read = [_read(one, item, each, (*location, number)) for number, each in enumerate(value)]
        return tuple(found for found, _ in read), [problem for _, wrong in read for problem in wrong]
    if isinstance(annotation, type) and issubclass(annotation, Section) and isinstance(value, Mapping):
        try:
            return annotation.of(value), []
        except Invalid as error:
            return None, [Problem((*location, *each.location), each.kind, each.said) for each in error.problems]
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return (None, []) if value is None else _read(one, kinds[0], value, location)
    try:
        if get_origin(annotation) is not Annotated:
            return _plain(one, annotation, value), []
        kind, *checks = get_args(annotation)
        for check in checks:
            value = check.check(value) if isinstance(check, Before) else value
        found, problems = _read(one, kind, value, location)
        if not problems:
            for check in checks:
                found = check.check(found) if isinstance(check, After) else found
    except Wrong as wrong:
        return None, [Problem(location, wrong.kind, wrong.said)]
    return found, problems


def _plain(one: Key, kind: Any, value: Any) -> Any:
    """A value that is neither a table nor a list. Raises `Wrong`."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            *others, last = map(repr, get_args(kind))
            raise Wrong("choice", f"{', '.join(others)} or {last}")
        return value
    if kind is SecretStr and not isinstance(value, SecretStr):
        return SecretStr(_text(value))
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is str:
        return _text(value)
    if kind is bool:
        return _switch(value)
    if kind in (int, float):
        return _number(one, kind, value)
    if get_origin(kind) is tuple:
        raise Wrong("list")
    if isinstance(value, kind):
        return value
    raise Wrong("table" if issubclass(kind, Section) else "other")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Wrong("other")  # a byte of the environment that is no UTF-8
    return value


def _switch(value: object) -> bool:
    found = _SWITCHES.get(str(value).lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        raise Wrong("switch")
    return found


def _number(one: Key, kind: type[int | float], value: Any) -> float:
    """A number, which the environment has as text."""
    try:
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise Wrong("whole number")
        found = kind(value)
        finite = math.isfinite(found)
    except (ValueError, TypeError, OverflowError):
        raise Wrong("whole number" if kind is int else "other") from None
    if not finite:
        raise Wrong("other")
    if found < one.at_least:
        raise Wrong("too small", str(one.at_least))
    if found > one.at_most:
        raise Wrong("too large", str(one.at_most))
    return found
