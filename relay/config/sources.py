"""Where settings come from: the file, the environment, and the files that hold secrets."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource

from relay.config.mistakes import Location, Origin, did_you_mean, find_field, holds_keys, positions, shown
from relay.errors import Mistake

PREFIX = "RELAY_"
CONFIG_VARIABLE = "RELAY_CONFIG"
DEFAULT_FILE = Path("relay.toml")
SECRETS = (("discord", "token"), ("matrix", "access_token"), ("matrix", "password"))
"""Each may instead be named by a key of the same name with `_file`."""
LISTS = ("pairs", "rooms")
"""The sections that are arrays of tables."""

# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables: a service called "relay"
# gives every container of its namespace variables of these names.
_KUBERNETES = re.compile(r"RELAY_(?:SERVICE_(?:HOST|PORT\w*)|PORT(?:_\d+_\w+)?)")
_SECRET_LIMIT = 65536


@dataclass(slots=True)
class Source:
    """The values as they stand, not checked yet, with where each came from and what is wrong already.

    `folder`: what relative paths count from. `broken`: the file could not be read, so that nothing is known to be
    missing from it.
    """

    values: dict[str, Any]
    origin: Origin
    folder: Path
    broken: bool
    mistakes: list[Mistake] = field(default_factory=list)


def gather(file: Path, environ: Mapping[str, str], model: type[BaseSettings]) -> Source:
    """The file's values with the environment's laid over them, and secrets read from the files that hold them."""
    text, unread = _read_file(file)
    document, broken = _parse(text, file)
    environment, variables, unknown = _read_environment(environ, model)
    values = _overlay(document, environment)
    origin = Origin(str(file), positions(text) if not broken else {}, variables, _pair_names(values))
    source = Source(values, origin, file.parent, bool(unread or broken), [*unread, *broken, *unknown])
    for section, key in SECRETS:
        _open_secret(source, environment, section, key, file.parent)
    return source


def _read_file(file: Path) -> tuple[str, list[Mistake]]:
    try:
        return file.read_text(encoding="utf-8-sig"), []
    except FileNotFoundError:
        remedy = "create it (deploy/relay.example.toml shows how), or name another with --config or RELAY_CONFIG"
        return "", [Mistake(str(file), "there is no such file", remedy)]
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        return "", [Mistake(str(file), f"cannot be read: {reason}", "make it a file that the relay's user may read")]
    except UnicodeDecodeError:
        return "", [Mistake(str(file), "is not UTF-8 text", "save it as UTF-8")]


def _parse(text: str, file: Path) -> tuple[dict[str, Any], list[Mistake]]:
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        # The message is a sentence about syntax, with line and column, and at most one character of the file.
        reason = str(error)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError:
        reason = "a number has too many digits"
    remedy = "mend the TOML there (texts in quotes, one key = value to a line, lists in [ ])"
    return {}, [Mistake(str(file), f"is not valid TOML: {reason[:1].lower()}{reason[1:]}", remedy)]


def _read_environment(
    environ: Mapping[str, str], model: type[BaseSettings]
) -> tuple[dict[str, Any], dict[Location, str], list[Mistake]]:
    known: dict[str, str] = {}
    names: dict[Location, str] = {}
    mistakes: list[Mistake] = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE or _KUBERNETES.fullmatch(variable):
            continue
        location = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        problem = _problem_of_variable(location, value, model)
        if problem is not None:
            mistakes.append(Mistake(f"environment variable {shown(variable)}", *problem))
        else:
            known[variable.lower()] = value
            names[location] = variable
    source = EnvSettingsSource(model)
    source.env_vars = known
    return source(), names, mistakes


def _problem_of_variable(location: Location, value: str, model: type[BaseModel]) -> tuple[str, str] | None:
    """What is wrong with a variable's name, or with the JSON in it."""
    section, *keys = map(str, location)
    if section not in model.model_fields:
        return "there is no such section", did_you_mean(section, model.model_fields, _variable)
    if section in LISTS:
        return _problem_of_list(section, keys, value)
    for number, key in enumerate(keys, 1):
        inner, info = find_field(model, location[: number + 1])
        if info is None:
            above = "__".join((section, *keys[: number - 1]))
            return "there is no such key", did_you_mean(key, inner.model_fields, partial(_variable, above))
        if not holds_keys(info):
            return None if number == len(keys) else ("names no key", f"write {_variable(section)}")
    return "names no key", f"write {_variable('__'.join((section, *keys)))}"


def _variable(section: str, key: str = "<KEY>") -> str:
    return f"{PREFIX}{section.upper()}" if section in LISTS else f"{PREFIX}{section.upper()}__{key.upper()}"


def _problem_of_list(section: str, keys: list[str], value: str) -> tuple[str, str] | None:
    remedy = f"write the whole list as JSON into {_variable(section)}"
    if keys:
        return "one key of a list cannot be set", remedy
    try:
        well = isinstance(json.loads(value), list)
    except (ValueError, RecursionError):
        well = False
    return None if well else ("is not a JSON list", f'{remedy}, like [{{"matrix_room": "#help:example.org", …}}]')


def _overlay(document: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(document)
    for section, given in environment.items():
        below = values.get(section)
        values[section] = _overlay(below, given) if isinstance(below, dict) and isinstance(given, dict) else given
    return values


def _pair_names(values: Mapping[str, Any]) -> list[str]:
    pairs = values.get("pairs")
    tables = pairs if isinstance(pairs, list) else []
    names = (pair.get("name") or pair.get("matrix_room") if isinstance(pair, dict) else None for pair in tables)
    return [shown(name) if isinstance(name, str) else "" for name in names]


def _open_secret(source: Source, environment: Mapping[str, Any], section: str, key: str, folder: Path) -> None:
    """Put the content of `<key>_file` in the place of `key`; what the environment says of either wins."""
    table, name = source.values.get(section), f"{key}_file"
    if not isinstance(table, dict) or not isinstance(table.get(name), str):
        return
    outside = environment.get(section, {})
    if key in table:
        if (key in outside) == (name in outside):
            remedy = f"keep one of {key} and {name}"
            source.mistakes.append(Mistake(source.origin.where((section, name)), f"{key} is set too", remedy))
            return
        if key in outside:
            return
    table = source.values[section] = dict(table)
    try:
        with (folder / table[name]).open(encoding="utf-8") as stream:
            text = stream.read(_SECRET_LIMIT).strip()
        problem = None if text else "the file is empty"
    except (OSError, UnicodeDecodeError, ValueError) as error:
        text, problem = "", f"the file cannot be read: {getattr(error, 'strerror', None) or 'not a text file'}"
    if problem:
        remedy = f"let it name a file that holds nothing but the {key} and that the relay's user may read"
        source.mistakes.append(Mistake(source.origin.where((section, name)), problem, remedy))
    # Where there is none, something stands in for it: that it is missing too would be the same mistake twice.
    table[key] = text or "-"
