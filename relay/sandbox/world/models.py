"""What exists in the sandbox. Plain data; IDs are integers here and strings in the JSON (`render.py`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
DISCORD_EPOCH_MS = 1_420_070_400_000


@dataclass(slots=True)
class User:
    """A person or a bot."""

    id: int
    username: str
    global_name: str | None = None
    bot: bool = False
    avatar: str | None = None  # a hash, not a URL
    discriminator: str = "0"


@dataclass(slots=True)
class Application:
    """A bot's application."""

    id: int
    name: str
    user: User
    token: str
    # The switches of the developer portal.
    message_content: bool = True
    members: bool = True
    presences: bool = False
    emojis: "dict[int, Emoji]" = field(default_factory=dict)  # its own, which no guild has
    commands: "dict[int, Command]" = field(default_factory=dict)  # global ones and those of guilds


@dataclass(slots=True)
class Role:
    """A role; the one with its guild's ID is @everyone."""

    id: int
    name: str
    permissions: int
    mentionable: bool = False
    position: int = 1
    colour: int = 0
    managed_by: int | None = None


@dataclass(slots=True)
class Member:
    """A user in a guild."""

    user: User
    joined_at: float  # seconds since 1970
    nick: str | None = None
    roles: list[int] = field(default_factory=list)
    timed_out_until: float = 0.0  # seconds since 1970


@dataclass(slots=True)
class Overwrite:
    """What a role or a member may do in one channel, beyond or short of the guild's rules."""

    id: int
    type: int  # 0 a role, 1 a member
    allow: int = 0
    deny: int = 0


@dataclass(slots=True)
class Emoji:
    """An emoji of a guild or of an application."""

    id: int
    name: str
    animated: bool
    file: "StoredFile"
    uploader: User | None = None  # known of applications' emoji only


@dataclass(slots=True)
class Sticker:
    """A sticker of a guild."""

    id: int
    name: str
    format: int  # 1 PNG, 2 APNG, 3 Lottie, 4 GIF
    file: "StoredFile"
    description: str = ""
    tags: str = ""
    guild_id: int | None = None


@dataclass(slots=True)
class StoredFile:
    """Bytes on disk."""

    path: Path
    size: int


@dataclass(slots=True)
class Attachment:
    """A file of a message. Each time it is rendered, its URLs are signed again."""

    id: int
    channel_id: int
    filename: str
    file: StoredFile
    content_type: str | None
    title: str | None = None
    description: str | None = None
    width: int | None = None
    height: int | None = None
    duration_secs: float | None = None
    waveform: str | None = None
    flags: int = 0
    holders: int = 1  # how many messages show it


@dataclass(slots=True)
class FetchedAvatar:
    """What Discord got when it fetched the `avatar_url` of a webhook's message, without any credentials."""

    url: str
    fetches: int = 0  # how often it was tried: a picture that was got once is kept
    pending: bool = True
    error: str | None = None  # None: a picture
    status: int | None = None  # None: there was no answer
    content_type: str | None = None
    size: int | None = None
    width: int | None = None
    height: int | None = None
    animated: bool = False
    file: StoredFile | None = None


@dataclass(slots=True)
class Pinged:
    """Who was really notified."""

    everyone: bool = False
    users: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Reaction:
    """An emoji under a message and who put it there."""

    name: str
    emoji_id: int | None  # None: a Unicode emoji
    animated: bool = False
    users: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Message:
    """A message. Times are in seconds since 1970."""

    id: int
    channel_id: int
    author_id: int  # a user's or a webhook's
    content: str
    created_at: float
    type: int = 0
    flags: int = 0
    edited_at: float | None = None
    pinned_at: float | None = None
    tts: bool = False
    webhook_id: int | None = None
    webhook_author: Json | None = None  # the author object of a webhook's message
    webhook_avatar_url: str | None = None
    application_id: int | None = None
    nonce: str | int | None = None
    embeds: list[Json] = field(default_factory=list)
    components: list[Json] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    sticker_ids: list[int] = field(default_factory=list)
    reactions: list[Reaction] = field(default_factory=list)
    pinged: Pinged = field(default_factory=Pinged)
    reference: Json | None = None
    snapshots: list[Json] = field(default_factory=list)
    snapshot_attachments: list[Attachment] = field(default_factory=list)
    poll: Json | None = None
    poll_votes: dict[int, list[int]] = field(default_factory=dict)  # answer ID -> user IDs
    poll_over: bool = False
    extra: Json = field(default_factory=dict)  # replaces fields of the message object


@dataclass(slots=True)
class Thread:
    """What a channel has in addition when it is a thread."""

    owner_id: int
    archived: bool = False
    locked: bool = False
    auto_archive_duration: int = 4320
    archived_at: float = 0.0  # seconds since 1970
    members: list[int] = field(default_factory=list)
    total_sent: int = 0


@dataclass(slots=True)
class Channel:
    """A channel or a thread (types 10, 11, 12)."""

    id: int
    guild_id: int
    name: str
    type: int = 0
    parent_id: int | None = None  # the channel that a thread belongs to
    topic: str | None = None
    nsfw: bool = False
    position: int = 0
    slowmode: int = 0
    overwrites: dict[int, Overwrite] = field(default_factory=dict)
    messages: dict[int, Message] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # the IDs of `messages`, oldest first
    last_message_id: int | None = None
    last_pin_at: float | None = None
    thread: Thread | None = None


@dataclass(slots=True)
class Webhook:
    """An incoming webhook."""

    id: int
    channel_id: int
    guild_id: int
    name: str
    token: str
    creator_id: int
    application_id: int | None = None  # of the bot that made it; None: a person made it
    avatar: str | None = None


@dataclass(slots=True)
class Command:
    """A command of an application."""

    id: int
    application_id: int
    guild_id: int | None  # None: a global one
    version: int
    definition: Json  # as Discord keeps it


@dataclass(slots=True)
class Interaction:
    """A person used a command. Times are in seconds since 1970."""

    id: int
    application_id: int
    channel_id: int
    user_id: int
    token: str
    command: str  # its name, with those of its sub-commands
    data: Json
    created_at: float
    answered_at: float | None = None
    messages: list[Message] = field(default_factory=list)  # the answers, the original one first
    original_gone: bool = False


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What somebody did to a server: https://discord.com/developers/docs/resources/audit-log."""

    id: int
    action: int
    user_id: int
    target_id: int
    reason: str | None


@dataclass(slots=True)
class Guild:
    """A server."""

    id: int
    name: str
    owner_id: int
    boost_tier: int = 0  # 0 to 3: how large files may be
    nsfw: bool = False  # its owner says that all of it is for adults; what its channels say does not matter then
    available: bool = True
    roles: dict[int, Role] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    threads: dict[int, Channel] = field(default_factory=dict)
    emojis: dict[int, Emoji] = field(default_factory=dict)
    stickers: dict[int, Sticker] = field(default_factory=dict)
    # Who is banned, and why.
    bans: dict[int, str | None] = field(default_factory=dict)
    # The oldest first.
    audit_log: list[AuditEntry] = field(default_factory=list)


class Snowflakes:
    """Makes IDs that always rise, whatever the clock does. `clock` gives seconds since 1970.

    https://discord.com/developers/docs/reference#snowflakes
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        """A new ID, made now."""
        candidate = (int(self._clock() * 1000) - DISCORD_EPOCH_MS) << 22
        self._last = max(candidate, self._last + 1)
        return self._last


def timestamp_of(snowflake: int) -> float:
    """When the ID was made, in seconds since 1970."""
    return ((snowflake >> 22) + DISCORD_EPOCH_MS) / 1000


def at(seconds: float) -> int:
    """The lowest ID that can have been made at a time, in seconds since 1970."""
    return (int(seconds * 1000) - DISCORD_EPOCH_MS) << 22
