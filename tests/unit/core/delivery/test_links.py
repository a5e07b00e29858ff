"""A file that cannot cross is named with a link of ours, which every try writes in the same way."""

from datetime import datetime
from pathlib import Path

import pytest

from relay.core.ports import Delivery
from relay.domain.content import Attachment, Content
from relay.domain.ids import MediaRef, MessageRef, Platform
from relay.domain.text import nodes as n
from relay.domain.text.rewrite import walk
from relay.errors import Transient
from tests.support.platform import MemoryPlatform, Message
from tests.support.world import world

TO = "https://matrix.to/#/!a:example.org/$b"
FILM = Attachment("1", "film.mp4", "video", MediaRef(Platform.MATRIX, "mxc://example.org/film"), size=10**8, url=TO)
PAGE = "https://discord.example/1/2/3"
CDN = "https://cdn.example/a.png?ex=1"
PICTURE = Attachment("1", "a.png", "image", MediaRef(Platform.DISCORD, CDN), size=10**8, url=CDN, page=PAGE)


class Links:
    """Makes links, and remembers for which files."""

    def __init__(self) -> None:
        self.made: list[tuple[MediaRef, MessageRef, datetime]] = []

    def link(self, file: Attachment, message: MessageRef, *, since: datetime) -> str | None:
        self.made.append((file.source, message, since))
        return f"https://relay.example.org/media/{file.name}/{since:%M%S%f}"


def urls(message: Message) -> list[str]:
    return [node.url for node in walk(message.content.text.blocks) if isinstance(node, n.Link)]


async def test_a_file_over_the_limit_has_a_link_of_ours_the_same_at_each_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, tries = MemoryPlatform.post, 0

    def failing(platform: MemoryPlatform, delivery: Delivery) -> MessageRef:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Transient("not now")
        return post(platform, delivery)

    monkeypatch.setattr(MemoryPlatform, "post", failing)
    async with world(tmp_path) as bridge:
        bridge.links = links = Links()
        here, there = bridge.channels()
        async with bridge.relay():
            said = bridge.matrix.say(there, "ann", Content(n.RichText.plain("look"), (FILM,)))
            await bridge.shows(here, "look\nvideo: film.mp4 (100.0 MB) · message")
            await bridge.quiet()
        first, second = links.made
        assert first == second
        media, message, since = first
        assert (media, message) == (FILM.source, said)
        assert urls(bridge.shown(here)[0]) == [f"https://relay.example.org/media/film.mp4/{since:%M%S%f}", TO]


async def test_a_link_that_ends_gives_way_and_the_one_to_the_message_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        bridge.links = Links()
        here, there = bridge.channels()
        async with bridge.relay():
            bridge.discord.say(here, "ann", Content(n.RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, "look\nimage: a.png (100.0 MB) · message")
            ours, page = urls(bridge.shown(there)[0])
            assert ours.startswith("https://relay.example.org/media/a.png/")
            assert page == PAGE


async def test_without_links_all_is_as_it_was(tmp_path: Path) -> None:
    async with world(tmp_path) as bridge:
        here, there = bridge.channels()
        async with bridge.relay():
            bridge.discord.say(here, "ann", Content(n.RichText.plain("look"), (PICTURE,)))
            await bridge.shows(there, "look\nimage: a.png (100.0 MB) · message")
            assert urls(bridge.shown(there)[0]) == [CDN, PAGE]
            bridge.matrix.say(there, "ann", Content(n.RichText.plain("look"), (FILM,)))
            await bridge.shows(here, "look", "look\nvideo: film.mp4 (100.0 MB)")
            assert urls(bridge.shown(here)[1]) == [TO]
