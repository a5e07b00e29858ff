"""What the parts of the control interface share."""

import base64
from dataclasses import dataclass, field

from relay.sandbox.control.journal import Journal
from relay.sandbox.gateway.server import Gateway
from relay.sandbox.interactions.interactions import Interactions
from relay.sandbox.messages.drafts import Draft, NewFile, Upload, read_draft, safe_filename
from relay.sandbox.messages.messages import Messages
from relay.sandbox.messages.reactions import Reactions
from relay.sandbox.messages.render import message as render_message
from relay.sandbox.messages.threads import Threads
from relay.sandbox.rate_limits import Limits
from relay.sandbox.rest.api import Api
from relay.sandbox.rest.avatars import avatar_view
from relay.sandbox.rest.webhooks import Webhooks
from relay.sandbox.world.files import FileStore
from relay.sandbox.world.models import Attachment, Channel, Guild, Json, Message, StoredFile, User
from relay.sandbox.world.state import State

Id = int | str


@dataclass(slots=True)
class Parts:
    """The server's parts."""

    state: State
    files: FileStore
    api: Api
    messages: Messages
    reactions: Reactions
    threads: Threads
    webhooks: Webhooks
    interactions: Interactions
    gateway: Gateway
    journal: Journal
    limits: Limits
    uploads: dict[str, StoredFile] = field(default_factory=dict)


class ControlBase:
    """Look-ups and files."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._state = parts.state

    def _guild(self, guild: Id) -> Guild:
        return self._state.guild(int(guild))

    def _channel(self, channel: Id) -> Channel:
        return self._state.channel(int(channel))

    def _user(self, user: Id) -> User:
        return self._state.user(int(user))

    def _message(self, channel: Id, message: Id) -> tuple[Channel, Message]:
        where = self._channel(channel)
        return where, self._state.message(where, int(message))

    def _view(self, message: Message) -> Json:
        """A message as one sees it who may see all, who was notified by it, and which picture a webhook's has.

        `webhook_avatar` is what Discord got at `webhook_avatar_url`: `error` says why it is no picture.
        """
        pinged = message.pinged
        fetched = self._state.fetched_avatars.get(message.webhook_avatar_url or "")
        return render_message(self._state, message) | {
            "webhook_avatar_url": message.webhook_avatar_url,
            "webhook_avatar": avatar_view(fetched) if fetched is not None else None,
            "pinged": {
                "everyone": pinged.everyone,
                "users": [str(user_id) for user_id in pinged.users],
                "roles": [str(role_id) for role_id in pinged.roles],
            },
        }

    def _file(self, given: Json) -> StoredFile:
        """Bytes given as base64 `data`, as an `upload`, or as that many `zeros`."""
        if "upload" in given:
            return self._parts.uploads.pop(str(given["upload"]))
        if "zeros" in given:
            return self._parts.files.put_zeros(int(given["zeros"]))
        return self._parts.files.put(base64.b64decode(given["data"]))

    def _draft(self, body: Json, attachments: list[Json]) -> Draft:
        """A draft as a client would send it, with files."""
        draft = read_draft(body, {})
        for given in attachments:
            filename, title = safe_filename(given["filename"])
            draft.files.append(
                NewFile(
                    Upload(filename, given.get("content_type"), self._file(given)),
                    filename,
                    given.get("title", title),
                    given.get("description"),
                    given.get("duration_secs"),
                    given.get("waveform"),
                    bool(given.get("spoiler")),
                )
            )
        return draft

    def correct(self, attachments: list[Attachment], given: list[Json]) -> None:
        """What Discord measures and the sandbox cannot: the size of a video, say."""
        for attachment, wanted in zip(attachments, given, strict=False):
            for name in ("width", "height", "duration_secs", "content_type"):
                if name in wanted:
                    setattr(attachment, name, wanted[name])
