"""What the tests of both converters share: hostile texts, trees, and what a reader sees of a tree."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

from hypothesis import settings
from hypothesis import strategies as st

from relay.domain.text import nodes as n
from relay.domain.text.normalise import normalise
from relay.domain.text.rewrite import is_bare, link_bare_urls

often = settings(max_examples=2 * settings().max_examples)
"""Tried with twice as many texts as other properties: most faults are found here."""

# Stretches that are markup, or nearly so, in one dialect or in both.
_STRETCHES = (
    *(
        "**",
        "*",
        "_",
        "__",
        "~~",
        "~",
        "||",
        "|",
        "`",
        "``",
        "```",
        "\\",
        "\\\\",
        "***",
        "___",
        "> ",
        ">>> ",
        "# ",
        "-# ",
    ),
    *("- ", "* ", "1. ", "[", "]", "(", ")", "](", "[x](https://a.b)", "<", ">", "<@1>", "<@!22>", "<@&3>", "<#4>"),
    *("@everyone", "@here", "@room", "<:n:1>", "<a:n:1>", "<t:0:R>", "</cmd:1>", "<id:guide>", ":smile:", ":"),
    *(
        "https://a.b",
        "https://a.b/c_d*e__f",
        "http://",
        "<https://a.b>",
        "snake_case_",
        "a",
        "b1",
        "é",
        "字",
        "👍🏽",
        " ",
        "  ",
    ),
    *("¯\\_(ツ)_/¯", "&amp;", "&", "<b>", "</b>", "<script>", '"', "'", "\u00a0", ".", ",", "!", "$x$", "|-|", "\t"),
)

words = st.lists(st.sampled_from(_STRETCHES) | st.text(max_size=3), max_size=8).map("".join)
"""One line of text that looks like markup."""

sources = st.lists(
    words | st.sampled_from(("\n", "\n\n", "\n  ", "<p>", "</p>", "<ul><li>", "</li>", "<br>")), max_size=12
).map("".join)
"""What somebody may send."""

_texts = words.filter(lambda text: not re.search(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029\u200b]", text)).map(n.Text)
_codes = words.filter(lambda text: not re.search(r"[\n\r\u200b]", text) and bool(text.strip())).map(n.Code)
_urls = st.sampled_from(
    ("https://a.b", "http://a.b/c_(d)", "https://a.b/*_x_*", "https://a.b/?q=)(", "https://a.b/||~~__**")
)


def _wrap(children: st.SearchStrategy[n.Inline]) -> st.SearchStrategy[n.Inline]:
    many = st.lists(children, min_size=1, max_size=4).map(tuple)
    return st.one_of(*(st.builds(kind, many) for kind in (n.Strong, n.Emphasis, n.Underline, n.Strike, n.Spoiler)))


_bare_links = st.builds(lambda url, preview: n.Link(url, (n.Text(url),), preview), _urls, st.booleans())
_leaves: st.SearchStrategy[n.Inline] = st.one_of(_texts, _texts, _codes, _bare_links, st.just(n.LineBreak()))
_marked = st.recursive(_leaves, _wrap, max_leaves=6)
_masked_links = st.builds(n.Link, _urls, st.lists(_marked, min_size=1, max_size=3).map(tuple), st.booleans())
inline: st.SearchStrategy[n.Inline] = st.one_of(_marked, _marked, _masked_links)
_line = st.lists(inline, min_size=1, max_size=4).map(tuple)
_paragraph = st.builds(n.Paragraph, _line)


def _items(blocks: st.SearchStrategy[n.Block]) -> st.SearchStrategy[n.Block]:
    item = st.builds(lambda first, rest: n.ListItem((first, *rest)), _paragraph, st.lists(blocks, max_size=1))
    return st.builds(n.BulletList, st.lists(item, min_size=1, max_size=3).map(tuple), st.none() | st.integers(1, 99))


_plain_blocks: st.SearchStrategy[n.Block] = st.one_of(
    _paragraph,
    st.builds(n.Heading, st.integers(1, 3), _line),
    st.builds(n.Subtext, _line),
    st.builds(
        n.CodeBlock, sources.filter(lambda text: "\r" not in text), st.sampled_from(("", "py", "c++", "bad lang"))
    ),
)
_lists = st.recursive(_paragraph, _items, max_leaves=3).filter(lambda block: isinstance(block, n.BulletList))
_top = st.one_of(_plain_blocks, _lists)
common_texts = st.lists(
    st.one_of(_top, st.builds(n.Quote, st.lists(_top, min_size=1, max_size=3).map(tuple))), max_size=4
).map(lambda blocks: n.RichText(tuple(blocks)))
"""Trees of what both platforms have markup for."""

Run = tuple[str, frozenset[str]]


def reading(text: n.RichText) -> list[object]:
    """What a reader of `text` sees: blocks of characters with the markup they carry.

    Left out, because no dialect can say it or nobody can see it: characters without width, markup of white space,
    markup around code other than a spoiler, the encoding of characters in a URL, several blanks in a row,
    blank lines in small print and in lists.
    """
    return _blocks(normalise(text).blocks)


def _blocks(blocks: tuple[n.Block, ...]) -> list[object]:
    """Paragraphs in a row are one text with blank lines in it, wherever they are."""
    done: list[object] = []
    words: list[n.Inline] = []
    for block in blocks:
        if isinstance(block, n.Paragraph):
            words += (*((n.LineBreak(), n.LineBreak()) if words else ()), *block.children)
            continue
        if words:
            done.append(_block(n.Paragraph(tuple(words))))
            words = []
        done.append(_block(block))
    return [*done, _block(n.Paragraph(tuple(words)))] if words else done


def _block(block: n.Block) -> object:
    match block:
        case n.Paragraph(children):
            return ("Paragraph", _runs(children))
        case n.Subtext(children):
            return ("Subtext", _single_breaks(_runs(children)))
        case n.Heading(level, children):
            return ("Heading", level, _runs(children, line=True))
        case n.CodeBlock(text, language):
            return ("CodeBlock", text.replace("\u200b", ""), language if " " not in language else "")
        case n.Quote(blocks):
            return ("Quote", _blocks(blocks))
        case n.BulletList(items, start):
            return ("List", start, [_item(item) for item in items])
        case _:
            return repr(block)


def _item(item: n.ListItem) -> list[object]:
    """An item is running text, in which a blank line would end the list, and the lists inside it."""
    done: list[object] = []
    words: list[n.Inline] = []
    for block in item.blocks:
        if isinstance(block, n.Paragraph):
            words += (n.LineBreak(), *block.children)
        else:
            done.append(_block(block))
    return [_single_breaks(_runs(tuple(words[1:]))), *done]


def _single_breaks(runs: list[Run]) -> list[Run]:
    return [(re.sub(r"\n+", "\n", text), marks) for text, marks in runs]


def _runs(nodes: tuple[n.Inline, ...], *, line: bool = False) -> list[Run]:
    runs: list[Run] = []
    for text, marks in _pieces(nodes, frozenset()):
        for part in re.split(r"(\s+)", text.replace("\u200b", "")):
            if not part:
                continue
            shown: Run = ("\n" if "\n" in part and not line else " ", frozenset()) if part.isspace() else (part, marks)
            if shown[0] == "\n" and runs and runs[-1][0].endswith(" "):
                runs[-1] = (runs[-1][0].rstrip(" "), runs[-1][1])
            if runs and runs[-1][1] == shown[1] and not (shown[0] == " " and runs[-1][0].endswith((" ", "\n"))):
                runs[-1] = (runs[-1][0] + shown[0], shown[1])
            elif not runs or shown[0] != " " or not runs[-1][0].endswith((" ", "\n")):
                runs.append(shown)
    return [(text, marks) for text, marks in runs if text]


def _pieces(nodes: tuple[n.Inline, ...], marks: frozenset[str]) -> Iterator[Run]:
    for node in nodes:
        match node:
            case n.Text(text):
                for part in link_bare_urls(text):
                    yield (unquote(part.url) if isinstance(part, n.Link) else part.text, marks)  # type: ignore[union-attr]
            case n.LineBreak():
                yield ("\n", frozenset())
            case n.BroadcastMention("everyone"):
                yield ("@room", marks)
            case n.Code(text):
                yield (" ".join(text.split()), marks & {"Spoiler"} | {"Code"})
            case n.Link(url, children):
                if is_bare(node):
                    yield (unquote(url), marks)
                else:
                    # Where the words cannot be a link, the address follows them.
                    yield from _pieces(children, marks)
                    yield (f" ({unquote(url)})", marks)
            case (
                n.Strong(children)
                | n.Emphasis(children)
                | n.Underline(children)
                | n.Strike(children)
                | n.Spoiler(children)
            ):
                yield from _pieces(children, marks | {type(node).__name__})
            case _:
                yield (repr(node), marks)
