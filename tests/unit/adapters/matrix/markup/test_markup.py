"""Matrix's HTML, case by case: https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from relay.adapters.matrix.identifiers import LinkTarget, matrix_to_link, parse_link
from relay.adapters.matrix.markup import NameLookup, Rendered, Resolver, parse, render
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import weight
from tests.benchmarks.markup_scaling import FAMILIES, sample

NAMES = NameLookup(
    user={"@alice:example.org": "Alice"}.get,
    room_id={"#help:example.org": "!h:example.org"}.get,
    room_name={"!h:example.org": "help"}.get,
)
ALICE = n.UserMention(UserRef(Platform.MATRIX, "@alice:example.org"), "Alice")
HELP = n.ChannelMention(ChannelRef(Platform.MATRIX, "!h:example.org"), "help")
CAT = n.CustomEmoji("cat", "", MediaRef(Platform.MATRIX, "mxc://example.org/cat"))
MOMENT = datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC)


def t(text: str) -> n.Text:
    return n.Text(text)


def p(*nodes: n.Inline) -> n.Paragraph:
    return n.Paragraph(nodes)


def item(*blocks: n.Block) -> n.ListItem:
    return n.ListItem(blocks)


INLINE: list[tuple[str, tuple[n.Inline, ...]]] = [
    ("<b>a</b><strong>b</strong> <i>c</i><em>d</em>", (n.Strong((t("ab"),)), t(" "), n.Emphasis((t("cd"),)))),
    ("<u>a</u><s>b</s><del>c</del><strike>d</strike>", (n.Underline((t("a"),)), n.Strike((t("bcd"),)))),
    ("<code>a  &lt;b&gt;</code>", (n.Code("a  <b>"),)),
    ("a<br>b<br/>c", (t("a"), n.LineBreak(), t("b"), n.LineBreak(), t("c"))),
    (" a \n\t b&nbsp; c ", (t("a b\u00a0 c"),)),
    (
        "x<sup>2</sup> H<sub>2</sub>O",
        (t("x"), n.Superscript((t("2"),)), t(" H"), n.Superscript((t("2"),), lowered=True), t("O")),
    ),
    ("<span data-mx-spoiler>a</span>", (n.Spoiler((t("a"),)),)),
    ('<span data-mx-spoiler="film">a</span>', (n.Spoiler((t("a"),), "film"),)),
    (
        '<span data-mx-color="#FF0000" data-mx-bg-color="#00ff00">a</span>',
        (n.Colored((t("a"),), "#ff0000", "#00ff00"),),
    ),
    ('<font color="#ff0000">a</font><font data-mx-color="red">b</font>', (n.Colored((t("a"),), "#ff0000"), t("b"))),
    ('<span data-mx-maths="x^2"><code>x^2</code></span>', (n.Math("x^2"),)),
    ('<a href="https://a.b">w</a>', (n.Link("https://a.b", (t("w"),)),)),
    ('<a href="https://a.b/">https://a.b</a>', (n.Link("https://a.b/", (t("https://a.b/"),)),)),
    ('<a href="javascript:alert(1)">w</a> <a href="/x">y</a>', (t("w y"),)),
    ("see https://a.b.", (t("see "), n.Link("https://a.b", (t("https://a.b"),)), t("."))),
    ('<a href="https://matrix.to/#/@alice:example.org">Al</a>', (ALICE,)),
    ('<a href="https://matrix.to/#/%40alice%3Aexample.org">Al</a>', (ALICE,)),
    ('<a href="matrix:u/alice:example.org">Al</a>', (ALICE,)),
    (
        '<a href="https://matrix.to/#/@bob:x.org">@Bob</a>',
        (n.UserMention(UserRef(Platform.MATRIX, "@bob:x.org"), "Bob"),),
    ),
    ("https://matrix.to/#/@bob:x.org", (n.UserMention(UserRef(Platform.MATRIX, "@bob:x.org"), "bob:x.org"),)),
    (
        '<a href="https://matrix.to/#/%23help:example.org">#help:example.org</a>',
        (replace(HELP, url="https://matrix.to/#/%23help:example.org", children=(t("#help:example.org"),)),),
    ),
    (
        '<a href="https://matrix.to/#/!h:example.org?via=example.org">x</a>',
        (replace(HELP, url="https://matrix.to/#/!h:example.org?via=example.org", children=(t("x"),)),),
    ),
    (
        '<a href="matrix:r/chat:x.org?via=y.org&via=z.org">x</a>',
        (
            n.ChannelMention(
                ChannelRef(Platform.MATRIX, "#chat:x.org"),
                "chat:x.org",
                "https://matrix.to/#/%23chat:x.org?via=y.org&via=z.org",
                (t("x"),),
            ),
        ),
    ),
    (
        '<a href="https://matrix.to/#/!h:example.org/$e?via=x">there</a>',
        (
            n.MessageLink(
                MessageRef(ChannelRef(Platform.MATRIX, "!h:example.org"), "$e"),
                "https://matrix.to/#/!h:example.org/$e?via=x",
                (t("there"),),
            ),
        ),
    ),
    ("@room: hi", (n.BroadcastMention("everyone"), t(": hi"))),
    ("me@room.org", (t("me@room.org"),)),
    ('<img data-mx-emoticon src="mxc://example.org/cat" alt=":cat:" title=":cat:" height="32">', (CAT,)),
    ('<img src="mxc://x/y" alt="a cat">', (n.InlineImage("a cat", MediaRef(Platform.MATRIX, "mxc://x/y")),)),
    (
        '<img src="https://x/y.png" alt="a cat" onerror="x">',
        (n.Link("https://x/y.png", (t("a cat"),), preview=False),),
    ),
    ("<mx-reply><blockquote>old</blockquote></mx-reply>new", (t("new"),)),
    ("<script>x</script><style>y</style><marquee>a</marquee><!-- c -->b", (t("ab"),)),
    ("a < b && c > d &amp; &#x41;&#65; &bogus;", (t("a < b && c > d & AA &bogus;"),)),
    ("&#99999999999999999999;", (t("\ufffd"),)),
    ('tail <a href="x', (t('tail <a href="x'),)),
    ("<b>a<i>b</b>c</i>d", (n.Strong((t("a"), n.Emphasis((t("b"),)))), n.Emphasis((t("c"),)), t("d"))),
    ("<b>open", (n.Strong((t("open"),)),)),
    ("</b></p></div>a", (t("a"),)),
    ("<B CLASS=x>a</B >", (n.Strong((t("a"),)),)),
    ("**not markdown** <b></b>", (t("**not markdown**"),)),
]


@pytest.mark.parametrize(("source", "nodes"), INLINE)
def test_inline_html(source: str, nodes: tuple[n.Inline, ...]) -> None:
    assert parse("", source, names=NAMES) == n.RichText((n.Paragraph(nodes),))


BLOCKS: list[tuple[str, tuple[n.Block, ...]]] = [
    ("<p>a</p>\n<p>b</p>", (p(t("a")), p(t("b")))),
    ("a<br><br>b<br><br><br>c", (p(t("a")), p(t("b")), p(n.LineBreak(), t("c")))),
    ("a<div>b</div><div>c</div>", (p(t("a"), n.LineBreak(), t("b"), n.LineBreak(), t("c")),)),
    ("<p>a<p>b", (p(t("a")), p(t("b")))),
    ("<h1>a</h1><h6>b</h6>c", (n.Heading(1, (t("a"),)), n.Heading(6, (t("b"),)), p(t("c")))),
    ('<pre><code class="language-py">\na\n  b\n</code></pre>', (n.CodeBlock("a\n  b", "py"),)),
    ("<pre>a<br>b &lt;</pre>", (n.CodeBlock("a\nb <"),)),
    (
        "<blockquote><p>a</p><blockquote>b</blockquote></blockquote>c",
        (n.Quote((p(t("a")), n.Quote((p(t("b")),)))), p(t("c"))),
    ),
    (
        "<ul><li>a<ul><li>b</li></ul></li><li><p>c</p></li></ul>",
        (n.BulletList((item(p(t("a")), n.BulletList((item(p(t("b"))),))), item(p(t("c"))))),),
    ),
    ("<ul>\n<li>a\n<li>b</ul>", (n.BulletList((item(p(t("a"))), item(p(t("b"))))),)),
    (
        '<ol start="3"><li>a</li></ol><ol start="x"><li>b</li></ol>',
        (
            n.BulletList((item(p(t("a"))),), 3),
            n.BulletList((item(p(t("b"))),), 1),
        ),
    ),
    (
        "<table><caption>c</caption><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1<td><b>2</b></table>",
        (
            n.Table(
                (
                    (n.TableCell((t("a"),), True), n.TableCell((t("b"),), True)),
                    (n.TableCell((t("1"),)), n.TableCell((n.Strong((t("2"),)),))),
                ),
                (t("c"),),
            ),
        ),
    ),
    ("<details><summary>s</summary><p>a</p>b</details>", (n.Details((t("s"),), (p(t("a")), p(t("b")))),)),
    ("a<hr>b", (p(t("a")), n.Rule(), p(t("b")))),
    ('<div data-mx-maths="x"><code>x</code></div>', (p(n.Math("x", display=True)),)),
    ("<p><sub>a</sub></p>", (n.Subtext((t("a"),)),)),
    ("<b>a<p>b</p></b>c", (p(n.Strong((t("a"),))), p(n.Strong((t("b"),))), p(t("c")))),
    (
        '<span data-mx-spoiler="x"><p>a</p><pre>b</pre></span>',
        (
            p(n.Spoiler((t("a"),), "x")),
            p(n.Spoiler((n.Code("b"),), "x")),
        ),
    ),
]


@pytest.mark.parametrize(("source", "blocks"), BLOCKS)
def test_blocks(source: str, blocks: tuple[n.Block, ...]) -> None:
    assert parse("", source, names=NAMES) == n.RichText(blocks)


def test_a_plain_body_is_no_markup() -> None:
    source = "**a** <b>\nhttps://a.b/_x_ @room\n\nb"
    link = n.Link("https://a.b/_x_", (t("https://a.b/_x_"),))
    first = p(t("**a** <b>"), n.LineBreak(), link, t(" "), n.BroadcastMention("everyone"))
    assert parse(source, None, names=NAMES) == n.RichText((first, p(t("b"))))
    assert parse(source, " ", names=NAMES) == n.RichText((first, p(t("b"))))


def test_the_name_for_clients_without_profiles_is_left_out_when_asked() -> None:
    source = "<strong data-mx-profile-fallback>Ann: </strong>hi"
    assert parse("Ann: hi", source, names=NAMES, strip_profile_fallback=True) == n.RichText.plain("hi")
    assert parse("Ann: hi", source, names=NAMES) == n.RichText((p(n.Strong((t("Ann:"),)), t(" hi")),))


RENDERED: list[tuple[tuple[n.Block, ...], str, str | None]] = [
    ((p(t('a <b> & "c"'), n.LineBreak(), t("**d**")),), 'a <b> & "c"\n**d**', None),
    ((p(t("a")), p(t("b"))), "a\n\nb", None),
    ((p(n.Link("https://a.b", (t("https://a.b"),))),), "https://a.b", None),
    (
        (p(n.Strong((t("a"),)), n.Emphasis((t("b"),)), n.Underline((t("c"),)), n.Strike((t("d"),))),),
        "**a***b*c~~d~~",
        "<strong>a</strong><em>b</em><u>c</u><del>d</del>",
    ),
    ((p(t("<x>"), n.Code("<y>")),), "<x>`<y>`", "&lt;x&gt;<code>&lt;y&gt;</code>"),
    ((p(n.Spoiler((t("a"),))),), "[Spoiler]", "<span data-mx-spoiler>a</span>"),
    ((p(n.Spoiler((t("a"),), '"x"')),), '[Spoiler for "x"]', '<span data-mx-spoiler="&quot;x&quot;">a</span>'),
    ((p(n.Link("https://a.b/?x&y", (t("w"),))),), "[w](https://a.b/?x&y)", '<a href="https://a.b/?x&amp;y">w</a>'),
    ((p(n.Link("javascript:x", (t("w"),))),), "[w](javascript:x)", None),
    (
        (p(n.Colored((t("a"),), "#ff0000", 'x" onclick="y')), p(n.Superscript((t("2"),)))),
        "a\n\n^(2)",
        '<p><span data-mx-color="#ff0000">a</span></p><p><sup>2</sup></p>',
    ),
    ((p(n.Math("a<b")),), "$a<b$", '<span data-mx-maths="a&lt;b"><code>a&lt;b</code></span>'),
    ((p(n.Math("x", display=True)),), "$x$", '<div data-mx-maths="x"><code>x</code></div>'),
    (
        (p(ALICE, t(" "), HELP, t(" "), n.RoleMention("Mods"), t(" "), n.BroadcastMention("here")),),
        "@Alice #help @Mods @here",
        None,
    ),
    ((p(CAT, t(" "), n.InlineImage("a cat", CAT.source)),), ":cat: a cat", None),
    (
        (p(n.Timestamp(MOMENT), t("; "), n.Timestamp(MOMENT, "t"), t("; "), n.Timestamp(MOMENT, "D")),),
        ("20 April 2021 21:20 UTC; 21:20 UTC; 20 April 2021"),
        None,
    ),
    (
        (p(n.Timestamp(MOMENT, "F"), t("; "), n.Timestamp(MOMENT, "T"), t("; "), n.Timestamp(MOMENT, "R")),),
        ("Tuesday, 20 April 2021 21:20 UTC; 21:20:30 UTC; 20 April 2021 21:20 UTC"),
        None,
    ),
    (
        (p(t("a  b"), n.LineBreak(), t("  c"), n.Strong((t("d"),))),),
        "a  b\n  c**d**",
        "a\u00a0 b<br>\u00a0\u00a0c<strong>d</strong>",
    ),
    ((n.Heading(2, (t("a"),)), n.Subtext((t("b"),)), n.Rule()), "## a\nb\n---", "<h2>a</h2><p><sub>b</sub></p><hr>"),
    (
        (n.CodeBlock("a\n <b>", "py"),),
        "```py\na\n <b>\n```",
        '<pre><code class="language-py">a\n &lt;b&gt;\n</code></pre>',
    ),
    ((n.CodeBlock("a", 'x" y'),), '```x" y\na\n```', "<pre><code>a\n</code></pre>"),
    (
        (n.Quote((p(t("a")), n.Quote((p(t("b")),)))), p(t("c"))),
        "> a\n> > b\nc",
        "<blockquote>a<blockquote>b</blockquote></blockquote><p>c</p>",
    ),
    (
        (n.BulletList((item(p(t("a")), n.BulletList((item(p(t("b"))),), 1)), item(p(t("c")))), 9),),
        "9. a\n   1. b\n10. c",
        '<ol start="9"><li>a<ol><li>b</li></ol></li><li>c</li></ol>',
    ),
    (
        (n.Table(((n.TableCell((t("a"),), True),), (n.TableCell((t("1"),)),)), (t("c"),)),),
        "c\na\n1",
        "<table><caption>c</caption><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>",
    ),
    ((n.Details((t("s"),), (p(t("a")),)),), "s\na", "<details><summary>s</summary><p>a</p></details>"),
]


@pytest.mark.parametrize(("blocks", "body", "formatted_body"), RENDERED)
def test_rendering_with_no_references(blocks: tuple[n.Block, ...], body: str, formatted_body: str | None) -> None:
    assert render(n.RichText(blocks), resolver=Resolver()) == Rendered(body, formatted_body)


def test_references_that_the_resolver_knows_become_matrix_references() -> None:
    link = n.MessageLink(
        MessageRef(ChannelRef(Platform.DISCORD, "1"), "2"), "https://discord.com/channels/0/1/2", (t("there"),)
    )
    everything = Resolver(
        user=lambda mention: mention.user.id,
        channel=lambda mention: mention.channel.id,
        message=lambda _: "https://matrix.to/#/!h:example.org/$e",
        emoji=lambda _: "mxc://x/y",
        image=lambda _: "mxc://x/z",
        broadcast=True,
    )
    nodes = (ALICE, HELP, link, CAT, n.InlineImage("a", CAT.source), n.BroadcastMention("everyone"), ALICE)
    assert render(n.RichText((p(*nodes),)), resolver=everything) == Rendered(
        "Alice#help[there](https://matrix.to/#/!h:example.org/$e):cat:a@roomAlice",
        '<a href="https://matrix.to/#/@alice:example.org">Alice</a>'
        '<a href="https://matrix.to/#/!h:example.org">#help</a>'
        '<a href="https://matrix.to/#/!h:example.org/$e">there</a>'
        '<img data-mx-emoticon alt=":cat:" title=":cat:" height="32" src="mxc://x/y"><img alt="a" title="a" src="mxc://x/z">'
        '@room<a href="https://matrix.to/#/@alice:example.org">Alice</a>',
        mentions=("@alice:example.org",),
        room=True,
    )


def test_a_resolver_cannot_add_markup() -> None:
    look = Resolver(user=lambda _: '"><script>', channel=lambda _: "javascript:x", emoji=lambda _: "https://x/y")
    assert render(n.RichText((p(ALICE, HELP, CAT),)), resolver=look) == Rendered("@Alice#help:cat:", None)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://matrix.to/#/@a:b", LinkTarget("@a:b")),
        ("https://matrix.to/#/#r:b?via=b&via=c", LinkTarget("#r:b")),
        ("https://matrix.to/#/!r/$e", LinkTarget("!r", "$e")),
        ("matrix:roomid/r:b/e/e1?via=b", LinkTarget("!r:b", "$e1")),
        ("matrix:u/a:b?action=chat", LinkTarget("@a:b")),
        ("https://matrix.to/#/x", None),
        ("https://matrix.to/", None),
        ("matrix:x/y", None),
        ("https://matrix.org/#/@a:b", None),
    ],
)
def test_links_to_what_is_on_matrix(url: str, target: LinkTarget | None) -> None:
    assert parse_link(url) == target


def test_a_written_link_is_read_back() -> None:
    url = matrix_to_link("!r/x:b", "$e/1+2", via=("b", "c:8448"))
    assert url == "https://matrix.to/#/!r%2Fx:b/$e%2F1%2B2?via=b&via=c:8448"
    assert parse_link(url) == LinkTarget("!r/x:b", "$e/1+2")


def test_a_text_with_thousands_of_tags_is_read_as_plain_text() -> None:
    html = "<b>x</b>" * 1_500
    assert parse("the words", html, names=NameLookup()) == n.RichText.plain("the words")
    assert parse("", html + " &lt;y", names=NameLookup()) == n.RichText.plain("x" * 1_500 + " <y")
    hidden = html + "<span DATA-MX-SPOILER>secret</span>"
    assert parse("a\n\nsecret", hidden, names=NameLookup()).blocks == (
        n.Paragraph((n.Spoiler((n.Text("a secret"),)),)),
    )


@pytest.mark.parametrize("family", [*FAMILIES, "a\n", "https://a.b ", "@room ", "\n\n"])
def test_no_message_becomes_a_large_tree(family: str) -> None:
    text = sample(family, 60_000) if family in FAMILIES else (family * 60_000)[:60_000]
    for body, html in ((text, None), ("", text)):
        tree = parse(body, html, names=NameLookup())
        assert weight(tree) < 1_000_000
        assert len(repr(tree)) < 2_000_000
