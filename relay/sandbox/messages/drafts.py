"""The body of a request that creates or edits a message -> a checked `Draft`. Pure.

https://discord.com/developers/docs/resources/message#create-message
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from relay.sandbox import errors
from relay.sandbox.messages.forms import Form, parse_snowflake
from relay.sandbox.messages.mentions import AllowedMentions
from relay.sandbox.world.models import Json, StoredFile

MAX_CONTENT = 2000
MAX_FILES = 10
MAX_NONCE = 25
MAX_STICKERS = 3
MAX_EMBEDS = 10
MAX_TOTAL = 6000
SUPPRESS_EMBEDS = 1 << 2
SUPPRESS_NOTIFICATIONS = 1 << 12
VOICE_MESSAGE = 1 << 13
HAS_SNAPSHOT = 1 << 14
COMPONENTS_V2 = 1 << 15
_SETTABLE_FLAGS = SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS | VOICE_MESSAGE | COMPONENTS_V2


@dataclass(frozen=True, slots=True)
class Upload:
    """A part `files[n]` of a multipart request."""

    filename: str
    content_type: str | None
    file: StoredFile


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to attach, with what the `attachments` array says about it."""

    upload: Upload
    filename: str
    title: str | None = None
    description: str | None = None
    duration_secs: float | None = None
    waveform: str | None = None
    spoiler: bool = False


@dataclass(slots=True)
class Draft:
    """What a request asks for."""

    given: frozenset[str] = frozenset()  # the fields that it names: what an edit changes
    content: str = ""
    embeds: list[Json] = field(default_factory=list)
    components: list[Json] = field(default_factory=list)
    poll: Json | None = None
    sticker_ids: list[int] = field(default_factory=list)
    reference: Json | None = None
    allowed: AllowedMentions | None = None
    nonce: str | int | None = None
    enforce_nonce: bool = False
    flags: int = 0
    tts: bool = False
    files: list[NewFile] = field(default_factory=list)
    # Which attachments an edit keeps, by ID, with a new description; None: all.
    keep: dict[int, str | None] | None = None

    def is_empty(self) -> bool:
        """Whether there is nothing to post."""
        return not (self.content or self.embeds or self.components or self.poll or self.sticker_ids or self.files)


def read_draft(body: Any, uploads: Mapping[int, Upload], path: str = "") -> Draft:
    """Check everything that can be checked without knowing the channel. Raises 50035 with all mistakes.

    `path`: where in the request the body was.
    """
    form = Form(body, path)
    draft = Draft(given=frozenset(form.body))
    draft.content = (form.text("content", most=MAX_CONTENT) or "").strip()
    draft.tts = form.flag("tts")
    draft.embeds = read_embeds(form)
    draft.components = [dict(item.body) for item in form.forms("components", most=40)]
    draft.sticker_ids = form.snowflakes("sticker_ids", most=MAX_STICKERS)
    draft.flags = form.integer("flags", most=(1 << 31) - 1) & _SETTABLE_FLAGS
    draft.nonce = _nonce(form)
    draft.enforce_nonce = form.flag("enforce_nonce")
    draft.allowed = _allowed_mentions(form)
    draft.reference = _reference(form)
    draft.poll = _poll(form)
    _files(form, draft, uploads)
    form.check()
    return draft


def _nonce(form: Form) -> str | int | None:
    value = form.body.get("nonce")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        form.mistake("nonce", "NONCE_TYPE_INVALID", "Nonce must be a string or an integer.")
        return None
    if len(str(value)) > MAX_NONCE:
        form.mistake("nonce", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_NONCE} or fewer in length.")
    return value


def _allowed_mentions(form: Form) -> AllowedMentions | None:
    inner = form.form("allowed_mentions")
    if inner is None:
        return None
    parse: list[str] = []
    for index, value in enumerate(inner.items("parse", most=3)):
        if value not in {"users", "roles", "everyone"}:
            message = "Value must be one of ('users', 'roles', 'everyone')."
            inner.mistake(f"parse.{index}", "BASE_TYPE_CHOICES", message)
        else:
            parse.append(value)
    users, roles = inner.snowflakes("users", most=100), inner.snowflakes("roles", most=100)
    for kind, ids in (("users", users), ("roles", roles)):
        if ids and kind in parse:
            message = f'parse:["{kind}"] and {kind}: [ids...] are mutually exclusive.'
            inner.mistake("", "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE", message)
    replied_user = inner.flag("replied_user")
    return AllowedMentions(frozenset(parse), frozenset(users), frozenset(roles), replied_user)


def _reference(form: Form) -> Json | None:
    inner = form.form("message_reference")
    if inner is None:
        return None
    kind = inner.integer("type", most=1)
    message_id = inner.snowflake("message_id", required=True)
    return {
        "type": kind,
        "message_id": message_id,
        "channel_id": inner.snowflake("channel_id", required=kind == 1),
        "guild_id": inner.snowflake("guild_id"),
        "fail_if_not_exists": inner.flag("fail_if_not_exists", default=True),
    }


def _poll(form: Form) -> Json | None:
    inner = form.form("poll")
    if inner is None:
        return None
    question = inner.form("question")
    text = question.text("text", most=300, least=1, required=True) if question else None
    if question is None:
        inner.mistake("question", "BASE_TYPE_REQUIRED", "This field is required")
    answers = []
    for number, answer in enumerate(inner.forms("answers", most=10), 1):
        media = answer.form("poll_media")
        if media is None:
            answer.mistake("poll_media", "BASE_TYPE_REQUIRED", "This field is required")
            continue
        body: Json = {"text": media.text("text", most=55, least=1)}
        if media.body.get("emoji"):
            body["emoji"] = dict(media.body["emoji"])
        answers.append({"answer_id": number, "poll_media": body})
    if not answers:
        inner.mistake("answers", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 10 in length.")
    return {
        "question": {"text": text},
        "answers": answers,
        "duration": inner.integer("duration", least=1, most=768, default=24),
        "allow_multiselect": inner.flag("allow_multiselect"),
        "layout_type": inner.integer("layout_type", least=1, most=1, default=1),
    }


def _files(form: Form, draft: Draft, uploads: Mapping[int, Upload]) -> None:
    described: set[int] = set()
    if form.body.get("attachments") is not None:
        draft.keep = {}
    for entry in form.forms("attachments", most=MAX_FILES):
        number = parse_snowflake(entry.body.get("id"))
        description = entry.text("description", most=1024)
        if number is None:
            entry.mistake("id", "BASE_TYPE_REQUIRED", "This field is required")
        elif number in uploads:
            described.add(number)
            draft.files.append(_new_file(entry, uploads[number], description))
        elif draft.keep is not None:
            draft.keep[number] = description
    draft.files += [_bare_file(upload) for number, upload in sorted(uploads.items()) if number not in described]
    if len(draft.files) + len(draft.keep or {}) > MAX_FILES:
        form.mistake("attachments", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_FILES} or fewer in length.")
    if draft.flags & VOICE_MESSAGE:
        _check_voice(draft)


def _new_file(entry: Form, upload: Upload, description: str | None) -> NewFile:
    original = entry.text("filename", most=1024, least=1) or upload.filename
    filename, title = safe_filename(original)
    return NewFile(
        upload,
        filename,
        entry.text("title", most=1024) or title,
        description,
        entry.number("duration_secs"),
        entry.text("waveform", most=400),
        entry.flag("is_spoiler"),
    )


def _bare_file(upload: Upload) -> NewFile:
    filename, title = safe_filename(upload.filename)
    return NewFile(upload, filename, title)


def _check_voice(draft: Draft) -> None:
    # https://discord.com/developers/docs/resources/message#voice-messages
    if draft.content or draft.embeds or draft.sticker_ids or draft.poll:
        raise errors.ApiError(400, 50159, "Voice messages do not support additional content.")
    if len(draft.files) != 1:
        raise errors.ApiError(400, 50160, "Voice messages must have a single audio attachment.")
    if draft.files[0].duration_secs is None or draft.files[0].waveform is None:
        raise errors.ApiError(400, 50161, "Voice messages must have supporting metadata.")


def safe_filename(name: str) -> tuple[str, str | None]:
    """The name that Discord stores, and the title that keeps the original where the two differ.

    Only ASCII letters, digits, `.`, `_` and `-` survive; spaces become underscores.
    """
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = base.rpartition(".")
    cleaned = "".join(c for c in base.replace(" ", "_") if c.isascii() and (c.isalnum() or c in "._-")).lstrip(".")
    if not cleaned or (dot and cleaned == suffix):
        cleaned = f"unknown.{suffix}" if dot and suffix.isascii() and suffix.isalnum() else "unknown"
    return cleaned, (stem or base) if cleaned != base else None


# --- Embeds and their limits: https://discord.com/developers/docs/resources/message#embed-object-embed-limits


def read_embeds(form: Form) -> list[Json]:
    """The `embeds` of a message, checked, as Discord will show them."""
    found: list[Json] = []
    total = 0
    for entry in form.forms("embeds", most=MAX_EMBEDS):
        embed, length = _embed(entry)
        total += length
        found.append(embed)
    if total > MAX_TOTAL:
        message = f"Embed size exceeds maximum size of {MAX_TOTAL}"
        form.mistake("embeds", "MAX_EMBED_SIZE_EXCEEDED", message)
    return found


def _embed(form: Form) -> tuple[Json, int]:
    embed: Json = {"type": "rich"}
    length = 0
    for name, most in (("title", 256), ("description", 4096)):
        text = form.text(name, most=most)
        if text is not None:
            embed[name] = text.strip()
            length += len(text)
    for name in ("url", "timestamp"):
        text = form.text(name, most=2048)
        if text is not None:
            embed[name] = text
    if "url" in embed:
        check_url(form, "url", embed["url"])
    if form.body.get("color") is not None:
        embed["color"] = form.integer("color", most=0xFFFFFF)
    for name in ("image", "thumbnail"):
        picture = form.form(name)
        if picture is not None:
            url = picture.text("url", most=2048, required=True) or ""
            check_url(picture, "url", url, extra_scheme="attachment")
            embed[name] = {"url": url, "proxy_url": url}
    for name, key, most in (("footer", "text", 2048), ("author", "name", 256)):
        part = form.form(name)
        if part is not None:
            text = part.text(key, most=most, least=1, required=True) or ""
            length += len(text)
            embed[name] = dict(part.body) | {key: text.strip()}
    fields = [_field(entry) for entry in form.forms("fields", most=25)]
    if fields:
        embed["fields"] = fields
        length += sum(len(item["name"]) + len(item["value"]) for item in fields)
    if not set(embed) - {"type", "color", "timestamp", "url"}:
        form.mistake("description", "BASE_TYPE_REQUIRED", "This field is required")
    return embed, length


def _field(form: Form) -> Json:
    return {
        "name": (form.text("name", most=256, least=1, required=True) or "").strip(),
        "value": (form.text("value", most=1024, least=1, required=True) or "").strip(),
        "inline": form.flag("inline"),
    }


def check_url(form: Form, name: str, url: str, extra_scheme: str = "https") -> None:
    """Only http and https, and with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https", extra_scheme}:
        message = f"Scheme \"{parts.scheme}\" is not one of ('http', 'https')."
        form.mistake(name, "URL_TYPE_INVALID_SCHEME", message)
    elif not parts.netloc:
        form.mistake(name, "URL_TYPE_INVALID_URL", "Not a well formed URL.")
