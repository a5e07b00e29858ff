"""The content of a Matrix message, as JSON -> neutral content. Pure; the JSON may hold anything.

Message types: https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes. What the neutral content cannot
hold becomes text that says what it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from relay.adapters.matrix.encrypted_files import encrypted_source
from relay.adapters.matrix.identifiers import parse_mxc
from relay.adapters.matrix.markup import NameLookup, parse
from relay.adapters.matrix.rooms.state import LONGEST_NAME
from relay.domain.content import MAX_FILES, Attachment, Content, MediaKind, with_most_files
from relay.domain.ids import MediaRef, Platform
from relay.domain.jsontext import Json, as_dict, as_list, as_string
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk

Style = Literal["text", "emote", "notice"]

_STYLES: dict[str, Style] = {"m.text": "text", "m.emote": "emote", "m.notice": "notice"}
_MEDIA: dict[str, MediaKind] = {"m.image": "image", "m.video": "video", "m.audio": "audio", "m.file": "file"}
_HTML = "org.matrix.custom.html"
_VOICE = ("m.voice", "org.matrix.msc3245.voice")
_SPOILER = ("m.spoiler", "page.codeberg.everypizza.msc4193.spoiler")
_POLL_STARTS = ("m.poll", "m.poll.start", "org.matrix.msc3381.poll.start")
_GALLERIES = frozenset({"m.gallery", "dm.filament.gallery"})
_PROFILES = ("m.per_message_profile", "com.beeper.per_message_profile")
_TEXTS = ("m.text", "org.matrix.msc1767.text", "body")
_MARKUPS = ("m.text", "org.matrix.msc1767.message")
_PLACES = ("m.location", "org.matrix.msc3488.location")
# What is said with falling confetti or snow, which Element shows by the message's type.
_EFFECTS = ("nic.custom.", "io.element.effect")


def message_content(content: Json, names: NameLookup, *, is_reply: bool) -> Content:
    """The content of an `m.room.message`. `is_reply`: without the quotation that old clients put in front."""
    kind = as_string(content.get("msgtype"))
    if kind in _STYLES:
        return _with_inline_images(Content(_text(content, names, is_reply=is_reply), style=_STYLES[kind]))
    if kind in _MEDIA:
        return _with_inline_images(_media(content, _MEDIA[kind], names, is_reply=is_reply))
    if kind == "m.location":
        return Content(_location(content))
    if kind in _GALLERIES and isinstance(items := content.get("itemtypes"), list):
        more = [_name_in_gallery(item) for item in items[MAX_FILES:]]
        return _with_inline_images(_gallery(content, items, names, is_reply=is_reply), more)
    return _with_inline_images(Content(_unknown(content, names, kind, is_reply=is_reply)))


def _gallery(content: Json, items: list[Any], names: NameLookup, *, is_reply: bool) -> Content:
    """Several files in one message (https://github.com/matrix-org/matrix-spec-proposals/pull/4274)."""
    blocks = [*_text(content, names, is_reply=is_reply).blocks]
    files: list[Attachment] = []
    for item in items[:MAX_FILES]:
        kind = as_string(item.get("itemtype")) if isinstance(item, dict) else ""
        if kind not in _MEDIA:
            blocks.extend(_without_file("file", as_string(item.get("body")) if kind else "").blocks)
            continue
        file = _media(item, _MEDIA[kind], names, is_reply=False)
        blocks.extend(file.text.blocks)
        files.extend(file.attachments)
    return Content(n.RichText(tuple(blocks)), tuple(files))


def _name_in_gallery(item: Any) -> str:
    """The name of a file that is too many; "" if it is a spoiler."""
    if not isinstance(item, dict) or any(key in item for key in _SPOILER):
        return ""
    return as_string(item.get("filename")) or as_string(item.get("body"))


def _with_inline_images(content: Content, more: Sequence[str] = ()) -> Content:
    """`content` with the images in its text added as files: no other platform has images between words.

    `more`: the names of files that are too many already.
    """
    images: dict[MediaRef, n.InlineImage] = {}
    hidden: set[MediaRef] = set()
    for node in walk(content.text.blocks):
        if isinstance(node, n.InlineImage):
            images.setdefault(node.source, node)
        elif isinstance(node, n.Spoiler):
            hidden.update(inner.source for inner in walk(node.children) if isinstance(inner, n.InlineImage))
    for attachment in content.attachments:
        images.pop(attachment.source, None)
    if not images:
        return with_most_files(content, more)
    files = [_image_file(image, hidden=image.source in hidden) for image in images.values()]
    alone = content.text.blocks == (n.Paragraph((next(iter(images.values())),)),)
    text = n.RichText() if alone else content.text
    return with_most_files(replace(content, text=text, attachments=(*content.attachments, *files)), more)


def _image_file(image: n.InlineImage, *, hidden: bool) -> Attachment:
    # The description of a spoiler must not be visible anywhere, and so not in the name of the file.
    alt = "" if hidden else image.alt
    locator = image.source.locator
    return Attachment(locator, alt or "image", "image", image.source, alt=alt, spoiler=hidden)


@dataclass(frozen=True, slots=True)
class BridgedProfile:
    """The per-message profile (MSC4144) with which another bridge's bot writes for somebody."""

    name: str
    # An `mxc://` URI or "".
    avatar: str = ""
    # Whether the text has the name in front as well, for clients that do not know such profiles.
    in_text: bool = False


def bridged_profile(content: Json) -> BridgedProfile | None:
    """The profile that a message has; None if it has none, or one without a name."""
    profile: Json = next((content[key] for key in _PROFILES if isinstance(content.get(key), dict)), {})
    name, avatar = as_string(profile.get("displayname")).strip()[:LONGEST_NAME], _mxc(profile.get("avatar_url"))
    if not name:
        return None
    return BridgedProfile(name, "" if avatar is None else avatar.locator, profile.get("has_fallback") is True)


def sticker_content(content: Json) -> Content:
    """The content of an `m.sticker`."""
    name = as_string(content.get("body"))
    sticker = _attachment(content, "sticker", name or "sticker")
    if isinstance(sticker, str):
        return Content(_without_file("sticker", name, sticker))
    return Content(n.RichText(), (sticker,))


def poll_content(content: Json) -> Content:
    """The question and answers of a poll (https://github.com/matrix-org/matrix-spec-proposals/pull/3381)."""
    poll: Json = next((content[key] for key in _POLL_STARTS if isinstance(content.get(key), dict)), {})
    question = extensible_text(poll.get("question")) or extensible_text(content) or "a poll"
    answers = [extensible_text(answer) for answer in as_list(poll.get("answers"))]
    items = tuple(n.ListItem((_line(answer),)) for answer in answers if answer)
    blocks: list[n.Block] = [n.Paragraph((n.Strong((n.Text(f"📊 {_one_line(question)}"),)),))]
    if items:
        blocks.append(n.BulletList(items, start=1))
    if (_number(poll.get("max_selections")) or 1) > 1:
        blocks.append(n.Subtext((n.Text("Several answers are allowed."),)))
    return Content(n.RichText(tuple(blocks)))


def poll_end_content(content: Json) -> Content:
    """The end of a poll. The client that ended it has put the result into the text."""
    return Content(n.RichText.plain(extensible_text(content) or "The poll has ended."))


def extensible_text(value: Any, depth: int = 4) -> str:
    """The text of a field of an extensible event, in any form that MSC1767 has had; they can be nested."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return next((text for item in value if (text := extensible_text(item, depth - 1))), "")
    if isinstance(value, dict) and depth:
        return next((text for key in _TEXTS if (text := extensible_text(value.get(key), depth - 1))), "")
    return ""


def extensible_message(content: Json) -> Json:
    """An `m.message` in the form of an `m.room.message` (https://github.com/matrix-org/matrix-spec-proposals/pull/1767)."""
    forms = [form for key in _MARKUPS for form in as_list(content.get(key)) if isinstance(form, dict)]
    bodies = {as_string(form.get("mimetype")) or "text/plain": as_string(form.get("body")) for form in reversed(forms)}
    words = bodies.get("text/plain") or extensible_text(content)
    formatted = bodies.get("text/html") or as_string(content.get("org.matrix.msc1767.html"))
    return (
        content
        | {"msgtype": "m.text", "body": words}
        | ({"format": _HTML, "formatted_body": formatted} if formatted else {})
    )


# --- Text ---------------------------------------------------------------------------------------------------


def _text(content: Json, names: NameLookup, *, is_reply: bool) -> n.RichText:
    body = as_string(content.get("body")) or extensible_text(content)
    formatted = as_string(content.get("formatted_body"))
    if is_reply:
        body, formatted = _without_fallback(body), _without_quotation(formatted)
    profile = bridged_profile(content)
    in_text = profile is not None and profile.in_text
    if profile is not None and in_text:
        body = body.removeprefix(f"{profile.name}: ")
    html = formatted if content.get("format") == _HTML else None
    return parse(body, html, names=names, strip_profile_fallback=in_text)


def _without_quotation(formatted: str) -> str:
    # Deprecated since version 1.13 of the specification, and still sent by many:
    # https://spec.matrix.org/v1.12/client-server-api/#fallbacks-for-rich-replies
    start = formatted.find("<mx-reply>")
    end = formatted.find("</mx-reply>", start)
    return formatted if min(start, end) < 0 else formatted[:start] + formatted[end + len("</mx-reply>") :]


def _without_fallback(body: str) -> str:
    if not body.startswith(("> <@", "> * <@")):
        return body
    lines = body.split("\n")
    first = next((number for number, line in enumerate(lines) if not line.startswith(">")), len(lines))
    return "\n".join(lines[first:]).removeprefix("\n")


def _unknown(content: Json, names: NameLookup, kind: str, *, is_reply: bool) -> n.RichText:
    text = _text(content, names, is_reply=is_reply)
    if text and kind.startswith(_EFFECTS):
        return text
    note = n.Paragraph((n.Emphasis((n.Text(f"(a message of the type {_one_line(kind)[:100] or 'unknown'})"),)),))
    return n.RichText((*text.blocks, note))


def _location(content: Json) -> n.RichText:
    # A client's body holds the position and the time as well, also where somebody has described the place
    # (https://github.com/matrix-org/matrix-spec-proposals/pull/3488).
    place_of: Json = next((content[key] for key in _PLACES if isinstance(content.get(key), dict)), {})
    name = as_string(place_of.get("description")) or as_string(content.get("body")).partition(" geo:")[0]
    place = n.Text(f"📍 {_one_line(name) or 'a location'}")
    uri = as_string(content.get("geo_uri")) or as_string(place_of.get("uri"))
    position = uri.removeprefix("geo:").split(";")[0].split(",")
    try:
        latitude, longitude = (float(number) for number in position[:2])
        url = f"https://www.openstreetmap.org/?mlat={latitude:.6f}&mlon={longitude:.6f}#map=16/{latitude:.6f}/{longitude:.6f}"
    except ValueError:
        return n.RichText((n.Paragraph((place,)),))
    return n.RichText((n.Paragraph((place, n.LineBreak(), n.Link(url, (n.Text(url),)))),))


# --- Files --------------------------------------------------------------------------------------------------


def _media(content: Json, kind: MediaKind, names: NameLookup, *, is_reply: bool) -> Content:
    body, filename = as_string(content.get("body")), as_string(content.get("filename"))
    # With a file name of its own, the body is a caption, unless it only repeats the name
    # (https://spec.matrix.org/latest/client-server-api/#media-captions).
    has_caption = bool(filename) and filename != body
    caption = _text(content, names, is_reply=is_reply) if has_caption else n.RichText()
    if kind == "audio" and any(key in content for key in _VOICE):
        kind = "voice"
    name = filename or body or kind
    attachment = _attachment(content, kind, name)
    if isinstance(attachment, str):
        return Content(n.RichText((*caption.blocks, *_without_file(kind, name, attachment).blocks)))
    if attachment.spoiler and (reason := _spoiler_reason(content)):
        caption = n.RichText((*caption.blocks, n.Subtext((n.Text(f"Spoiler: {reason}"),))))
    return Content(caption, (attachment,))


def _spoiler_reason(content: Json) -> str:
    """Why a file is hidden: for the reader, who decides by it whether to open the file."""
    return _one_line(next(filter(None, (as_string(content.get(f"{key}.reason")) for key in _SPOILER)), ""))


def _attachment(content: Json, kind: MediaKind, name: str) -> Attachment | str:
    """The file of a message; or why it cannot be read, in words that follow "that"."""
    source = _mxc(content.get("url")) or encrypted_source(content.get("file"))
    if isinstance(source, str):
        return source
    info = as_dict(content.get("info"))
    thumbnail = _mxc(info.get("thumbnail_url")) or encrypted_source(info.get("thumbnail_file"))
    audio = as_dict(content.get("org.matrix.msc1767.audio"))
    milliseconds = _number(info.get("duration")) or _number(audio.get("duration"))
    waveform = audio.get("waveform")
    return Attachment(
        id=source.locator.partition("#")[0],
        name=name,
        kind=kind,
        source=source,
        content_type=as_string(info.get("mimetype")) or "application/octet-stream",
        size=_whole(info.get("size")),
        width=_whole(info.get("w")),
        height=_whole(info.get("h")),
        duration=None if milliseconds is None else milliseconds / 1000,
        alt=as_string(content.get("body")) if kind == "sticker" else "",
        spoiler=any(content.get(key) is True for key in _SPOILER),
        animated=info.get("is_animated") is True or info.get("org.matrix.msc4230.is_animated") is True,
        waveform=_waveform(waveform) if isinstance(waveform, list) else (),
        thumbnail=None if isinstance(thumbnail, str) else thumbnail,
    )


def _waveform(values: list[Any]) -> tuple[int, ...]:
    """Amplitudes from 0 to 255; MSC3246 has 0 to 1024."""
    numbers = (_number(value) or 0 for value in values[:256])
    return tuple(max(0, min(255, int(number * 255 / 1024))) for number in numbers)


def _without_file(kind: str, name: str, reason: str = "cannot be read") -> n.RichText:
    return n.RichText.plain(f"📎 {_one_line(name)} ({kind} that {reason})")


def _mxc(value: Any) -> MediaRef | None:
    uri = as_string(value)
    return MediaRef(Platform.MATRIX, uri) if parse_mxc(uri) is not None else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 2**53 else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _line(text: str) -> n.Paragraph:
    return n.Paragraph((n.Text(_one_line(text)),))
