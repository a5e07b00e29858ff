"""A message of Discord, as its API gives it, as a client shows it. Pure.

It reads by itself what the adapter reads too: a judge that shared the adapter's code would share its mistakes.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from relay.demo.sides.base import File, Quoted
from relay.domain.content import MediaKind
from relay.domain.jsontext import Json

_EXCERPT = 140
_VOICE = 1 << 13
_SPOILER = 1 << 3
_LOTTIE = 3
_SUB_COMMAND_GROUP = 2
_STICKER_PIXELS = 160
_WRITTEN = frozenset({0, 19, 20, 23})
_SAYS = {
    6: "pinned a message to this channel.",
    7: "joined the server.",
    8: "boosted the server.",
}


def is_system(raw: Json) -> bool:
    """Whether Discord says it, of its author."""
    return raw["type"] not in _WRITTEN


def words(raw: Json) -> str:
    """The text."""
    if raw["type"] in _SAYS:
        return _SAYS[raw["type"]]
    if raw["type"] == 46:
        return _poll_result(raw)
    return str(raw["content"])


def quoted(raw: Json) -> Quoted | None:
    """What a reply answers."""
    if raw["type"] != 19:
        return None
    target = raw.get("referenced_message")
    if target is None:
        return Quoted(str(raw["message_reference"]["message_id"]), "", "")
    author = target["author"]
    return Quoted(target["id"], author.get("global_name") or author["username"], _excerpt(target)[:_EXCERPT])


def _excerpt(raw: Json) -> str:
    if raw["content"]:
        return str(raw["content"])
    if raw.get("poll"):
        return str(raw["poll"]["question"]["text"])
    names = [item["filename"] for item in raw["attachments"]] + [item["name"] for item in raw.get("sticker_items", ())]
    return names[0] if names else ""


def files(raw: Json) -> tuple[File, ...]:
    """Attachments and stickers."""
    is_voice = bool(raw["flags"] & _VOICE)
    attached = (_attachment(item, is_voice=is_voice) for item in raw["attachments"])
    stuck = (_sticker(item) for item in raw.get("sticker_items", ()))
    return (*attached, *stuck)


def cards(raw: Json) -> tuple[Json, ...]:
    """What is shown below the text."""
    found: list[Json] = []
    for snapshot in raw.get("message_snapshots", ()):
        message = {"flags": 0, "type": 0} | snapshot["message"]
        inner = [_embed(embed) for embed in message.get("embeds", ())]
        found.append({"kind": "forward", "body": message.get("content", ""), "cards": inner})
    if raw.get("poll"):
        found.append(_poll(raw["poll"]))
    found += [_embed(embed) for embed in raw["embeds"] if embed.get("type") != "poll_result"]
    if buttons := list(_buttons(raw.get("components", ()))):
        found.append({"kind": "buttons", "buttons": buttons})
    return tuple(found)


def milliseconds(moment: str) -> int:
    """A time of Discord's in milliseconds since 1970."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def slash_command(body: str, registered: Sequence[Json]) -> tuple[str, Json] | None:
    """The command and the options that a client makes of `/relay link @me:server`; None if it is a plain text."""
    words = body.split()
    if not body.startswith("/"):
        return None
    options = registered
    path: list[str] = []
    for word in words:
        found = next((one for one in options if one["name"] == word.removeprefix("/" if not path else "")), None)
        if found is None or (path and found["type"] > _SUB_COMMAND_GROUP):
            break
        path.append(found["name"])
        options = found.get("options", ())
    values = words[len(path) :]
    return (
        (" ".join(path), {option["name"]: value for option, value in zip(options, values, strict=False)})
        if path
        else None
    )


def _attachment(raw: Json, *, is_voice: bool) -> File:
    name = str(raw["filename"])
    return File(
        name=name,
        size=raw["size"],
        kind="voice" if is_voice else _kind(str(raw.get("content_type", ""))),
        source=f"attachment-{raw['id']}",
        width=raw.get("width") or 0,
        height=raw.get("height") or 0,
        duration=raw.get("duration_secs") or 0.0,
        spoiler=name.startswith("SPOILER_") or bool(raw.get("flags", 0) & _SPOILER),
        alt=raw.get("description") or "",
        waveform=_waveform(raw.get("waveform")),
    )


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


def _waveform(given: str | None) -> tuple[float, ...]:
    try:
        return tuple(round(byte / 255, 3) for byte in base64.b64decode(given or ""))
    except (ValueError, binascii.Error):
        return ()


def _sticker(raw: Json) -> File:
    source = "" if raw["format_type"] == _LOTTIE else f"sticker-{raw['id']}"
    return File(raw["name"], 0, "sticker", source, _STICKER_PIXELS, _STICKER_PIXELS, alt=raw["name"])


def _embed(raw: Json) -> Json:
    """https://discord.com/developers/docs/resources/message#embed-object, without pictures from elsewhere."""
    author, footer = raw.get("author", {}), raw.get("footer", {})
    return {
        "kind": "embed",
        "colour": f"#{raw['color']:06x}" if raw.get("color") else "",
        "author": author.get("name", ""),
        "authorUrl": author.get("url", ""),
        "title": raw.get("title", ""),
        "url": raw.get("url", ""),
        "description": raw.get("description", ""),
        "fields": [{key: item.get(key) for key in ("name", "value", "inline")} for item in raw.get("fields", ())],
        "footer": footer.get("text", ""),
    }


def _poll(raw: Json) -> Json:
    results = raw.get("results", {})
    counts = {item["id"]: item["count"] for item in results.get("answer_counts", ())}
    answers = [
        {"text": item["poll_media"].get("text") or "", "votes": counts.get(item["answer_id"], 0)}
        for item in raw["answers"]
    ]
    over = bool(results.get("is_finalized"))
    return {"kind": "poll", "question": raw["question"]["text"], "answers": answers, "over": over}


def _poll_result(raw: Json) -> str:
    values = {field["name"]: field["value"] for embed in raw["embeds"] for field in embed.get("fields", ())}
    question, winner = values.get("poll_question_text", ""), values.get("victor_answer_text")
    total = values.get("total_votes", 0)
    votes = f"{values.get('victor_answer_votes', 0)} of {total} vote{'' if str(total) == '1' else 's'}"
    return f"The poll has ended: **{question}**\n{f'{winner} ({votes})' if winner else 'Nobody won.'}"


def _buttons(components: Iterable[Any]) -> Iterable[Json]:
    for component in components:
        yield from _buttons(component.get("components", ()))
        if component.get("type") == 2:
            yield {"label": component.get("label", ""), "url": component.get("url", "")}
