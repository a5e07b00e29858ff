"""The server over real sockets on loopback, fed by a status of our making."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.core.ports import SideHealth
from relay.core.status import DirectionStatus, Histogram, PairStatus, Snapshot
from relay.errors import FatalError, StoreUnavailable
from relay.web.server import HEADERS, WebServer

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
READY = SideHealth("ready")
HOSTILE = "<script>alert(1)</script>&\"'"


def direction(**changes: Any) -> DirectionStatus:
    values: dict[str, Any] = {
        "messages": 1234,
        "last_message_at": datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
        "backlog": 3,
        "oldest_undelivered_seconds": 90.0,
        "retries": 2,
        "dropped": {"reaction": 7, "thread": 1},
        "dead_letters": 1,
    }
    return DirectionStatus(**{**values, **changes})


def idle() -> DirectionStatus:
    return direction(
        messages=0,
        last_message_at=None,
        backlog=0,
        oldest_undelivered_seconds=None,
        retries=0,
        dropped={},
        dead_letters=0,
    )


def snapshot(name: str = "help", problem: str | None = None, store: str | None = None, **sides: SideHealth) -> Snapshot:
    pair = PairStatus(name, problem, {"to_matrix": direction(), "to_discord": idle()})
    return Snapshot((pair,), {"discord": READY, "matrix": READY, **sides}, NOW, store)


class FakeStatus:
    """A status that says what it is told."""

    def __init__(self, answer: Snapshot, *, store_broken: bool = False) -> None:
        self.answer = answer
        self._store_broken = store_broken
        self._histogram = Histogram()
        self._histogram.observe(0.2)
        self._histogram.observe(1000)

    async def snapshot(self) -> Snapshot:
        if self._store_broken:
            raise StoreUnavailable("relay.db", "the disk is full", "make room")
        return self.answer

    def cached_snapshot(self) -> Snapshot:
        return self.answer

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        return {"to_matrix": self._histogram}


@asynccontextmanager
async def serving(status: FakeStatus) -> AsyncIterator[aiohttp.ClientSession]:
    server = WebServer(status, "127.0.0.1:0")
    async with aiohttp.ClientSession(base_url=await server.start()) as client:
        try:
            yield client
        finally:
            await server.close()


async def get(client: aiohttp.ClientSession, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, str]:
    async with client.get(path, headers=headers) as response:
        return response, await response.text()


async def test_alive_and_ready() -> None:
    async with serving(FakeStatus(snapshot(problem="No permission."))) as client:
        response, _ = await get(client, "/healthz")
        assert response.status == 200
        response, _ = await get(client, "/readyz")
        assert response.status == 200
        assert response.content_type == "application/json"


@pytest.mark.parametrize(
    ("answer", "side", "reason"),
    [
        (snapshot(matrix=SideHealth("connecting", "no answer from https://x")), "matrix", "no answer from https://x"),
        (snapshot(discord=SideHealth("catching_up")), "discord", "catching up"),
        (snapshot(store="the disk is full"), "store", "the disk is full"),
    ],
)
async def test_not_ready_says_why(answer: Snapshot, side: str, reason: str) -> None:
    async with serving(FakeStatus(answer)) as client, client.get("/readyz") as response:
        assert response.status == 503
        body = await response.json()
    assert body["ready"] is False
    assert body[side]["problem"] == reason
    assert all(body[other]["problem"] is None for other in {"discord", "matrix", "store"} - {side})


@pytest.mark.parametrize("broken", [False, True])
async def test_metrics(broken: bool) -> None:
    async with serving(FakeStatus(snapshot(), store_broken=broken)) as client:
        response, text = await get(client, "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    there, back = (("direction", "to_matrix"), ("pair", "help")), (("direction", "to_discord"), ("pair", "help"))
    assert {key: value for key, value in samples.items() if "seconds" not in key[0]} == {
        ("relay_messages_total", *there): 1234,
        ("relay_messages_total", *back): 0,
        ("relay_dropped_total", there[0], ("feature", "reaction"), there[1]): 7,
        ("relay_dropped_total", there[0], ("feature", "thread"), there[1]): 1,
        ("relay_outbox_depth", *there): 3,
        ("relay_outbox_depth", *back): 0,
        ("relay_retries_total", *there): 2,
        ("relay_retries_total", *back): 0,
        ("relay_dead_letters", *there): 1,
        ("relay_dead_letters", *back): 0,
    }
    assert samples["relay_delivery_seconds_bucket", there[0], ("le", "0.25")] == 1
    assert samples["relay_delivery_seconds_bucket", there[0], ("le", "+Inf")] == 2
    assert samples["relay_delivery_seconds_count", there[0]] == 2
    assert samples["relay_delivery_seconds_sum", there[0]] == pytest.approx(1000.2)
    assert samples["relay_delivery_seconds_count", back[0]] == 0


async def test_metrics_as_openmetrics() -> None:
    async with serving(FakeStatus(snapshot())) as client:
        response, text = await get(client, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_the_page() -> None:
    async with serving(FakeStatus(snapshot())) as client:
        response, text = await get(client, "/")
        _, style = await get(client, "/page.css")
    assert response.content_type == "text/html"
    for words in ("All is well", "help", "1,234", "30 s ago", "1 min", "reaction", "Discord → Matrix"):
        assert words in text
    assert "<script" not in text
    assert "style=" not in text
    assert "light-dark" in style


async def test_the_page_says_what_is_wrong_and_escapes_it() -> None:
    answer = snapshot(HOSTILE, HOSTILE, HOSTILE, matrix=SideHealth("failed", HOSTILE))
    async with serving(FakeStatus(answer, store_broken=True)) as client:
        _, text = await get(client, "/")
    assert "Not ready" in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4


async def test_the_page_without_pairs() -> None:
    async with serving(FakeStatus(Snapshot((), {"discord": READY, "matrix": READY}, NOW))) as client:
        _, text = await get(client, "/")
    assert "No pairs are declared" in text


@pytest.mark.parametrize("path", ["/", "/page.css", "/metrics", "/healthz", "/readyz", "/nowhere"])
async def test_every_answer_has_the_headers(path: str) -> None:
    async with serving(FakeStatus(snapshot())) as client:
        response, _ = await get(client, path)
        assert HEADERS.items() <= dict(response.headers).items()
        async with client.post(path) as refused:
            assert refused.status in (404, 405)
            assert HEADERS.items() <= dict(refused.headers).items()


async def test_a_port_in_use_is_one_sentence_with_a_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(FatalError, match=f"another program listens on {listen} already; .*listen") as caught:
            await WebServer(FakeStatus(snapshot()), listen).run()
    assert caught.value.exit_status == 4


async def test_an_unknown_host() -> None:
    with pytest.raises(FatalError, match=r"cannot listen on 203\.0\.113\.1:0"):
        await WebServer(FakeStatus(snapshot()), "203.0.113.1:0").start()


async def test_cancelling_run_frees_the_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        task = asyncio.create_task(WebServer(FakeStatus(snapshot()), f"127.0.0.1:{port}").run())
        async with asyncio.timeout(5), aiohttp.ClientSession() as client:
            while True:
                try:
                    async with client.get(f"http://127.0.0.1:{port}/healthz") as response:
                        assert response.status == 200
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
