"""Emoji that belong to an application: https://docs.discord.com/developers/resources/emoji."""

import asyncio
import base64
import binascii
import re
from typing import Any

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.messages.forms import Form
from relay.sandbox.rest.api import Api, Reply, TooFast
from relay.sandbox.rest.requests import Call
from relay.sandbox.world import render
from relay.sandbox.world.models import Application, Emoji
from relay.sandbox.world.pictures import Picture, read_picture

MAX_EMOJIS = 2000
MAX_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9_]+")
_DATA_URI = re.compile(r"data:(image/(?:png|jpeg|gif|webp|avif));base64,")
_ALL = "/applications/{application_id}/emojis"
_ONE = _ALL + "/{emoji_id}"


class EmojiRoutes:
    """`/applications/{id}/emojis…`. No permission is needed, and no event tells of a change."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.state = api.state

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        add = self.api.add
        add(router, "GET", _ALL, self.all)
        add(router, "GET", _ONE, self.get)
        add(router, "POST", _ALL, self.create)
        add(router, "PATCH", _ONE, self.rename)
        add(router, "DELETE", _ONE, self.delete)

    async def all(self, call: Call) -> Any:
        """All of them, in one answer."""
        return {"items": [render.emoji(emoji) for emoji in call.application().emojis.values()]}

    async def get(self, call: Call) -> Any:
        """One of them."""
        return render.emoji(self._emoji(call)[1])

    async def create(self, call: Call) -> Any:
        """A new one. Each request counts against the allowance that no header shows."""
        app = call.application()
        refusal = self.api.limiter.take_emoji(str(app.id), self.state.clock())
        body = await call.json()
        if refusal is not None:
            raise TooFast(refusal)
        form = Form(body)
        name = read_emoji_name(form, app, None)
        image = await asyncio.to_thread(read_emoji_image, form)
        form.check()
        if image is None or name is None:
            raise AssertionError("the form has reported both")
        if len(app.emojis) >= MAX_EMOJIS:
            raise errors.too_many_emojis(MAX_EMOJIS)
        data, picture = image
        emoji = self.state.add_application_emoji(
            app, name, self.api.files.put(data), app.user, animated=picture.animated
        )
        return Reply(render.emoji(emoji), 201)

    async def rename(self, call: Call) -> Any:
        """Another name; nothing else can be changed."""
        app, emoji = self._emoji(call)
        form = Form(await call.json())
        name = read_emoji_name(form, app, emoji) if "name" in form else emoji.name
        form.check()
        emoji.name = name or emoji.name
        return render.emoji(emoji)

    async def delete(self, call: Call) -> Any:
        """Delete it."""
        self.state.remove_application_emoji(*self._emoji(call))

    def _emoji(self, call: Call) -> tuple[Application, Emoji]:
        app = call.application()
        emoji = app.emojis.get(call.id("emoji_id"))
        if emoji is None:
            raise errors.unknown("Emoji")
        return app, emoji


def read_emoji_name(form: Form, app: Application, own: Emoji | None) -> str | None:
    """2 to 32 letters, digits and underscores, which no other emoji of the application (than `own`) has."""
    name = form.text("name", least=2, most=32, required=True)
    if name is None:
        return None
    if not _NAME.fullmatch(name):
        form.mistake("name", "STRING_TYPE_REGEX", "String value did not match validation regex.")
    elif any(emoji.name == name for emoji in app.emojis.values() if emoji is not own):
        form.mistake("name", "APPLICATION_EMOJI_NAME_ALREADY_TAKEN", "This emoji name is already taken")
    return name


def read_emoji_image(form: Form) -> tuple[bytes, Picture] | None:
    """The bytes of a data URI, of at most 256 KiB, which are a picture of the type that it names.

    https://docs.discord.com/developers/reference#image-data
    """
    uri = form.text("image", most=2 * 1024 * 1024, required=True)
    if uri is None:
        return None
    head = _DATA_URI.match(uri)
    try:
        data = base64.b64decode(uri[head.end() :], validate=True) if head else b""
    except binascii.Error:
        data = b""
    if len(data) > MAX_BYTES:
        form.mistake("image", "BINARY_TYPE_MAX_SIZE", f"File cannot be larger than {MAX_BYTES / 1024} kb.")
        return None
    picture = read_picture(data)
    if head is None or picture is None or picture.content_type != head[1]:
        form.mistake("image", "IMAGE_INVALID", "Invalid image data")
        return None
    return data, picture
