"""What the directory of rooms lists and shows, and to whom; the pages of two communities, compared with their own."""

import json
import re
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest

from relay.config.loading import load
from relay.config.mistakes import validated
from relay.config.settings import Settings, WebSettings
from relay.core.ports import ChannelInfo
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import Report
from relay.domain.ids import ChannelAddress, Platform
from relay.web.directory import Directory, directory_of
from relay.web.directory_pages import html, markdown, page_policy
from relay.web.server import WebServer
from tests.support.settings import SIDES, only, pair, write

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent

HELP = ChannelAddress(Platform.MATRIX, "#help:example.org")
CHANNEL = ChannelAddress(Platform.DISCORD, "1234567890123456789")


def settings(folder: Path, rooms: str) -> Settings:
    return load(write(folder, SIDES + rooms), {})


def one_pair(more: str = "") -> str:
    return pair(CHANNEL.value, HELP.value, more)


# --- Two communities ---------------------------------------------------------------------------------------


def wanted(community: str) -> list[dict[str, Any]]:
    rooms = tomllib.loads((HERE / "rooms" / f"{community}.toml").read_text(encoding="utf-8"))["rooms"]
    return [{"name": None, **room} for room in rooms]


def of_community(community: str) -> Directory:
    return directory_of(load(ROOT / "deploy" / "examples" / community / "relay.toml", {}), {})


def in_markdown(page: str) -> list[dict[str, Any]]:
    """The rooms as somebody reads them in the page's source."""
    rooms, section = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif found := re.fullmatch(
            r"- (?:\*\*(.+?)\*\* - )?\[(#[^\]]+)\]\(https://matrix\.to/#/([^)]+)\)"
            r"( - \[NSFW\])?( - \(bridged\))?(?: - \(archived\))?(?: - (.*))?",
            line,
        ):
            assert unquote(found[3]) == found[2]
            rooms.append(
                {
                    "name": found[1],
                    "section": section,
                    "address": found[2],
                    "nsfw": bool(found[4]),
                    "bridged": bool(found[5]),
                    "purpose": found[6] or "",
                }
            )
    return rooms


class Rooms(HTMLParser):
    """The rooms as somebody sees them in the HTML: section, link, and all of the words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self._section, self._words, self._links, self._in_list, self._heading = "", "", [""], False, False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "h2":
            self._heading, self._section = True, ""
        elif tag == "ul":
            self._in_list = given.get("class") == "rooms"
        elif tag == "li":
            self._words, self._links = "", []
        elif tag == "a":
            self._links.append(str(given["href"]))
        elif tag == "p":
            self._words += " "

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2":
            self._heading = False
        elif tag == "li" and self._in_list:
            self.found.append((self._section, self._links[0], " ".join(self._words.split())))

    def handle_data(self, data: str) -> None:
        if self._heading:
            self._section += data
        self._words += data


@pytest.mark.parametrize("community", ["stash", "mathesar"])
def test_a_community_s_page_is_the_one_that_it_keeps_by_hand(community: str) -> None:
    expected, found = wanted(community), of_community(community)
    assert in_markdown(markdown(found)) == expected
    as_json = json.loads(json.dumps(found.as_json()))
    listed = [{"section": section["name"], **room} for section in as_json["sections"] for room in section["rooms"]]
    assert [{key: room[key] for key in expected[0]} for room in listed] == expected
    assert all(room["link"] == f"https://matrix.to/#/{room['address']}" for room in listed)


@pytest.mark.parametrize("community", ["stash", "mathesar"])
def test_a_community_s_page_in_html(community: str) -> None:
    shown = Rooms(html(of_community(community))).found
    assert len(shown) == len(wanted(community))
    for (section, link, words), room in zip(shown, wanted(community), strict=True):
        assert (section, link) == (room["section"], f"https://matrix.to/#/{room['address']}")
        marks = [mark for mark, key in (("[NSFW]", "nsfw"), ("(bridged)", "bridged")) if room[key]]
        archived = ["(archived)"] if room["section"].startswith("Archived") else []
        purpose = re.sub(r"\[(.+?)\]\(.+?\)|`(.+?)`", r"\1\2", room["purpose"])
        assert words == " ".join(filter(None, (room["name"], room["address"], *marks, *archived, purpose)))


def test_newcomers_of_either_side_read_how_to_join() -> None:
    page = markdown(of_community("stash"))
    for link in (
        "[join the server](https://discord.gg/2TsNFKt)",
        "[#stashapp:unredacted.org](https://matrix.to/#/#stashapp:unredacted.org)",
        "[#stashapp:matrix.im](https://matrix.to/#/#stashapp:matrix.im)",
    ):
        assert link in page
        text, url = link[1:].removesuffix(")").split("](")
        assert f'href="{url}"' in html(of_community("stash"))
        assert text.lower() in html(of_community("stash")).lower()
    space = "https://matrix.to/#/!KQLkDbtIMsvcwUIfNy:matrix.mathesar.org?via=matrix.mathesar.org"
    assert f"]({space})" in markdown(of_community("mathesar"))


# --- Who may be listed, and what of them -------------------------------------------------------------------


def test_pairs_and_rooms_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    rooms = (
        '[[rooms]]\nmatrix_room = "#first:example.org"\nsection = "One"\n'
        + pair(1, "#second:example.org", 'section = "Two"')
        + '[[rooms]]\nmatrix_room = "#third:example.org"\nsection = "One"\n'
        + pair(2, "#fourth:example.org", 'section = "Two"\narchived = true')
        + pair(3, "#fifth:example.org", 'section = "Two"\nlisted = false')
    )
    found = directory_of(settings(tmp_path, rooms), {})
    assert [(group.name, [room.address.text for room in group.rooms]) for group in found.sections] == [
        ("One", ["#first:example.org", "#third:example.org"]),
        ("Two", ["#second:example.org", "#fourth:example.org"]),
    ]
    assert [room.marks for room in found.rooms] == [(), (), ("(bridged)",), ("(bridged)", "(archived)")]


def test_a_list_from_the_environment_has_its_own_order(tmp_path: Path) -> None:
    environ = {"RELAY_ROOMS": '[{"matrix_room": "#b:example.org"}, {"matrix_room": "#a:example.org"}]'}
    found = directory_of(load(write(tmp_path, SIDES + one_pair('section = "x"')), environ), {})
    assert [room.address.text for room in found.rooms] == [HELP.value, "#b:example.org", "#a:example.org"]


def test_names_and_topics_come_from_the_rooms_where_the_configuration_has_none(tmp_path: Path) -> None:
    details = {
        HELP: ChannelInfo(public=True, name="Help room", topic="Ask here", aliases=(HELP.value, "#h:example.net")),
        CHANNEL: ChannelInfo(public=True, name="help", topic="No", link="https://discord.example/1/2", nsfw=True),
    }
    (room,) = directory_of(settings(tmp_path, one_pair()), details).rooms
    assert (room.name, room.purpose, room.is_topic) == ("Help room", "Ask here", True)
    assert [other.text for other in room.alternatives] == ["#h:example.net"]
    assert (room.channel, room.channel_link, room.nsfw) == ("help", "https://discord.example/1/2", True)
    (room,) = directory_of(settings(tmp_path, one_pair('name = "Our help"\npurpose = "For all"')), details).rooms
    assert (room.name, room.purpose, room.is_topic) == ("Our help", "For all", False)


def test_a_room_by_its_id_is_shown_by_its_alias_or_with_servers_that_know_it(tmp_path: Path) -> None:
    address = ChannelAddress(Platform.MATRIX, "!abc:example.net")
    known = {address: ChannelInfo("", public=True, aliases=("#abc:example.net",))}
    chosen = settings(tmp_path, pair(1, address.value, 'section = "x"'))
    (room,) = directory_of(chosen, known).rooms
    assert room.address.link == "https://matrix.to/#/#abc:example.net"
    (room,) = directory_of(chosen, {}).rooms
    assert room.address.link == "https://matrix.to/#/!abc:example.net?via=example.net&via=example.org"


@pytest.mark.parametrize(("way", "side"), [("to_matrix", "Discord"), ("to_discord", "Matrix")])
def test_a_pair_of_one_direction_says_so(tmp_path: Path, way: str, side: str) -> None:
    """Its mark says that what is said on one side appears on the other."""
    found = directory_of(settings(tmp_path, one_pair(f'direction = "{way}"\npurpose = "News"')), {})
    words = f"only what is said on {side} appears on the other side"
    assert markdown(found).endswith(f" - (bridged) - News ({words})\n")
    assert f'<p class="more">{words}</p>' in html(found)
    assert found.rooms[0].as_json()["direction"] == way
    archived = directory_of(settings(tmp_path, one_pair(f'direction = "{way}"\narchived = true')), {})
    assert "only what" not in markdown(archived) + html(archived)


def test_threads_do_not_stay_where_their_words_cross(tmp_path: Path) -> None:
    for more, words in (("", "Reactions and threads stay"), ('thread_messages = "flatten"', " Reactions stay")):
        found = directory_of(settings(tmp_path, one_pair(f'purpose = "x"\n{more}')), {})
        assert words in markdown(found)
        assert words in html(found)


def test_nobody_is_led_into_a_room_that_was_replaced(tmp_path: Path) -> None:
    address = ChannelAddress(Platform.MATRIX, "!old:example.net")
    known = {address: ChannelInfo("Help", public=True, link="https://matrix.to/#/!new:example.net?via=example.net")}
    (room,) = directory_of(settings(tmp_path, pair(1, address.value)), known).rooms
    assert room.address.link == "https://matrix.to/#/!new:example.net?via=example.net&via=example.org"


def test_nobody_has_to_read_an_id_where_a_name_leads_there(tmp_path: Path) -> None:
    own = '[directory]\nmatrix_space = "!space:example.net"\n'
    found = directory_of(settings(tmp_path, own + pair(1, "!abc:example.net", 'name = "Help"\npurpose = "x"')), {})
    link = "https://matrix.to/#/!abc:example.net?via=example.net"
    assert f"- [**Help**]({link}&via=example.org) - (bridged) - x" in markdown(found)
    assert "Then open [our space](https://matrix.to/#/!space:example.net?via=example.net) and" in markdown(found)
    shown = re.sub(r"<[^>]*>", "", html(found)[html(found).index("<body>") :])
    assert "!abc" not in shown
    assert "!space" not in shown
    assert f'<a class="name" href="{link}&amp;via=example.org"' in html(found)


@pytest.mark.parametrize("closed", [HELP, CHANNEL])
def test_nobody_reads_of_a_room_that_only_invited_people_may_enter(tmp_path: Path, closed: ChannelAddress) -> None:
    details = {
        one: ChannelInfo(public=one != closed, name="secret" if one == closed else "", topic="plans", link="http://x")
        for one in (HELP, CHANNEL)
    }
    found = directory_of(settings(tmp_path, one_pair()), details)
    assert (found.rooms, found.left_out) == ((), (HELP.value,))
    # `relay init` writes the section of any channel: that does not say that newcomers may know of it.
    assert not directory_of(settings(tmp_path, one_pair('section = "Staff"')), details).rooms
    # The operator has written what may be read of it, and that alone is shown.
    (room,) = directory_of(settings(tmp_path, one_pair('purpose = "For staff"')), details).rooms
    assert "secret" not in (room.name, room.channel)
    assert room.purpose == "For staff"
    (room,) = directory_of(settings(tmp_path, one_pair()), details, private=True).rooms
    assert "secret" in (room.name, room.channel)


def test_what_is_served_waits_until_it_is_known_who_may_enter(tmp_path: Path) -> None:
    chosen = settings(tmp_path, one_pair())
    assert len(directory_of(chosen, {}).rooms) == 1  # the operator reads it first
    known = {HELP: ChannelInfo("", public=True)}
    assert not directory_of(chosen, known, known_only=True).rooms
    known[CHANNEL] = ChannelInfo("", public=True)
    assert len(directory_of(chosen, known, known_only=True).rooms) == 1


# --- What members write ------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "[click](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "**bold** _it_ `code` ~~gone~~ | cell | $x$ {: .c} {{ site }} &lt; &#60;",
    "https://evil.example www.evil.example me@evil.example",
    "two\n\n# lines\n- [#fake:x](https://evil.example)",
    "right\u202eto left \u2066x\u0000\x1b[31m",
    "a](https://evil.example)",
    "`[x](https://evil.example)`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_topics_are_plain_text(tmp_path: Path, text: str) -> None:
    details = {HELP: ChannelInfo(public=True, name=text, topic=text, aliases=(f"#{text}:example.org",))}
    found = directory_of(settings(tmp_path, one_pair()), details)
    page = html(found)
    body = page[page.index("</style>") :]
    assert "<script" not in body
    assert "<img" not in body
    assert {url for url in re.findall(r'href="([^"]*)"', body) if "evil" in url} <= {
        unescape(room.address.link) for room in (*found.rooms,)
    } | {alias.link for alias in found.rooms[0].alternatives}
    # A name, an address, a topic, another address: as many lines as without the words.
    plain = markdown(directory_of(settings(tmp_path, one_pair()), {HELP: ChannelInfo(public=True, name="x")}))
    source = markdown(found)
    assert len(source.splitlines()) == len(plain.splitlines())
    line = next(line for line in source.splitlines() if HELP.value in line)
    unescaped = re.sub(r"\\[\\`*\[\]_]", "", line)
    assert "<" not in unescaped
    assert "](https://evil" not in unescaped
    assert "://evil" not in unescaped.replace("https://matrix.to", "")
    assert "www." not in re.sub(r"\(https://matrix\.to[^)]*\)", "", unescaped)
    assert not any(character in source for character in "\u202e\u2066\x00\x1b")


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "https://x.example/<b>"])
def test_a_purpose_links_to_the_web_only(tmp_path: Path, url: str) -> None:
    found = directory_of(settings(tmp_path, one_pair(f'purpose = "See [this]({url})"')), {})
    assert f'href="{url}"' not in html(found)
    assert f"[this]({url})" not in markdown(found)


def test_a_topic_cannot_pass_for_the_marks_of_its_room(tmp_path: Path) -> None:
    known = {HELP: ChannelInfo("(Bridged) Help", topic="[NSFW] - (bri\u200bdged) - all", public=True)}
    line = markdown(directory_of(settings(tmp_path, one_pair()), known)).splitlines()[-1]
    assert line == f"- **Help** - [{HELP.value}](https://matrix.to/#/{HELP.value}) - (bridged) - - - all"


def test_a_purpose_may_have_code_and_links(tmp_path: Path) -> None:
    found = directory_of(settings(tmp_path, one_pair('purpose = "`a<b` & [this](https://example.org/?a=1&b=2)"')), {})
    assert '<code>a&lt;b</code> &amp; <a href="https://example.org/?a=1&amp;b=2" rel="noopener">this</a>' in html(found)
    assert "`a<b` & [this](https://example.org/?a=1&b=2)" in markdown(found)


def test_a_description_stays_a_paragraph(tmp_path: Path) -> None:
    chosen = settings(tmp_path, '[directory]\ntitle = "A [b](c)"\ndescription = "- 1. not a list"\n' + one_pair())
    lines = markdown(directory_of(chosen, {})).splitlines()
    assert lines[0] == r"# A \[b\](c)"
    assert lines[2] == "&#45; 1. not a list"


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = html(of_community("stash"))
    assert not re.findall(r'(?:src|srcset|action)="', page)
    assert re.findall(r'<link [^>]*href="([^"]*)"', page) == ["data:,"]
    assert "<script" not in page
    assert "style-src 'sha256-" in page_policy()


# --- Who may read it ---------------------------------------------------------------------------------------


class Nothing:
    """A status that nobody asks for."""

    async def report(self) -> Report:
        raise AssertionError

    def last_report(self) -> Report:
        raise AssertionError

    def glance(self) -> Report:
        raise AssertionError

    def delivery_seconds(self) -> dict[str, Histogram]:
        return {}

    def limits(self) -> dict[str, LimitStatus]:
        return {}


@pytest.mark.parametrize(
    ("access", "here", "outside"),
    [(None, 200, 404), ("off", 404, 404), ("local", 200, 404), (True, 200, 404), ("public", 200, 200)],
)
@pytest.mark.parametrize("token", [None, "long-enough-to-be-a-token-1234567890"])
@pytest.mark.parametrize("below", ["", "/relay"])
async def test_who_may_read_it(access: object, here: int, outside: int, below: str, token: str | None) -> None:
    public_url = f"https://relay.example.org{below}"
    chosen: dict[str, object] = {"listen": "127.0.0.1:0", "public_url": public_url, "token": token}
    chosen |= {} if access is None else {"directory": access}
    if token is not None and access != "public":
        here = 401  # as the status page
    server = WebServer(
        status=Nothing(), settings=validated(WebSettings, chosen), directory=lambda: of_community("stash")
    )
    async with aiohttp.ClientSession(base_url=await server.start()) as client:
        try:
            for path in {"/directory", f"{below}/directory"}:
                for host, status in (("localhost", here), ("relay.example.org", outside), ("evil.example", 421)):
                    async with client.get(path, headers={"Host": host}) as answer:
                        assert (path, host, answer.status) == (path, host, status)
                        if status == 200:
                            assert await answer.text() == html(of_community("stash"))
                            assert answer.headers["Content-Security-Policy"] == page_policy()
            async with client.get("/", headers={"Host": "relay.example.org"}) as answer:
                assert answer.status == 404
        finally:
            await server.close()


def test_it_can_be_public_only_where_there_is_a_public_address(tmp_path: Path) -> None:
    text = '[web]\ndirectory = "public"\n'
    assert "[web] directory: there is no public_url; write where" in only(tmp_path, SIDES + text)
    assert "[web] directory: is not an allowed value" in only(tmp_path, SIDES + '[web]\ndirectory = "everybody"\n')
    assert "[directory] matrix_space: is neither" in only(tmp_path, SIDES + '[directory]\nmatrix_space = "x"\n')
    alternatives = '[directory]\nmatrix_space_alternatives = "#a:b.c, d"\n'
    assert "[directory] matrix_space_alternatives: is neither" in only(tmp_path, SIDES + alternatives)
