"""The status page with a token: who sees it, who may press its buttons, and what cannot be forged or guessed."""

from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from relay.config.loading import load
from relay.core.operations.findings import Finding
from relay.core.ports import SideHealth
from relay.web.access import COOKIE, Access, WrongTries
from relay.web.page import render
from tests.support.settings import SIDES, only, write
from tests.support.status_page import OWN, TOKEN, pair, report, serving


async def test_without_a_token_the_page_is_read_and_nothing_is_done() -> None:
    async with serving(None) as page:
        status, text = await page.get()
        assert status == 200
        assert "relay dead" in text
        assert "<form" not in text
        assert "Mia" not in text
        assert await page.post("/dead-letters", id="12", act="retry", form="") == 403
        assert await page.post("/sign-in", token="") == 404
        assert page.letters.done == []


@pytest.mark.parametrize("path", ["/metrics", "/dead-letters", "/nowhere", "/directory"])
async def test_with_a_token_everything_asks_for_it(path: str) -> None:
    async with serving() as page:
        assert (await page.get(path))[0] == 401
        status, text = await page.get()
        assert status == 401
        assert "help" not in text
        assert "Sign in" in text


async def test_whether_it_is_alive_is_told_to_all_and_no_more_than_that() -> None:
    async with serving() as page:
        assert (await page.get("/healthz"))[0] == 200
        assert await page.get("/readyz") == (200, '{"ready": true}')
        assert "discord" in (await page.get("/readyz", Authorization=f"Bearer {TOKEN}"))[1]


async def test_a_program_sends_the_token_with_each_request() -> None:
    async with serving() as page:
        assert (await page.get("/metrics", Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert (await page.get("/metrics", Authorization=f"bearer  {TOKEN}"))[0] == 200
        assert (await page.get("/metrics", Authorization="Bearer wrong"))[0] == 401
        assert (await page.get("/metrics", Authorization=f"Basic {TOKEN}"))[0] == 401
        # It is no browser, and presses no buttons.
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert await page.post("/dead-letters", bearer, id="12", act="discard") == 403


async def test_signing_in_and_out() -> None:
    async with serving() as page:
        secret = await page.sign_in()
        (cookie,) = [cookie for cookie in page.client.cookie_jar if cookie.key == COOKIE]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert TOKEN not in cookie.value
        status, text = await page.get()
        assert status == 200
        assert "Mia" in text
        assert "secret words" not in text
        assert "&lt;b&gt;refused&lt;/b&gt;" in text
        assert (await page.get("/metrics"))[0] == 200
        stolen = cookie.value
        assert await page.post("/sign-out", form=secret) == 303
        page.client.cookie_jar.update_cookies({COOKIE: stolen})
        assert (await page.get())[0] == 401


@pytest.mark.parametrize(("origin", "secure"), [("https://status.example.org", True), ("http://127.0.0.1", False)])
async def test_behind_tls_the_cookie_never_leaves_without_it(origin: str, secure: bool) -> None:
    async with serving() as page:
        headers = {**OWN, "Origin": origin}
        async with page.client.post(
            "/sign-in", data={"token": TOKEN}, headers=headers, allow_redirects=False
        ) as answer:
            assert bool(answer.cookies[COOKIE]["secure"]) is secure


async def test_the_buttons() -> None:
    async with serving() as page:
        secret = await page.sign_in()
        assert await page.post("/dead-letters", id="12", act="retry", form=secret) == 303
        assert await page.post("/dead-letters", id="13", act="discard", form=secret) == 303
        assert page.letters.done == [("retry", 12), ("discard", 13)]
        for number, act in (("x", "retry"), ("12", "keep"), ("9" * 30, "retry"), ("", "")):
            assert await page.post("/dead-letters", form=secret, id=number, act=act) == 400
        page.letters.broken = True
        assert await page.post("/dead-letters", id="12", act="retry", form=secret) == 503
        assert len(page.letters.done) == 2


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "none")]
    + [{"Origin": origin} for origin in ("https://evil.example", "null", "http://127.0.0.1:1")],
)
async def test_another_site_can_neither_press_a_button_nor_sign_in(headers: Mapping[str, str]) -> None:
    async with serving() as page:
        secret = await page.sign_in()
        assert await page.post("/dead-letters", headers, id="12", act="discard", form=secret) == 403
        assert await page.post("/sign-in", headers, token=TOKEN) == 403
        assert page.letters.done == []


@pytest.mark.parametrize("secret", ["", "0" * 64, "ü"])
async def test_a_form_without_the_pages_secret_does_nothing(secret: str) -> None:
    async with serving() as page:
        await page.sign_in()
        assert await page.post("/dead-letters", {}, id="12", act="discard", form=secret) == 403
        assert page.letters.done == []


async def test_a_form_has_limits() -> None:
    async with serving() as page:
        secret = await page.sign_in()
        assert await page.post("/dead-letters", id="12", act="retry", form=secret, more="x" * 10_000) == 413
        async with page.client.post("/dead-letters", json={"id": 12}, headers=OWN) as answer:
            assert answer.status == 415


async def test_the_token_cannot_be_guessed_by_trying() -> None:
    async with serving() as page:
        tried = [await page.post("/sign-in", token=f"wrong {number}") for number in range(7)]
        assert tried == [403] * 5 + [429] * 2
        # Neither the right one nor the other way in, from there and now.
        assert await page.post("/sign-in", token=TOKEN) == 429
        assert (await page.get("/metrics", Authorization=f"Bearer {TOKEN}"))[0] == 429
        # Health is still told.
        assert (await page.get("/readyz"))[0] == 200


async def test_whoever_is_in_stays_in_while_somebody_guesses() -> None:
    async with serving() as page:
        await page.sign_in()
        for number in range(7):
            await page.post("/sign-in", token=f"wrong {number}")
        assert (await page.get())[0] == 200


def test_wrong_tries_are_forgotten_and_bounded() -> None:
    now = [0.0]
    tries = WrongTries(lambda: now[0])
    for _ in range(5):
        tries.wrong("2001:db8::1")
    # One has all addresses of a network.
    assert tries.seconds_to_wait("2001:db8::ffff") == 60
    assert tries.seconds_to_wait("2001:db9::1") == 0
    for number in range(2000):
        tries.wrong(f"10.0.{number // 256}.{number % 256}")
    assert tries.seconds_to_wait("2001:db8::1") == 0
    for _ in range(5):
        tries.wrong("::ffff:192.0.2.1")
    assert tries.seconds_to_wait("192.0.2.1") == 60
    now[0] = 61.0
    assert tries.seconds_to_wait("192.0.2.1") == 0


def test_a_session_ends_by_itself() -> None:
    now = [0.0]
    access = Access(TOKEN, lambda: now[0])
    request = type("Request", (), {"remote": "1.2.3.4", "cookies": {}, "headers": {}})()
    cookie = access.sign_in(request, TOKEN)
    request.cookies = {COOKIE: cookie}
    assert access.may_see(request)
    now[0] = 7 * 86400 + 1.0
    assert not access.may_see(request)


# --- What is on it ----------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """What a screen reader walks through: tags, their IDs and names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [str(found["id"])] if found.get("id") else []
        self.links += [str(found["href"])] if tag == "a" else []


def test_what_is_wrong_comes_first_and_the_others_as_in_the_file() -> None:
    text = render(report(pair("one"), pair("two", "It is broken: mend it."), pair("three")))
    places = [text.index(f'<span class="name">{name}<') for name in ("two", "one", "three")]
    assert places == sorted(places)
    legend = "→ to Matrix, ← to Discord: how long ago the last message crossed"
    assert text.count(legend) == render(report(pair("one"))).count(legend) == 1
    assert (
        text.index("In trouble")
        < text.index(legend)
        < places[0]
        < text.index("It is broken: mend it.")
        < text.index("The other 2 pairs")
    )


def test_no_pair_is_well_while_a_side_is_out_of_reach() -> None:
    """The page said "4 pairs well" below "Not ready", and `relay status` did not."""
    away = replace(report(pair("a"), pair("b")), sides={"discord": SideHealth("connecting", "No answer.")})
    text = render(away)
    assert "2 pairs with no trouble of their own" in text
    assert not any(words in text for words in ("✓", ", well", "pairs well"))


def test_each_pair_has_its_links_its_words_and_an_id_that_stays() -> None:
    before, after = (
        Outline(render(report(*pairs))) for pairs in ([pair("a"), pair("b")], [pair("b", "No"), pair("a")])
    )
    assert len(set(before.ids)) == len(before.ids)
    assert set(before.ids) == set(after.ids)
    assert before.tags.count("summary") == 2
    assert before.links == ["https://matrix.to/#/%23a:b"] * 2
    text = render(report(pair("a")))
    for words in ("a room", "reaction 7", "last to Matrix 0 s ago", ", well", "up for 0 s"):
        assert words in text


def test_what_was_found() -> None:
    found = (Finding("the clock", "wrong", "is <b>an hour</b> off", "set it"), Finding("the disk", "note", "is full"))
    text = render(replace(report(pair("a")), findings=found))
    assert "Something needs attention" in text
    assert "the clock: is &lt;b&gt;an hour&lt;/b&gt; off" in text
    assert "set it" in text
    assert "All is well" in render(replace(report(pair("a")), findings=found[1:]))
    assert "Something needs attention" in render(report()), "without pairs nothing crosses"


def test_a_pair_that_carries_nothing_is_not_well() -> None:
    assert "archived or paused" in render(report(replace(pair("a"), carried=frozenset())))


def test_the_ways_stand_in_the_same_order_for_all_pairs() -> None:
    turned = pair("a")
    turned = replace(turned, directions=dict([*turned.directions.items()][::-1]))
    text = render(report(turned))
    assert text.index("last to Matrix") < text.index("last to Discord")
    assert text.index("Discord → Matrix") < text.index("Matrix → Discord")


@pytest.mark.parametrize("link", ["javascript:alert(1)", "http://example.org", "data:text/html,x", ""])
def test_only_links_of_the_platforms_are_links(link: str) -> None:
    assert Outline(render(report(pair("a", link=link)))).links == []


# --- The settings -----------------------------------------------------------------------------------------


def test_only_with_a_token_do_other_machines_reach_it(tmp_path: Path) -> None:
    folder = tmp_path
    for listen in ("0.0.0.0:9464", "[::]:9464", "192.0.2.1:80", "relay.example.org:80"):
        text = f'{SIDES}[web]\nlisten = "{listen}"\n'
        assert "lets other machines in without a token; write token" in only(folder, text)
        assert load(write(folder, f'{text}token = "{TOKEN}"\n'), {}).web.token is not None
    for listen in ("127.0.0.1:9464", "[::1]:9464", "localhost:9464", ""):
        assert load(write(folder, f'{SIDES}[web]\nlisten = "{listen}"\n'), {}).web.token is None
    (folder / "web_token").write_text(TOKEN + "\n")
    settings = load(write(folder, f'{SIDES}[web]\nlisten = "0.0.0.0:1"\ntoken_file = "web_token"\n'), {})
    assert TOKEN in settings.secrets()
    assert TOKEN not in repr(settings)


@pytest.mark.parametrize("token", ["short", "aaaaaaaaaaaaaaaaaaaaaaaa", "0101010101010101010101"])
def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path, token: str) -> None:
    said = only(tmp_path, f'{SIDES}[web]\ntoken = "{token}"\n')
    assert "can be guessed; write at least 16 random characters" in said
    assert token not in said
