"""Signed links: what they lead to, and that nothing else does."""

import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.ids import MediaRef, Platform
from relay.domain.names import file_name
from relay.media.links import Linked, link_key
from relay.store.unit_of_work import open_store
from tests.support.clocks import FakeClock
from tests.support.links import MESSAGE, NOW, PUBLIC, bad_paths, path_of, signed
from tests.support.store import new_store

CAT = MediaRef(Platform.MATRIX, "mxc://example.org/cat")
SECRET = MediaRef(Platform.MATRIX, "mxc://example.org/s#key=S3cretKeyS3cretKey&iv=aaaa&sha256=bbbb")


@given(
    locator=st.text(max_size=200),
    name=st.text(st.characters(exclude_categories=()), max_size=300),
    platform=st.sampled_from(Platform),
)
def test_a_link_leads_to_its_file_under_its_name(locator: str, name: str, platform: Platform) -> None:
    media = MediaRef(platform, locator)
    url = signed().link(media, name, MESSAGE, since=NOW)
    if url is None:
        assert len(locator.encode()) > 100
        return
    assert url.startswith(f"{PUBLIC}/media/")
    assert url.isascii()
    assert "%" not in url
    assert len(url) <= 1_000
    assert signed().read(path_of(url)) == Linked(media, file_name(name, ""), MESSAGE)


def test_the_same_file_always_has_the_same_link_and_nothing_of_it_shows() -> None:
    urls = {signed().link(SECRET, "holiday in Rome.jpg", MESSAGE, since=NOW) for _ in range(3)}
    assert len(urls) == 1
    url = urls.pop() or ""
    assert url.endswith("/holiday-in-Rome.jpg")
    for part in ("S3cret", "example.org/s", "mxc", "room", "event"):
        assert part not in url
    assert "S3cret" not in signed().tag(SECRET)


def test_a_link_ends_with_its_last_day_or_never() -> None:
    clock = FakeClock(NOW.timestamp())
    links, lasting = signed(lifetime=86400.0, clock=clock), signed(lifetime=None, clock=clock)
    path, for_ever = (path_of(each.link(CAT, "c.png", MESSAGE, since=NOW)) for each in (links, lasting))
    clock.seconds = (NOW + timedelta(hours=35)).timestamp()
    assert links.read(path) == Linked(CAT, "c.png", MESSAGE)
    clock.seconds = (NOW + timedelta(hours=37)).timestamp()
    assert links.read(path) == Linked(CAT, "c.png", MESSAGE, expired=True)
    clock.seconds = (NOW + timedelta(days=9_000)).timestamp()
    assert links.read(for_ever) == Linked(CAT, "c.png", MESSAGE)


@given(st.randoms(use_true_random=False))
def test_no_other_link_leads_anywhere(rng: random.Random) -> None:
    links = signed()
    media = [MediaRef(Platform.MATRIX, f"mxc://example.org/{name}") for name in ("a", "b#key=k&iv=i", "c")]
    paths = bad_paths(rng, links, media)
    for _ in range(30):
        path = next(paths)
        found = links.read(path)
        assert found is None or found.expired, path


async def test_the_key_is_made_once_and_a_damaged_one_again(tmp_path: Path) -> None:
    store = await open_store(new_store(tmp_path))
    key = await link_key(store)
    assert len(key) == 64
    assert await link_key(store) == key
    for damage in ("", "not base64 ☹", "AAAA", "\0"):
        async with store.write() as uow:
            await uow.key_values.put("media link key", damage)
        fresh = await link_key(store)
        assert len(fresh) == 64
        assert fresh != key
        assert await link_key(store) == fresh
    await store.close()


@pytest.mark.parametrize(
    "path", ["", "/", "/media/", "/media/1/2/3/4", "/media/" + "a" * 100_000, "/media/1/" * 20_000]
)
def test_what_is_no_link(path: str) -> None:
    assert signed().read(path) is None
