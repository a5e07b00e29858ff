"""What a reader sees in a message: who says what, what is quoted, which files. Pure.

It knows how copies look to people, and nothing of the relay's code. A copy holds one message or a part of one; or
several, a line each, because nobody here writes more than a line.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relay.demo.matrix_client import Shown
from tests.chaos.ledger import File, key_of

_SIGNED = re.compile(r"\A\*\*([^*\n]{1,100}):\*\* ?")
"""A name in front of each message of several people."""
_INTRODUCED = re.compile(r"\A\*\*([^*\n]{1,200})\*\*:(?: |\n|\Z)")
"""A name in front of all, where the bot itself had to post on Discord."""
_QUOTE = re.compile(r"\A> (?:\[↪ (?P<linked>[^\]]+)\]\(<?(?P<url>[^)>]+)>?\)|↪ (?P<plain>[^:]+))(?:: (?P<words>.*))?\Z")
_NOBODY = "(nobody)"


@dataclass(frozen=True, slots=True)
class Quote:
    """The line above a reply. `url` is "" without a link."""

    author: str
    words: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What one person says in a message."""

    author: str
    text: str
    quote: Quote | None = None
    files: tuple[File, ...] = ()

    @property
    def key(self) -> str:
        """Which message it is, or a part of which."""
        own = key_of(self.text) if self.text or not self.files else key_of(self.files[0].name)
        return own or _NOBODY


@dataclass(frozen=True, slots=True)
class Standing:
    """A message as a reader sees it. `reply_to`: the ID of what it answers where the platform shows that itself.

    `by_bot`: under no name but the bot's.
    """

    id: str
    said: tuple[Said, ...]
    reply_to: str = ""
    by_bot: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Which messages it shows."""
        return tuple(said.key for said in self.said)


def files_of(message: Mapping[str, Any], digests: Mapping[str, str] | None = None) -> tuple[File, ...]:
    """The files of a message on Discord; `digests` of their contents by ID, where they have been looked at."""
    return tuple(File(each["filename"], (digests or {}).get(each["id"], "")) for each in message["attachments"])


def discord_original(message: Mapping[str, Any], files: tuple[File, ...]) -> Standing:
    """What somebody wrote on Discord, as they wrote it."""
    said = Said(message["author"]["username"], message["content"], files=files)
    reference = message.get("message_reference") or {}
    return Standing(str(message["id"]), (said,), reply_to=str(reference.get("message_id") or ""))


def discord_copy(message: Mapping[str, Any], files: tuple[File, ...] = ()) -> Standing:
    """What a reader on Matrix sees."""
    name, text = str(message["author"]["username"]), str(message["content"])
    by_bot = not message.get("webhook_id")
    if by_bot:
        found = _INTRODUCED.match(text)
        name, text = (found[1], text[found.end() :]) if found else (_NOBODY, text)
    return Standing(str(message["id"]), _lines(name, text, files), by_bot=by_bot)


def matrix_original(message: Shown, name: str, files: tuple[File, ...]) -> Standing:
    """What somebody wrote on Matrix; the name of a file alone is not their words."""
    said = Said(name, _without_file_name(message.body, message), files=files)
    return Standing(message.event_id, (said,), reply_to=message.reply_to or "")


def matrix_copy(message: Shown, files: tuple[File, ...] = ()) -> Standing:
    """What a reader on Discord sees."""
    name = message.name or _NOBODY
    text = _without_file_name(message.body.removeprefix(f"{name}: "), message)
    return Standing(message.event_id, _lines(name, text, files), reply_to=message.reply_to or "")


def _without_file_name(text: str, message: Shown) -> str:
    return "" if text and text == message.content.get("filename") else text


def _lines(name: str, text: str, files: tuple[File, ...]) -> tuple[Said, ...]:
    """A line for each message, with the quoted line above it."""
    several = ", " in name
    found: list[Said] = []
    quote: Quote | None = None
    for line in filter(str.strip, text.split("\n")):
        if (quoted := _QUOTE.match(line)) is not None:
            quote = Quote(quoted["linked"] or quoted["plain"], quoted["words"] or "", quoted["url"] or "")
            continue
        author, words = name, line
        if several:
            signed = _SIGNED.match(line)
            author, words = (signed[1], line[signed.end() :]) if signed else (_NOBODY, line)
        found.append(Said(author, words, quote))
        quote = None
    if quote is not None or not found:
        found.append(Said(name, "", quote))
    if files:
        found[-1] = replace(found[-1], files=files)
    return tuple(found)
