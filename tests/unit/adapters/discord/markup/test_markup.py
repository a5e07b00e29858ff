"""Discord's markdown, case by case: https://discord.com/developers/docs/reference#message-formatting."""

from datetime import UTC, datetime

import pytest

from relay.adapters.discord.markup import NameLookup, ReferenceCodes, parse, render
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text import nodes as n

NAMES = NameLookup(
    user={"80351110224678912": "Nelly"}.get,
    role={"165511591545143296": "Mods"}.get,
    channel={"103735883630395392": "help"}.get,
)
CHANNEL = ChannelRef(Platform.DISCORD, "103735883630395392")
NELLY = n.UserMention(UserRef(Platform.DISCORD, "80351110224678912"), "Nelly")
EMOJI = n.CustomEmoji(
    "mmLol",
    "216154654256398347",
    MediaRef(Platform.DISCORD, "https://cdn.discordapp.com/emojis/216154654256398347.png"),
)
CHANNEL_URL = "https://discord.com/channels/1/103735883630395392"
JUMP = f"{CHANNEL_URL}/3"


def t(text: str) -> n.Text:
    return n.Text(text)


def item(*blocks: n.Block) -> n.ListItem:
    return n.ListItem(blocks)


def p(*nodes: n.Inline) -> n.Paragraph:
    return n.Paragraph(nodes)


INLINE: list[tuple[str, tuple[n.Inline, ...]]] = [
    ("**b** *i* _i_", (n.Strong((t("b"),)), t(" "), n.Emphasis((t("i"),)), t(" "), n.Emphasis((t("i"),)))),
    ("__u__ ~~s~~ ||h||", (n.Underline((t("u"),)), t(" "), n.Strike((t("s"),)), t(" "), n.Spoiler((t("h"),)))),
    ("***both***", (n.Emphasis((n.Strong((t("both"),)),)),)),
    ("___both___", (n.Emphasis((n.Underline((t("both"),)),)),)),
    ("__***all***__", (n.Underline((n.Emphasis((n.Strong((t("all"),)),)),)),)),
    ("**a *b* c**", (n.Strong((t("a "), n.Emphasis((t("b"),)), t(" c"))),)),
    ("*a **b** c*", (n.Emphasis((t("a "), n.Strong((t("b"),)), t(" c"))),)),
    ("snake_case_name and __init__", (t("snake_case_name and "), n.Underline((t("init"),)))),
    ("2 * 3 * 4", (t("2 * 3 * 4"),)),
    ("a * not italic*", (t("a * not italic*"),)),
    ("*a * *b  * *c   *", (n.Emphasis((t("a"),)), t(" "), n.Emphasis((t("b"),)), t(" *c   *"))),
    ("**a *b** *c *d", (n.Strong((t("a *b"),)), t(" "), n.Emphasis((t("c"),)), t("d"))),
    ("**open and _open", (t("**open and _open"),)),
    (r"\*no\* \_no\_ \\ \a", (t(r"*no* _no_ \ \a"),)),
    ("********", (t("********"),)),
    ("¯\\_(ツ)_/¯", (t("¯\\_(ツ)_/¯"),)),
    ("`code` ``a`b`` `` ` ``", (n.Code("code"), t(" "), n.Code("a`b"), t(" "), n.Code("`"))),
    ("`*no*` `open", (n.Code("*no*"), t(" `open"))),
    ("**a\nb**", (n.Strong((t("a"), n.LineBreak(), t("b"))),)),
    ("||`x` **y**||", (n.Spoiler((n.Code("x"), t(" "), n.Strong((t("y"),)))),)),
    ("||```py\na\nb\n```||", (n.Spoiler((n.Code("a"), n.LineBreak(), n.Code("b"))),)),
    ("[w](https://a.b/c_(d))", (n.Link("https://a.b/c_(d)", (t("w"),)),)),
    ("[**w**](<https://a.b>)", (n.Link("https://a.b", (n.Strong((t("w"),)),), preview=False),)),
    ('[w](https://a.b "title")', (n.Link("https://a.b", (t("w"),)),)),
    ("[w](javascript:x)", (t("[w](javascript:x)"),)),
    ("[](https://a.b)", (t("[]("), n.Link("https://a.b", (t("https://a.b"),)), t(")"))),
    ("[https://c.dd](https://a.b)", (t("[https://c.dd](https://a.b)"),)),
    ("[discord.gg/c](https://a.b)", (t("[discord.gg/c](https://a.b)"),)),
    ("[https:\u200b//c.dd](https://a.b)", (t("[https:\u200b//c.dd](https://a.b)"),)),
    ("[dis\u200bcord.gg/c](https://a.b)", (t("[dis\u200bcord.gg/c](https://a.b)"),)),
    ("[\u200b](https://a.b)", (t("[\u200b]("), n.Link("https://a.b", (t("https://a.b"),)), t(")"))),
    ("<https://a.b>", (n.Link("https://a.b", (t("https://a.b"),), preview=False),)),
    ("(see https://a.b/c.)", (t("(see "), n.Link("https://a.b/c.", (t("https://a.b/c."),)), t(")"))),
    (
        "https://a.b/x_(y), https://a.b/_*z*",
        (
            n.Link("https://a.b/x_(y)", (t("https://a.b/x_(y)"),)),
            t(", "),
            n.Link("https://a.b/_*z*", (t("https://a.b/_*z*"),)),
        ),
    ),
    ("<@80351110224678912> <@!80351110224678912>", (NELLY, t(" "), NELLY)),
    ("<@1>", (n.UserMention(UserRef(Platform.DISCORD, "1"), "unknown-user", known=False),)),
    ("<@&165511591545143296>", (n.RoleMention("Mods"),)),
    ("<#103735883630395392>", (n.ChannelMention(CHANNEL, "help"),)),
    ("@everyone @here", (n.BroadcastMention("everyone"), t(" "), n.BroadcastMention("here"))),
    ("<:mmLol:216154654256398347>", (EMOJI,)),
    ("</airhorn play:816437322781949972>", (t("/airhorn play"),)),
    ("<id:customize> <id:guide>", (t("Channels & Roles Server Guide"),)),
    ("<t:1618953630>", (n.Timestamp(datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC)),)),
    ("<t:1618953630:R>", (n.Timestamp(datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC), "R"),)),
    ("<t:9999999999999>", (t("<t:9999999999999>"),)),
    ("<sms:+15551234567>", (t("+15551234567"),)),
    ("<o'neil@é.ie>", (n.Link("mailto:o'neil@é.ie", (t("o'neil@é.ie"),), preview=False),)),
    ("<t:0:r> <T:0> <A:n:1>", (t("<t:0:r> <T:0> <A:n:1>"),)),
    (JUMP, (n.MessageLink(MessageRef(CHANNEL, "3"), JUMP),)),
    (f"[there]({JUMP})", (n.MessageLink(MessageRef(CHANNEL, "3"), JUMP, (t("there"),)),)),
    (CHANNEL_URL, (n.ChannelMention(CHANNEL, "help", CHANNEL_URL, (t("#help"),)),)),
]


@pytest.mark.parametrize(("source", "nodes"), INLINE)
def test_inline_markup(source: str, nodes: tuple[n.Inline, ...]) -> None:
    assert parse(source, names=NAMES) == n.RichText((n.Paragraph(nodes),))


BLOCKS: list[tuple[str, tuple[n.Block, ...]]] = [
    ("a\nb", (p(t("a"), n.LineBreak(), t("b")),)),
    ("a\n\nb", (p(t("a")), p(t("b")))),
    ("a\n\n\nb", (p(t("a")), p(n.LineBreak(), t("b")))),
    (
        "# a\n## b\n### c\n#### d",
        (n.Heading(1, (t("a"),)), n.Heading(2, (t("b"),)), n.Heading(3, (t("c"),)), p(t("#### d"))),
    ),
    ("# a # ##\n# # b", (n.Heading(1, (t("a #"),)), p(t("# # b")))),
    ("-# -# a\n -# b", (p(t("-# -# a"), n.LineBreak(), t(" -# b")),)),
    ("- # a", (n.BulletList((item(p(t("# a"))),)),)),
    ("a\n*# b* c", (p(t("a")), n.Heading(1, (n.Emphasis((t("b"),)),)), p(t("c")))),
    (
        "||- **> a**\nb\n```\n- c\n```||\nd",
        (
            n.BulletList((item(n.Quote((p(n.Spoiler((n.Strong((t("a"),)),))),))),)),
            p(n.Spoiler((t("b"),))),
            p(n.Spoiler((n.Code("- c"),))),
            p(t("d")),
        ),
    ),
    ("**1.** a ||# b||", (p(n.Strong((t("1."),)), t(" a "), n.Spoiler((t("# b"),))),)),
    ("#a\na # b", (p(t("#a"), n.LineBreak(), t("a # b")),)),
    ("#\n\na\nb", (n.Heading(1, (t("a"),)), p(t("b")))),
    (
        " # a\n # b\nc\n # d\n\n # e",
        (n.Heading(1, (t("a"),)), n.Heading(1, (t("b"),)), p(t("c"), n.LineBreak(), t(" # d")), p(t(" # e"))),
    ),
    ("-# a\n-# b", (n.Subtext((t("a"), n.LineBreak(), t("b"))),)),
    ("> a\n> b\nc", (n.Quote((p(t("a"), n.LineBreak(), t("b")),)), p(t("c")))),
    (">a", (p(t(">a")),)),
    ("> > a", (n.Quote((p(t("> a")),)),)),
    ("a\n>>> b\n\n# c", (p(t("a")), n.Quote((p(t("b")), n.Heading(1, (t("c"),)))))),
    ("- a\n* b\n- c", (n.BulletList((item(p(t("a"))), item(p(t("b"))), item(p(t("c"))))),)),
    (
        "- a\n  - b\n    - c\n- d",
        (
            n.BulletList(
                (
                    item(p(t("a")), n.BulletList((item(p(t("b")), n.BulletList((item(p(t("c"))),))),))),
                    item(p(t("d"))),
                )
            ),
        ),
    ),
    ("3. a\n4. b", (n.BulletList((item(p(t("a"))), item(p(t("b")))), start=3),)),
    ("0. a\n0. b", (n.BulletList((item(p(t("a"))), item(p(t("b")))), start=1),)),
    ("5551234567. a", (n.BulletList((item(p(t("a"))),), start=1_000_000_000),)),
    ("- a\n1. b", (n.BulletList((item(p(t("a"))), item(p(t("b"))))),)),
    (
        "- 1. a\n  2. b\n- c",
        (n.BulletList((item(n.BulletList((item(p(t("a"))), item(p(t("b")))), start=1)), item(p(t("c"))))),),
    ),
    ("2. a\n- b\n\n- c", (n.BulletList((item(p(t("a"))), item(p(t("b")))), start=2), n.BulletList((item(p(t("c"))),)))),
    (
        "1. a\n   - b\n2. c",
        (n.BulletList((item(p(t("a")), n.BulletList((item(p(t("b"))),))), item(p(t("c")))), start=1),),
    ),
    ("- a\n  more\nafter", (n.BulletList((item(p(t("a"), n.LineBreak(), t("more"))),)), p(t("after")))),
    (
        "- a\n  ```py\n  - b\n    c\n  ```\n- d",
        (n.BulletList((item(p(t("a")), n.CodeBlock("- b\n  c", "py")), item(p(t("d"))))),),
    ),
    ("-a\n1.b", (p(t("-a"), n.LineBreak(), t("1.b")),)),
    ("```py\nprint()\n```", (n.CodeBlock("print()", "py"),)),
    ("```print()```", (n.CodeBlock("print()"),)),
    ("```py print()```", (n.CodeBlock("py print()"),)),
    ("a ```\n  b\n``` c", (p(t("a")), n.CodeBlock("  b"), p(t("c")))),
    ("> ```\n> a\n> ```", (n.Quote((n.CodeBlock("a"),)),)),
    ("```open\n# a", (p(t("```open")), n.Heading(1, (t("a"),)))),
]


@pytest.mark.parametrize(("source", "blocks"), BLOCKS)
def test_blocks(source: str, blocks: tuple[n.Block, ...]) -> None:
    assert parse(source, names=NAMES) == n.RichText(blocks)


RENDERED: list[tuple[tuple[n.Block, ...], str]] = [
    ((p(n.Strong((t("a"),)), n.Emphasis((t("b"),))),), "**a**_b_"),
    ((p(n.Strong((t("a"),)), n.Emphasis((t("b"),)), t("c")),), "**a**_b_\u200bc"),
    ((p(t("snake_case_"), n.Emphasis((n.Code("**"),))),), "snake\\_case\\__`**`_"),
    (
        (
            p(
                n.Emphasis((n.Code("*"), n.Code("_"), t("a"), n.Code("_"))),
            ),
        ),
        "_`*`_`_`*a`_`*",
    ),
    ((p(n.Emphasis((n.Strong((t("a"),)), t(" b")))),), "***a** b*"),
    ((p(n.Strong((t(" a "),)), t("b")),), "**a** b"),
    ((p(n.Strong((t("a "), n.Code("**")))),), "**a** `**`"),
    ((p(n.Spoiler((t("a|"),))),), "||a|\u200b||"),
    ((p(n.Spoiler((n.Code("a||b"),), reason="film")),), "(film) ||`a|\u200b|b`||"),
    ((p(n.Spoiler((n.Code("|||"),))),), "||`|\u200b|\u200b|`||"),
    ((p(n.Code("`a`")),), "`` `a` ``"),
    ((p(t("snake_case, 2 * 3, a_ and ~5")),), "snake_case, 2 * 3, a\\_ and ~5"),
    ((p(t("**a** ||b|| `c`")),), "\\*\\*a\\*\\* \\|\\|b\\|\\| \\`c\\`"),
    (
        (p(t("# a"), n.LineBreak(), t("- b"), n.LineBreak(), t("1. c"), n.LineBreak(), t("> d")),),
        "\\# a\n\\- b\n1\\. c\n\\> d",
    ),
    ((p(n.Strong((t("> a"),)), n.LineBreak(), n.Spoiler((n.Emphasis((t("1. b"),)),))),), "**\\> a**\n||*1\\. b*||"),
    ((p(n.Emphasis((t("|"),)), t(" a")),), "*|* a"),
    ((n.Heading(1, (t("- a"),)), n.Subtext((t("> b"),))), "# \\- a\n-# \\> b"),
    ((p(t("##")), p(t("a"))), "\\##\n\na"),
    (
        (p(t("<b:c <file:///etc/a> <b"), n.Link("https://a.b", (t("https://a.b"),)), t(">")),),
        "<b:c \\<file:///etc/a> \\<b<https://a.b>>",
    ),
    (
        (p(n.Link("https://a.b", (t("@here"),)), n.Link("https://a.b", (t("discord.gg/a"),))),),
        "@\u200bhere (<https://a.b>)discord.gg/a (https://a.b)",
    ),
    ((p(n.Link("https://a.b", (t("discord.\u00adgg/a"),))),), "discord.\u00adgg/a (https://a.b)"),
    ((p(t("a"), n.Link("https://a.b", (t("\u00ad"),))),), "a\u00ad (https://a.b)"),
    ((n.BulletList((item(n.Heading(2, (t("a"),))),)),), "- **a**"),
    ((p(t("@everyone @here <@1> <@&2> <#3>")),), "@\u200beveryone @\u200bhere <@\u200b1> <@\u200b&2> \\<#3>"),
    ((p(t("<b>a</b> </help:1> <sms:+1555> <é@a.b>")),), "<b>a</b> \\</help:1> \\<sms:+1555> \\<é@a.b>"),
    ((p(t("[w](https://a.b)")),), "\\[w](https://a.b)"),
    ((p(t("C:\\Users\\me 10:30:15 :smile:")),), "C:\\Users\\me 10:30:15 \\:smile:"),
    ((p(n.Link("https://a.b", (t("w"),))),), "[w](https://a.b)"),
    ((p(n.Link("https://a.b", (t("https://evil.example"),))),), "https://evil.example (https://a.b)"),
    ((p(n.Link("https://a.b", (t("https://c.d@everyone"),))),), "https://c.d%40everyone (https://a.b)"),
    ((p(n.Link("https://a.b", (t("a*b"),))),), "a\\*b (https://a.b)"),
    # A star between blanks is no markup, except in italics; there it would need a backslash, which a label would show.
    ((p(n.Link("https://a.b", (t("a * b"),))),), "[a * b](https://a.b)"),
    ((p(n.Link("https://a.b", (n.Emphasis((t("a * b"),)),))),), "*a \\* b* (https://a.b)"),
    ((p(n.Link("https://a.b", (n.Emphasis((n.Code("_"), t(" * 0"))),), False)),), "*`_` \\* 0* (<https://a.b>)"),
    ((p(n.Link("https://a.b", (n.Code("a\\]"),))),), "`a\\]` (https://a.b)"),
    ((p(n.Link("https://a.b/(", (t("w"),))),), "[w](https://a.b/%28)"),
    ((p(n.Link("mailto:a@b.c", (t("a@b.c"),))),), "a@b.c"),
    ((p(n.Link("https://a.b", (t("https://a.b"),)), t("c")),), "<https://a.b>c"),
    ((p(n.Strong((n.Link("https://a.b/**", (t("https://a.b/**"),)),))),), "**https://a.b/%2A%2A**"),
    ((p(n.Colored((t("@every"),), "#ff0000"), t("one")),), "@\u200beveryone"),
    ((p(t("x"), n.Superscript((t("2"),)), t(" H"), n.Superscript((t("2"),), lowered=True), t("O")),), "x² H₂O"),
    ((p(t("x"), n.Superscript((t("ab"),))),), "x^(ab)"),
    (
        (p(n.Math("x_1"), t(" "), NELLY, n.RoleMention("Mods"), n.ChannelMention(CHANNEL, "help")),),
        "`x_1` @Nelly@Mods#help",
    ),
    ((p(EMOJI),), "\\:mmLol:"),
    ((p(n.Math("x", display=True)),), "```tex\nx\n```"),
    ((n.Heading(5, (t("a"),)), p(t("b"))), "### a\nb"),
    ((p(t("a")), p(t("b")), p(n.LineBreak(), t("c"))), "a\n\nb\n\n\nc"),
    ((n.Quote((p(t("a")), n.Quote((p(t("b")),)))), p(t("c"))), "> a\n> > b\nc"),
    ((n.Quote((p(t("a")),)), n.Quote((p(t("b")),))), "> a\n\n> b"),
    (
        (n.BulletList((item(p(t("a")), p(t("b"))), item(p(t("c")), n.BulletList((item(p(t("d"))),)))), 9),),
        "9. a\n   b\n10. c\n    - d",
    ),
    (
        (n.BulletList((item(p(t("a"), n.LineBreak(), n.Strong((t("b"),)), n.LineBreak(), t("c:d")), p(t("(e)"))),)),),
        "- a\n  \u200b**b**\n  \u200bc:d\n  \u200b(e)",
    ),
    ((n.BulletList((item(p(t("a"))),)), n.BulletList((item(p(t("b"))),), 0)), "- a\n\n1. b"),
    (
        (n.BulletList((item(p(t("a")), n.BulletList((item(p(t("b"))),)), n.BulletList((item(p(t("c"))),), 1)),)),),
        "- a\n  - b\n  \u200b\n  1. c",
    ),
    ((p(t("5551234567. a")),), "5551234567\\. a"),
    ((n.CodeBlock("a```b", "c++"),), "```c++\na`\u200b``b\n```"),
    ((n.CodeBlock("a", "two words"),), "```\na\n```"),
    ((n.Details((t("more"),), (p(t("a")),)), n.Rule()), "**more**\n\na\n\n⎯⎯⎯⎯⎯⎯⎯⎯⎯⎯⎯⎯"),
    (
        (
            n.Table(
                (
                    (n.TableCell((t("名前"),), True), n.TableCell((t("n"),), True)),
                    (n.TableCell((t("a"),)), n.TableCell((t("10"),))),
                )
            ),
        ),
        "```\n名前 | n\n-----+---\na    | 10\n```",
    ),
    (
        (
            n.Table(
                (
                    (n.TableCell((t("a"),)),),
                    (n.TableCell((t("bb"),)), n.TableCell((t("c"),))),
                    (n.TableCell((t("d"),)),),
                )
            ),
        ),
        "```\na\nbb | c\nd\n```",
    ),
]


@pytest.mark.parametrize(("blocks", "content"), RENDERED)
def test_rendering_with_no_references(blocks: tuple[n.Block, ...], content: str) -> None:
    assert render(n.RichText(blocks), codes=ReferenceCodes()) == content


def test_references_become_discords_own_where_the_look_up_says_so() -> None:
    codes = ReferenceCodes(
        user=lambda mention: mention.user.id,
        role=lambda _: "7",
        channel=lambda mention: mention.channel.id,
        message=lambda _: "https://discord.com/channels/1/2/9",
        emoji=lambda _: "<a:mmLol:5>",
        broadcast=True,
    )
    link = n.MessageLink(MessageRef(ChannelRef(Platform.MATRIX, "!r:s"), "$e"), "https://matrix.to/#/!r:s/$e")
    moment = n.Timestamp(datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC), "R")
    nodes = (
        NELLY,
        n.RoleMention("Mods"),
        n.ChannelMention(CHANNEL, "help"),
        EMOJI,
        n.BroadcastMention("here"),
        moment,
        t(" "),
        link,
    )
    content = render(n.RichText((p(*nodes),)), codes=codes)
    assert content == (
        "<@80351110224678912><@&7><#103735883630395392><a:mmLol:5>@here<t:1618953630:R> https://discord.com/channels/1/2/9"
    )


def test_a_look_up_cannot_smuggle_in_anything_but_an_id() -> None:
    codes = ReferenceCodes(user=lambda _: "1> @everyone <@2", channel=lambda _: "x", emoji=lambda _: "@everyone")
    assert (
        render(n.RichText((p(NELLY, n.ChannelMention(CHANNEL, "help"), EMOJI),)), codes=codes) == "@Nelly#help\\:mmLol:"
    )


def test_nothing_is_set_in_further_than_clients_show() -> None:
    blocks: tuple[n.Block, ...] = (p(t("a")),)
    for _ in range(40):
        blocks = (n.Quote(blocks),)
    assert render(n.RichText(blocks), codes=ReferenceCodes()) == "> " * 10 + "a"
    blocks = (p(t("a")),)
    for _ in range(40):
        blocks = (p(t("b")), n.BulletList((item(*blocks),)))
    lines = render(n.RichText(blocks), codes=ReferenceCodes()).split("\n")
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, *range(0, 20, 2), *[20] * 30]
    assert [line.lstrip() for line in lines] == ["b", *["- b"] * 39, "- a"]


def test_one_long_cell_is_not_paid_for_in_every_row() -> None:
    rows = tuple((n.TableCell((t("a"),)), n.TableCell((t("b"),))) for _ in range(2_000))
    content = render(n.RichText((n.Table(((n.TableCell((t("x" * 20_000),)),), *rows)),)), codes=ReferenceCodes())
    assert len(content) < 50_000
