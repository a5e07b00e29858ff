"""Commands as JSON and back.

It reads the annotations of the domain's dataclasses, once per type. Fields with their default value are left out,
unknown keys are ignored, and missing ones get their default: so a field can be added without a migration. The members
of a union are told apart by `kind`. (pydantic would try every member of a recursive union, which takes exponential time
in the depth, unless the domain had annotations for pydantic.)
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, cast

from relay.domain.commands import Command

Decoder = Callable[[Any], Any]


def encode(command: Command) -> str:
    """`command` as JSON, on one line."""
    return _dumps(command)


def decode(payload: str) -> Command:
    """The command in `payload`. Raises ValueError if there is none."""
    try:
        return cast(Command, _decoder(Command)(json.loads(payload)))
    except KeyError as error:
        raise ValueError(f"no command: {error} is not known") from error
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no command: {error}") from error


def _plain(value: object) -> object:
    """Convert one value that `json` does not know, without the values inside it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value):
        kind, fields = _fields(cast(type, type(value)))
        # `kind` comes first: `tables.LATE_FILE_WAITS` and `pruning` look at the first characters of the JSON.
        record: dict[str, object] = {} if kind is None else {"kind": kind}
        for name, default in fields:
            held = getattr(value, name)
            if held != default or type(held) is not type(default):
                record[name] = held
        return record
    raise TypeError(f"{type(value).__name__} cannot be part of a command")


# As ASCII: half a surrogate pair is possible in JSON, but not in UTF-8.
_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=_plain).encode


@cache
def _fields(cls: type) -> tuple[str | None, tuple[tuple[str, object], ...]]:
    """The `kind` of a dataclass (None: it has none) and its other fields with their defaults."""
    kind: str | None = None
    fields: list[tuple[str, object]] = []
    for field in dataclasses.fields(cls):
        if field.name == "kind" and isinstance(field.default, str) and field.kw_only:
            kind = field.default
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields.append((field.name, default))
    return kind, tuple(fields)


@cache
def _decoder(annotation: Any) -> Decoder:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation in (str, int, bool):
        return _instance_of(annotation)
    if origin is Literal:
        return _one_of(arguments)
    if annotation is float:
        return _number
    if annotation is datetime:
        return _moment
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation
    if dataclasses.is_dataclass(annotation):
        return _record_decoder({None: cast(type, annotation)})
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _tuple_decoder(arguments[0])
    if origin in (Union, types.UnionType):
        return _union_decoder(arguments)
    raise TypeError(f"{annotation!r} cannot be part of a command")


def _instance_of(cls: type) -> Decoder:
    def decode_value(value: Any) -> Any:
        if type(value) is not cls:
            raise TypeError(f"{type(value).__name__} instead of {cls.__name__}")
        return value

    return decode_value


def _one_of(values: tuple[Any, ...]) -> Decoder:
    def decode_literal(value: Any) -> Any:
        if value not in values:
            raise TypeError(f"{value!r} is none of {values}")
        return value

    return decode_literal


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{type(value).__name__} instead of a number")
    return float(value)


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return moment


def _tuple_decoder(item: Any) -> Decoder:
    def decode_tuple(values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list):
            raise TypeError(f"{type(values).__name__} instead of a list")
        return tuple(map(_decoder(item), values))  # looked up late, because types refer to themselves

    return decode_tuple


def _union_decoder(members: tuple[Any, ...]) -> Decoder:
    present = tuple(member for member in members if member is not type(None))
    if len(present) == 1:
        decode_present = _decoder(present[0])
        return lambda value: None if value is None else decode_present(value)
    by_kind = {_fields(member)[0]: member for member in present}
    if None in by_kind or len(present) < len(members):
        raise TypeError(f"{members!r} cannot be told apart")
    return _record_decoder(by_kind)


def _record_decoder(by_kind: Mapping[str | None, type]) -> Decoder:
    """Reads a JSON object as the class of its `kind`. A single class, under None, needs no `kind`.

    It uses one stack frame for each object, two for each level of a tree, so that it can go as deep as `json` itself.
    """
    lone = by_kind.get(None)

    def decode_record(record: dict[str, Any]) -> Any:
        cls = lone or by_kind[record["kind"]]
        decoders = _field_decoders(cls)
        fields = {}
        for name, value in record.items():
            decode_field = decoders.get(name)
            if decode_field is not None:
                fields[name] = decode_field(value)
        return cls(**fields)

    return decode_record


@cache
def _field_decoders(cls: type) -> dict[str, Decoder]:
    hints = typing.get_type_hints(cls)
    return {name: _decoder(hints[name]) for name, _ in _fields(cls)[1]}
