"""The status page over a real socket, fed by a status of our making, as one browser or program sees it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from relay.config.settings import WebSettings
from relay.config.values import Secret
from relay.core.ports import ChannelInfo, SideHealth
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import ChannelStatus, DaemonStatus, DirectionStatus, PairStatus, Report
from relay.core.storage import DeadLetter, Entry
from relay.domain.commands import SendMessage
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MessageRef, Platform, UserRef
from relay.domain.pair import LaneKey
from relay.domain.text.nodes import RichText
from relay.errors import StoreUnavailable
from relay.web.server import WebServer

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
TOKEN = "correct-horse-battery-staple"
LANE = LaneKey(ChannelRef(Platform.MATRIX, "!a:b"), ChannelRef(Platform.DISCORD, "1"))
OWN = {"Sec-Fetch-Site": "same-origin"}


def pair(
    name: str,
    *problems: str,
    waiting: int = 0,
    dead: int = 0,
    link: str = "https://matrix.to/#/%23a:b",
    last: datetime = NOW,
) -> PairStatus:
    direction = DirectionStatus(5, last, waiting, None, 0, {"reaction": 7}, dead)
    room = ChannelStatus("#a:b", "!a:b", ChannelInfo(f"{name} room", link=link))
    return PairStatus(name, problems, {"to_matrix": direction, "to_discord": direction}, (), {"matrix": room})


def report(*pairs: PairStatus) -> Report:
    sides = {"discord": SideHealth("ready"), "matrix": SideHealth("ready")}
    return Report(pairs, sides, NOW, DaemonStatus(running=True, since=NOW))


def letter(number: int) -> DeadLetter:
    author = Author(UserRef(Platform.MATRIX, "@mia:b"), "Mia")
    command = SendMessage(MessageRef(LANE.source, "$x"), author, Content(RichText.plain("secret words")), NOW)
    return DeadLetter(Entry(number, LANE, command, NOW), "<b>refused</b>", NOW, "help")


class Status:
    def __init__(self, answer: Report) -> None:
        self.answer = answer

    async def report(self) -> Report:
        return self.answer

    def last_report(self) -> Report:
        return self.answer

    def glance(self) -> Report:
        return replace(self.answer, pairs=())

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        return {}

    def limits(self) -> Mapping[str, LimitStatus]:
        return {}


@dataclass
class Letters:
    done: list[tuple[str, int]] = field(default_factory=list)
    broken: bool = False

    async def newest(self, limit: int | None = None) -> Sequence[DeadLetter]:
        assert limit is not None
        return [letter(12), letter(13)]

    async def retry(self, entry: int) -> bool:
        return self._do("retry", entry)

    async def discard(self, entry: int) -> bool:
        return self._do("discard", entry)

    def _do(self, act: str, entry: int) -> bool:
        if self.broken:
            raise StoreUnavailable("relay.db", "the disk is full", "make room")
        self.done.append((act, entry))
        return True


@dataclass
class Page:
    """The server as one browser sees it."""

    client: aiohttp.ClientSession
    letters: Letters
    status: Status
    url: URL

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        async with self.client.get(path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, headers: Mapping[str, str] = OWN, **form: str) -> int:
        async with self.client.post(path, data=form, headers=headers, allow_redirects=False) as answer:
            return answer.status

    async def sign_in(self) -> str:
        """The secret of the page's forms."""
        assert await self.post("/sign-in", token=TOKEN) == 303
        _, text = await self.get()
        return text.partition('name="form" value="')[2].partition('"')[0]


@asynccontextmanager
async def serving(token: str | None = TOKEN, answer: Report | None = None) -> AsyncIterator[Page]:
    letters = Letters()
    settings = WebSettings(listen="127.0.0.1:0", token=None if token is None else Secret(token))
    status = Status(answer or report(pair("help", dead=2)))
    server = WebServer(status=status, settings=settings, letters=letters)
    url = await server.start()
    jar = aiohttp.CookieJar(unsafe=True)  # of an address without a name
    async with aiohttp.ClientSession(base_url=url, cookie_jar=jar) as client:
        try:
            yield Page(client, letters, status, URL(url))
        finally:
            await server.close()
