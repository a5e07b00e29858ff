"""Reads `relay.toml`, the environment and the files that hold secrets, and checks them. Nothing else in the relay does.

Each key of the file is also an environment variable, `RELAY_<SECTION>__<KEY>`, which wins over the file; lists
(`RELAY_PAIRS`, `RELAY_ROOMS`, `RELAY_PEOPLE`) are JSON there. Relative paths count from the directory of the file.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from relay.config.mistakes import Location, Origin, explain, holds_keys, validated
from relay.config.settings import (
    DEFAULT_PREFIX,
    HOST_VARIABLE,
    MatrixSettings,
    PairSettings,
    RoomSettings,
    Settings,
    StoreSettings,
    keys_of,
    locate,
    may_be_there,
)
from relay.config.sources import LISTS, SECRETS, Source, checker_of, gather, read_file
from relay.config.store_url import names_postgresql
from relay.config.values import Secret
from relay.errors import ConfigurationError, Mistake

_Model = TypeVar("_Model")

_HEADER = re.compile(r"\s*\[+\s*([\w.-]+)")


def load(
    path: Path | None,
    environ: Mapping[str, str],
    text: str | None = None,
    options: Mapping[Location, str] = MappingProxyType({}),
) -> Settings:
    """The settings from the file (see `locate`) and the environment. `text`: what the file is to say, if not as it is.

    `options`: the command's options from which `text` has some of its values; a mistake in one names the option.
    Raises `ConfigurationError` with everything that is wrong. It contains no values, because they may be secrets.
    """
    if host := environ.get(HOST_VARIABLE):
        from relay.config.tenants import load_host

        without = {name: value for name, value in environ.items() if name != HOST_VARIABLE}
        if (found := load_host(Path(host), without)) is not None:
            return found.load(locate(path, environ).stem, text, options)
    source = gather(locate(path, environ), environ, Settings, text, options)
    if "tenants" in source.values:
        refuse_inline_tenants(source)
        names = ", ".join(sorted(file.stem for file in (source.folder / str(source.values["tenants"])).glob("*.toml")))
        where, remedy = source.origin.where(("tenants",)), f"name one with --tenant: {names or 'there is none yet'}"
        raise ConfigurationError.of(where, "this configuration has tenants", remedy)
    return checked(source)


def refuse_inline_tenants(source: Source) -> None:
    """Raise `ConfigurationError` for communities that are written into the file itself."""
    if isinstance(source.values["tenants"], list | dict):
        what = "a community has a file of its own"
        remedy = 'write tenants = "tenants.d" above all sections, and each community into a file tenants.d/NAME.toml'
        raise ConfigurationError.of(source.origin.where(("tenants", 0)), what, remedy)


def checked(source: Source) -> Settings:
    """The settings. Raises `ConfigurationError` with everything that is wrong."""
    settings, mistakes = _validate(source)
    found = [*source.mistakes, *mistakes, *_contradictions(source)]
    if settings is None or found:
        # Not raised inside the handler of pydantic's error, because that error contains the values.
        raise ConfigurationError(tuple(dict.fromkeys(found)))
    return settings


def store_settings(file: Path, environ: Mapping[str, str]) -> StoreSettings | None:
    """Which store a configuration with mistakes means, as far as that can be told; None if nothing in it can be read.

    For those who ask about the daemon while somebody is editing the file.
    """
    text, unread = read_file(file)
    source = gather(file, environ, Settings, text)
    table = source.values.get("store")
    url = table.get("url") if isinstance(table, dict) else None
    if url is None and unread:
        return None
    if url is None and source.broken:
        url = _store_url(text)
    try:
        store = validated(StoreSettings, {} if url is None else {"url": url})
    except ValidationError:
        return None
    return replace(store, url=anchored(store.url, source.folder))


def _store_url(text: str) -> str | None:
    """The URL in the section of the store, from a file that is no valid TOML elsewhere."""
    section = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            section = header[1]
        elif section == "store":
            with suppress(ValueError, RecursionError):
                url = tomllib.loads(line).get("url")
                if isinstance(url, str):
                    return url
    return None


def load_account(path: Path, environ: Mapping[str, str], given: Mapping[str, tuple[str, str]]) -> MatrixSettings:
    """`[matrix]` as far as somebody needs it who has no access token yet.

    `given`: values that go before the file, each with the name of its option.

    Raises `ConfigurationError`.
    """
    names = ("homeserver_url", "user_id", "password")
    options: dict[Location, str] = {("matrix", name): option for name, (option, _) in given.items()}
    text = None if may_be_there(path) or not {*names[:2]} <= given.keys() else ""
    source = gather(path, environ, Settings, text, options)
    if source.broken:
        raise ConfigurationError(tuple(source.mistakes))
    table = source.values.get("matrix")
    found = {**(table if isinstance(table, dict) else {}), **{name: value for name, (_, value) in given.items()}}
    try:
        return validated(MatrixSettings, {name: found[name] for name in names if name in found})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    for detail in details:
        detail["loc"] = ("matrix", *detail["loc"])
    raise ConfigurationError(tuple(explain(detail, Settings, source.origin) for detail in details))


def _validate(source: Source) -> tuple[Settings | None, list[Mistake]]:
    settings, mistakes = validate(source, Settings)
    if settings is None:
        return None, mistakes
    common = source.values.get("defaults", {})
    tables = source.values.get("pairs", ())
    pairs = _pairs_checker().validate_python([_merged(common, table) for table in tables])
    _mark_lines("pairs", pairs, source.origin)
    _mark_lines("rooms", settings.rooms, source.origin)
    _mark_sources(settings, source)
    store = replace(settings.store, url=anchored(settings.store.url, source.folder))
    return replace(settings, pairs=pairs, store=store, overridden=source.overridden), mistakes


@cache
def _pairs_checker() -> TypeAdapter[tuple[PairSettings, ...]]:
    return TypeAdapter(tuple[PairSettings, ...])


def validate(source: Source, model: type[_Model]) -> tuple[_Model | None, list[Mistake]]:
    """The values as a configuration of this kind; None if they cannot be one. What is wrong with them."""
    if source.broken:
        return None, []
    # A missing section becomes an empty table, so that its missing keys are named. Keys that begin with an underscore
    # would be taken for arguments of pydantic-settings.
    tables = {name: {} for name, one in keys_of(model).items() if holds_keys(one) and name not in LISTS} | source.values
    odd = [name for name in tables if name.startswith("_")]
    mistakes = [Mistake(source.origin.where((name,)), "there is no such section", "remove it") for name in odd]
    try:
        check = checker_of(model)  # type: ignore[arg-type]  # mypy takes no class for hashable
        found = check(**{name: table for name, table in tables.items() if name not in odd})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        new = [detail for detail in details if detail["loc"] not in source.unread]
        return None, [*mistakes, *(explain(detail, model, source.origin) for detail in new)]
    return model(**{name: getattr(found, name) for name in keys_of(model)}), mistakes


def _mark_lines(name: str, tables: Iterable[PairSettings | RoomSettings], origin: Origin) -> None:
    """Remember where each table of a list begins: TOML does not say which of [[pairs]] and [[rooms]] comes first."""
    if (name,) not in origin.variables:
        for number, table in enumerate(tables):
            object.__setattr__(table, "line", origin.line((name, number)))  # frozen for everybody else


def _mark_sources(settings: Settings, source: Source) -> None:
    """Remember where each secret was taken from, for who is told that it is refused."""
    for location in SECRETS:
        *tables, key = location
        table: Any = settings
        for name in tables:
            table = getattr(table, name, None)
        secret = getattr(table, key, None)
        if isinstance(secret, Secret):
            secret.source = source.origin.where(location)
            if location in source.origin.secrets:
                secret.source = f"the file {source.folder / getattr(table, f'{key}_file')}"


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A pair's own settings over those of `[defaults]`, key by key also within a table."""
    within = {key: {**common[key], **own[key]} for key in common.keys() & own.keys() if isinstance(own[key], dict)}
    return {**common, **own, **within}


def anchored(url: str, folder: Path) -> str:
    """The URL of a store, with the path of a file counted from this folder."""
    if names_postgresql(url):
        return url
    scheme = "sqlite:///"
    return f"{scheme}{(folder / url.removeprefix(scheme)).resolve()}"


def _contradictions(source: Source) -> Iterator[Mistake]:
    """Mistakes between several keys. They are found in the unchecked values, to be reported with all others."""
    values, origin = source.values, source.origin
    matrix = values.get("matrix", {})
    if not source.broken and isinstance(matrix, dict) and not {"access_token", "password"} & matrix.keys():
        remedy = 'write access_token = "…" or password = "…" (or access_token_file, password_file)'
        yield Mistake(
            origin.where(("matrix", "access_token")), "there is neither an access token nor a password", remedy
        )
    web = values.get("web", {})
    if isinstance(web, dict) and web.get("public_url") and web.get("listen") == "":
        remedy = 'write an address like listen = "127.0.0.1:9464", or remove public_url'
        yield Mistake(origin.where(("web", "public_url")), "nothing listens there: [web] listen is empty", remedy)
    if isinstance(web, dict) and web.get("directory") == "public" and not web.get("public_url"):
        remedy = 'write where the world reaches it, like public_url = "https://relay.example.org"; or "local"'
        yield Mistake(origin.where(("web", "directory")), "there is no public_url", remedy)
    if isinstance(web, dict) and _is_on(web.get("avatars")) and not web.get("public_url"):
        remedy = 'write the address that the world reaches, like public_url = "https://relay.example.org"'
        yield Mistake(origin.where(("web", "avatars")), "Discord reaches no picture: there is no public_url", remedy)
    if isinstance(web, dict) and not source.broken and "token" not in web and _is_wide(web.get("listen")):
        remedy = 'write token = "…" with a long random text, or listen on this machine only: listen = "127.0.0.1:9464"'
        yield Mistake(origin.where(("web", "listen")), "lets other machines in without a token", remedy)
    own = matrix.get("user_id") if isinstance(matrix, dict) else None
    for location, value in _column(values, ("people",), "matrix"):
        if value == own:
            yield Mistake(origin.where(location), "is the relay's own account", "write the account of a person")
    if isinstance(matrix, dict) and _is_ghost(matrix.get("user_id"), matrix.get("appservice")):
        remedy = "choose another prefix: the registration would claim the relay's own account"
        yield Mistake(origin.where(("matrix", "appservice", "prefix")), "[matrix] user_id begins with it", remedy)
    for sections, key, remedy in (
        (("pairs",), "discord_channel", "a channel can be in one pair only: remove one of the two"),
        (LISTS, "matrix_room", "a room can be listed once only: remove one of the two"),
        (("people",), "discord", "one account can be in one link only: remove one of the two"),
        (("people",), "matrix", "one account can be in one link only: remove one of the two"),
        (("pairs",), "name", "give each pair a name of its own (a room's alias is the name of a pair without one)"),
    ):
        seen: dict[str, Location] = {}
        for location, value in _column(values, sections, key):
            first = seen.setdefault(value, location)
            if first[:2] != location[:2] and (key != "name" or key in (first[2], location[2])):
                line = f" (line {number})" if (number := origin.line(first)) else ""
                yield Mistake(origin.where(location), f"is already in {origin.label(first[:2])}{line}", remedy)


def _is_on(value: object) -> bool:
    """Whether a switch is on, which the environment has as text."""
    return str(value).strip().lower() in {"true", "1", "yes", "on", "y", "t"}


def _is_wide(listen: object) -> bool:
    """Whether other machines can reach an address, as far as it is one."""
    host, _, port = listen.rpartition(":") if isinstance(listen, str) else ("", "", "")
    host = host.strip("[]").lower()
    if not host or not port.isdecimal() or "/" in host:
        return False
    try:
        return not ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")


def _is_ghost(user_id: object, appservice: object) -> bool:
    """Whether the relay's own account has a name that only ghosts may have."""
    prefix = appservice.get("prefix", DEFAULT_PREFIX) if isinstance(appservice, dict) else None
    return isinstance(user_id, str) and isinstance(prefix, str) and user_id.startswith(f"@{prefix}")


def _column(values: Mapping[str, Any], sections: tuple[str, ...], key: str) -> Iterator[tuple[Location, str]]:
    """All values of a key in the tables of these lists, as text."""
    for section in sections:
        tables = values.get(section)
        for number, table in enumerate(tables if isinstance(tables, list | tuple) else ()):
            used = "matrix_room" if key == "name" and isinstance(table, dict) and not table.get(key) else key
            if isinstance(table, dict) and isinstance(value := table.get(used), str | int):
                yield (section, number, used), str(value).strip()
