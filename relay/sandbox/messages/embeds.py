"""Embeds and their limits: https://discord.com/developers/docs/resources/message#embed-object-embed-limits. Pure."""

from urllib.parse import urlsplit

from relay.sandbox.messages.forms import Form
from relay.sandbox.rest.errors import Json

MAX_EMBEDS = 10
MAX_TOTAL = 6000


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
