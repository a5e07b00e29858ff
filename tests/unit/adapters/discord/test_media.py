"""Which files a message shows already."""

from relay.adapters.discord.media import have_same_files
from relay.domain.content import Attachment
from relay.domain.ids import MediaRef, Platform


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


def test_files_that_discord_shows_are_known_by_their_size() -> None:
    assert have_same_files((on_discord(7),), (on_matrix("a"),))
    assert have_same_files((on_discord(7),), (on_matrix("a", None),))
    assert not have_same_files((on_discord(8),), (on_matrix("a"),))


def test_more_fewer_and_hidden_files_are_others() -> None:
    assert have_same_files((), ())
    assert not have_same_files((on_matrix("a"),), ())
    assert not have_same_files((), (on_matrix("a"),))
    assert not have_same_files((on_matrix("a"),), (on_matrix("a", spoiler=True),))
    assert not have_same_files((on_discord(7, spoiler=True),), (on_matrix("a"),))
