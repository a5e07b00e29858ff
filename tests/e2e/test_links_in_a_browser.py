"""What a browser makes of files behind links: it shows pictures, plays films from any place, and runs nothing."""

import struct
from typing import Any

import pytest
from playwright.async_api import Browser, Error, Page

from relay.sandbox.messages.media import flat_png
from tests.support.demo import new_page
from tests.support.links import Files, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = "<script>document.title = 'ran'</script>"


def sound(seconds: int) -> bytes:
    """A WAV file, which plays in any build of Chromium."""
    data = struct.pack("<hh", 8000, -8000) * 22_050 * seconds
    head = struct.pack("<IHHIIHH", 16, 1, 1, 44_100, 88_200, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + head + b"data" + struct.pack("<I", len(data)) + data
    )


async def player(page: Page, what: str) -> Any:
    return await page.evaluate(f"(m => m && ({what}))(document.querySelector('video, audio'))")


async def test_it_shows_and_plays_what_is_harmless_and_keeps_the_rest(browser: Browser) -> None:
    files = Files(
        cat=flat_png(0x336699, 48),
        song=sound(120),
        page=f"<html>{SCRIPT}</html>".encode(),
        drawing=f"<svg xmlns='http://www.w3.org/2000/svg'>{SCRIPT}</svg>".encode(),
    )
    files.types = {"cat": "image/png", "song": "audio/wav", "page": "text/html", "drawing": "image/svg+xml"}
    async with serving(files) as served, new_page(browser, accept_downloads=True) as page:
        asked = list[tuple[int, str | None]]()
        page.on("response", lambda answer: asked.append((answer.status, answer.request.headers.get("range"))))
        root = str(served.url("/")).rstrip("/")

        await page.goto(root + served.path("cat", "cat.png"))
        assert await page.evaluate("document.images[0].naturalWidth") == 48
        assert await page.evaluate("self.origin") == "null"

        asked.clear()
        await page.goto(root + served.path("song", "song.wav"))
        while (await player(page, "m.readyState")) != 4:
            await page.wait_for_timeout(50)
        assert await player(page, "m.duration") == 120
        await player(page, "m.currentTime = 110")
        while await player(page, "m.seeking"):
            await page.wait_for_timeout(50)
        assert await player(page, "m.currentTime") >= 110
        assert (206, "bytes=0-") in asked
        assert len([status for status, _ in asked if status == 206]) > 1

        for name in ("page", "drawing"):
            async with page.expect_download() as download:
                with pytest.raises(Error, match="Download is starting"):
                    await page.goto(root + served.path(name, f"{name}.html"))
            assert (await download.value).suggested_filename == f"{name}.html"
