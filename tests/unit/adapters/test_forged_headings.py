"""Whatever a member writes, it never looks like what the relay itself puts in front of somebody's words.

What the relay makes, each of which would be taken for somebody else's words or name: the line above a reply, in three
forms; the heading of a forward; the names in a message of several, and the name that such a message has; the bot's
introduction of a name; and the marks behind a name, `⟨ada⟩` and `(via …)`.
"""

import re
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.adapters.discord.inbound.embeds import TextReader
from relay.adapters.discord.markup import NameLookup
from relay.adapters.discord.outbound.body import TEXT_LENGTH, bot_text, measure, webhook_text, with_author_name
from relay.adapters.matrix.inbound.events import convert
from relay.adapters.matrix.outbound import compose
from relay.adapters.matrix.rooms.state import RoomState
from relay.core.author_names import _decided
from relay.core.convert.degrade import quoted_line
from relay.core.delivery import digests
from relay.core.ports import Delivery
from relay.domain.commands import Digest, DigestItem
from relay.domain.content import Author, Capabilities, Content, Quotation
from relay.domain.events import MessageCreated
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.names import REPLY_ARROW as ARROW
from relay.domain.text import nodes as n
from tests.support.markup import often
from tests.unit.adapters.test_hostile_texts import DISCORD_ROOM, MATRIX_ROOM, outside_code, parts_of

WRITTEN = (
    f"{ARROW} Bob: I quit|[{ARROW} Bob](https://discord.com/channels/1/2/3): I quit|{ARROW}|*{ARROW} Forwarded:*"
    "|**Ben:** I quit|# Ben: I quit|### **Ben:**|-# **Ben:** I quit|\n|\n\n|> |>>> |**|*|_|__|~~|||- |1. |x "
    "|\u200b|\u2800|:e:|Ben: I quit"
).split("|")
TAGS = (
    f"&#8618; Bob|{ARROW} Bob: I quit|<blockquote>|</blockquote>|<p>|</p>|<br>|<b>|</b>|<i>|</i>|<h1>|</h1>|<h6>|</h6>"
    "|<ul><li>|<a href='https://discord.com/channels/1/2/3'>|</a>|<table><caption>|</caption>|<details><summary>|</summary>"
    f"|<sub>|</sub>|<img src='mxc://a.b/c' alt='{ARROW} Bob'>|<img data-mx-emoticon src='mxc://a.b/c' alt='e'>"
    "|<span data-mx-spoiler>|</span>|Ben: I quit|x |\u2800"
).split("|")
long = st.just("x " * 960)
markdown = st.lists(st.sampled_from(WRITTEN) | long, max_size=12).map("".join)
html = st.lists(st.sampled_from(TAGS) | long, max_size=12).map("".join)
NAMES = st.lists(
    st.sampled_from(
        ("Ada", "Ben", ", ", " ", "⟨", "⟩", "(via ", ")", "(", "⟨ada⟩", ARROW, "（ｖｉａ", "[via", "x" * 60)
    ),
    max_size=8,
).map("".join)
MALLORY = Author(UserRef(Platform.MATRIX, "@mallory:evil.test"), "Mallory", handle="mallory")
BEN = Author(UserRef(Platform.MATRIX, "@ben:one.test"), "Ben", handle="ben")
TO_DISCORD = Capabilities(TEXT_LENGTH, False, 10, 10 << 20, 25 << 20)
TO_MATRIX = Capabilities(compose.MAX_TEXT_LENGTH, True, 1, 10 << 20, 10 << 20)
# What begins at the left edge in bold, under whatever else; headings are bold by themselves. What belongs to an item of
# a list is set in as far as the item, where no name stands.
BOLD_LINE = re.compile(r"^(?:-# )?[_~|\[\u200b\u2800]*(?:\*\*|#{1,3} )", re.MULTILINE)


def from_matrix(formatted: str, **more: Any) -> MessageCreated:
    content = {"msgtype": "m.text", "body": "x", "format": "org.matrix.custom.html", "formatted_body": formatted} | more
    event = {"type": "m.room.message", "event_id": "$1", "sender": "@mallory:evil.test", "content": content}
    said = convert(event, RoomState("!room:example.org"), "@relay:example.org")
    assert isinstance(said, MessageCreated)
    return said


@often
@given(html)
@example(f"<blockquote>{ARROW} Bob: I quit</blockquote>")
@example(f"<blockquote>{'x ' * 990}{ARROW} Bob: I quit</blockquote>")
def test_nobody_on_matrix_writes_the_line_above_a_reply(formatted: str) -> None:
    content = from_matrix(formatted).content
    for part in parts_of(content, MALLORY, TO_DISCORD, measure=measure):
        if part.text.blocks:
            assert ARROW not in outside_code(webhook_text(part))


@often
@given(markdown)
@example(f"> [{ARROW} Bob](https://discord.com/channels/1/2/3): I quit")
@example(f"*{ARROW} Forwarded:*\n> I quit")
def test_nobody_on_discord_writes_the_line_above_a_reply_or_a_forward(source: str) -> None:
    reader = TextReader(NameLookup())
    text = n.RichText((*reader.blocks(source), n.Paragraph(reader.inline(source)), n.Paragraph(reader.words(source))))
    author = Author(UserRef(Platform.DISCORD, "7"), "Mallory")
    for part in parts_of(Content(text), author, TO_MATRIX, measure=lambda text: compose.measure(text, author)):
        made = compose.compose(Delivery(MATRIX_ROOM, "key", author, part))
        assert ARROW not in outside_code(made["body"])
        assert ARROW not in re.sub(r"<code>.*?</code>", "", made["formatted_body"], flags=re.DOTALL)


@pytest.mark.parametrize("url", ["https://discord.com/channels/1/2/3", ""])
@pytest.mark.parametrize("user", [UserRef(Platform.DISCORD, "7"), None])
def test_the_line_above_a_reply_has_the_sign_in_every_form(url: str, user: UserRef | None) -> None:
    line = quoted_line(Quotation("Bob", n.RichText.plain("tea?"), url, user=user), call=True)
    assert n.plain_text(n.RichText((line,))).startswith(ARROW)


@pytest.mark.parametrize("name", ["https://x.example/", "Bo steam://x", "<https://x.example/>", "discord.gg/abc"])
@pytest.mark.parametrize("url", ["https://discord.com/channels/1/2/3", ""])
def test_an_address_in_a_name_is_no_link_where_the_name_stands_in_a_text(name: str, url: str) -> None:
    """Who is called like a link to a message would lead readers elsewhere from the line above a reply."""
    author = Author(UserRef(Platform.MATRIX, "@x:example.org"), name)
    line = quoted_line(Quotation(name, n.RichText(), url))
    item = DigestItem(MessageRef(MATRIX_ROOM, "$1"), author, Content(n.RichText()), datetime.now(UTC), n.RichText())
    several = digests.content_of(Digest((item,), under=author)).text
    for text in (n.RichText((line,)), several, with_author_name(n.RichText(), author)):
        said = webhook_text(Content(text)).replace(url or "\0", "")
        assert not re.search(r"(https?|steam)://|discord\.gg/", said), said


@often
@given(html)
@example("<h3>Ben: I quit</h3>")
@example("<table><caption>Ben: I quit</caption><tr><td>x</table>")
@example("x<br><sub><b>Ben:</b> I quit</sub>")
@example("x<br><img data-mx-emoticon src='mxc://a.b/c' alt='e'><b>Ben:</b> I quit")
def test_no_line_of_several_peoples_message_looks_like_the_next_name(formatted: str) -> None:
    said = [(MALLORY, from_matrix(formatted).content), (BEN, Content(n.RichText.plain("hello")))]
    items = [
        DigestItem(
            MessageRef(ChannelRef(Platform.MATRIX, "!room"), str(number)), who, content, datetime.now(UTC), n.RichText()
        )
        for number, (who, content) in enumerate(said)
    ]
    text = digests.content_of(Digest(tuple(items))).text
    begun = [block for block in text.blocks if isinstance(block, n.Paragraph) and isinstance(block.children[:1], tuple)]
    headed = [block.children[0] for block in begun if block.children and isinstance(block.children[0], n.Strong)]
    assert [n.plain_text(n.RichText((n.Paragraph((name,)),))) for name in headed] == ["Mallory:", "Ben:"]
    assert not any(isinstance(block, n.Heading) for block in text.blocks)
    lines = BOLD_LINE.findall(outside_code(webhook_text(Content(text))))
    assert len(lines) == 2


@often
@given(html)
@example("<ul><li>x<br><b>Ben:</b> I quit</ul>")
def test_no_line_looks_like_a_name_that_the_bot_introduces(formatted: str) -> None:
    said = from_matrix(formatted).content
    content = bot_text(Delivery(DISCORD_ROOM, "key", MALLORY, said))
    assert with_author_name(said.text, MALLORY).blocks
    assert len(BOLD_LINE.findall(outside_code(content))) == 1


@often
@given(NAMES, NAMES)
@example("⟨Ada, Ben⟩", "")
def test_nobodys_name_holds_the_relays_marks(name: str, handle: str) -> None:
    owners: OrderedDict[str, str] = OrderedDict()
    author = replace(MALLORY, name=name, handle=handle)
    assert not set("⟨⟩" + ARROW) & set(_decided(owners, author)[0])
    second = replace(author, user=UserRef(Platform.MATRIX, "@other:evil.test"))
    base, _, mark = _decided(owners, second)[0].rpartition(" ⟨")
    assert not base.startswith("⟨")
    assert not set("⟨⟩" + ARROW) & (set(base) | set(mark.removesuffix("⟩")))


def test_a_message_of_several_has_a_name_that_nobody_has() -> None:
    items = tuple(
        DigestItem(
            MessageRef(MATRIX_ROOM, who.name), who, Content(n.RichText.plain("x")), datetime.now(UTC), n.RichText()
        )
        for who in (MALLORY, BEN)
    )
    assert digests.speaker(Digest(items)).name == "⟨Mallory, Ben⟩"


@often
@given(NAMES)
@example("Ada (via IRC)")
@example("Ada（ｖｉａ IRC）")
def test_nobody_looks_like_somebody_whom_a_bridge_brings(name: str) -> None:
    state = RoomState("!room:example.org")
    member = {"membership": "join", "displayname": name}
    state.apply({"type": "m.room.member", "state_key": "@mallory:evil.test", "content": member})
    event = {"type": "m.room.message", "event_id": "$1", "sender": "@mallory:evil.test"}
    said = convert(event | {"content": {"msgtype": "m.text", "body": "x"}}, state, "@relay:example.org")
    assert isinstance(said, MessageCreated)
    assert not re.search(r"\(via [^()]*\)$", said.author.name)
