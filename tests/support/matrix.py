"""A Matrix adapter in front of a homeserver, and an inbox that writes down what it is told."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

from relay.adapters.matrix.adapter import MatrixAdapter
from relay.config.mistakes import validated
from relay.config.settings import MatrixSettings
from relay.core.clock import SystemClock
from relay.core.files import Files
from relay.core.ports import Began, CommandCall, EventBatch, OnRecord, PastPage, PastReader
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.content import Author, Content
from relay.domain.events import Event, FeatureUsed, HistorySkipped, MessageCreated, MessageDeleted, MessageEdited
from relay.domain.ids import ChannelAddress, ChannelRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText, plain_text
from relay.errors import StoreUnavailable
from tests.support.patience import PATIENCE

BOB = Author(UserRef(Platform.DISCORD, "1"), "Bob")

numbers = itertools.count()
"""For the names of accounts and aliases: all tests of a worker share one homeserver."""


@dataclass
class SavedState:
    """What outlives a process: cursors, events that were received, the session."""

    cursors: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    session: str | None = None

    async def load(self) -> str | None:
        return self.session

    async def save(self, value: str) -> None:
        self.session = value

    async def position(self, stream: str) -> str | None:
        return self.cursors.get(stream)


class Inbox:
    """Implements `core.ports.Inbox`. `broken` makes the next so many batches fail, as a full disk would.

    `fail_on` raises for an event, as a bug of the core would.
    """

    def __init__(self, saved: SavedState) -> None:
        self.saved = saved
        self.channels: dict[str, ChannelRef] = {}
        self.problems: dict[str, str] = {}
        self.predecessors: dict[str, set[str]] = {}
        self.news: list[str] = []
        # Where copies are that were posted again.
        self.posted_again: dict[MessageRef, MessageRef] = {}
        self.batches = 0
        self.broken = 0
        self.fail_on: Callable[[Event], None] = lambda event: None
        self._seen = {event.ref.id for event in saved.events if isinstance(event, MessageCreated)}

    async def receive(self, batch: EventBatch) -> None:
        self.batches += 1
        if self.broken:
            self.broken -= 1
            raise StoreUnavailable("x", "the disk is full", "make room")
        for event in batch.events:
            self.fail_on(event)
        for event in batch.events:
            # Like the store, which knows a message by its ID and takes it once.
            if isinstance(event, MessageCreated):
                if event.ref.id in self._seen:
                    continue
                self._seen.add(event.ref.id)
            self.saved.events.append(event)
        self.saved.cursors |= {cursor.stream: cursor.position for cursor in batch.cursors}

    async def cursor(self, platform: Platform, stream: str) -> str | None:
        return self.saved.cursors.get(stream)

    async def opened(
        self, address: ChannelAddress, channel: ChannelRef, *, predecessors: frozenset[ChannelRef] = frozenset()
    ) -> None:
        self.predecessors[address.value] = {one.id for one in predecessors}
        self.channels[address.value] = channel
        self.problems.pop(address.value, None)
        self.news.append(f"opened {address.value}")

    async def closed(self, address: ChannelAddress, problem: str) -> None:
        self.problems[address.value] = problem
        self.news.append(f"closed {address.value}")

    async def post_again(
        self, channel: ChannelRef, post: Callable[[], Awaitable[Mapping[MessageRef, MessageRef]]]
    ) -> Collection[MessageRef]:
        posted = await post()
        self.posted_again |= posted
        return posted.keys()

    def health_changed(self) -> None:
        pass

    async def last_originals(self, channel: ChannelRef, limit: int) -> Sequence[OnRecord]:
        made = [event for event in self.saved.events if isinstance(event, MessageCreated)]
        here = [OnRecord(event.ref, event.created_at) for event in reversed(made) if event.ref.channel == channel]
        return here[:limit]

    async def catch_up(self, channel: ChannelRef, after: str) -> None:
        raise AssertionError("the stream of this platform replays by itself")

    async def command(self, call: CommandCall) -> RichText:
        return RichText.plain(" ".join(call.words))


@dataclass
class Side:
    """A running adapter."""

    adapter: MatrixAdapter
    inbox: Inbox
    task: asyncio.Task[None]

    @property
    def said(self) -> list[str]:
        """What others said, in order, edits and deletions included."""
        return [line for event in self.inbox.saved.events if (line := _line(event)) is not None]

    @property
    def features(self) -> list[str]:
        """What was used that does not cross, by others."""
        events = self.inbox.saved.events
        return [event.feature for event in events if isinstance(event, FeatureUsed) and not event.user_is_self]

    async def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Returns once `condition` is true; fails with what was seen when it does not become so."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.task.done():
                self.task.result()
            if time.monotonic() > deadline:
                health, problems = self.adapter.health(), self.inbox.problems
                raise AssertionError(f"{health} {problems} {self.inbox.news} {self.said[-20:]}")
            await asyncio.sleep(0.01)

    async def until_ready(self) -> None:
        await self.until(lambda: self.adapter.health().state == "ready")

    async def until_said(self, *lines: str) -> None:
        """Returns once exactly these lines have been said."""
        await self.until(lambda: len(self.said) >= len(lines))
        assert self.said == list(lines), self.said


def _line(event: Event) -> str | None:
    match event:
        case MessageCreated(author=author, content=content) if not author.is_self:
            return plain_text(content.text)
        case MessageEdited(author=author, content=content) if not author.is_self:
            return f"edit: {plain_text(content.text)}"
        case MessageDeleted():
            return "deletion"
        case HistorySkipped(count=count):
            return f"skipped {count}"
        case _:
            return None


def address(value: str) -> ChannelAddress:
    return ChannelAddress(Platform.MATRIX, value)


def room(room_id: str) -> ChannelRef:
    return ChannelRef(Platform.MATRIX, room_id)


def words(text: str) -> Content:
    return Content(RichText.plain(text))


@contextlib.asynccontextmanager
async def person(homeserver: Homeserver, localpart: str, **options: str) -> AsyncIterator[Person]:
    """A new account, signed in."""
    token = await homeserver.register(localpart, displayname=options.get("displayname", localpart.title()))
    async with Person(homeserver.url, f"@{localpart}:{homeserver.server_name}", token) as someone:
        yield someone


async def read_past(
    side: Side,
    room_id: str,
    began: Began,
    *,
    position: str = "",
    since: datetime | None = None,
    pages: list[PastPage] | None = None,
) -> list[PastPage]:
    """All pages from a position on. They are in `pages` as well, as many as there are before an error."""
    assert isinstance(side.adapter, PastReader)
    pages = [] if pages is None else pages
    async for page in side.adapter.past(room(room_id), position, began, since=since):
        pages.append(page)
    return pages


def past_messages(pages: Iterable[PastPage]) -> list[MessageCreated]:
    return [message for page in pages for message in page.messages]


def past_lines(pages: Iterable[PastPage]) -> list[str]:
    return [plain_text(message.content.text) for message in past_messages(pages)]


class HomeserverProxy:
    """A proxy in front of a homeserver; `url` is where it listens.

    `answer` looks at each request and returns what to answer in the homeserver's place, None to pass it on; while it
    waits, nothing is answered. `alter` is what becomes of the homeserver's own answers.
    """

    def __init__(self, homeserver_url: str) -> None:
        self._behind = homeserver_url
        self.answer: Answer = pass_on
        self.alter: Callable[[bytes], bytes] = bytes
        self.url = ""
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if (own := await self.answer(request)) is not None:
            return own
        return await self.carry_out(request)

    async def carry_out(self, request: web.Request) -> web.Response:
        """Pass a request on. Its answer may be lost after that."""
        assert self._session is not None
        url = URL(self._behind + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name in {"Authorization", "Content-Type"}}
        async with self._session.request(request.method, url, data=await request.read(), headers=headers) as answer:
            body = self.alter(await answer.read())
            return web.Response(status=answer.status, body=body, content_type="application/json")


Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


async def pass_on(request: web.Request) -> web.StreamResponse | None:
    """The `answer` of a proxy that only passes requests on."""
    return None


@contextlib.asynccontextmanager
async def matrix_side(
    homeserver: Homeserver,
    user_id: str,
    rooms: Iterable[str],
    *,
    token: str | None = None,
    password: str | None = None,
    saved: SavedState | None = None,
    ready: bool = True,
    failing: bool = False,
    catchup_limit: int = 5000,
    catchup_limits: Callable[[ChannelAddress], int] | None = None,
    retry_interval: float = 0.3,
    url: str = "",
    files: Files | None = None,
    secondary: Iterable[str] = (),
) -> AsyncIterator[Side]:
    """An adapter that runs until the end of the block; `saved` carries over what an earlier one knew.

    `failing`: that it ends with an error is what the test is about. `url`: where the adapter finds the homeserver.
    """
    kept = saved or SavedState()
    adapter = MatrixAdapter(
        settings=validated(
            MatrixSettings,
            {
                "homeserver_url": url or homeserver.url,
                "user_id": user_id,
                "access_token": token,
                "password": password,
            },
        ),
        load_session=kept.load,
        save_session=kept.save,
        clock=SystemClock(),
        rng=random.Random(1),
        catchup_limit=catchup_limits or (lambda _: catchup_limit),
        retry_interval=retry_interval,
        files=files,
    )
    inbox = Inbox(kept)
    await adapter.watch(frozenset(map(address, rooms)), secondary=frozenset(map(address, secondary)))
    side = Side(adapter, inbox, asyncio.create_task(adapter.run(inbox)))
    try:
        if ready:
            await side.until_ready()
        yield side
    finally:
        side.task.cancel()
        await asyncio.wait({side.task})
        await adapter.close()
        if not side.task.cancelled() and (error := side.task.exception()) is not None and not failing:
            raise error
