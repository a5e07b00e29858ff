"""`relay.toml` and the environment as frozen settings. Nothing else in the relay reads either.

Each key of the file is also an environment variable, `RELAY_<SECTION>__<KEY>`, which wins over the file; lists
(`RELAY_PAIRS`, `RELAY_ROOMS`) are JSON there. Relative paths count from the directory of the file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from relay.config.mistakes import Location, explain
from relay.config.sources import CONFIG_VARIABLE, DEFAULT_FILE, LISTS, Source, gather
from relay.config.values import (
    HostNames,
    KeptFor,
    ListenAddress,
    Name,
    Number,
    Password,
    Room,
    Seconds,
    Snowflake,
    StoreUrl,
    SystemMessages,
    Token,
    Url,
    UserId,
)
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import SYSTEM_MESSAGES, Pair, PairPolicy, ThreadPolicy
from relay.errors import ConfigurationError, Mistake


class Section(BaseModel):
    """A table of the file: frozen, nothing in it that is not a key, and no value in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DiscordSettings(Section):
    """`[discord]`. `token` is there even where the file names `token_file`."""

    token: Token = Field(examples=['"…"'])
    token_file: Path | None = Field(default=None, examples=['"/run/secrets/discord_token"'])
    api_url: Url = Field(default="https://discord.com/api/v10", examples=['"https://discord.com/api/v10"'])


class MatrixSettings(Section):
    """`[matrix]`. At least one of `access_token` and `password` is there; the token is used where both are."""

    homeserver_url: Url = Field(examples=['"https://matrix.example.org"'])
    user_id: UserId = Field(examples=['"@relay:example.org"'])
    access_token: Token | None = Field(default=None, examples=['"syt_…"'])
    access_token_file: Path | None = Field(default=None, examples=['"/run/secrets/matrix_access_token"'])
    password: Password | None = Field(default=None, examples=['"…"'])
    password_file: Path | None = Field(default=None, examples=['"/run/secrets/matrix_password"'])


class StoreSettings(Section):
    """`[store]`. `url` holds an absolute path once it is loaded; the others in seconds, None for ever."""

    url: StoreUrl = Field(default="sqlite:///relay.db", examples=['"sqlite:///relay.db"'])
    reconcile_window: Seconds = Field(default=48 * 3600.0, examples=['"48h"'])
    retention: KeptFor = Field(default=90 * 86400.0, examples=['"90d"'])
    dead_letter_retention: KeptFor = Field(default=30 * 86400.0, examples=['"30d"'])

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))


class WebSettings(Section):
    """`[web]`. `listen` is `host:port`, empty for off; `hosts` are names besides its own, with commas between them."""

    listen: ListenAddress = Field(default="127.0.0.1:9464", examples=['"127.0.0.1:9464"'])
    hosts: HostNames = Field(default="", examples=['"relay, status.example.org"'])


class LogSettings(Section):
    """`[log]`. `format` "auto" is readable on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", examples=['"info"'])
    format: Literal["auto", "console", "json"] = Field(default="auto", examples=['"auto"'])


class ModerationSettings(Section):
    """`moderation`: what moderators of one side do to what was written on the other."""

    deletions: bool = Field(default=False, examples=["false"])


class DefaultSettings(Section):
    """`[defaults]`: what holds for every pair that does not say otherwise. `batch_when_behind` in seconds."""

    direction: Literal["both", "to_matrix", "to_discord"] = Field(default="both", examples=['"both"'])
    purpose: str = Field(default="", examples=['"Help with the software"'])
    section: str = Field(default="", examples=['"Support rooms"'])
    nsfw: bool = Field(default=False, examples=["false"])
    archived: bool = Field(default=False, examples=["false"])
    thread_messages: ThreadPolicy = Field(default="drop", examples=['"drop"'])
    allow_broadcast: bool = Field(default=False, examples=["false"])
    max_parts: Number = Field(default=5, ge=1, le=50, examples=["5"])
    batch_when_behind: Seconds = Field(default=20.0, examples=['"20s"'])
    catchup_limit: Number = Field(default=5000, ge=0, examples=["5000"])
    system_messages: SystemMessages = Field(default="join, pin, boost, other", examples=['"join, pin, boost, other"'])
    moderation: ModerationSettings = Field(default=ModerationSettings(), examples=["{ deletions = false }"])


class PairSettings(DefaultSettings):
    """`[[pairs]]`, with `[defaults]` filled in once it is loaded."""

    name: Name | None = Field(default=None, examples=['"help"'])
    discord_channel: Snowflake = Field(examples=["1234567890123456789"])
    matrix_room: Room = Field(examples=['"#help:example.org"'])

    @property
    def label(self) -> str:
        """The pair's name everywhere: in logs, metrics and `relay status`."""
        return self.name or self.matrix_room

    def as_pair(self) -> Pair:
        """The pair as the core knows it; an archived one leads nowhere."""
        sides = (
            ChannelAddress(Platform.DISCORD, self.discord_channel),
            ChannelAddress(Platform.MATRIX, self.matrix_room),
        )
        ways = {"both": frozenset(Platform), "to_matrix": {Platform.MATRIX}, "to_discord": {Platform.DISCORD}}
        return Pair(
            name=self.label,
            sides=sides,
            destinations=frozenset() if self.archived else frozenset(ways[self.direction]),
            policy=PairPolicy(
                thread_messages=self.thread_messages,
                allow_broadcast=self.allow_broadcast,
                max_parts=self.max_parts,
                batch_when_behind=self.batch_when_behind,
                catchup_limit=self.catchup_limit,
                system_messages=frozenset(kind for kind in SYSTEM_MESSAGES if kind in self.system_messages.split(", ")),
                moderate_deletions=self.moderation.deletions,
            ),
        )


class RoomSettings(Section):
    """`[[rooms]]`: listed in the directory, never bridged."""

    matrix_room: Room = Field(examples=['"#general:example.org"'])
    purpose: str = Field(default="", examples=['"Discussions outside of Discord"'])
    section: str = Field(default="", examples=['"Matrix rooms"'])


class Settings(BaseSettings):
    """Everything that the operator decided."""

    model_config = SettingsConfigDict(
        env_prefix="RELAY_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    discord: DiscordSettings
    matrix: MatrixSettings
    store: StoreSettings
    web: WebSettings
    log: LogSettings
    defaults: DefaultSettings
    pairs: tuple[PairSettings, ...] = ()
    rooms: tuple[RoomSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **__: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: the process's own environment is not looked at behind its back."""
        return (init_settings,)

    def declared_pairs(self) -> tuple[Pair, ...]:
        """The pairs as the core knows them, in the order of the file, archived ones included."""
        return tuple(pair.as_pair() for pair in self.pairs)

    def secrets(self) -> frozenset[str]:
        """What must never be printed."""
        values = (self.discord.token, self.matrix.access_token, self.matrix.password)
        return frozenset(value.get_secret_value() for value in values if value is not None)


def locate(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that counts: `path`, else what `RELAY_CONFIG` names, else `./relay.toml`."""
    return path or Path(environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file (see `locate`) and of the environment.

    Raises `ConfigurationError` with everything that is wrong. No value of the operator's is in it.
    """
    source = gather(locate(path, environ), environ, Settings)
    settings, mistakes = _validate(source)
    found = [*source.mistakes, *mistakes, *_contradictions(source)]
    if settings is None or found:
        # Raised here and not where pydantic's error is at hand: that one holds the values.
        raise ConfigurationError(tuple(dict.fromkeys(found)))
    return settings


def _validate(source: Source) -> tuple[Settings | None, list[Mistake]]:
    if source.broken:
        return None, []
    # An empty table for each section that is not there: what is missing from it is then said by name. Keys that begin
    # with an underscore would be arguments of pydantic-settings' own.
    tables = {name: {} for name in Settings.model_fields if name not in LISTS} | source.values
    odd = [name for name in tables if name.startswith("_")]
    mistakes = [Mistake(source.origin.where((name,)), "there is no such section", "remove it") for name in odd]
    try:
        settings = Settings(**{name: table for name, table in tables.items() if name not in odd})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return None, [*mistakes, *(explain(detail, Settings, source.origin) for detail in details)]
    common = settings.defaults.model_dump(exclude_unset=True)
    pairs = tuple(PairSettings(**_merged(common, pair.model_dump(exclude_unset=True))) for pair in settings.pairs)
    store = settings.store.model_copy(update={"url": _anchored(settings.store.url, source.folder)})
    return settings.model_copy(update={"pairs": pairs, "store": store}), mistakes


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A pair's own settings over those of `[defaults]`, key by key also within a table."""
    within = {key: {**common[key], **own[key]} for key in common.keys() & own.keys() if isinstance(own[key], dict)}
    return {**common, **own, **within}


def _anchored(url: str, folder: Path) -> str:
    scheme = "sqlite:///"
    return f"{scheme}{(folder / url.removeprefix(scheme)).resolve()}"


def _contradictions(source: Source) -> Iterator[Mistake]:
    """What is wrong between keys. Looks at the values unchecked, so that this is said along with all the rest."""
    values, origin = source.values, source.origin
    matrix = values.get("matrix", {})
    if not source.broken and isinstance(matrix, dict) and not {"access_token", "password"} & matrix.keys():
        remedy = 'write access_token = "…" or password = "…" (or access_token_file, password_file)'
        yield Mistake(
            origin.where(("matrix", "access_token")), "there is neither an access token nor a password", remedy
        )
    for sections, key, remedy in (
        (("pairs",), "discord_channel", "a channel can be in one pair only: remove one of the two"),
        (LISTS, "matrix_room", "a room can be listed once only: remove one of the two"),
        (("pairs",), "name", "give each pair a name of its own (a room's alias is the name of a pair without one)"),
    ):
        seen: dict[str, Location] = {}
        for location, value in _column(values, sections, key):
            first = seen.setdefault(value, location)
            if first[:2] != location[:2] and (key != "name" or key in (first[2], location[2])):
                line = f" (line {number})" if (number := origin.line(first)) else ""
                yield Mistake(origin.where(location), f"stands in {origin.label(first[:2])}{line} too", remedy)


def _column(values: Mapping[str, Any], sections: tuple[str, ...], key: str) -> Iterator[tuple[Location, str]]:
    """All values of a key in lists of tables, as text."""
    for section in sections:
        tables = values.get(section)
        for number, table in enumerate(tables if isinstance(tables, list | tuple) else ()):
            used = "matrix_room" if key == "name" and isinstance(table, dict) and not table.get(key) else key
            if isinstance(table, dict) and isinstance(value := table.get(used), str | int):
                yield (section, number, used), str(value).strip()
