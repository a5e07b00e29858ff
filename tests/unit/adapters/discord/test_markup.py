"""Discord's markdown, case by case: https://discord.com/developers/docs/reference#message-formatting."""

from datetime import UTC, datetime

import pytest

from relay.adapters.discord.markup import Look, Names, parse, render
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import (
    Block,
    BroadcastMention,
    BulletList,
    ChannelMention,
    Code,
    CodeBlock,
    Colored,
    CustomEmoji,
    Details,
    Emphasis,
    Heading,
    Inline,
    LineBreak,
    Link,
    ListItem,
    Math,
    MessageLink,
    Paragraph,
    Quote,
    RichText,
    RoleMention,
    Rule,
    Spoiler,
    Strike,
    Strong,
    Subtext,
    Superscript,
    Table,
    TableCell,
    Text,
    Timestamp,
    Underline,
    UserMention,
)

NAMES = Names(
    user={"80351110224678912": "Nelly"}.get,
    role={"165511591545143296": "Mods"}.get,
    channel={"103735883630395392": "help"}.get,
)
CHANNEL = ChannelRef(Platform.DISCORD, "103735883630395392")
NELLY = UserMention(UserRef(Platform.DISCORD, "80351110224678912"), "Nelly")
EMOJI = CustomEmoji(
    "mmLol",
    "216154654256398347",
    MediaRef(Platform.DISCORD, "https://cdn.discordapp.com/emojis/216154654256398347.png"),
)
CHANNEL_URL = "https://discord.com/channels/1/103735883630395392"
JUMP = f"{CHANNEL_URL}/3"


def t(text: str) -> Text:
    return Text(text)


def item(*blocks: Block) -> ListItem:
    return ListItem(blocks)


def p(*nodes: Inline) -> Paragraph:
    return Paragraph(nodes)


INLINE: list[tuple[str, tuple[Inline, ...]]] = [
    ("**b** *i* _i_", (Strong((t("b"),)), t(" "), Emphasis((t("i"),)), t(" "), Emphasis((t("i"),)))),
    ("__u__ ~~s~~ ||h||", (Underline((t("u"),)), t(" "), Strike((t("s"),)), t(" "), Spoiler((t("h"),)))),
    ("***both***", (Emphasis((Strong((t("both"),)),)),)),
    ("___both___", (Emphasis((Underline((t("both"),)),)),)),
    ("__***all***__", (Underline((Emphasis((Strong((t("all"),)),)),)),)),
    ("**a *b* c**", (Strong((t("a "), Emphasis((t("b"),)), t(" c"))),)),
    ("*a **b** c*", (Emphasis((t("a "), Strong((t("b"),)), t(" c"))),)),
    ("snake_case_name and __init__", (t("snake_case_name and "), Underline((t("init"),)))),
    ("2 * 3 * 4", (t("2 * 3 * 4"),)),
    ("a * not italic*", (t("a * not italic*"),)),
    ("**open and *open", (t("**open and *open"),)),
    (r"\*no\* \_no\_ \\ \a", (t(r"*no* _no_ \ \a"),)),
    ("********", (t("********"),)),
    ("¯\\_(ツ)_/¯", (t("¯\\_(ツ)_/¯"),)),
    ("`code` ``a`b`` `` ` ``", (Code("code"), t(" "), Code("a`b"), t(" "), Code("`"))),
    ("`*no*` `open", (Code("*no*"), t(" `open"))),
    ("**a\nb**", (Strong((t("a"), LineBreak(), t("b"))),)),
    ("||`x` **y**||", (Spoiler((Code("x"), t(" "), Strong((t("y"),)))),)),
    ("||```py\na\nb\n```||", (Spoiler((Code("a"), LineBreak(), Code("b"))),)),
    ("[w](https://a.b/c_(d))", (Link("https://a.b/c_(d)", (t("w"),)),)),
    ("[**w**](<https://a.b>)", (Link("https://a.b", (Strong((t("w"),)),), preview=False),)),
    ('[w](https://a.b "title")', (Link("https://a.b", (t("w"),)),)),
    ("[w](javascript:x)", (t("[w](javascript:x)"),)),
    ("[](https://a.b)", (t("[]("), Link("https://a.b", (t("https://a.b"),)), t(")"))),
    ("[https://c.dd](https://a.b)", (t("[https://c.dd](https://a.b)"),)),
    ("<https://a.b>", (Link("https://a.b", (t("https://a.b"),), preview=False),)),
    ("(see https://a.b/c.)", (t("(see "), Link("https://a.b/c.", (t("https://a.b/c."),)), t(")"))),
    (
        "https://a.b/x_(y), https://a.b/_*z*",
        (
            Link("https://a.b/x_(y)", (t("https://a.b/x_(y)"),)),
            t(", "),
            Link("https://a.b/_*z*", (t("https://a.b/_*z*"),)),
        ),
    ),
    ("<@80351110224678912> <@!80351110224678912>", (NELLY, t(" "), NELLY)),
    ("<@1>", (UserMention(UserRef(Platform.DISCORD, "1"), "unknown-user", known=False),)),
    ("<@&165511591545143296>", (RoleMention("Mods"),)),
    ("<#103735883630395392>", (ChannelMention(CHANNEL, "help"),)),
    ("@everyone @here", (BroadcastMention("everyone"), t(" "), BroadcastMention("here"))),
    ("<:mmLol:216154654256398347>", (EMOJI,)),
    ("</airhorn play:816437322781949972>", (t("/airhorn play"),)),
    ("<id:customize> <id:guide>", (t("Channels & Roles Server Guide"),)),
    ("<t:1618953630>", (Timestamp(datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC)),)),
    ("<t:1618953630:R>", (Timestamp(datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC), "R"),)),
    ("<t:9999999999999>", (t("<t:9999999999999>"),)),
    (JUMP, (MessageLink(MessageRef(CHANNEL, "3"), JUMP),)),
    (f"[there]({JUMP})", (MessageLink(MessageRef(CHANNEL, "3"), JUMP, (t("there"),)),)),
    (CHANNEL_URL, (ChannelMention(CHANNEL, "help", CHANNEL_URL, (t("#help"),)),)),
]


@pytest.mark.parametrize(("source", "nodes"), INLINE)
def test_inline_markup(source: str, nodes: tuple[Inline, ...]) -> None:
    assert parse(source, names=NAMES) == RichText((Paragraph(nodes),))


BLOCKS: list[tuple[str, tuple[Block, ...]]] = [
    ("a\nb", (p(t("a"), LineBreak(), t("b")),)),
    ("a\n\nb", (p(t("a")), p(t("b")))),
    ("a\n\n\nb", (p(t("a")), p(LineBreak(), t("b")))),
    ("# a\n## b\n### c\n#### d", (Heading(1, (t("a"),)), Heading(2, (t("b"),)), Heading(3, (t("c"),)), p(t("#### d")))),
    ("#a\na # b", (p(t("#a"), LineBreak(), t("a # b")),)),
    ("-# a\n-# b", (Subtext((t("a"), LineBreak(), t("b"))),)),
    ("> a\n> b\nc", (Quote((p(t("a"), LineBreak(), t("b")),)), p(t("c")))),
    (">a", (p(t(">a")),)),
    ("> > a", (Quote((p(t("> a")),)),)),
    ("a\n>>> b\n\n# c", (p(t("a")), Quote((p(t("b")), Heading(1, (t("c"),)))))),
    ("- a\n* b\n- c", (BulletList((item(p(t("a"))), item(p(t("b"))), item(p(t("c"))))),)),
    (
        "- a\n  - b\n    - c\n- d",
        (
            BulletList(
                (
                    item(p(t("a")), BulletList((item(p(t("b")), BulletList((item(p(t("c"))),))),))),
                    item(p(t("d"))),
                )
            ),
        ),
    ),
    ("3. a\n4. b", (BulletList((item(p(t("a"))), item(p(t("b")))), start=3),)),
    ("1. a\n   - b\n2. c", (BulletList((item(p(t("a")), BulletList((item(p(t("b"))),))), item(p(t("c")))), start=1),)),
    ("- a\n  more\nafter", (BulletList((item(p(t("a"), LineBreak(), t("more"))),)), p(t("after")))),
    (
        "- a\n  ```py\n  - b\n    c\n  ```\n- d",
        (BulletList((item(p(t("a")), CodeBlock("- b\n  c", "py")), item(p(t("d"))))),),
    ),
    ("-a\n1.b", (p(t("-a"), LineBreak(), t("1.b")),)),
    ("```py\nprint()\n```", (CodeBlock("print()", "py"),)),
    ("```print()```", (CodeBlock("print()"),)),
    ("```py print()```", (CodeBlock("py print()"),)),
    ("a ```\n  b\n``` c", (p(t("a")), CodeBlock("  b"), p(t(" c")))),
    ("> ```\n> a\n> ```", (Quote((CodeBlock("a"),)),)),
    ("```open\n# a", (p(t("```open")), Heading(1, (t("a"),)))),
]


@pytest.mark.parametrize(("source", "blocks"), BLOCKS)
def test_blocks(source: str, blocks: tuple[Block, ...]) -> None:
    assert parse(source, names=NAMES) == RichText(blocks)


RENDERED: list[tuple[tuple[Block, ...], str]] = [
    ((p(Strong((t("a"),)), Emphasis((t("b"),))),), "**a**_b_"),
    ((p(Strong((t("a"),)), Emphasis((t("b"),)), t("c")),), "**a**_b_\u200bc"),
    ((p(t("snake_case_"), Emphasis((Code("**"),))),), "snake\\_case\\__`**`_"),
    (
        (
            p(
                Emphasis((Code("*"), Code("_"), t("a"), Code("_"))),
            ),
        ),
        "_`*`_`_`*a`_`*",
    ),
    ((p(Emphasis((Strong((t("a"),)), t(" b")))),), "***a** b*"),
    ((p(Strong((t(" a "),)), t("b")),), "**a** b"),
    ((p(Strong((t("a "), Code("**")))),), "**a** `**`"),
    ((p(Spoiler((t("a|"),))),), "||a|\u200b||"),
    ((p(Spoiler((Code("a||b"),), reason="film")),), "(film) ||`a|\u200b|b`||"),
    ((p(Spoiler((Code("|||"),))),), "||`|\u200b|\u200b|`||"),
    ((p(Code("`a`")),), "`` `a` ``"),
    ((p(t("snake_case, 2 * 3, a_ and ~5")),), "snake_case, 2 * 3, a\\_ and ~5"),
    ((p(t("**a** ||b|| `c`")),), "\\*\\*a\\*\\* \\|\\|b\\|\\| \\`c\\`"),
    (
        (p(t("# a"), LineBreak(), t("- b"), LineBreak(), t("1. c"), LineBreak(), t("> d")),),
        "\\# a\n\\- b\n1\\. c\n\\> d",
    ),
    ((p(t("@everyone @here <@1> <@&2> <#3>")),), "@\u200beveryone @\u200bhere <@\u200b1> <@\u200b&2> \\<#3>"),
    ((p(t("[w](https://a.b)")),), "\\[w](https://a.b)"),
    ((p(t("C:\\Users\\me 10:30:15 :smile:")),), "C:\\Users\\me 10:30:15 \\:smile:"),
    ((p(Link("https://a.b", (t("w"),))),), "[w](https://a.b)"),
    ((p(Link("https://a.b", (t("https://evil.example"),))),), "https://evil.example (https://a.b)"),
    ((p(Link("https://a.b", (t("a*b"),))),), "a\\*b (https://a.b)"),
    # A star between blanks is no markup, except in italics; there it would need a backslash, which a label would show.
    ((p(Link("https://a.b", (t("a * b"),))),), "[a * b](https://a.b)"),
    ((p(Link("https://a.b", (Emphasis((t("a * b"),)),))),), "*a \\* b* (https://a.b)"),
    ((p(Link("https://a.b", (Emphasis((Code("_"), t(" * 0"))),), False)),), "*`_` \\* 0* (<https://a.b>)"),
    ((p(Link("https://a.b", (Code("a\\]"),))),), "`a\\]` (https://a.b)"),
    ((p(Link("https://a.b/(", (t("w"),))),), "[w](https://a.b/%28)"),
    ((p(Link("mailto:a@b.c", (t("a@b.c"),))),), "a@b.c"),
    ((p(Link("https://a.b", (t("https://a.b"),)), t("c")),), "<https://a.b>c"),
    ((p(Strong((Link("https://a.b/**", (t("https://a.b/**"),)),))),), "**https://a.b/%2A%2A**"),
    ((p(Colored((t("@every"),), "#ff0000"), t("one")),), "@\u200beveryone"),
    ((p(t("x"), Superscript((t("2"),)), t(" H"), Superscript((t("2"),), lowered=True), t("O")),), "x² H₂O"),
    ((p(t("x"), Superscript((t("ab"),))),), "x^(ab)"),
    ((p(Math("x_1"), t(" "), NELLY, RoleMention("Mods"), ChannelMention(CHANNEL, "help")),), "`x_1` @Nelly@Mods#help"),
    ((p(EMOJI),), "\\:mmLol:"),
    ((p(Math("x", display=True)),), "```tex\nx\n```"),
    ((Heading(5, (t("a"),)), p(t("b"))), "### a\nb"),
    ((p(t("a")), p(t("b")), p(LineBreak(), t("c"))), "a\n\nb\n\n\nc"),
    ((Quote((p(t("a")), Quote((p(t("b")),)))), p(t("c"))), "> a\n> > b\nc"),
    ((Quote((p(t("a")),)), Quote((p(t("b")),))), "> a\n\n> b"),
    (
        (BulletList((item(p(t("a")), p(t("b"))), item(p(t("c")), BulletList((item(p(t("d"))),)))), 9),),
        "9. a\n   b\n10. c\n    - d",
    ),
    ((CodeBlock("a```b", "c++"),), "```c++\na`\u200b``b\n```"),
    ((CodeBlock("a", "two words"),), "```\na\n```"),
    ((Details((t("more"),), (p(t("a")),)), Rule()), "**more**\n\na\n\n⎯⎯⎯⎯⎯⎯⎯⎯⎯⎯⎯⎯"),
    (
        (
            Table(
                (
                    (TableCell((t("名前"),), True), TableCell((t("n"),), True)),
                    (TableCell((t("a"),)), TableCell((t("10"),))),
                )
            ),
        ),
        "```\n名前 | n\n-----+---\na    | 10\n```",
    ),
    (
        (Table(((TableCell((t("a"),)),), (TableCell((t("bb"),)), TableCell((t("c"),))), (TableCell((t("d"),)),))),),
        "```\na\nbb | c\nd\n```",
    ),
]


@pytest.mark.parametrize(("blocks", "content"), RENDERED)
def test_rendering_with_no_references(blocks: tuple[Block, ...], content: str) -> None:
    assert render(RichText(blocks), look=Look()) == content


def test_references_become_discords_own_where_the_look_up_says_so() -> None:
    look = Look(
        user=lambda mention: mention.user.id,
        role=lambda _: "7",
        channel=lambda mention: mention.channel.id,
        message=lambda _: "https://discord.com/channels/1/2/9",
        emoji=lambda _: "<a:mmLol:5>",
        broadcast=True,
    )
    link = MessageLink(MessageRef(ChannelRef(Platform.MATRIX, "!r:s"), "$e"), "https://matrix.to/#/!r:s/$e")
    moment = Timestamp(datetime(2021, 4, 20, 21, 20, 30, tzinfo=UTC), "R")
    nodes = (
        NELLY,
        RoleMention("Mods"),
        ChannelMention(CHANNEL, "help"),
        EMOJI,
        BroadcastMention("here"),
        moment,
        t(" "),
        link,
    )
    content = render(RichText((p(*nodes),)), look=look)
    assert content == (
        "<@80351110224678912><@&7><#103735883630395392><a:mmLol:5>@here<t:1618953630:R> https://discord.com/channels/1/2/9"
    )


def test_a_look_up_cannot_smuggle_in_anything_but_an_id() -> None:
    look = Look(user=lambda _: "1> @everyone <@2", channel=lambda _: "x", emoji=lambda _: "@everyone")
    assert render(RichText((p(NELLY, ChannelMention(CHANNEL, "help"), EMOJI),)), look=look) == "@Nelly#help\\:mmLol:"


def test_nothing_is_set_in_further_than_clients_show() -> None:
    blocks: tuple[Block, ...] = (p(t("a")),)
    for _ in range(40):
        blocks = (Quote(blocks),)
    assert render(RichText(blocks), look=Look()) == "> " * 10 + "a"
    blocks = (p(t("a")),)
    for _ in range(40):
        blocks = (p(t("b")), BulletList((item(*blocks),)))
    lines = render(RichText(blocks), look=Look()).split("\n")
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, *range(0, 20, 2), *[20] * 30]
    assert [line.lstrip() for line in lines] == ["b", *["- b"] * 39, "- a"]


def test_one_long_cell_is_not_paid_for_in_every_row() -> None:
    rows = tuple((TableCell((t("a"),)), TableCell((t("b"),))) for _ in range(2_000))
    content = render(RichText((Table(((TableCell((t("x" * 20_000),)),), *rows)),)), look=Look())
    assert len(content) < 50_000
