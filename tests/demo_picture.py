"""Makes `deploy/demo.png`, the picture of the demo in README: `python -m tests.demo_picture`."""

import asyncio
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import expect

from tests.support.demo import LAPTOP, browsing, chromium, message, press, running, say

_ROOT = Path(__file__).parents[1]
_MAP = _ROOT / "relay/demo/sample_files/harbour-map.png"
_TARGET = _ROOT / "deploy/demo.png"


async def _photograph(address: str, folder: Path) -> Path:
    async with chromium() as browser, browsing(address, browser, LAPTOP) as page:
        await page.locator("#discord .speakers label", has_text="Jonas").click()
        await page.locator("#discord input[type=file]").set_input_files(_MAP)
        await say(page, "discord", "The way out, for Saturday.")
        for side in ("discord", "matrix"):
            await expect(page.locator(f"#{side} .files img")).to_have_js_property("naturalWidth", 640)
        await press(page, "matrix", "The way out", "reply")
        await say(page, "matrix", "Past the third buoy, @Mira? ||Again?||", "Yusuf")
        await expect(message(page, "discord", "Past the third buoy")).to_have_count(1)
        await expect(page.locator("#crossed")).to_have_text("5")
        # Nothing is pointed at, and nothing has the focus.
        await page.mouse.move(640, 700)
        await page.evaluate("document.activeElement.blur()")
        path = folder / "page.png"
        await page.screenshot(path=path, animations="disabled")
        return path


def main() -> None:
    """Start a demo, say something in it, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder)) as address:
            path = asyncio.run(_photograph(address, Path(folder)))
        with Image.open(path) as image:
            reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        reduced.save(_TARGET, optimize=True)
    print(f"{_TARGET}: {_TARGET.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
