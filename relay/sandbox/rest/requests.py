"""One request of the REST API: who makes it, and its body, JSON or multipart.

https://discord.com/developers/docs/reference#uploading-files. Files go to disk as they arrive; none is held in memory.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import BodyPartReader, MultipartReader, web

from relay.sandbox import errors
from relay.sandbox.messages.drafts import Draft, Upload, read_draft
from relay.sandbox.messages.forms import path_snowflake
from relay.sandbox.world.files import FileStore
from relay.sandbox.world.models import Application, Channel, Guild, Json, User
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.state import State

MIB = 1024 * 1024
_FILE_LIMITS = (10 * MIB, 10 * MIB, 50 * MIB, 100 * MIB)
_REQUEST_LIMIT = 25 * MIB
_FILE_FIELD = re.compile(r"files\[(\d{1,3})\]")
_SIMPLE_FIELDS = frozenset({"content", "username", "avatar_url", "nonce"})


def file_limit(guild: Guild) -> int:
    """Bytes a file, by the guild's boosts: https://discord.com/developers/docs/reference#uploading-files."""
    return _FILE_LIMITS[guild.boost_tier]


@dataclass(slots=True)
class Call:
    """An authenticated request. `app` is None where only a webhook's token was given."""

    request: web.Request
    state: State
    files: FileStore
    app: Application | None
    _uploads: dict[int, Upload] = field(default_factory=dict)
    _body: Any = None
    kept: bool = False

    @property
    def user(self) -> User:
        """The bot's user. Raises 401 where there is none."""
        if self.app is None:
            raise errors.unauthorised()
        return self.app.user

    @property
    def audit_reason(self) -> str | None:
        """Why the bot does it, as the audit log will show: at most 512 characters."""
        given = unquote(self.request.headers.get("X-Audit-Log-Reason", "")).strip()
        return given[:512] or None

    def id(self, name: str) -> int:
        """An ID out of the path; `@me` is the bot's own."""
        return path_snowflake(self.request.match_info, name)

    def channel(self, needed: Permission = Permission.VIEW_CHANNEL) -> Channel:
        """The channel of the path, once it is sure that the bot may do what is `needed` there."""
        channel = self.state.channel(self.id("channel_id"))
        if self.user.id not in self.state.guilds[channel.guild_id].members:
            raise errors.missing_access()
        self.need(channel, needed)
        return channel

    def need(self, channel: Channel, needed: Permission) -> None:
        """Raise Missing Access or Missing Permissions unless the bot has all of these."""
        self.state.require(self.user.id, channel, needed)

    def guild(self) -> Guild:
        """The guild of the path, of which the bot is a member."""
        guild = self.state.guild(self.id("guild_id"))
        if self.user.id not in guild.members:
            raise errors.missing_access()
        return guild

    def application(self) -> Application:
        """The application of the path, which must be the one that asks."""
        if self.app is None:
            raise errors.unauthorised()
        if self.id("application_id") != self.app.id:
            raise errors.foreign_application()
        return self.app

    def switch(self, name: str) -> bool:
        """Whether a parameter of the query, false by default, is true."""
        return self.request.query.get(name, "").lower() in {"1", "true"}

    async def draft(self, guild: Guild) -> tuple[Draft, Json]:
        """The body as a message, and the JSON as it came."""
        body = await self.json(file_limit(guild))
        return read_draft(body, self._uploads), body

    def draft_from(self, body: Json, path: str) -> Draft:
        """A part of the body, which has been read, as a message."""
        return read_draft(body, self._uploads, path)

    async def json_list(self) -> list[Any]:
        """The body's JSON array."""
        if self._body is None:
            self._body = await self._read(_FILE_LIMITS[0])
        if not isinstance(self._body, list):
            raise errors.form_error("", "LIST_TYPE_CONVERT", "Only iterables may be used in a ListType")
        return self._body

    async def json(self, max_file: int = _FILE_LIMITS[0]) -> Json:
        """The body's JSON object; of a multipart body its `payload_json`. Files may be `max_file` bytes each."""
        if self._body is None:
            self._body = await self._read(max_file)
        if not isinstance(self._body, dict):
            raise errors.form_error("", "DICT_TYPE_CONVERT", "Only dictionaries may be used in a DictType")
        return self._body

    def discard(self) -> None:
        """Forget the files of a request that was refused."""
        if not self.kept:
            for upload in self._uploads.values():
                self.files.remove(upload.file)

    async def _read(self, max_file: int) -> Any:
        kind = self.request.content_type
        if kind == "multipart/form-data":
            try:
                return await self._read_multipart(max_file, max(max_file, _REQUEST_LIMIT))
            except ValueError:
                raise errors.form_error("", "MULTIPART_INVALID", "Invalid multipart body") from None
        raw = await self._read_raw()
        if kind != "application/json":
            if not raw:
                return {}
            known = "{'multipart/form-data', 'application/json', 'application/x-www-form-urlencoded'}"
            raise errors.ApiError(400, 50035, f'Expected "Content-Type" header to be one of {known}.')
        return parse_json(raw)

    async def _read_raw(self) -> bytes:
        try:
            return await self.request.read()
        except web.HTTPRequestEntityTooLarge:
            raise errors.too_large() from None

    async def _read_multipart(self, max_file: int, max_request: int) -> Any:
        reader = await self.request.multipart()
        body: Any = {}
        total = 0
        oversize = False
        async for part in reader:
            if isinstance(part, MultipartReader) or part is None:
                raise errors.form_error("", "MULTIPART_INVALID", "Invalid multipart body")
            name = part.name or ""
            matched = _FILE_FIELD.fullmatch(name)
            if name == "payload_json":
                body = parse_json(await part.read())
            elif matched is not None or name == "file":
                size = await self._store(part, int(matched[1]) if matched else 0, max_file)
                total += size
                # The rest is read all the same: an answer before the end of a request often never arrives.
                oversize = oversize or size > max_file or total > max_request
            elif name in _SIMPLE_FIELDS and isinstance(body, dict):
                body[name] = await part.text()
        if oversize:
            raise errors.too_large()
        return body

    async def _store(self, part: BodyPartReader, number: int, most: int) -> int:
        filename = part.filename or "unknown"
        stored, size = await self.files.receive(part, most)
        if stored is not None:
            self._uploads[number] = Upload(filename, part.headers.get("Content-Type"), stored)
        return size


def parse_json(raw: bytes | bytearray) -> Any:
    """JSON, or Discord's complaint about it."""
    try:
        return json.loads(raw.decode())
    except ValueError:
        raise errors.invalid_json() from None
