"""Hypothesis strategies for the domain's values: text trees, contents, commands."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from relay.domain.commands import (
    Command,
    DeleteMessage,
    Digest,
    DigestItem,
    EditMessage,
    MarkAnswered,
    MarkFailed,
    PostNotice,
    RemoveOriginal,
    SendMessage,
)
from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.text import nodes as n

words = st.text(max_size=12)
moments = st.datetimes(datetime(2015, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - zone follows
platforms = st.sampled_from(Platform)
channels = st.builds(ChannelRef, platforms, words)
messages = st.builds(MessageRef, channels, words)
threads = st.builds(ThreadRef, channels, words)
users = st.builds(UserRef, platforms, words)
media = st.builds(MediaRef, platforms, words)

_leaves: st.SearchStrategy[n.Inline] = st.one_of(
    st.builds(n.Text, words),
    st.just(n.LineBreak()),
    st.builds(n.Code, words),
    st.builds(n.Math, words, st.booleans()),
    st.builds(n.UserMention, users, words),
    st.builds(n.RoleMention, words),
    st.builds(n.ChannelMention, channels, words),
    st.builds(n.BroadcastMention, st.sampled_from(("everyone", "here"))),
    st.builds(n.CustomEmoji, words, words, media, st.booleans()),
    st.builds(n.InlineImage, words, media),
    st.builds(n.Timestamp, moments, st.sampled_from("tTdDfFsSR")),
)


def _marks(inner: st.SearchStrategy[n.Inline]) -> st.SearchStrategy[n.Inline]:
    children = st.lists(inner, max_size=3).map(tuple)
    colour = st.none() | st.just("#ff0000")
    return st.one_of(
        *(st.builds(mark, children) for mark in (n.Strong, n.Emphasis, n.Underline, n.Strike)),
        st.builds(n.Spoiler, children, words),
        st.builds(n.Link, words, children, st.booleans()),
        st.builds(n.Colored, children, colour, colour),
        st.builds(n.Superscript, children, st.booleans()),
        st.builds(n.MessageLink, messages, words, children),
        st.builds(n.ChannelMention, channels, words, words, children),
    )


inlines: st.SearchStrategy[n.Inline] = st.recursive(_leaves, _marks, max_leaves=6)
_line = st.lists(inlines, max_size=3).map(tuple)
_cells = st.lists(st.builds(n.TableCell, _line, st.booleans()), max_size=2).map(tuple)
_flat_blocks: st.SearchStrategy[n.Block] = st.one_of(
    st.builds(n.Paragraph, _line),
    st.builds(n.Heading, st.integers(1, 6), _line),
    st.builds(n.Subtext, _line),
    st.builds(n.CodeBlock, words, words),
    st.builds(n.Table, st.lists(_cells, max_size=2).map(tuple), _line),
    st.just(n.Rule()),
)


def _nests(inner: st.SearchStrategy[n.Block]) -> st.SearchStrategy[n.Block]:
    blocks = st.lists(inner, max_size=2).map(tuple)
    return st.one_of(
        st.builds(n.Quote, blocks),
        st.builds(n.Details, _line, blocks),
        st.builds(
            n.BulletList, st.lists(st.builds(n.ListItem, blocks), max_size=2).map(tuple), st.none() | st.integers(0)
        ),
    )


blocks: st.SearchStrategy[n.Block] = st.recursive(_flat_blocks, _nests, max_leaves=3)
texts = st.builds(n.RichText, st.lists(blocks, max_size=2).map(tuple))
authors = st.builds(Author, users, words, st.none() | media, st.booleans(), st.booleans(), st.booleans())
attachments = st.builds(
    Attachment,
    id=words,
    name=words,
    kind=st.sampled_from(("image", "video", "audio", "voice", "file", "sticker")),
    source=media,
    size=st.none() | st.integers(0),
    width=st.none() | st.integers(0),
    duration=st.none() | st.floats(0, 1e6),
    alt=words,
    spoiler=st.booleans(),
    waveform=st.lists(st.integers(0, 255), max_size=3).map(tuple),
    thumbnail=st.none() | media,
)
contents = st.builds(
    Content, texts, st.lists(attachments, max_size=2).map(tuple), st.sampled_from(("text", "emote", "notice"))
)
_items = st.builds(DigestItem, messages, authors, contents, moments, texts)
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Digest, st.lists(_items, min_size=1, max_size=2).map(tuple)),
    st.builds(SendMessage, messages, authors, contents, moments, st.none() | messages),
    st.builds(EditMessage, messages, authors, contents, moments, st.none() | messages),
    st.builds(DeleteMessage, messages),
    st.builds(RemoveOriginal, messages),
    st.builds(PostNotice, texts, st.none() | threads),
    st.builds(MarkFailed, messages, words),
    st.builds(MarkAnswered, messages, st.booleans()),
)
