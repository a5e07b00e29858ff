"""The status page in a browser: a line a pair on a phone, live, for the keyboard, and within its policy."""

from datetime import timedelta

import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from tests.support.demo import new_page
from tests.support.stack import eventually
from tests.support.status_page import NOW, TOKEN, pair, report, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG_AGO = NOW - timedelta(minutes=59)
PHONE = ViewportSize(width=390, height=844)
LOOK = "document.dispatchEvent(new Event('visibilitychange'))"


async def sign_in(page: Page, url: str) -> None:
    await page.goto(url)
    await expect(page.locator("#token")).to_be_focused()
    await page.keyboard.type(TOKEN)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#now")


async def test_sixty_pairs_on_a_phone(browser: Browser) -> None:
    pairs = [pair(f"a pair with quite a long name {number}", last=LONG_AGO) for number in range(59)]
    pairs.insert(30, pair("broken", "It is broken: mend it."))
    async with (
        serving(answer=report(*pairs)) as served,
        new_page(browser, viewport=PHONE, color_scheme="dark") as page,
    ):
        refused = list[str]()
        page.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
        page.on("pageerror", lambda error: refused.append(str(error)))
        await sign_in(page, str(served.url))

        lines = await page.evaluate("[...document.querySelectorAll('.pairs summary')].map(it => it.offsetHeight)")
        assert len(lines) == 60
        assert max(lines) <= 44  # one line each, and high enough for a finger
        assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        # Nothing is cut: "← 23 …" may be minutes or hours.
        wider = ".filter(it => it.firstChild.getBoundingClientRect().width > it.clientWidth).length"
        assert await page.evaluate(f"[...document.querySelectorAll('.last, .scroll')]{wider}") == 0
        assert await page.evaluate("document.documentElement.scrollHeight") < 60 * 44 + 1500
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 29)"

        # With the keyboard: the first pair is the one in trouble. What is open, and the focus, outlive a look.
        await page.evaluate("document.activeElement.blur()")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        focus = "document.activeElement.querySelector('.name')?.firstChild.data"
        assert await page.evaluate(focus) == "broken"
        served.status.answer = report(*pairs[:30], pair("broken", "It is worse now."), *pairs[31:])
        await page.evaluate(LOOK)
        await page.get_by_text("It is worse now.").wait_for()
        assert await page.evaluate("document.querySelectorAll('.pairs details[open]').length") == 1
        assert await page.evaluate(focus) == "broken"

        served.status.answer = report(*(each for each in pairs if each.name != "broken"))
        await page.evaluate(LOOK)
        await page.locator("#verdict", has_text="All is well").wait_for()
        assert (await page.title()).startswith("All is well")
        assert refused == []


@pytest.mark.parametrize("width", [320, 390, 600])
async def test_nothing_is_cut_on_a_small_phone(browser: Browser, width: int) -> None:
    pairs = [
        pair("help", "It is broken: mend it.", waiting=4, dead=1, last=LONG_AGO),
        pair("a pair with quite a long name", waiting=1_234_567, dead=1_234_567, last=LONG_AGO),
        pair("a-name-in-one-long-word-that-no-line-has-room-for", dead=12, last=LONG_AGO),
    ]
    async with (
        serving(answer=report(*pairs)) as served,
        new_page(browser, viewport=ViewportSize(width=width, height=640)) as page,
    ):
        await sign_in(page, str(served.url))
        for opened in (False, True):
            await page.evaluate(f"document.querySelectorAll('.pairs details').forEach(it => it.open = {opened:d})")
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            # What counts is whole: the badges, the times, and the numbers behind a pair.
            cut = await page.evaluate(
                """[...document.querySelectorAll('.pairs .badge, .pairs .last > :first-child, td, thead th')]
                    .filter(it => it.checkVisibility())
                    .filter(it => {
                        const own = it.getBoundingClientRect()
                        const room = it.closest('summary, .scroll').getBoundingClientRect()
                        const parent = it.closest('.badges, .last, .scroll').getBoundingClientRect()
                        return own.right > Math.min(room.right, parent.right) + .5 || own.bottom > room.bottom + .5
                    })
                    .map(it => it.textContent)"""
            )
            assert cut == []


async def test_the_buttons_and_a_relay_that_is_gone(browser: Browser) -> None:
    async with new_page(browser) as page:
        async with serving() as served:

            async def done() -> list[tuple[str, int]]:
                return served.letters.done

            await sign_in(page, str(served.url))
            await page.get_by_label("Try again: 12").click()
            await page.wait_for_url("**/#dead-letters")
            await page.get_by_text("Discard", exact=True).first.click()
            # The next page has to be there with its script, before the relay is gone.
            async with page.expect_navigation(wait_until="load"):
                await page.get_by_label("Discard it for good: 13").click()
            await eventually(done, lambda acts: len(acts) == 2)
            assert served.letters.done == [("retry", 12), ("discard", 13)]
        await page.evaluate(LOOK)
        await page.locator("#away").wait_for()
        assert "has not answered since" in await page.inner_text("#away")
