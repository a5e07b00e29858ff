"""The demo as its users have it: the page in a browser, the scripted conversation, and how it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from relay.demo.environment import running_environment, script
from relay.demo.sample_files import sample_file
from relay.demo.script.runner import play, play_line
from tests.support.demo import (
    LAPTOP,
    PHONE,
    all_there,
    browsing,
    environment,
    give,
    message,
    picture,
    press,
    read_until,
    running,
    say,
    started,
    too_wide,
)
from tests.support.patience import PATIENCE
from tests.support.stack import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One demo for the tests of the page; each of them writes words of its own."""
    with running(tmp_path_factory.mktemp("demo")) as found:
        yield found


async def test_words_cross_both_ways(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        await say(page, "discord", "seagull **one**")
        there = message(page, "matrix", "seagull one")
        await expect(there).to_have_count(1)
        await expect(there.locator("header b")).to_have_text("Mira")
        await expect(there.locator(".text strong")).to_have_text("one")
        await say(page, "matrix", "pelican ~~two~~", "Yusuf")
        there = message(page, "discord", "pelican two")
        await expect(there).to_have_count(1)
        await expect(there.locator("header b")).to_have_text("Yusuf")
        await expect(there.locator(".badge")).to_have_text("APP")
        await expect(there.locator(".text s")).to_have_text("two")
        await expect(there.locator(".cross")).to_have_text(re.compile(r"from Matrix, \d"))
        await expect(message(page, "matrix", "pelican two").locator(".cross")).to_have_text(
            re.compile(r"✓ on Discord in")
        )
        await picture(page, "laptop-light")


@pytest.mark.parametrize(("side", "other", "word"), [("discord", "matrix", "otter"), ("matrix", "discord", "heron")])
async def test_edit_reply_and_delete_follow(address: str, browser: Browser, side: str, other: str, word: str) -> None:
    async with browsing(address, browser) as page:
        await say(page, side, f"{word} frist")
        await expect(message(page, other, f"{word} frist")).to_have_count(1)
        await press(page, side, f"{word} frist", "edit")
        await page.locator(f"#{side} textarea").fill(f"{word} first")
        await page.keyboard.press("Enter")
        copy = page.locator(f"#{other} .message", has=page.locator(".text", has_text=re.compile(f"^{word} first$")))
        await expect(copy.locator(".edited")).to_have_count(1)
        await press(page, other, f"{word} first", "reply")
        await say(page, other, f"{word} answer")
        answer = message(page, side, f"{word} answer")
        await expect(answer).to_have_count(1)
        quoted = ".quote" if side == "matrix" else ".text blockquote"
        await expect(answer.locator(quoted)).to_contain_text(f"{word} first")
        await press(page, side, re.compile(f"^{word} first$"), "delete")
        await expect(copy).to_have_count(0)


async def test_page_opens_with_words_and_faces(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        for side, faces in (("discord", ("Mira", "Ines", "Jonas")), ("matrix", ("Mira", "Ines", "Jonas"))):
            opened = page.locator(f"#{side} .message", has=page.locator(".cross", has_text=re.compile(r"\d ms")))
            await expect(opened.first.locator(".text")).to_contain_text("High tide is at six")
            for name in faces:
                said = page.locator(f"#{side} .message", has=page.locator("header b", has_text=name)).first
                shown = said.locator(".avatar img")
                await eventually(
                    partial(shown.evaluate, "image => image.complete && image.naturalWidth"),
                    lambda width: width >= 128,
                )
        await expect(page.locator("#play")).to_contain_text("everything in a minute")


async def test_matrix_as_element_shows_it(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        await say(page, "discord", "curlew **here**")
        there = message(page, "matrix", "curlew here")
        await expect(there.locator("header b")).to_have_text("Mira")
        await expect(there.locator(".badge")).to_have_text("via relay")
        profile = await there.locator(".avatar img").get_attribute("src")
        await press(page, "matrix", "curlew here", "reply")
        await say(page, "matrix", "curlew there")
        await page.locator(".views label", has_text="As Element shows it").click()
        await expect(there.locator("header b")).to_have_text("relay")
        await expect(there.locator(".badge")).to_have_count(0)
        await expect(there.locator(".text")).to_have_text("Mira: curlew here")
        assert await there.locator(".avatar img").get_attribute("src") != profile
        answer = message(page, "matrix", "curlew there")
        await expect(answer.locator("header b")).to_have_text("Ines")
        await expect(answer.locator(".quote")).to_have_text("↱ relay Mira: curlew **here**")
        await picture(page, "laptop-light-element")
        await page.reload()
        await expect(there.locator("header b")).to_have_text("relay")
        await page.locator(".views input").nth(1).press("ArrowLeft")
        await expect(there.locator("header b")).to_have_text("Mira")


@pytest.mark.parametrize(("side", "other"), [("discord", "matrix"), ("matrix", "discord")])
async def test_files_cross_that_are_chosen_pasted_and_dropped(
    address: str, browser: Browser, side: str, other: str
) -> None:
    sunset = sample_file("sunset.jpg")
    async with browsing(address, browser) as page:
        await page.locator(f"#{side} input[type=file]").set_input_files(
            {"name": f"{side}.jpg", "mimeType": sunset.content_type, "buffer": sunset.data}
        )
        await give(page, side, "paste", "pasted.txt", "from the clipboard")
        await give(page, side, "drop", f"{side}-dropped.txt", "from the desktop")
        waiting = page.locator(f"#{side} .tray li")
        await expect(waiting).to_have_count(3)
        await page.get_by_role("button", name="Do not send pasted.txt").click()
        await expect(waiting).to_have_count(2)
        await waiting.first.get_by_role("button", name="Hide").click()
        await say(page, side, f"albatross of {side}")
        await expect(page.locator(f"#{side} .tray")).to_be_hidden()
        for where in (side, other):
            shown = message(page, where, f"albatross of {side}").locator(".veil img")
            await expect(shown).to_have_js_property("naturalWidth", 640)
            dropped = page.locator(f"#{where} .chip a[download='{side}-dropped.txt']")
            await expect(dropped).to_have_count(1)
            data = await page.request.get(f"{address}{(await dropped.get_attribute('href') or '')[1:]}")
            assert await data.body() == b"from the desktop"
        await expect(page.locator("#columns")).not_to_contain_text("pasted.txt")


@pytest.mark.parametrize(
    ("side", "mebibytes", "said"),
    [
        ("discord", 11, "Discord: Request entity too large (40005)"),
        ("matrix", 51, "Matrix: the homeserver takes files of at most 50 MiB"),
    ],
)
async def test_a_refused_file_waits_for_another_try(
    address: str, tmp_path: Path, browser: Browser, side: str, mebibytes: int, said: str
) -> None:
    too_large = tmp_path / "too-large.bin"
    with too_large.open("wb") as file:
        file.truncate(mebibytes << 20)
    async with browsing(address, browser, tolerated="409") as page:
        await page.locator(f"#{side} input[type=file]").set_input_files(too_large)
        await say(page, side, "petrel with too much")
        await expect(page.locator("#alert")).to_have_text(said)
        await expect(page.locator(f"#{side} .tray")).to_contain_text("too-large.bin")
        await expect(page.locator(f"#{side} textarea")).to_have_value("petrel with too much")
        await expect(message(page, side, "petrel")).to_have_count(0)


async def test_spoiler_stays_hidden_until_pressed(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        await say(page, "discord", "the whale is ||ahab||")
        cover = message(page, "matrix", "the whale is").locator(".spoiler")
        await expect(cover).to_have_attribute("aria-expanded", "false")
        await expect(cover.locator(".hush")).to_have_css("opacity", "0")
        await cover.focus()
        await page.keyboard.press("Enter")
        await expect(cover).to_have_attribute("aria-expanded", "true")
        await expect(cover.locator(".hush")).to_have_css("opacity", "1")


async def test_reaction_and_thread_stay_and_the_page_says_so(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        await say(page, "matrix", "lighthouse keeper")
        await expect(message(page, "discord", "lighthouse keeper")).to_have_count(1)
        await press(page, "matrix", "lighthouse keeper", "react")
        await message(page, "matrix", "lighthouse keeper").locator(".picker button").first.click()
        own = message(page, "matrix", "lighthouse keeper")
        await expect(own.locator(".reaction")).to_have_text("👍 1")
        await expect(own.locator(".cross")).to_contain_text("👍 stays here")
        await press(page, "matrix", "lighthouse keeper", "thread")
        await own.locator(".thread input").fill("between us")
        await page.keyboard.press("Enter")
        await expect(own.locator(".replies")).to_contain_text("between us")
        await expect(own.locator(".replies")).to_contain_text("Threads do not cross")
        await expect(page.locator("#journal")).to_contain_text("thread_messages")
        await expect(page.locator("#discord")).not_to_contain_text("between us")
        await expect(page.locator("#features")).to_contain_text("reaction")


async def test_command_is_answered_to_the_one_who_asked(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        await say(page, "discord", "/relay help")
        asked = page.locator(".quote", has_text="Mira used /relay help")
        answer = page.locator("#discord .message[data-kind=private]", has=asked)
        await expect(answer.locator(".text")).to_contain_text("whoami")
        await expect(answer.locator(".cross")).to_have_text("Only the one who asked can see this.")
        await expect(answer.locator("[data-action=edit]")).to_be_hidden()
        await say(page, "matrix", "!relay help")
        asked = page.locator(".quote", has_text="Ines !relay help")
        answer = page.locator("#matrix .message[data-kind=notice]", has=asked)
        await expect(answer.locator(".text")).to_contain_text("whoami")
        asked = message(page, "matrix", re.compile("^!relay help$"))
        await expect(asked.locator(".cross")).to_be_empty()
        await picture(page, "laptop-light-command")


async def test_everything_is_in_reach_of_the_keyboard(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        for words in ("porpoise one", "porpoise two"):
            await say(page, "discord", words)
            await expect(message(page, "matrix", words)).to_have_count(1)
        await message(page, "discord", "porpoise two").focus()
        await page.keyboard.press("ArrowUp")
        await expect(message(page, "discord", "porpoise one")).to_be_focused()
        await expect(message(page, "matrix", "porpoise one")).to_have_class(re.compile("linked"))
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_attribute("aria-label", "Reply")
        await page.keyboard.press("Enter")
        await expect(page.locator("#discord textarea")).to_be_focused()
        await expect(page.locator("#discord .context")).to_contain_text("Replying to Mira")
        await page.keyboard.press("Escape")
        await expect(page.locator("#discord .context")).to_be_hidden()


async def test_hostile_html_is_text_on_the_page(address: str, browser: Browser) -> None:
    hostile = "<img src=x onerror=document.title=1><script>document.title=1</script><b onclick=alert(1)>kraken</b>"
    # The browser reports that it would not run them, even in the document that they are only read in.
    async with browsing(address, browser, tolerated="Executing inline event handler violates") as page:
        await page.evaluate(
            """html => fetch("api/matrix", {method: "POST", headers: {"Content-Type": "application/json"},
               body: JSON.stringify({act: "say", as: "ines", body: "kraken", html})})""",
            hostile,
        )
        await expect(message(page, "matrix", "kraken")).to_have_count(1)
        await expect(message(page, "discord", "kraken")).to_have_count(1)
        for unwanted in (
            "img:not([src='icon.svg'], [src^='/files/'])",
            "body script",
            "[onclick]",
            "[onerror]",
            "iframe",
        ):
            await expect(page.locator(unwanted)).to_have_count(0)
        assert await page.title() == "relay demo"
        # The next page that reads it would complain too.
        await press(page, "matrix", "kraken", "delete")
        await expect(message(page, "discord", "kraken")).to_have_count(0)


async def test_page_on_a_phone_in_the_dark(address: str, browser: Browser) -> None:
    async with browsing(address, browser, PHONE, "dark") as page:
        await say(page, "discord", "narrow strait")
        await expect(message(page, "matrix", "narrow strait")).to_have_count(1)
        await picture(page, "phone-dark")
        await page.locator("#tab-matrix").click()
        await expect(message(page, "matrix", "narrow strait")).to_be_in_viewport(ratio=1)
        await expect(page.locator("#tab-matrix")).to_have_attribute("aria-selected", "true")
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width == PHONE[0]
        await page.locator("#theme").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "light")
        await picture(page, "phone-light")
        await page.locator(".views label", has_text="As Element shows it").click()
        await expect(message(page, "matrix", "narrow strait").locator("header b")).to_have_text("relay")
        await picture(page, "phone-light-element")
        await page.locator(".views label", has_text="With profiles").click()
        await expect(message(page, "matrix", "narrow strait").locator("header b")).to_have_text("Mira")


_GROW = """async () => {
  const scroller = document.querySelector("#matrix .scroller");
  // The newest: where another test has left messages, what grows above the view only moves with it.
  const newest = [...document.querySelectorAll("#matrix .message")].at(-1);
  const grow = (by) => { newest.style.paddingBottom = `${by}px`; };
  const frames = () => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
  const gap = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  grow(2000); await frames();
  scroller.scrollTop -= 50; await frames();
  // Outside of a frame, as a picture that has loaded: the event of the scrolling comes after it has grown.
  await new Promise((go) => setTimeout(go));
  scroller.scrollTop += 50; grow(2500); await frames();
  const followed = gap();
  scroller.scrollTop -= 500; await frames();
  grow(3000); await frames();
  return [followed, gap()];
}"""


async def test_newest_message_stays_in_sight_until_its_reader_scrolls_up(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        await say(page, "discord", "plankton")
        # What is told of it later would draw it again.
        await expect(message(page, "matrix", "plankton").locator(".cross")).to_have_text(re.compile(r"\d ms"))
        assert await page.evaluate(_GROW) == [0, 1000]


@pytest.mark.last  # each page that is opened afterwards would show all of it
async def test_script_plays_on_the_page(address: str, browser: Browser) -> None:
    async with browsing(address, browser, LAPTOP, "dark") as page:
        await page.locator("#play").click()
        score = page.locator("#score")
        await expect(score).to_have_text(re.compile(r"Line \d+ of"))
        await expect(score).to_have_text(re.compile("lines check out"), timeout=300_000)
        total = len(script())
        await expect(score).to_have_text(f"Script: {total} of {total} lines check out")
        await picture(page, "laptop-dark")
        for side in ("discord", "matrix"):
            await all_there(page, side)
        await expect(page.locator("#discord .embed .title a")).to_have_text("[tidewater/almanac:main] 2 new commits")
        await expect(page.locator("#discord .poll .won")).to_contain_text("Clams2 votes")
        await expect(page.locator("#matrix .poll .won")).to_contain_text("Six2 votes")
        await expect(page.locator("#matrix .text table th")).to_have_text(["Time", "Height"])
        await expect(page.locator("#discord .message[data-kind=system]", has_text="Lena")).to_contain_text("joined")
        plan = message(page, "discord", "Saturday’s crossing")
        await expect(plan.locator("ol > li > ul > li")).to_have_text(
            ["wet gear for everybody", "no heroics past the third buoy"]
        )
        await message(page, "discord", "It is all in").locator("a").click()
        await expect(plan).to_be_focused()
        await message(page, "matrix", "It is all in").locator("a").click()
        await expect(message(page, "matrix", "Saturday’s crossing")).to_be_focused()
        for width in (LAPTOP[0], 800, PHONE[0], 320):
            assert await too_wide(page, width) == [], width


async def test_ghosts_come_and_go_with_the_switch(tmp_path: Path, browser: Browser) -> None:
    with running(tmp_path, "--ghosts", number=signal.SIGHUP) as address:
        async with browsing(address, browser) as page:
            views = page.locator(".views input")
            await expect(views.nth(2)).to_be_checked()
            # The page opens with words of a ghost.
            opened = message(page, "matrix", "High tide is at six")
            # Who tries all three at once is not refused: the last one counts.
            for number in (0, 1, 2):
                await page.locator(".views label").nth(number).click()
            await expect(page.locator("#view-note")).to_contain_text("accounts")
            await expect(views.nth(2)).to_be_checked()
            for words in ("tern of a ghost", "tern of the bot", "tern of the ghost again"):
                wanted = "profiles" if "bot" in words else "ghosts"
                await page.locator(".views label", has_text=wanted).click()
                await expect(page.locator(f".views input[value={wanted}]")).to_be_checked()
                await expect(page.locator("#view-note")).to_contain_text("accounts" if wanted == "ghosts" else "gomuks")
                await say(page, "discord", words)
                there = message(page, "matrix", re.compile(f"^{words}$"))
                await expect(there.locator("header b")).to_have_text("Mira")
                await expect(there.locator(".badge")).to_have_count(0 if wanted == "ghosts" else 1)
                await expect(there.locator(".avatar img")).to_have_js_property("naturalWidth", 256)
            await expect(opened.locator(".badge")).to_have_count(0)
            # What the bot said is still the bot's, and follows its original.
            await press(page, "discord", "tern of the bot", "edit")
            await page.locator("#discord textarea").fill("tern of the bot, edited")
            await page.keyboard.press("Enter")
            copy = message(page, "matrix", "tern of the bot, edited")
            await expect(copy.locator(".badge")).to_have_count(1)
            await picture(page, "laptop-light-ghosts")
            await page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
            await page.locator("#tab-matrix").click()
            await expect(copy).to_be_in_viewport(ratio=1)
            assert await page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
            await picture(page, "phone-light-ghosts")
    assert left_behind(tmp_path) == []


async def test_only_the_page_itself_may_ask(address: str, browser: Browser) -> None:
    async with browsing(address, browser) as page:
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            answer = await page.request.post(f"{address}api/play", headers=headers, data={})
            assert answer.status == 403
        for nothing in (
            "discord/attachment-1",
            "discord/x",
            f"discord/emoji-{'9' * 5_000}",
            "matrix/a/b/c",
            "matrix/localhost/none",
            "matrix/.../v3/sync",
        ):
            assert (await page.request.get(f"{address}files/{nothing}")).status == 404
        for headers in ({}, {"X-Relay-Demo": "1"}):
            form = await page.request.post(f"{address}api/discord", headers=headers, multipart={"file": "x"})
            assert form.status == (400 if headers else 415)
        json_of_ours = {"Content-Type": "application/json"}
        for path, nonsense in (
            ("ghosts", "{}"),
            ("ghosts", "["),
            ("discord", '{"as": "mira", "act": "reply"}'),
            ("matrix", '{"as": "ines", "act": "delete"}'),
            ("matrix", "[" * 100_000),
        ):
            answer = await page.request.post(f"{address}api/{path}", headers=json_of_ours, data=nonsense.encode())
            assert answer.status == 400, (path, nonsense[:40])
        # Anybody may follow a link to it.
        followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        answer = await page.request.get(address, headers=followed)
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_once_checks_every_line(tmp_path: Path) -> None:
    # Without ghosts the page plays it.
    command = [sys.executable, "-m", "relay", "demo", "--once", "--ghosts"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    rows = [line for line in done.stdout.splitlines() if line.endswith(" ms") or " ms  " in line]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows) == len(script())
    assert all(row.startswith("✓") for row in rows)
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


async def test_line_fails_where_nothing_crosses(tmp_path: Path) -> None:
    async with running_environment(tmp_path, lambda _: nullcontext()) as environment:
        run = environment.new_run()
        await run.begin()
        await environment.daemon.stop()
        run.deadline = 0.2
        outcome = await play_line(run, script()[0])
        others = await play(environment.new_run(), script()[:2], lambda _: None)
    assert (outcome.state, outcome.seen) == ("failed", "nothing from Mira has arrived")
    assert [other.state for other in others] == ["failed", "failed"]


def left_behind(folder: Path) -> list[str]:
    """The command lines of processes that have to do with `folder`, and what is in it."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command:
                found.append(command)
    return found


@pytest.mark.parametrize(
    ("after", "number"),
    [
        ("Discord sandbox", signal.SIGTERM),  # while the homeserver starts
        ("Discord sandbox", signal.SIGKILL),
        ("accounts", signal.SIGINT),  # while the daemon starts
        ("accounts", signal.SIGKILL),
        # While it runs: SIGHUP above, with ghosts.
        ("The demo is here", signal.SIGKILL),
    ],
)
async def test_ends_without_a_trace(tmp_path: Path, after: str, number: signal.Signals) -> None:
    with started(tmp_path) as process:
        read_until(process, re.compile(after))
        os.kill(process.pid, number)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == (-number if number is signal.SIGKILL else 0)

    async def left() -> list[str]:
        return left_behind(tmp_path)

    if number is signal.SIGKILL:
        await eventually(left, lambda found: not found)
    assert await left() == []


async def test_without_synapse_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['synapse'] = None; from relay.cli import main; main(['demo'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 4
    assert "pip install '.[demo]' in a checkout" in done.stderr


async def test_port_in_use_is_said(tmp_path: Path, address: str) -> None:
    port = address.rstrip("/").rpartition(":")[2]
    with started(tmp_path, "--port", port) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4
    assert f"port {port} cannot be used" in output
    assert "--port" in output
    assert "✓" not in output, "nothing is started before"
    assert left_behind(tmp_path) == []
