"""Everything that the operator can set, as frozen values. `loading` makes them from the file and the environment.

An adapter is given its own section (`DiscordSettings`, `MatrixSettings`) as one value.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

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


class Section(BaseModel):
    """A table of the file. It is frozen, refuses unknown keys, and shows no values in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DiscordSettings(Section):
    """`[discord]`. `token` is always set: if the file has `token_file`, it is read from there."""

    token: Token = Field(examples=['"…"'])
    token_file: Path | None = Field(default=None, examples=['"/run/secrets/discord_token"'])
    api_url: Url = Field(default="https://discord.com/api/v10", examples=['"https://discord.com/api/v10"'])


class MatrixSettings(Section):
    """`[matrix]`. At least one of `access_token` and `password` is set. If both are, the token is used."""

    homeserver_url: Url = Field(examples=['"https://matrix.example.org"'])
    user_id: UserId = Field(examples=['"@relay:example.org"'])
    access_token: Token | None = Field(default=None, examples=['"syt_…"'])
    access_token_file: Path | None = Field(default=None, examples=['"/run/secrets/matrix_access_token"'])
    password: Password | None = Field(default=None, examples=['"…"'])
    password_file: Path | None = Field(default=None, examples=['"/run/secrets/matrix_password"'])


class StoreSettings(Section):
    """`[store]`. After loading, the path in `url` is absolute, and the others are seconds, or None for ever."""

    url: StoreUrl = Field(default="sqlite:///relay.db", examples=['"sqlite:///relay.db"'])
    reconcile_window: Seconds = Field(default=48 * 3600.0, examples=['"48h"'])
    retention: KeptFor = Field(default=90 * 86400.0, examples=['"90d"'])
    dead_letter_retention: KeptFor = Field(default=30 * 86400.0, examples=['"30d"'])

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))


class WebSettings(Section):
    """`[web]`. `listen` is `host:port`, or empty for off. `hosts` are further host names, separated by commas."""

    listen: ListenAddress = Field(default="127.0.0.1:9464", examples=['"127.0.0.1:9464"'])
    hosts: HostNames = Field(default="", examples=['"relay, status.example.org"'])


class LogSettings(Section):
    """`[log]`. `format` "auto" is readable on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", examples=['"info"'])
    format: Literal["auto", "console", "json"] = Field(default="auto", examples=['"auto"'])


class ModerationSettings(Section):
    """`moderation`: what moderators of one side may do to messages of the other."""

    deletions: bool = Field(default=False, examples=["false"])


class DefaultSettings(Section):
    """`[defaults]`: the values for every pair that sets no own. `batch_when_behind` is in seconds."""

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
    """`[[pairs]]`. After loading, it includes the values of `[defaults]`."""

    name: Name | None = Field(default=None, examples=['"help"'])
    discord_channel: Snowflake = Field(examples=["1234567890123456789"])
    matrix_room: Room = Field(examples=['"#help:example.org"'])

    @property
    def label(self) -> str:
        """The pair's name everywhere: in logs, metrics and `relay status`."""
        return self.name or self.matrix_room

    def as_pair(self) -> Pair:
        """The pair as the core knows it. An archived one has no destinations."""
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
    """The whole configuration."""

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
        """Use only what `load` passes in. Pydantic must not read the environment by itself."""
        return (init_settings,)

    def declared_pairs(self) -> tuple[Pair, ...]:
        """The pairs as the core knows them, in the order of the file, archived ones included."""
        return tuple(pair.as_pair() for pair in self.pairs)

    def secrets(self) -> frozenset[str]:
        """The values that must never be printed."""
        values = (self.discord.token, self.matrix.access_token, self.matrix.password)
        return frozenset(value.get_secret_value() for value in values if value is not None)
