"""`relay demo` as a process, and the browser that looks at its page."""

import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Locator, Page, ViewportSize, async_playwright, expect

from tests.support.patience import PATIENCE

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_ADDRESS = re.compile(r"The demo is here:\s+(http://127\.0\.0\.1:\d+/)")
PHONE = (390, 844)
LAPTOP = (1280, 800)
_MILLISECONDS = PATIENCE * 1000
# What is expected of a page is waited for as long as anything else: five seconds by default.
expect.set_options(timeout=_MILLISECONDS)
OUTPUT = Path(__file__).parents[1] / "output"
"""Where pictures are kept for people to look at."""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`relay demo` with `folder` for its temporary files."""
    return subprocess.Popen(
        [sys.executable, "-m", "relay", "demo", *arguments],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment(folder: Path) -> dict[str, str]:
    """As little as a shell gives, and the temporary directory."""
    return {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "LANG": "C.UTF-8", "HOME": str(folder)}


def read_until(process: subprocess.Popen[str], pattern: re.Pattern[str]) -> re.Match[str]:
    """What the process prints, up to a line that matches. Fails with all of it where the output ends before."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if match := pattern.search(line):
            return match
    raise AssertionError("the demo ended:\n" + "".join(lines))


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`relay demo`, which ends with the block at the latest."""
    with start(folder, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def running(folder: Path, *arguments: str, number: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """The address of the page of a demo that runs as long as the block, and is then ended by a signal."""
    process = start(folder, *arguments)
    try:
        yield read_until(process, _ADDRESS)[1]
    finally:
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser, for as long as the block: it takes a second of a processor to start."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_FLAGS), timeout=_MILLISECONDS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def new_page(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page of its own: it shares neither cookies nor anything else with others."""
    context = await browser.new_context(**options)
    context.set_default_timeout(_MILLISECONDS)
    try:
        yield await context.new_page()
    finally:
        await context.close()


@asynccontextmanager
async def browsing(
    address: str,
    browser: Browser,
    size: tuple[int, int] = LAPTOP,
    scheme: Literal["light", "dark"] = "light",
    tolerated: str = "\0",
) -> AsyncIterator[Page]:
    """The page, loaded and connected. A complaint of the browser's fails the test unless it contains `tolerated`."""
    complaints: list[str] = []
    viewport = ViewportSize(width=size[0], height=size[1])
    async with new_page(browser, viewport=viewport, color_scheme=scheme, has_touch=size == PHONE) as page:
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        requested: list[str] = []
        # `blob:` is a file that the page itself holds.
        page.on("request", lambda request: requested.append(request.url.removeprefix("blob:")))
        await page.goto(address)
        await page.wait_for_selector("body[data-ready]")
        yield page
    assert [complaint for complaint in complaints if tolerated not in complaint] == []
    assert [url for url in requested if not url.startswith(address)] == []


async def say(page: Page, side: str, words: str, speaker: str = "") -> None:
    """Write on a side of the page."""
    if speaker:
        await page.locator(f"#{side} .speakers label", has_text=speaker).click()
    await page.locator(f"#{side} textarea").fill(words)
    await page.keyboard.press("Enter")


def message(page: Page, side: str, words: str | re.Pattern[str]) -> Locator:
    """The messages on a side whose text has these words."""
    return page.locator(f"#{side} .message", has=page.locator(".text", has_text=words))


_GIVE = """([side, way, name, words]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([words], name, { type: "text/plain" }));
  const target = document.querySelector(way === "paste" ? `#${side} textarea` : `#${side} .messages`);
  const options = { bubbles: true, cancelable: true, clipboardData: carried, dataTransfer: carried };
  if (way === "paste") target.dispatchEvent(new ClipboardEvent("paste", options));
  else for (const event of ["dragover", "drop"]) target.dispatchEvent(new DragEvent(event, options));
}"""


async def give(page: Page, side: str, way: Literal["paste", "drop"], name: str, words: str) -> None:
    """Paste a file into the composer of a side, or drop it on the side's messages."""
    await page.evaluate(_GIVE, [side, way, name, words])


async def press(page: Page, side: str, words: str | re.Pattern[str], action: str) -> None:
    """Press a button of a message's toolbar."""
    item = message(page, side, words)
    await item.hover()
    await item.locator(f"[data-action={action}]").click()


async def picture(page: Page, name: str) -> None:
    """Keep what the page looks like, for people."""
    OUTPUT.mkdir(exist_ok=True)
    await page.screenshot(path=OUTPUT / f"demo-{name}.png")


_TOO_WIDE = """() => [...document.querySelectorAll(".column")].flatMap((column) => {
  const { left, right } = column.getBoundingClientRect();
  const parts = [...column.querySelectorAll(".message *")];
  return parts.filter((part) => !part.closest("pre, table, .veil, .actions, .fold")).filter((part) => {
    const box = part.getBoundingClientRect();
    return box.width && (box.right > right + 1 || box.left < left - 1);
  }).map((part) => `${column.id} ${part.localName}.${part.className}: ${part.textContent.slice(0, 40)}`);
})"""


async def too_wide(page: Page, width: int) -> list[str]:
    """Parts of messages that stick out of their column where the page is that wide."""
    await page.set_viewport_size({"width": width, "height": 800})
    found: list[str] = await page.evaluate(_TOO_WIDE)
    return found


async def all_there(page: Page, side: str) -> None:
    """Every picture is loaded, every film and sound can be played, and what is hidden shows when it is asked for."""
    column = page.locator(f"#{side} .messages")
    images = column.locator(".files img, .text img")
    assert await images.count() >= 6
    for number in range(await images.count()):
        await images.nth(number).scroll_into_view_if_needed()
        await expect(images.nth(number)).to_have_js_property("complete", True)
        assert await images.nth(number).evaluate("image => image.naturalWidth") > 0
    for player in await column.locator("video, audio").all():
        await player.scroll_into_view_if_needed()
        await player.evaluate("player => player.readyState ? 0 : new Promise((go) => player.onloadedmetadata = go)")
        assert 3 <= await player.evaluate("player => player.duration") <= 5
    hidden = column.locator(".veil")
    assert await hidden.count() >= 2
    await hidden.first.get_by_role("button").click()
    await expect(hidden.first).to_have_class(re.compile("open"))
    await expect(hidden.first.locator("img")).to_have_css("filter", "none")
    voice = column.locator(".player").first
    await voice.get_by_role("button").click()
    await expect(voice.locator("i.past").first).to_be_attached()
    folded = column.locator(".fold").first
    before = await folded.evaluate("words => words.clientHeight")
    await column.get_by_role("button", name="Show all").first.click()
    assert await folded.evaluate("words => words.clientHeight") > 2 * before
