"""What operators look at, as pictures for people: the status page, the directory and the terminal.

With few pairs and with many, on a laptop and on a phone. What a program can tell of a picture is asserted: that nothing
sticks out, and how long it is.
"""

from io import StringIO
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, ViewportSize
from rich.console import Console
from rich.text import Text

from relay.cli.status_text import Screen
from relay.config.loading import load
from relay.core.status.report import PairStatus, Report
from relay.web.directory import directory_of
from relay.web.directory_pages import html
from tests.support.demo import LAPTOP, OUTPUT, PHONE, new_page
from tests.support.status_page import TOKEN, pair, report, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SIZES = {"laptop": LAPTOP, "phone": PHONE}
REASON = "@relay:example.org may not write in #stash-help:example.org: give it the power level 50 there."


def pairs(number: int, troubled: int) -> list[PairStatus]:
    return [
        pair(f"stash-room-{each}", *([REASON] if each < troubled else []), dead=each == number - 1)
        for each in range(number)
    ]


REPORTS = {"3 pairs": pairs(3, 1), "60 pairs": pairs(60, 2), "60 pairs in trouble": pairs(60, 60)}


async def _keep(page: Page, name: str, size: str) -> None:
    """Keep all of the page as a picture, and see that nothing sticks out of it."""
    assert await page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    OUTPUT.mkdir(exist_ok=True)
    await page.screenshot(path=OUTPUT / f"{name.replace(', ', '-').replace(' ', '-')}-{size}.png", full_page=True)


@pytest.mark.parametrize("size", SIZES)
async def test_pages(tmp_path: Path, browser: Browser, size: str) -> None:
    width, height = SIZES[size]
    async with new_page(browser, viewport=ViewportSize(width=width, height=height)) as page:
        for name, those in REPORTS.items():
            async with serving(answer=report(*those)) as served:
                await page.goto(str(served.url))
                await page.locator("input[name=token]").fill(TOKEN)
                await page.keyboard.press("Enter")
                await page.wait_for_selector("#now")
                assert await page.locator(".pairs summary").count() == len(those)
                await _keep(page, f"status page, {name}", size)
        for community in ("stash", "mathesar"):
            settings = load(EXAMPLES / community / "relay.toml", {})
            document = tmp_path / f"{community}.html"
            document.write_text(html(directory_of(settings, {})))
            await page.goto(document.as_uri())
            await _keep(page, f"directory of {community}", size)


@pytest.mark.parametrize("name", REPORTS)
async def test_terminal(browser: Browser, name: str) -> None:
    lines = Screen().lines(_shown(name), 80)
    assert len(lines) <= 70
    terminal = Console(record=True, width=80, file=StringIO(), legacy_windows=False)
    for line in lines:
        terminal.print(Text(line.text, style=line.color or ""), soft_wrap=False)
    drawing = terminal.export_svg(title=f"relay status: {name}")
    async with new_page(browser, viewport=ViewportSize(width=LAPTOP[0], height=LAPTOP[1])) as page:
        await page.set_content(f"<body style='margin: 0; width: 1000px'>{drawing}")
        await _keep(page, f"relay status, {name}", "laptop")


def _shown(name: str) -> Report:
    return report(*REPORTS[name])
