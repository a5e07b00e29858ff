"""Whatever somebody writes, under whatever name: no error, nothing over a limit, no ping, no forbidden tag.

Everything here goes the whole way from one platform's text to what the other one is sent.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from relay.adapters.discord import markup as discord
from relay.adapters.discord.outbound.body import (
    FALLBACK_LENGTH,
    TEXT_LENGTH,
    allowed_mentions,
    bot_text,
    measure,
    webhook_body,
)
from relay.adapters.matrix import markup as matrix
from relay.adapters.matrix.outbound import compose
from relay.core.convert.degrade import Dropped, degrade
from relay.core.ports import Delivery
from relay.domain.content import Attachment, Author, Capabilities, Content, Quotation
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.pair import PairPolicy
from relay.domain.text.nodes import RichText, UserMention
from relay.domain.text.rewrite import map_inline
from relay.errors import Unsupported
from tests.support.markup import often, sources
from tests.unit.adapters.matrix.markup.test_markup_properties import check

MENTION = re.compile(r"@(?:everyone|here)|<@[!&]?\d+>")
# A backtick behind a backslash begins no code.
CODE = re.compile(r"(\\[^\w\s])|```[\s\S]*?```|(`+)(?!`).*?(?<!`)\2(?!`)", re.DOTALL)
# An event may take 65,536 bytes; what servers add (signatures, hashes, what it refers to) takes some 2,000 at most.
EVENT_BYTES = 65_536 - 2_000
DISCORD_ROOM = ChannelRef(Platform.DISCORD, "1")
MATRIX_ROOM = ChannelRef(Platform.MATRIX, "!room:example.org")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

_STRANGE = (
    "a",
    "*",
    "_",
    "`",
    "|",
    "~",
    "\\",
    "&",
    "<",
    '"',
    "@",
    "[",
    "]",
    "(",
    ")",
    ":",
    "\u200b",
    "\u202e",
    "\u0301",
)
_WIDE = (
    "é",
    "字",
    "👍🏽",
    "👨‍👩‍👧",
    "a b ",
    "@everyone ",
    "<@1> ",
    "@room ",
    "||",
    "**a",
    "\ud800",
    "\0",
    "\n",
    "&amp;",
)
runs = st.builds(
    lambda piece, count: piece * count,
    st.sampled_from((*_STRANGE, *_WIDE)) | st.text(min_size=1, max_size=3),
    st.sampled_from((1, 3, 40, 300, 1_998, 1_999, 2_000, 2_001, 2_100, 5_000)),
)
"""The same again and again, up to lengths at which nothing fits any more."""

pieces = st.one_of(sources, sources, runs)
names = st.one_of(st.text(max_size=40), runs, st.sampled_from(("discord", "everyone", "", " ", "ada")))


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _html(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """HTML around HTML, with attributes of any length."""
    inner = st.lists(children, max_size=3).map("".join)
    long = pieces.map(_attribute)
    tags = (
        "b",
        "i",
        "u",
        "del",
        "sup",
        "sub",
        "p",
        "blockquote",
        "h1",
        "pre",
        "pre><code",
        "code",
        "li",
        "details",
        "div",
    )
    return st.one_of(
        st.builds(lambda tag, words: f"<{tag}>{words}</{tag.partition('>')[0]}>", st.sampled_from(tags), inner),
        st.builds(lambda reason, words: f'<span data-mx-spoiler="{reason}">{words}</span>', long, inner),
        st.builds(lambda url, words: f'<a href="https://a.b/{url}">{words}</a>', long, inner),
        st.builds(lambda who, words: f'<a href="https://matrix.to/#/{who}">{words}</a>', long, inner),
        st.builds(lambda name: f'<img data-mx-emoticon src="mxc://a.b/c" alt=":{name}:" title="{name}">', long),
        st.builds(lambda name: f'<img src="mxc://a.b/c" alt="{name}">', long),
        st.builds(lambda name, words: f'<pre><code class="language-{name}">{words}</code></pre>', long, inner),
        st.builds(lambda tex: f'<span data-mx-maths="{tex}">x</span>', long),
        st.builds(lambda start, words: f'<ol start="{start}"><li>{words}</li></ol>', st.integers(-9, 10**12), inner),
        st.builds(lambda words, rest: f"<details><summary>{words}</summary>{rest}</details>", inner, inner),
        st.builds(
            lambda caption, one, two: f"<table><caption>{caption}</caption><tr><th>{one}<td>{two}</tr></table>",
            inner,
            inner,
            inner,
        ),
        st.builds(
            lambda tag, deep, words: f"<{tag}>" * deep + words,
            st.sampled_from(
                ("blockquote", "ul><li", "sup", "b><i", "details><summary>x</summary", "a href='https://a.b'")
            ),
            st.sampled_from((3, 40, 100)),
            inner,
        ),
    )


html = st.lists(st.recursive(pieces, _html, max_leaves=6), max_size=4).map("".join)
attachments = st.builds(
    lambda alt, name, url: (
        Attachment("1", name, "image", MediaRef(Platform.DISCORD, "1"), size=10**12, alt=alt, url=url, page=url),
    ),
    pieces,
    names,
    st.sampled_from(("", "https://a.b/c", "https://a.b/" + "x" * 3_000)),
)


def outside_code(text: str) -> str:
    return CODE.sub(lambda found: found[1] or "", text)


def parts_of(
    content: Content, author: Author, capabilities: Capabilities, quotation: Quotation | None = None, **more: Any
) -> tuple[Content, ...]:
    found = degrade(content, author=author, capabilities=capabilities, policy=PairPolicy(), quotation=quotation, **more)
    return () if isinstance(found, Dropped) else found


def check_on_discord(body: str, mentions: dict[str, Any]) -> None:
    assert len(body) <= TEXT_LENGTH
    assert mentions == {"parse": [], "replied_user": False}
    assert not MENTION.search(outside_code(body)), body
    body.encode()


@often
@given(sources | html, html, names, st.none() | names, st.booleans(), st.sampled_from(("text", "emote")))
@example("", f'<img data-mx-emoticon src="mxc://a.b/c" alt=":{"n" * 2_100}:">', "Ada", None, False, "text")
@example("", f'<pre><code class="language-{"l" * 2_100}">x</code></pre>', "Ada", None, False, "text")
@example("", f'<span data-mx-spoiler="{"r" * 2_100}">x</span>', "Ada", None, False, "text")
@example("", f'<a href="https://a.b/{"u" * 2_100}">x</a>', "Ada", None, False, "text")
@example("", "x" * 3_000, "Ada", "n" * 3_000, False, "text")
@example("", "<details><summary>x</summary>" * 100 + "a" * 5_000, "Ada", None, False, "text")
@example("", "`<pre>` @everyone</pre>", "Ada", None, False, "text")
@example("", '<a href="https://a.b/`">a</a><pre>`&lt;@1></pre>', "Ada", None, False, "text")
@example("", "x" * 1_700 + "<br><b>b</b>" * 9, "Ada", None, False, "text")
@example("\ud800" * 11_000, "", "Ada", None, True, "text")
# Brackets need no backslash, but for the link in the quoted line above them.
@example("", "<b>" + "[" * 1_828 + "</b>", "Ada", "", False, "text")
def test_what_is_written_on_matrix_fits_on_discord(
    body: str, formatted: str, name: str, quoted: str | None, as_file: bool, style: Any
) -> None:
    author = Author(UserRef(Platform.MATRIX, "@ada:example.org"), name)
    content = Content(matrix.parse(body, formatted, names=matrix.NameLookup()), style=style)
    quotation = None if quoted is None else Quotation(quoted, content.text, "https://discord.com/channels/1/2/3")
    for by_bot in (False, True):
        room = TEXT_LENGTH - (FALLBACK_LENGTH if by_bot else 0)
        capabilities = Capabilities(room, False, 10, 10 << 20, 25 << 20)
        for part in parts_of(content, author, capabilities, quotation, measure=measure, as_file=as_file):
            try:
                if by_bot:
                    said = bot_text(Delivery(DISCORD_ROOM, "key", author, part))
                    check_on_discord(said, allowed_mentions(part))
                    continue
                made = webhook_body(part, author)
            except Unsupported:
                continue  # it shows nothing at all
            check_on_discord(made["content"], made["allowed_mentions"])
            assert 1 <= len(made["username"]) <= 80


@often
@given(pieces, st.lists(pieces, max_size=3), names, st.none() | attachments)
@example("<@1>" * 500, [], "Ada", None)
def test_what_is_written_on_discord_fits_into_an_event(
    source: str, more: list[str], name: str, files: tuple[Attachment, ...] | None
) -> None:
    author = Author(UserRef(Platform.DISCORD, "1"), name)
    blocks = [
        block for each in (source, *more) for block in discord.parse(each[:4_000], names=discord.NameLookup()).blocks
    ]
    text = map_inline(RichText(tuple(blocks)), called)
    content = Content(text, files or ())
    capabilities = Capabilities(compose.MAX_TEXT_LENGTH, True, 1, 10 << 20, 10 << 20)

    def measure(text: RichText) -> int:
        return compose.measure(text, author)

    for part in parts_of(content, author, capabilities, measure=measure):
        check_event(compose.compose(Delivery(MATRIX_ROOM, "key", author, part)))
    # A file that crosses has its description in the same event.
    for part in parts_of(Content(text), author, capabilities, measure=measure):
        check_event(compose.compose(Delivery(MATRIX_ROOM, "key", author, Content(part.text, files or ()))))


def called(node: Any) -> Any:
    """Everybody who is mentioned has an account on Matrix, with a long ID. Whoever calls everybody may not."""
    if isinstance(node, UserMention):
        return UserMention(UserRef(Platform.MATRIX, f"@{node.user.id}{'x' * 200}:example.org"), node.name)
    return node


def check_event(content: dict[str, Any]) -> None:
    target = MessageRef(MATRIX_ROOM, "$" + "e" * 43)
    for made in (content, compose.edit_content(target, content)):
        assert len(json.dumps(made, ensure_ascii=False).encode()) <= EVENT_BYTES
    check(content.get("formatted_body", "").replace(" data-mx-profile-fallback", "", 1))
    assert content["m.mentions"].keys() <= {"user_ids"}
    assert all(user.endswith("x:example.org") for user in content["m.mentions"].get("user_ids", ()))


def test_the_checks_find_what_they_look_for() -> None:
    """A property that can never fail says nothing."""
    assert MENTION.search(outside_code("a <@1> b"))
    assert not MENTION.search(outside_code("`<@1>`"))
    assert MENTION.search(outside_code("\\` <@1> `"))
