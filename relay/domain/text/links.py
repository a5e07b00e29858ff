"""Web addresses in running text, and links that show only their address."""

import re
from collections.abc import Iterator

from relay.domain.text.nodes import Inline, Link, Text

_URL = re.compile(r"https?://[^\s<>\\`\u200b]++", re.IGNORECASE)
_URL_TAIL = frozenset(".,:;!?\"'[]")


def link_bare_urls(text: str) -> Iterator[Inline]:
    """`text` with each http(s) URL as a bare link, as the clients of both platforms show it.

    Punctuation at the end is not part of a URL, nor is a closing bracket that was not opened inside it.
    """
    start = 0
    for match in _URL.finditer(text):
        url = trim_url(match.group())
        if len(url) <= len("https://"):
            continue
        if match.start() > start:
            yield Text(text[start : match.start()])
        yield Link(url, (Text(url),))
        start = match.start() + len(url)
    if start < len(text):
        yield Text(text[start:])


def trim_url(url: str) -> str:
    """`url` without the punctuation and the unopened closing brackets at its end. Linear."""
    surplus = url.count(")") - url.count("(")
    end = len(url)
    while end and (url[end - 1] in _URL_TAIL or (surplus > 0 and url[end - 1] == ")")):
        end -= 1
        surplus -= url[end] == ")"
    return url[:end]


def is_bare(link: Link) -> bool:
    """Whether `link` shows only its URL."""
    return link.children == (Text(link.url),)
