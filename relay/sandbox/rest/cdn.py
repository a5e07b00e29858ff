"""The CDN, on the same origin: https://discord.com/developers/docs/reference#image-formatting."""

import asyncio
from pathlib import Path, PurePosixPath
from typing import Any

from aiohttp import web

from relay.sandbox.errors import form_error
from relay.sandbox.faults import Faults, reset
from relay.sandbox.messages.forms import Form, parse_snowflake
from relay.sandbox.messages.media import GREY_JPEG, describe, flat_png
from relay.sandbox.rest.api import Api, cut
from relay.sandbox.rest.avatars import AvatarFetcher
from relay.sandbox.rest.requests import Call
from relay.sandbox.world.files import CHUNK, MEDIA_PREFIX
from relay.sandbox.world.models import Attachment, Emoji, StoredFile
from relay.sandbox.world.pictures import EMOJI_SIDE, emoji_copy
from relay.sandbox.world.state import State

_STICKER_SUFFIX = {1: "png", 2: "png", 3: "json", 4: "gif"}
_DEFAULT_COLOURS = (0x5865F2, 0x757E8A, 0x3BA55C, 0xFAA61A, 0xED4245, 0xEB459F)
_SIZES = frozenset(1 << power for power in range(4, 13))
_GONE = "This content is no longer available."


class Cdn:
    """Attachments, avatars, emoji and stickers."""

    def __init__(self, api: Api, state: State, faults: Faults, avatars: AvatarFetcher) -> None:
        self.api = api
        self.state = state
        self.faults = faults
        self.avatars = avatars

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes, and the one of the API that renews URLs."""
        for prefix in ("", MEDIA_PREFIX):
            router.add_get(prefix + "/attachments/{channel_id}/{attachment_id}/{filename}", self.attachment)
        router.add_get("/avatars/{user_id}/{file}", self.avatar)
        router.add_get("/emojis/{file}", self.emoji)
        router.add_get("/embed/avatars/{file}", self.default_avatar)
        for prefix in ("", MEDIA_PREFIX):
            router.add_get(prefix + "/stickers/{file}", self.sticker)
        self.api.add(router, "POST", "/attachments/refresh-urls", self.refresh)

    async def attachment(self, request: web.Request) -> web.StreamResponse:
        """A file of a message; 404 once its URL has expired, or if the signature is not ours."""
        if not self.state.signer.valid(request.raw_path.partition("?")[0].removeprefix(MEDIA_PREFIX), request.query):
            return web.Response(status=404, text=_GONE)
        found = self._find(request)
        if found is None:
            return web.Response(status=404, text=_GONE)
        if "format" in request.query and request.path.startswith(MEDIA_PREFIX):
            return await self._still(request, found)
        return await self._send(request, found.file, found.content_type)

    async def _still(self, request: web.Request, found: Attachment) -> web.StreamResponse:
        """A picture out of a video. Discord's media proxy changes pictures, too, but nobody asks us for that."""
        if self.api.offline:
            return await cut(request)
        if request.query["format"] != "jpeg" or not (found.content_type or "").startswith("video/"):
            return web.Response(status=415)
        fault = self.faults.strike(request.method, request.path)
        if fault is not None and fault.kind == "hang":
            await asyncio.sleep(fault.seconds)
        elif fault is not None:
            return web.Response(status=fault.status)
        return web.Response(body=GREY_JPEG, content_type="image/jpeg")

    async def avatar(self, request: web.Request) -> web.StreamResponse:
        """A picture; of one that was given by URL, the copy that was fetched from there."""
        source = self.state.avatars.get(PurePosixPath(request.match_info["file"]).stem)
        if isinstance(source, str):
            fetched = await self.avatars.settled(source)
            source = fetched.file if fetched is not None else None
        if source is None:
            return web.Response(status=404)
        return await self._send(request, source, None)

    async def default_avatar(self, request: web.Request) -> web.StreamResponse:
        """The picture of somebody without one: 0.png to 5.png."""
        number = parse_snowflake(PurePosixPath(request.match_info["file"]).stem)
        if self.api.offline:
            return await cut(request)
        if number is None or number >= len(_DEFAULT_COLOURS):
            return web.Response(status=404)
        return web.Response(body=flat_png(_DEFAULT_COLOURS[number]), content_type="image/png")

    async def emoji(self, request: web.Request) -> web.StreamResponse:
        """An emoji; as a GIF only if it is animated, and was not uploaded as WebP or AVIF.

        An application's is made as it is asked for: `size` is its side in pixels, and a WebP moves with
        `animated=true` (https://docs.discord.com/developers/resources/emoji#emoji-object-emoji-formats). A guild's is
        sent as it was given: it need be no real picture.
        """
        name = PurePosixPath(request.match_info["file"])
        emoji = self.state.emojis.get(parse_snowflake(name.stem) or 0)
        if emoji is None:
            return web.Response(status=404)
        if name.suffix == ".gif" and (not emoji.animated or not _becomes_gif(emoji)):
            return web.Response(status=415)
        if emoji.uploader is None:
            return await self._send(request, emoji.file, None)
        return await self._application_emoji(request, emoji, name.suffix)

    async def _application_emoji(self, request: web.Request, emoji: Emoji, suffix: str) -> web.StreamResponse:
        side = parse_snowflake(request.query.get("size", EMOJI_SIDE))
        if side not in _SIZES:
            return web.Response(status=400)
        refused = await self._fault(request, emoji.file)
        if refused is not None:
            return refused
        moving = suffix == ".gif" or request.query.get("animated") == "true"
        data = await asyncio.to_thread(emoji.file.path.read_bytes)
        made = await asyncio.to_thread(emoji_copy, data, suffix, side, moving=moving)
        if made is None:
            return web.Response(status=415)
        headers = {"Cache-Control": "public, max-age=31536000"}
        return web.Response(body=made[0], content_type=made[1], headers=headers)

    async def sticker(self, request: web.Request) -> web.StreamResponse:
        """A sticker, in its own format only."""
        name = PurePosixPath(request.match_info["file"])
        sticker = self.state.stickers.get(parse_snowflake(name.stem) or 0)
        if sticker is None or name.suffix != f".{_STICKER_SUFFIX[sticker.format]}":
            return web.Response(status=404)
        kind = "application/json" if sticker.format == 3 else None
        return await self._send(request, sticker.file, kind)

    async def refresh(self, call: Call) -> Any:
        """Fresh URLs for expired ones."""
        form = Form(await call.json())
        urls = [str(item) for item in form.items("attachment_urls", most=50)]
        form.check()
        renewed = []
        for index, url in enumerate(urls):
            fresh = self.state.signer.renew(url)
            if fresh is None:
                raise form_error(f"attachment_urls.{index}", "URL_TYPE_INVALID_URL", "Not a well formed URL.")
            renewed.append({"original": url, "refreshed": fresh})
        return {"refreshed_urls": renewed}

    def _find(self, request: web.Request) -> Attachment | None:
        return self.state.attachments.get(parse_snowflake(request.match_info["attachment_id"]) or 0)

    async def _send(self, request: web.Request, file: StoredFile, kind: str | None) -> web.StreamResponse:
        refused = await self._fault(request, file)
        if refused is not None:
            return refused
        kind = kind or describe(file.path, "file", None).content_type or "application/octet-stream"
        return web.FileResponse(file.path, chunk_size=CHUNK, headers={"Content-Type": kind})

    async def _fault(self, request: web.Request, file: StoredFile) -> web.StreamResponse | None:
        """The answer of a fault that hits this request; None: the file is sent."""
        if self.api.offline:
            return await cut(request)
        fault = self.faults.strike(request.method, request.path)
        if fault is None:
            return None
        match fault.kind:
            case "rate_limit":
                return web.Response(status=429, headers={"Retry-After": str(int(fault.seconds) + 1)})
            case "status":
                return web.Response(status=fault.status)
            case "delay" | "hang":
                await asyncio.sleep(fault.seconds)
                return None
            case _:
                return await self._send_half(request, file)

    async def _send_half(self, request: web.Request, file: StoredFile) -> web.StreamResponse:
        """Announce the whole, send half of it and reset the connection."""
        response = web.StreamResponse(headers={"Content-Length": str(file.size)})
        await response.prepare(request)
        await response.write(await asyncio.to_thread(_first_half, file.path, file.size))
        if request.transport is not None:
            reset(request.transport)
        return response


def _first_half(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(min(size // 2, 1 << 20))


def _becomes_gif(emoji: Emoji) -> bool:
    """Discord makes no GIF of a WebP or AVIF: https://github.com/discord/discord-api-docs/issues/7567."""
    start = emoji.file.path.read_bytes()[:12]
    return start[8:12] != b"WEBP" and start[4:8] != b"ftyp"
