"""A message of Matrix as a client shows it: its words, its file, its poll. Pure."""

from collections.abc import Sequence

from relay.demo.matrix_client import Shown
from relay.demo.sides.base import File, OutgoingFile
from relay.domain.content import MediaKind
from relay.domain.jsontext import Json

PROFILE = "com.beeper.per_message_profile"
_POLL = "org.matrix.msc3381.poll"
_TEXT = "org.matrix.msc1767.text"
_VOICE = "org.matrix.msc3245.voice"
_SOUND = "org.matrix.msc1767.audio"
_SPOILER = "page.codeberg.everypizza.msc4193.spoiler"
_LOUDEST = 1024
_KINDS: dict[str, MediaKind] = {"m.image": "image", "m.video": "video", "m.audio": "audio", "m.file": "file"}


def as_messages(events: Sequence[Json]) -> list[Json]:
    """A timeline in which polls, their ends and stickers are messages like any other."""
    return [_as_message(event) for event in events]


def _as_message(event: Json) -> Json:
    # What was redacted has nothing in it any more.
    if event["type"] == f"{_POLL}.start" and event["content"]:
        content = {"msgtype": _POLL, "body": ""} | event["content"]
        return event | {"type": "m.room.message", "content": content}
    if event["type"] == f"{_POLL}.end" and (poll := _relation(event).get("event_id")):
        relation = {"m.in_reply_to": {"event_id": poll}}
        content = {"msgtype": "m.notice", "body": event["content"].get(_TEXT, ""), "m.relates_to": relation}
        return event | {"type": "m.room.message", "content": content}
    if event["type"] == "m.sticker" and event["content"]:
        return event | {"content": {"msgtype": "m.sticker"} | event["content"]}
    return event


def excerpt(item: Shown, *, plain: bool = False) -> str:
    """What a reply to it quotes."""
    poll = item.content.get(f"{_POLL}.start", {})
    return body(item, plain=plain) or _question(poll) or str(item.content.get("filename") or item.body)


def body(item: Shown, *, plain: bool = False) -> str:
    """Without the name of a file, and without the author's name in front, which only a `plain` client shows."""
    words = item.body
    if not plain and item.content.get(PROFILE, {}).get("has_fallback"):
        words = words.removeprefix(f"{item.name}: ")
    if item.msgtype == "m.sticker" or (item.msgtype in _KINDS and words == item.content.get("filename", words)):
        return ""
    return words if item.msgtype != "m.location" else ""


def files(item: Shown) -> tuple[File, ...]:
    """The file that a message has."""
    content = item.content
    is_sticker = item.msgtype == "m.sticker"
    if not is_sticker and item.msgtype not in _KINDS:
        return ()
    info, sound = content.get("info", {}), content.get(_SOUND, {})
    name = str(content.get("filename", item.body))
    kind: MediaKind = "sticker" if is_sticker else "voice" if _VOICE in content else _KINDS[item.msgtype]
    return (
        File(
            name=name,
            size=info.get("size", 0),
            kind=kind,
            source=str(content.get("url", "")).removeprefix("mxc://"),
            width=info.get("w", 0),
            height=info.get("h", 0),
            duration=(sound.get("duration") or info.get("duration") or 0) / 1000,
            spoiler=bool(content.get(_SPOILER)),
            alt=item.body if is_sticker else "",
            waveform=tuple(round(loud / _LOUDEST, 3) for loud in sound.get("waveform", ())),
        ),
    )


def file_content(file: OutgoingFile, uri: str) -> Json:
    """What a client sends for a file that it has uploaded (https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes)."""
    info: Json = {"mimetype": file.content_type, "size": len(file.data)}
    info |= {"w": file.width, "h": file.height} if file.width and file.height else {}
    info |= {"duration": round(file.duration * 1000)} if file.duration else {}
    msgtype = f"m.{file.content_type.partition('/')[0]}"
    content = {"msgtype": msgtype if msgtype in _KINDS else "m.file", "body": file.name, "filename": file.name}
    hidden = {_SPOILER: True} if file.spoiler else {}
    return content | {"url": uri, "info": info, "m.mentions": {}} | hidden


def cards(item: Shown, events: Sequence[Json]) -> tuple[Json, ...]:
    """A poll with its votes, or a place. `events`: the timeline that it stands in."""
    if item.msgtype == _POLL:
        return (_poll(item, events),)
    if item.msgtype == "m.location":
        uri = str(item.content.get("geo_uri", ""))
        return ({"kind": "place", "title": item.body, "uri": uri},)
    return ()


def _poll(item: Shown, events: Sequence[Json]) -> Json:
    start = item.content[f"{_POLL}.start"]
    about = [event for event in events if _relation(event).get("event_id") == item.event_id]
    # The last vote of each person counts.
    votes = {
        event["sender"]: event["content"].get(f"{_POLL}.response", {}).get("answers", [])
        for event in about
        if event["type"] == f"{_POLL}.response"
    }
    chosen = [answer for answers in votes.values() for answer in answers[:1]]
    answers = [
        {"text": answer.get(_TEXT, ""), "votes": chosen.count(answer.get("id"))} for answer in start.get("answers", ())
    ]
    over = any(event["type"] == f"{_POLL}.end" for event in about)
    return {"kind": "poll", "question": _question(start), "answers": answers, "over": over}


def _question(start: Json) -> str:
    return str(start.get("question", {}).get(_TEXT, ""))


def _relation(event: Json) -> Json:
    relation = event["content"].get("m.relates_to", {})
    return relation if relation.get("rel_type") == "m.reference" else {}
