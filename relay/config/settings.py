"""Everything that the operator can set, as frozen values. `loading` makes them from the file and the environment.

pydantic-settings checks them by these annotations. Nothing here imports it: the daemon has the values, and does without
the 10 MiB that checking them takes (`child`).

An adapter is given its own section (`DiscordSettings`, `MatrixSettings`) as one value. `deploy/relay.example.toml` says
the same to the operator.
"""

import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from relay.config.store_url import names_postgresql, passwords_of, without_password
from relay.config.values import (
    AccountList,
    Count,
    DirectoryAccess,
    DiscordUser,
    GhostPrefix,
    HomeserverUrl,
    HostNames,
    KeptFor,
    ListenAddress,
    Name,
    NameTemplate,
    OptionalRoom,
    PartLimit,
    Password,
    PublicUrl,
    RegistrationId,
    Room,
    RoomList,
    Seconds,
    Snowflake,
    StoreUrl,
    SystemMessages,
    Token,
    Url,
    UserId,
    WebToken,
)
from relay.domain.ids import ChannelAddress, Platform, UserRef
from relay.domain.pair import BARE_NAME, SYSTEM_MESSAGES, Pair, PairPolicy, ThreadPolicy

_LONGEST_VALUE = 60
DISCORD_API = "https://discord.com/api/v10"
DEFAULT_PREFIX = "_discord_"
"""Of the names of ghosts."""


def example(written: str) -> Mapping[str, str]:
    """How a value may be written, for the messages about mistakes."""
    return {"example": written}


class Section:
    """A table of the file."""

    __slots__ = ()
    __pydantic_config__: ClassVar = {"extra": "forbid"}


def may_be_there(path: Path) -> bool:
    """Whether there is such a file, or a directory on the way may not be entered: whoever opens it is told which."""
    try:
        path.stat()  # `Path.exists` says no to that since 3.14
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def keys_of(table: type[Any]) -> dict[str, Field[Any]]:
    """The keys of a table, or the sections of the file."""
    return {one.name: one for one in fields(table) if one.compare}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscordSettings(Section):
    """`[discord]`: how to reach Discord."""

    # The bot's token. Always set: it is read from `token_file` if that is given instead.
    token: Token = field(metadata=example('"…"'))
    token_file: Path | None = field(default=None, metadata=example('"/run/secrets/discord_token"'))
    # Ask Discord to tell who leaves a server, so that their ghosts leave, too. It needs the Server Members Intent.
    members_intent: bool = field(default=False, metadata=example("false"))
    # The REST API. The gateway's address is asked for there.
    api_url: Url = field(default=DISCORD_API, metadata=example('"https://discord.com/api/v10"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class AppserviceSettings(Section):
    """`[matrix.appservice]`: ghosts, accounts of their own on the homeserver for the people of Discord.

    `relay registration` makes the file of it that the homeserver has to have.
    """

    # The token of the registration. Always set: it is read from `as_token_file` if that is given instead.
    as_token: Token = field(metadata=example('"…"'))
    as_token_file: Path | None = field(default=None, metadata=example('"/run/secrets/matrix_as_token"'))
    # The registration's name on the homeserver. Two relays on one homeserver need two.
    id: RegistrationId = field(default="relay", metadata=example('"relay"'))
    # What the names of its ghosts begin with: `@_discord_<ID>:server`. Two relays on one homeserver need two.
    prefix: GhostPrefix = field(default=DEFAULT_PREFIX, metadata=example('"_discord_"'))
    # Whether a ghost joins a room when it first has something to say there, or all who may read the channel have one
    # there. That needs the Server Members Intent.
    ghost_membership: Literal["on_speak", "all"] = field(default="on_speak", metadata=example('"on_speak"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSettings(Section):
    """`[matrix]`: how to reach the homeserver. At least one of `access_token` and `password` is set."""

    homeserver_url: HomeserverUrl = field(metadata=example('"https://matrix.example.org"'))
    # The relay's own account, in full.
    user_id: UserId = field(metadata=example('"@relay:example.org"'))
    # Used rather than the password if both are set. Read from its file if that is given instead.
    access_token: Token | None = field(default=None, metadata=example('"syt_…"'))
    access_token_file: Path | None = field(default=None, metadata=example('"/run/secrets/matrix_access_token"'))
    # The relay logs in with it once, and keeps the token that it gets in its store.
    password: Password | None = field(default=None, metadata=example('"…"'))
    password_file: Path | None = field(default=None, metadata=example('"/run/secrets/matrix_password"'))
    # None: the relay's own account says everything.
    appservice: AppserviceSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings(Section):
    """`[store]`: the database, and how long things stay in it. Lengths of time are in seconds; None is for ever."""

    # `sqlite:///` and a path, which is absolute after loading; or `postgresql://` as libpq reads it. It may have a
    # password in it: it is read from `url_file` if that is given instead.
    url: StoreUrl = field(default="sqlite:///relay.db", metadata=example('"sqlite:///relay.db"'))
    url_file: Path | None = field(default=None, metadata=example('"/run/secrets/store_url"'))
    # After an absence, Discord's messages up to this age are read again, to find edits and deletions that were missed.
    reconcile_window: Seconds = field(default=48 * 3600.0, metadata=example('"48h"'))
    # How long the message map keeps a message, counted from its last edit or answer.
    retention: KeptFor = field(default=90 * 86400.0, metadata=example('"90d"'))
    # How long dead letters are kept, and the backlog of a pair that is no longer declared.
    dead_letter_retention: KeptFor = field(default=30 * 86400.0, metadata=example('"30d"'))

    @property
    def path(self) -> Path | None:
        """The SQLite file; None on PostgreSQL."""
        return None if names_postgresql(self.url) else Path(self.url.removeprefix("sqlite:///"))

    @property
    def name(self) -> str:
        """For people: the file, or the URL without its password."""
        return str(self.path or without_password(self.url))

    @property
    def is_missing(self) -> bool:
        """Whether there is no store yet, as far as this can be seen without asking a server."""
        return self.path is not None and not may_be_there(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings(Section):
    """`[web]`: the status page, the metrics, the health checks, and files for those who have a link."""

    # `host:port`, or "" for no web server.
    listen: ListenAddress = field(default="127.0.0.1:9464", metadata=example('"127.0.0.1:9464"'))
    # What a browser signs in with, and programs send as `Authorization: Bearer`. Without one, everybody who reaches the
    # page may see it and nobody may act on it, so that only this machine may reach it. Read from `token_file` if given.
    token: WebToken | None = field(default=None, metadata=example('"…"'))
    token_file: Path | None = field(default=None, metadata=example('"/run/secrets/web_token"'))
    # Host names that requests may be for, besides localhost and the one in `listen`. Text with commas in the file.
    hosts: HostNames = field(default=(), metadata=example('"relay, status.example.org"'))
    # Where the world reaches `/media/` of this server, "" for nowhere. Files that cannot cross get links there.
    public_url: PublicUrl = field(default="", metadata=example('"https://relay.example.org"'))
    # The pictures of people of Matrix, too, are shown on Discord from there, not as emoji of the bot's application.
    avatars: bool = field(default=False, metadata=example("true"))
    # How long a link to a file works, in seconds; None is for ever.
    link_lifetime: KeptFor = field(default=90 * 86400.0, metadata=example('"90d"'))
    # Who may read the directory of rooms at `/directory`: nobody ("off"), those who may see the status page ("local",
    # or true in the file), or everybody who reaches `public_url`, too ("public").
    directory: DirectoryAccess = field(default="local", metadata=example('"public"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySettings(Section):
    """`[directory]`: what the directory of rooms says around the rooms."""

    # The heading of the page.
    title: Name = field(default="Rooms", metadata=example('"Rooms of the Example community"'))
    # What the community is, for newcomers.
    description: str = field(default="", metadata=example('"We make things together."'))
    # The link that lets newcomers into the Discord server.
    discord_invite: PublicUrl = field(default="", metadata=example('"https://discord.gg/abc"'))
    # The space that the rooms are in: an alias or an ID. "" for none.
    matrix_space: OptionalRoom = field(default="", metadata=example('"#community:example.org"'))
    # Other aliases of the space. Text with commas in the file.
    matrix_space_alternatives: RoomList = field(default=(), metadata=example('"#community:example.net"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorsSettings(Section):
    """`[operators]`: where the relay says what is wrong, once, and once more when it is over. No pair is needed."""

    # A room alias, or a room ID; a room without encryption.
    matrix_room: Room | None = field(default=None, metadata=example('"#relay-operators:example.org"'))
    # The ID of a channel.
    discord_channel: Snowflake | None = field(default=None, metadata=example("1234567890123456789"))

    def places(self) -> tuple[ChannelAddress, ...]:
        """Both as the core knows them."""
        written = ((Platform.DISCORD, self.discord_channel), (Platform.MATRIX, self.matrix_room))
        return tuple(ChannelAddress(platform, value) for platform, value in written if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings(Section):
    """`[log]`: how much is logged, and in which form."""

    # What is less important than this is not logged.
    level: Literal["debug", "info", "warning", "error"] = field(default="info", metadata=example('"info"'))
    # "console" is for people, "json" for programs; "auto" is readable on a terminal and JSON elsewhere.
    format: Literal["auto", "console", "json"] = field(default="auto", metadata=example('"auto"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationSettings(Section):
    """`moderation`: what is kept from crossing, and what moderators of one side may do to messages of the other."""

    # A moderator who removes a copy removes its original too, if the bot may do that there.
    deletions: bool = field(default=False, metadata=example("false"))
    # Whoever moderators ban on one side does not cross, nor do the accounts that are linked with theirs.
    bans: bool = field(default=False, metadata=example("true"))
    # What they wrote in so many seconds before is removed from the other side, too. 0: nothing.
    ban_removes: Seconds = field(default=0.0, metadata=example('"24h"'))
    # Accounts whose messages do not cross. Text with commas in the file.
    blocked: AccountList = field(default=(), metadata=example('"123456789012345678, @spam*:example.org"'))
    # Rooms of Matrix in which moderators keep rules about accounts: who is on one does not cross. Text with commas.
    policy_lists: RoomList = field(default=(), metadata=example('"#bans:example.org"'))
    # A pair of which one side is for adults and the other is not: nothing crosses, or words do, without files.
    nsfw_mismatch: Literal["refuse", "mirror"] = field(default="refuse", metadata=example('"refuse"'))


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultSettings(Section):
    """`[defaults]`: the values for every pair that does not set its own."""

    # Which way messages cross.
    direction: Literal["both", "to_matrix", "to_discord"] = field(default="both", metadata=example('"both"'))
    # For the directory of rooms: what the room is for, and the heading that it is listed under.
    purpose: str = field(default="", metadata=example('"Help with the software"'))
    section: str = field(default="", metadata=example('"Support rooms"'))
    # The room is for adults. Matrix has no mark for that, Discord does; the directory shows either.
    nsfw: bool = field(default=False, metadata=example("false"))
    # The pair is listed in the directory, and nothing is mirrored.
    archived: bool = field(default=False, metadata=example("false"))
    # Nothing crosses for now (`relay pairs pause`). What waits is kept.
    paused: bool = field(default=False, metadata=example("false"))
    # Whether the directory may show the pair at all.
    listed: bool = field(default=True, metadata=example("true"))
    # Whether messages inside threads are dropped, or cross as replies to the first message of the thread.
    thread_messages: ThreadPolicy = field(default="drop", metadata=example('"drop"'))
    # @everyone, @here and @room notify everybody on the other side too, if their author may do that on this side.
    allow_broadcast: bool = field(default=False, metadata=example("false"))
    # A text that is too long is split into at most so many messages. A longer one crosses as a file.
    max_parts: PartLimit = field(default=5, metadata=example("5"))
    # Seconds. If a rate limit delays messages by more than this, several of them cross as one. 0: never.
    batch_when_behind: Seconds = field(default=20.0, metadata=example('"20s"'))
    # After an absence, at most so many missed messages of a channel cross. If there are more, a notice counts them.
    catchup_limit: Count = field(default=5000, metadata=example("5000"))
    # Which of Discord's own messages about people cross. Text with commas in the file.
    system_messages: SystemMessages = field(default=SYSTEM_MESSAGES, metadata=example('"join, pin, boost, other"'))
    # The other side is told, at most every five minutes, that somebody writes who has opted out.
    show_opted_out: bool = field(default=False, metadata=example("false"))
    # How people of the Matrix side are named on Discord: `{name}`, and `{handle}`, the user name, if wanted.
    name_template: NameTemplate = field(default=BARE_NAME, metadata=example('"{name} (Matrix)"'))
    moderation: ModerationSettings = field(default=ModerationSettings(), metadata=example("{ deletions = false }"))
    # With `[matrix.appservice]`: people of Discord have accounts of their own in the room.
    ghosts: bool = field(default=True, metadata=example("true"))


_NOWHERE: frozenset[Platform] = frozenset()
_WAYS: Mapping[str, frozenset[Platform]] = {
    "both": frozenset(Platform),
    "to_matrix": frozenset({Platform.MATRIX}),
    "to_discord": frozenset({Platform.DISCORD}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings(DefaultSettings):
    """`[[pairs]]`. After loading, it includes the values of `[defaults]`."""

    # Its name in logs, metrics and `relay status`. None: the room's alias or ID is used.
    name: Name | None = field(default=None, metadata=example('"help"'))
    # The ID of a channel, a thread, or a post in a forum.
    discord_channel: Snowflake = field(metadata=example("1234567890123456789"))
    # A room alias, or a room ID.
    matrix_room: Room = field(metadata=example('"#help:example.org"'))
    # The line of the file in which it begins; 0 if it is not in the file. The directory keeps this order.
    line: int = field(default=0, init=False, repr=False, compare=False)

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
        return Pair(
            name=self.label,
            sides=sides,
            destinations=_NOWHERE if self.archived else _WAYS[self.direction],
            policy=PairPolicy(
                thread_messages=self.thread_messages,
                allow_broadcast=self.allow_broadcast,
                max_parts=self.max_parts,
                batch_when_behind=self.batch_when_behind,
                catchup_limit=self.catchup_limit,
                system_messages=frozenset(self.system_messages),
                moderate_deletions=self.moderation.deletions,
                follow_bans=self.moderation.bans,
                ban_removes=self.moderation.ban_removes,
                blocked=tuple(
                    (Platform.MATRIX if one.startswith("@") else Platform.DISCORD, one)
                    for one in self.moderation.blocked
                ),
                policy_lists=tuple(ChannelAddress(Platform.MATRIX, room) for room in self.moderation.policy_lists),
                nsfw=self.nsfw,
                nsfw_may_differ=self.moderation.nsfw_mismatch == "mirror",
                show_opted_out=self.show_opted_out,
                ghosts=self.ghosts,
                name_templates=() if self.name_template == BARE_NAME else ((Platform.DISCORD, self.name_template),),
            ),
            paused=self.paused,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSettings(Section):
    """`[[rooms]]`: listed in the directory, never bridged."""

    # What the directory calls it. None: what the room is called.
    name: Name | None = field(default=None, metadata=example('"General"'))
    # A room alias, or a room ID.
    matrix_room: Room = field(metadata=example('"#general:example.org"'))
    # As in `DefaultSettings`.
    purpose: str = field(default="", metadata=example('"Discussions outside of Discord"'))
    section: str = field(default="", metadata=example('"Matrix rooms"'))
    nsfw: bool = field(default=False, metadata=example("false"))
    # Nobody writes there any more.
    archived: bool = field(default=False, metadata=example("false"))
    # As in `PairSettings`.
    line: int = field(default=0, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonSettings(Section):
    """`[[people]]`: two accounts of one person, who need no code then."""

    # The ID of a user.
    discord: DiscordUser = field(metadata=example("1234567890123456789"))
    # A user ID, in full.
    matrix: UserId = field(metadata=example('"@ada:example.org"'))

    def as_link(self) -> tuple[UserRef, UserRef]:
        """The two accounts as the core knows them."""
        return UserRef(Platform.DISCORD, self.discord), UserRef(Platform.MATRIX, self.matrix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration: one field for each section."""

    discord: DiscordSettings
    matrix: MatrixSettings
    store: StoreSettings
    web: WebSettings
    operators: OperatorsSettings
    log: LogSettings
    directory: DirectorySettings
    defaults: DefaultSettings
    pairs: tuple[PairSettings, ...] = ()
    rooms: tuple[RoomSettings, ...] = ()
    people: tuple[PersonSettings, ...] = ()
    # The environment variables that go before something else in the file: each, and where that is.
    overridden: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    def secret_files(self) -> tuple[Path, ...]:
        """The files that hold secrets. Relative paths count from the folder of the configuration."""
        matrix, appservice = self.matrix, self.matrix.appservice
        named = (self.discord.token_file, matrix.access_token_file, matrix.password_file, self.store.url_file)
        others = (self.web.token_file, None if appservice is None else appservice.as_token_file)
        return tuple(file for file in (*named, *others) if file is not None)

    def declared_pairs(self) -> tuple[Pair, ...]:
        """The pairs as the core knows them, in the order of the file, archived ones included."""
        # Nearly all have the same policy: one of them is enough.
        pairs, policies = [pair.as_pair() for pair in self.pairs], dict[PairPolicy, PairPolicy]()
        return tuple(replace(pair, policy=policies.setdefault(pair.policy, pair.policy)) for pair in pairs)

    def listed_rooms(self) -> tuple[PairSettings | RoomSettings, ...]:
        """What the directory of rooms may list, in the order of the file; what the file does not have comes last."""
        rooms: list[PairSettings | RoomSettings] = [*(pair for pair in self.pairs if pair.listed), *self.rooms]
        return tuple(sorted(rooms, key=lambda room: room.line or sys.maxsize))

    def declared_links(self) -> tuple[tuple[UserRef, UserRef], ...]:
        """Whose accounts are linked, as the core knows them."""
        return tuple(person.as_link() for person in self.people)

    def secrets(self) -> frozenset[str]:
        """The values that must never be printed."""
        appservice = self.matrix.appservice
        as_token = None if appservice is None else appservice.as_token
        values = (self.discord.token, self.matrix.access_token, self.matrix.password, as_token, self.web.token)
        found = frozenset(value.get_secret_value() for value in values if value is not None)
        return found.union(passwords_of(self.store.url))


def differing_keys(one: object, other: object, section: str = "") -> str:
    """The keys that two configurations disagree about, as the file calls them: "[web] listen, [log] level"."""
    found = []
    for name in keys_of(type(one)):
        before, after = getattr(one, name), getattr(other, name)
        if before == after:
            continue
        if isinstance(before, Section) and isinstance(after, Section):
            found.append(differing_keys(before, after, f"{section}.{name}".removeprefix(".")))
        else:
            found.append(f"[{section}] {name}" if section else f"[{name}]")
    return ", ".join(found)


def changed_values(one: Section, other: Section, section: str = "") -> Mapping[str, tuple[str, str]]:
    """What differs between two tables without secrets: by its key in the file, how it was and how it is."""
    found: dict[str, tuple[str, str]] = {}
    for name in keys_of(type(one)):
        before, after = getattr(one, name), getattr(other, name)
        if isinstance(before, Section) and isinstance(after, Section):
            found |= changed_values(before, after, f"{section}{name}.")
        elif before != after:
            found[f"{section}{name}"] = (_written(before), _written(after))
    return found


def _written(value: object) -> str:
    """A value as people write it; all times are in seconds."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}s"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{text[:_LONGEST_VALUE]}…" if len(text) > _LONGEST_VALUE else text or '""'


CONFIG_VARIABLE = "RELAY_CONFIG"
HOST_VARIABLE = "RELAY_TENANTS_OF"
"""The file that names the tenants, where a command is about one of them (`--tenant`)."""

DEFAULT_FILE = Path("relay.toml")


def locate(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: `path`, else the one in `RELAY_CONFIG`, else `./relay.toml`."""
    return path or Path(environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


Stamp = tuple[int, int, int] | None
"""When a file and what is known about it were changed, and which one it was; None for one that is not there."""


def stamp(path: Path) -> Stamp:
    """A value that changes when somebody saves the file, or changes whose it is and who may read it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino
