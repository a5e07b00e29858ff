"""Which files a message shows already, and what new ones are called."""

from collections.abc import AsyncIterator
from dataclasses import replace

from relay.adapters.discord.media import form_of, have_same_files
from relay.adapters.discord.message_cache import CachedMessage, MessageCache
from relay.core.convert.degrade import degrade
from relay.core.files import File
from relay.domain.content import Attachment, Author, Capabilities, Content
from relay.domain.ids import MediaRef, Platform, UserRef
from relay.domain.pair import PairPolicy
from relay.domain.text.nodes import RichText, plain_text


def on_matrix(name: str, size: int | None = 7, *, spoiler: bool = False) -> Attachment:
    source = MediaRef(Platform.MATRIX, f"mxc://example.org/{name}")
    return Attachment(source.locator, "cat.png", "image", source, size=size, spoiler=spoiler)


def on_discord(size: int, *, spoiler: bool = False) -> Attachment:
    source = MediaRef(Platform.DISCORD, "https://cdn.discordapp.com/attachments/1/2/cat.png")
    return Attachment("2", "cat.png", "image", source, size=size, spoiler=spoiler)


def test_files_that_are_remembered_are_known_by_where_they_came_from() -> None:
    assert have_same_files((on_matrix("a"),), (on_matrix("a", None),))
    assert not have_same_files((on_matrix("a"),), (on_matrix("b"),))
    assert not have_same_files((on_matrix("a"), on_matrix("b")), (on_matrix("b"), on_matrix("a")))


def test_files_that_discord_shows_are_known_by_their_size_and_name() -> None:
    assert have_same_files((on_discord(7),), (on_matrix("a"),))
    assert have_same_files((replace(on_discord(7), name="my_cat.png"),), (replace(on_matrix("a"), name="my cat.png"),))
    assert not have_same_files((replace(on_discord(7), name="dog.png"),), (on_matrix("a"),))
    assert not have_same_files((on_discord(8),), (on_matrix("a"),))
    # Where nobody says how long it is, it may be any.
    assert not have_same_files((on_discord(7),), (on_matrix("a", None),))


def test_more_fewer_and_hidden_files_are_others() -> None:
    assert have_same_files((), ())
    assert not have_same_files((on_matrix("a"),), ())
    assert not have_same_files((), (on_matrix("a"),))
    assert not have_same_files((on_matrix("a"),), (on_matrix("a", spoiler=True),))
    assert not have_same_files((on_discord(7, spoiler=True),), (on_matrix("a"),))


def as_file(words: str) -> Content:
    """What becomes of a text that is far too long."""
    parts = degrade(
        Content(RichText.plain(words)),
        author=Author(UserRef(Platform.MATRIX, "@ada:example.org"), "Ada"),
        capabilities=Capabilities(100, False, 10, 10 << 20, 25 << 20),
        policy=PairPolicy(),
        measure=lambda text: len(plain_text(text)),
        as_file=True,
    )
    assert isinstance(parts, tuple)
    return parts[0]


def test_a_text_that_crossed_as_a_file_is_known_again_though_it_is_not_kept() -> None:
    recent = MessageCache()
    recent.put("1", CachedMessage("7", "Ada", "8", "8", as_file("tide " * 2_000)))
    seen = recent.get("1")
    assert seen is not None
    assert [attachment.text for attachment in seen.content.attachments] == [""]
    assert have_same_files(seen.content.attachments, as_file("tide " * 2_000).attachments)
    assert not have_same_files(seen.content.attachments, as_file("ebb. " * 2_000).attachments)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def test_a_file_has_its_ending_wherever_discord_looks_for_the_name() -> None:
    names = ["my cat.png", "кот.png", "猫", ".png"]
    files = [File(name, "image/png", 1, _nothing()) for name in names]
    form = form_of({}, [on_matrix("a"), on_matrix("b", spoiler=True), on_matrix("c"), on_matrix("d")], files, bool)
    parts = [part.headers["Content-Disposition"].partition("filename=")[2] for part, _, _ in form][1:]
    assert parts == ['"my_cat.png"', '"SPOILER_.png"', '"file2"', '"file3.png"']
