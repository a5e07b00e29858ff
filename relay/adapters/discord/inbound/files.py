"""Turns the attachments and stickers of a Discord message into the core's attachments. Pure.

https://docs.discord.com/developers/resources/message#attachment-object
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from relay.adapters.discord.identifiers import snowflake
from relay.adapters.discord.media import STICKER_CONTENT_TYPE, STICKER_SUFFIX
from relay.domain.content import Attachment, Content, MediaKind
from relay.domain.ids import MediaRef, Platform
from relay.domain.jsontext import Json
from relay.domain.names import content_type as type_by_ending

OFFICIAL_CDN = "https://cdn.discordapp.com"
_MEDIA_PROXY = "https://media.discordapp.net"
_STICKER_FORMATS = {1: "png", 2: "png", 3: "json", 4: "gif"}
# As they are when they have been read: a Lottie animation becomes a picture.
_STICKER_TYPES = {1: "image/png", 2: "image/apng", 3: STICKER_CONTENT_TYPE, 4: "image/gif"}
_ANIMATED_STICKERS = frozenset({2, 3, 4})
# Pixels in Discord's clients, whatever the size of the picture.
_STICKER_SIDE = 160
_VOICE = 1 << 13
_MAX_DEPTH = 8
# https://docs.discord.com/developers/reference#signed-attachment-cdn-urls
_SIGNATURE = re.compile(r"(?<=[?&])(?:ex|is|hm)=[0-9a-f]*&?")
_SPOILER_FILE, _ANIMATED_FILE = 1 << 3, 1 << 5


def attachments(message: Json, page: str) -> Iterator[Attachment]:
    """The attachments of a message. `page` is the address of the message."""
    voice = bool((message.get("flags") or 0) & _VOICE)
    for item in objects(message, "attachments"):
        flags = item.get("flags") or 0
        name = _original_name(item)
        # Discord tells no type of what it does not look into, and of old files.
        content_type = str(item.get("content_type") or type_by_ending(str(item["filename"]))).partition(";")[0].strip()
        marked = str(item["filename"]).startswith("SPOILER_") or name.startswith("SPOILER_")
        spoiler = marked or bool(flags & _SPOILER_FILE)
        yield Attachment(
            id=snowflake(item["id"]),
            name=name,
            kind="voice" if voice else _kind(content_type),
            source=media_ref(item["url"]),
            content_type=content_type,
            size=item.get("size"),
            width=item.get("width"),
            height=item.get("height"),
            duration=item.get("duration_secs"),
            alt=str(item.get("description") or ""),
            spoiler=spoiler,
            animated=content_type == "image/gif" or bool(flags & _ANIMATED_FILE),
            waveform=_waveform(item.get("waveform")),
            # Clients that know no spoilers would show the thumbnail.
            thumbnail=_still(item) if content_type.startswith("video/") and not spoiler else None,
            url=str(item["url"]),
            page=page,
        )


def _original_name(item: Json) -> str:
    """The name of the file before Discord removed all characters but ASCII from it."""
    name, title = str(item["filename"]), " ".join(str(item.get("title") or "").split())
    ending = name.rpartition(".")[1:]
    if not title or not all(ending) or title.endswith("".join(ending)):
        return title or name
    return title + "".join(ending)


def component_files(items: Iterable[Json], page: str, depth: int = 0) -> Iterator[Attachment]:
    """The files in components, which are not among the message's attachments.

    https://docs.discord.com/developers/components/reference#unfurled-media-item-structure
    """
    if depth > _MAX_DEPTH:
        return
    for item in items:
        for key in ("media", "file"):
            media_item = item.get(key)
            if isinstance(media_item, dict) and media_item.get("attachment_id") and media_item.get("url"):
                name = str(item.get("name") or urlsplit(str(media_item["url"])).path.rpartition("/")[2] or "file")
                fields = {"id": media_item["attachment_id"], "filename": name}
                fields |= {"size": item.get("size"), "description": item.get("description")}
                yield from attachments({"attachments": [{**media_item, **fields}]}, page)
        for key in ("components", "items"):
            yield from component_files(objects(item, key), page, depth + 1)
        if isinstance(accessory := item.get("accessory"), dict):
            yield from component_files([accessory], page, depth + 1)


def _kind(content_type: str) -> MediaKind:
    match content_type.partition("/")[0]:
        case "image":
            return "image"
        case "video":
            return "video"
        case "audio":
            return "audio"
        case _:
            return "file"


def _still(item: Json) -> MediaRef | None:
    """A picture from a video, as the media proxy gives it to Discord's own clients. This is not documented."""
    proxy = item.get("proxy_url")
    if not isinstance(proxy, str):
        return None
    address = proxy.rstrip("?&")
    return media_ref(f"{address}{'&' if '?' in address else '?'}format=jpeg")


def _waveform(encoded: object) -> tuple[int, ...]:
    if not isinstance(encoded, str):
        return ()
    try:
        return tuple(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        return ()


def stickers(message: Json, cdn_url: str) -> Iterator[Attachment]:
    """The stickers, each as a picture. `cdn_url` has no slash at its end."""
    for item in objects(message, "sticker_items"):
        form = item.get("format_type", 1)
        ending = _STICKER_FORMATS.get(form, "png")
        sticker = snowflake(item["id"])
        yield Attachment(
            id=sticker,
            name=f"{item.get('name') or 'sticker'}.{STICKER_SUFFIX if ending == 'json' else ending}",
            kind="sticker",
            source=media_ref(f"{_sticker_host(cdn_url, ending)}/stickers/{sticker}.{ending}"),
            width=_STICKER_SIDE,
            height=_STICKER_SIDE,
            content_type=_STICKER_TYPES.get(form, "image/png"),
            alt=str(item.get("name") or ""),
            animated=form in _ANIMATED_STICKERS,
        )


def _sticker_host(cdn_url: str, ending: str) -> str:
    # https://docs.discord.com/developers/reference#image-formatting: GIF stickers are on the media proxy only.
    return _MEDIA_PROXY if ending == "gif" and cdn_url == OFFICIAL_CDN else cdn_url


def unsigned(content: Content) -> str:
    """What a content says, to be compared: its files' addresses without their signatures, which are new each time."""
    return _SIGNATURE.sub("", repr(content))


def objects(message: Json, key: str) -> list[Json]:
    """The objects in a list of a message; empty if there is no list."""
    return [item for item in message.get(key) or () if isinstance(item, dict)]


def media_ref(url: str) -> MediaRef:
    """A file of Discord."""
    return MediaRef(Platform.DISCORD, url)
