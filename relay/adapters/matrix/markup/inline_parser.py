"""HTML elements inside a block -> inline nodes of the neutral text tree."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.adapters.matrix.identifiers import browser_link, matrix_to_link, parse_link, parse_mxc
from relay.adapters.matrix.markup.html import Element
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import link_bare_urls

Wrapper = Callable[[tuple[n.Inline, ...]], n.Inline]
"""Puts markup around nodes. In HTML, markup may surround whole blocks; in the tree it goes around what is in them."""

_SPACE = re.compile(r"[ \t\n\r\f]+")
_BREAK = re.compile(r"[\t\n\r\f]+")
# `@room`, and the ID of a user or the alias of a room, which clients show as links.
_TYPED = re.compile(
    r"(?<!\w)(?P<all>@room\b)|(?<![\w/:@#.-])(?P<id>[#@][^\s:#@]{1,200}+:[0-9A-Za-z.-]*[0-9A-Za-z](?::[0-9]{1,5})?)"
)
_MOST_TYPED = 100
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_SCHEMES = ("https:", "http:", "ftp:", "mailto:", "magnet:")

_SIMPLE: dict[str, Wrapper] = {
    "b": n.Strong,
    "strong": n.Strong,
    "i": n.Emphasis,
    "em": n.Emphasis,
    "u": n.Underline,
    "s": n.Strike,
    "del": n.Strike,
    "strike": n.Strike,
    "sup": n.Superscript,
    "sub": lambda children: n.Superscript(children, lowered=True),
}


@dataclass(frozen=True, slots=True)
class SpoilerWrapper:
    """Makes a spoiler."""

    reason: str

    def __call__(self, children: tuple[n.Inline, ...]) -> n.Inline:
        return n.Spoiler(children, self.reason)


@dataclass(frozen=True, slots=True)
class LinkWrapper:
    """Makes a link."""

    url: str

    def __call__(self, children: tuple[n.Inline, ...]) -> n.Inline:
        return n.Link(self.url, children)


def wrap_all(nodes: tuple[n.Inline, ...], wrappers: tuple[Wrapper, ...]) -> tuple[n.Inline, ...]:
    """`nodes` with all of `wrappers` around them, the first outermost."""
    for wrapper in reversed(wrappers):
        nodes = (wrapper(nodes),)
    return nodes


@dataclass(frozen=True, slots=True)
class NameLookup:
    """What the parser has to ask. Each returns None for what is unknown."""

    # The display name of a user ID.
    user: Callable[[str], str | None] = lambda _: None
    # The ID of the room that an alias names.
    room_id: Callable[[str], str | None] = lambda _: None
    # The name of a room by its ID, without a #.
    room_name: Callable[[str], str | None] = lambda _: None
    # For whom a user ID stands, if it is a ghost of the relay.
    person: Callable[[str], UserRef | None] = lambda _: None


class InlineParser:
    """Turns text, and elements without blocks in them, into inline nodes."""

    def __init__(self, names: NameLookup, *, strip_fallback: bool = False) -> None:
        self._names = names
        self._strip_fallback = strip_fallback
        # Whether the text so far ends in white space: HTML does not show more of it.
        self.spaced = True
        # How many more mentions may be typed.
        self._left = _MOST_TYPED
        self._in_anchor = False

    def wrapper(self, element: Element) -> Wrapper | None:
        """The markup that an element with blocks in it puts around them."""
        attributes = element.attributes
        if element.tag in _SIMPLE:
            return _SIMPLE[element.tag]
        if "data-mx-spoiler" in attributes:
            return SpoilerWrapper(attributes["data-mx-spoiler"])
        href = attributes.get("href", "").strip()
        target = parse_link(href)
        if target.id.startswith("@") if target is not None else not href.lower().startswith(_SCHEMES):
            return None
        return LinkWrapper(browser_link(href))

    def element(self, element: Element) -> Iterator[n.Inline]:
        """What an element without blocks in it means."""
        attributes = element.attributes
        match element.tag:
            case _ if self._strip_fallback and "data-mx-profile-fallback" in attributes:
                return
            case "br":
                self.spaced = True
                yield n.LineBreak()
            case "img":
                yield from self._image(element)
            case "code":
                # Clients keep spaces in code.
                text = _BREAK.sub(" ", "".join(text_content(element)))
                self.spaced = False
                yield n.Code(text)
            case "a":
                yield from self._anchor(element)
            case "span" if attributes.get("data-mx-maths", "").strip():
                self.spaced = False
                yield n.Math(attributes["data-mx-maths"])
            case "span" | "font":
                inner = self._children(element)
                foreground = _color(attributes.get("data-mx-color") or attributes.get("color"))
                background = _color(attributes.get("data-mx-bg-color"))
                if foreground or background:
                    inner = (n.Colored(inner, foreground, background),)
                if "data-mx-spoiler" in attributes:
                    inner = (n.Spoiler(inner, attributes["data-mx-spoiler"]),)
                yield from inner
            case tag:
                yield _SIMPLE[tag](self._children(element))

    def _children(self, element: Element) -> tuple[n.Inline, ...]:
        nodes: list[n.Inline] = []
        for child in element.children:
            nodes.extend(self.text(child) if isinstance(child, str) else self.element(child))
        return tuple(nodes)

    def text(self, text: str) -> Iterator[n.Inline]:
        """`text` as HTML shows it: white space in a row is one space."""
        text = _SPACE.sub(" ", text)
        if self.spaced:
            text = text.removeprefix(" ")
        if text:
            self.spaced = text.endswith(" ")
            yield from self.linked(text)

    def linked(self, text: str) -> Iterator[n.Inline]:
        """`text`, with URLs as links, and as mentions `@room` and the IDs of members and rooms that are known."""
        if "://" not in text and "@" not in text and "#" not in text:
            yield n.Text(text)
            return
        for node in link_bare_urls(text):
            match node:
                case n.Link(url, children):
                    yield self._reference(url, children) or node
                case n.Text(words):
                    start = 0
                    for found in _TYPED.finditer(words):
                        mention = n.BroadcastMention("everyone", "@room") if found["all"] else self._typed(found["id"])
                        if mention is not None:
                            yield n.Text(words[start : found.start()])
                            yield mention
                            start = found.end()
                    yield n.Text(words[start:])

    def _typed(self, words: str) -> n.Inline | None:
        """The member or the room that somebody has typed the ID or the alias of; None if there is none."""
        if self._left == 0 or self._in_anchor:
            return None
        if (self._names.user(words) or self._names.person(words) or self._names.room_id(words)) is None:
            return None
        self._left -= 1
        return self._reference(matrix_to_link(words), (n.Text(words),))

    def _anchor(self, element: Element) -> Iterator[n.Inline]:
        href = element.attributes.get("href", "").strip()
        self._in_anchor = True
        children = self._children(element)
        self._in_anchor = False
        if (reference := self._reference(href, children)) is not None:
            self.spaced = False
            yield reference
        elif href.lower().startswith(_SCHEMES):
            words = n.inline_text(children)
            if words.rstrip("/") == href.rstrip("/") and all(isinstance(child, n.Text | n.Link) for child in children):
                children = (n.Text(href),)
            yield n.Link(href, children)
        else:
            yield from children

    def _reference(self, url: str, children: tuple[n.Inline, ...]) -> n.Inline | None:
        """The person, room or message that `url` is a link to. Its name is the one in the room, if that is known."""
        target = parse_link(url)
        if target is None:
            return None
        words = " ".join(n.inline_text(children).split())
        label = "" if words in (url, target.id) else words
        if target.id.startswith("@"):
            name = self._names.user(target.id) or _without_id(label, target.id)
            person = self._names.person(target.id) or UserRef(Platform.MATRIX, target.id)
            return n.UserMention(person, name or target.id[1:])
        room = target.id if target.id.startswith("!") else self._names.room_id(target.id) or target.id
        channel = ChannelRef(Platform.MATRIX, room)
        shown = children if words not in ("", url) else ()
        if target.event:
            return n.MessageLink(MessageRef(channel, target.event), browser_link(url), shown)
        alias = target.id[1:] if target.id.startswith("#") else ""
        name = self._names.room_name(room) or alias or label.removeprefix("#") or target.id[1:]
        return n.ChannelMention(channel, name, browser_link(url), shown)

    def _image(self, element: Element) -> Iterator[n.Inline]:
        attributes = element.attributes
        source = attributes.get("src", "")
        words = " ".join((attributes.get("alt") or attributes.get("title") or "").split())
        self.spaced = False
        if source.lower().startswith(("https://", "http://")):
            # Clients do not load images from other servers. A link lets the reader decide.
            yield n.Link(source, (n.Text(words or "image"),), preview=False)
        elif parse_mxc(source) is None:
            yield n.Text(words or "image")
        elif "data-mx-emoticon" in attributes and words and not any(map(str.isalnum, words)):
            # Not its name, but the emoji that other bridges give for those who do not see it.
            yield n.Text(words)
        elif "data-mx-emoticon" in attributes:
            yield n.CustomEmoji(words.strip(":") or "emoji", "", MediaRef(Platform.MATRIX, source))
        else:
            yield n.InlineImage(words, MediaRef(Platform.MATRIX, source))


def _without_id(label: str, user_id: str) -> str:
    """The name in a mention, without the user ID that clients add when several people have that name."""
    for ending in (f"({user_id})", user_id):
        label = label.removesuffix(ending)
    return label.strip().removeprefix("@")


def _color(value: str | None) -> str | None:
    return value.lower() if value and _COLOR.fullmatch(value) else None


def text_content(element: Element) -> Iterator[str]:
    """The text in `element`, like `textContent` in a browser."""
    for child in element.children:
        if isinstance(child, str):
            yield child
        elif child.tag == "br":
            yield "\n"
        elif child.tag == "img":
            yield child.attributes.get("alt", "")
        else:
            yield from text_content(child)
