"""The server over real sockets on loopback, fed by a status of our making."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from relay import __version__
from relay.config.settings import WebSettings
from relay.core.ports import SideHealth
from relay.core.status.counters import Histogram, LimitStatus
from relay.core.status.report import DirectionStatus, PairStatus, Report, UndeclaredLane
from relay.demo.homeserver import free_port
from relay.domain.ids import ChannelRef, Platform
from relay.domain.pair import LaneKey
from relay.errors import FatalError, StoreUnavailable
from relay.web.server import HEADERS, AllowedHosts, Connections, WebServer
from relay.web.status_pages import POLICY
from tests.support.patience import PATIENCE

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
READY = SideHealth("ready")
OF_DAEMON = frozenset(
    f"relay_{name}"
    for name in ("catching_up", "store_problem", "connected", "rate_limit_left", "rate_limit_wait_seconds")
)
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


def report(name: str = "help", problem: str | None = None, store: str | None = None, **sides: SideHealth) -> Report:
    problems = () if problem is None else (problem,)
    pair = PairStatus(name, problems, {"to_matrix": direction(), "to_discord": idle()})
    return Report((pair,), {"discord": READY, "matrix": READY, **sides}, NOW, store_problem=store)


class FakeStatus:
    """A status that says what it is told."""

    def __init__(self, answer: Report, *, store_broken: bool = False) -> None:
        self.answer = answer
        self._store_broken = store_broken
        self._histogram = Histogram()
        self._histogram.observe(0.2)
        self._histogram.observe(1000)

    async def report(self) -> Report:
        if self._store_broken:
            raise StoreUnavailable("relay.db", "the disk is full", "make room")
        return self.answer

    def last_report(self) -> Report:
        return self.answer

    def glance(self) -> Report:
        return replace(self.answer, pairs=())

    def delivery_seconds(self) -> Mapping[str, Histogram]:
        return {"to_matrix": self._histogram}

    def limits(self) -> Mapping[str, LimitStatus]:
        return {"matrix": LimitStatus({"messages": 0.0}, 4.5)}


@asynccontextmanager
async def serving(status: FakeStatus, hosts: Sequence[str] = (), **more: Any) -> AsyncIterator[aiohttp.ClientSession]:
    server = WebServer(status=status, settings=WebSettings(listen="127.0.0.1:0", hosts=tuple(hosts)), **more)
    async with aiohttp.ClientSession(base_url=await server.start()) as client:
        try:
            yield client
        finally:
            await server.close()


async def get(client: aiohttp.ClientSession, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, str]:
    async with client.get(path, headers=headers) as response:
        return response, await response.text()


async def test_alive_and_ready() -> None:
    async with serving(FakeStatus(report(problem="No permission."))) as client:
        response, _ = await get(client, "/healthz")
        assert response.status == 200
        response, _ = await get(client, "/readyz")
        assert response.status == 200
        assert response.content_type == "application/json"


async def test_readiness_does_not_look_through_the_pairs() -> None:
    class Busy(FakeStatus):
        async def report(self) -> Report:
            raise AssertionError

        def last_report(self) -> Report:
            raise AssertionError

    async with serving(Busy(report())) as client:
        response, _ = await get(client, "/readyz")
    assert response.status == 200


@pytest.mark.parametrize(
    ("answer", "side", "reason"),
    [
        (report(matrix=SideHealth("connecting", "no answer from https://x")), "matrix", "No answer from https://x."),
        (report(discord=SideHealth("catching_up")), "discord", "Catching up."),
        (report(store="the disk is full"), "store", "the disk is full"),
    ],
)
async def test_not_ready_says_why(answer: Report, side: str, reason: str) -> None:
    async with serving(FakeStatus(answer)) as client, client.get("/readyz") as response:
        assert response.status == 503
        body = await response.json()
    assert body["ready"] is False
    assert body[side]["problem"] == reason
    assert all(body[other]["problem"] is None for other in {"discord", "matrix", "store"} - {side})


async def test_what_waits_for_pairs_that_are_not_declared() -> None:
    channel, room = ChannelRef(Platform.DISCORD, "77"), ChannelRef(Platform.MATRIX, "!gone:b")
    undeclared = (
        UndeclaredLane(LaneKey(channel, room), "<staff>", 3, 60.0, 1),
        UndeclaredLane(LaneKey(channel, ChannelRef(Platform.MATRIX, "!other:b")), "<staff>", 2, None, 0),
        UndeclaredLane(LaneKey(room, channel), None, 1, 60.0, 0),
    )
    async with serving(FakeStatus(replace(report(), undeclared=undeclared))) as client:
        _, page = await get(client, "/")
        _, metrics = await get(client, "/metrics")
    assert "Not declared" in page
    assert "&lt;staff&gt;" in page
    assert "77 → !gone:b" in page
    assert 'relay_undeclared_depth{direction="to_matrix",pair="<staff>"} 5.0' in metrics
    assert 'relay_undeclared_depth{direction="to_discord",pair=""} 1.0' in metrics


@pytest.mark.parametrize("broken", [False, True])
async def test_metrics(broken: bool) -> None:
    async with serving(FakeStatus(report(), store_broken=broken)) as client:
        response, text = await get(client, "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    there, back = (("direction", "to_matrix"), ("pair", "help")), (("direction", "to_discord"), ("pair", "help"))
    (build,) = [labels for name, *labels in samples if name == "relay_build_info"]
    assert ("version", __version__) in build
    of_pairs = {key: value for key, value in samples.items() if ("pair", "help") in key}
    assert {key: value for key, value in samples.items() if key[0] in OF_DAEMON} == {
        ("relay_catching_up",): 1,
        ("relay_store_problem",): 0,
        ("relay_connected", ("platform", "discord")): 1,
        ("relay_connected", ("platform", "matrix")): 1,
        ("relay_rate_limit_left", ("limit", "messages"), ("platform", "matrix")): 0,
        ("relay_rate_limit_wait_seconds", ("platform", "matrix")): 4.5,
    }
    assert of_pairs == {
        ("relay_pair_problem", ("pair", "help")): 0,
        ("relay_oldest_undelivered_seconds", *there): 90,
        ("relay_oldest_undelivered_seconds", *back): 0,
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
    async with serving(FakeStatus(report())) as client:
        response, text = await get(client, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_the_page() -> None:
    async with serving(FakeStatus(report())) as client:
        response, text = await get(client, "/")
        _, style = await get(client, "/page.css")
    assert response.content_type == "text/html"
    for words in ("All is well", "help", "1,234", "30 s ago", "1 min", "reaction", "Discord → Matrix"):
        assert words in text
    assert text.count("<script") == text.count('<script src="page.js" defer></script>') == 1
    assert "style=" not in text
    assert "light-dark" in style


async def test_the_page_says_what_is_wrong_and_escapes_it() -> None:
    answer = report(HOSTILE, HOSTILE, HOSTILE, matrix=SideHealth("failed", HOSTILE))
    async with serving(FakeStatus(answer, store_broken=True)) as client:
        _, text = await get(client, "/")
    assert "Not ready" in text
    assert text.count("<script") == 1
    assert text.count("&lt;script&gt;") >= 4


async def test_the_page_without_pairs() -> None:
    async with serving(FakeStatus(Report((), {"discord": READY, "matrix": READY}, NOW))) as client:
        _, text = await get(client, "/")
    assert "No pairs are declared" in text


@pytest.mark.parametrize("path", ["/", "/page.css", "/metrics", "/healthz", "/readyz", "/nowhere"])
async def test_every_answer_has_the_headers(path: str) -> None:
    async with serving(FakeStatus(report())) as client:
        response, _ = await get(client, path)
        policy = "Content-Security-Policy"
        expected = {**HEADERS, policy: POLICY if path == "/" else HEADERS[policy]}
        assert expected.items() <= dict(response.headers).items()
        async with client.post(path) as refused:
            assert refused.status in (404, 405)
            assert HEADERS.items() <= dict(refused.headers).items()


async def test_a_port_in_use_is_one_sentence_with_a_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(FatalError, match=f"another program listens on {listen} already; .*listen") as caught:
            await WebServer(status=FakeStatus(report()), settings=WebSettings(listen=listen)).run()
    assert caught.value.exit_status == 4


async def test_an_unknown_host() -> None:
    with pytest.raises(FatalError, match=r"cannot listen on 203\.0\.113\.1:0 \(cannot assign requested address\)"):
        await WebServer(status=FakeStatus(report()), settings=WebSettings(listen="203.0.113.1:0")).start()


async def test_cancelling_run_frees_the_port() -> None:
    port = free_port()
    for _ in range(2):
        task = asyncio.create_task(
            WebServer(status=FakeStatus(report()), settings=WebSettings(listen=f"127.0.0.1:{port}")).run()
        )
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as client:
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


# --- For whom ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/page.css", "/healthz", "/readyz", "/metrics", "/nothing"])
async def test_another_sites_name_is_not_answered_to(path: str) -> None:
    async with serving(FakeStatus(report()), ["relay"]) as client:
        for host in (
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
        ):
            response, text = await get(client, path, Host=host)
            assert response.status == 421
            assert "help" not in text
            assert HEADERS.items() <= dict(response.headers).items()
        for host in ("localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:80", "127.9.9.9", "[::1]:9464", "relay:9464"):
            assert (await get(client, path, Host=host))[0].status == (404 if path == "/nothing" else 200)


@pytest.mark.parametrize(
    ("listen", "host", "answered"),
    [
        ("192.0.2.7:9464", "192.0.2.7:9464", True),
        ("192.0.2.7:9464", "192.0.2.8", False),
        ("Status.Example:9464", "status.example.", True),
        ("[2001:db8::7]:9464", "[2001:DB8:0::7]", True),
        ("[2001:db8::7]:9464", "[2001:db8::8]", False),
        ("0.0.0.0:9464", "10.1.2.3:8080", True),
        ("[::]:9464", "[2001:db8::8]", True),
        ("0.0.0.0:9464", "evil.example", False),
        ("127.0.0.1:9464", "[::ffff:127.0.0.1]", True),
        ("127.0.0.1:9464", "", False),
        ("127.0.0.1:9464", "localhost:port", False),
        ("127.0.0.1:9464", "localhost, evil.example", False),
        ("127.0.0.1:9464", "user@localhost", False),
        ("127.0.0.1:9464", "2130706433", False),
        ("[fe80::1%eth0]:9464", "[fe80::1]:9464", True),
        ("[fe80::1%eth0]:9464", "[fe80::1%eth0]", True),
        ("[fe80::1%eth0]:9464", "[FE80::1%25eth0]:9464", True),
        ("[fe80::1%eth0]:9464", "[fe80::2%eth0]", False),
        ("[fe80::1]:9464", "[fe80::1%/evil.example]", False),
        ("Büro.example:9464", "xn--bro-hoa.example:9464", True),
        ("BÜRO.example.:9464", "XN--BRO-HOA.Example.", True),
        ("faß.example:9464", "xn--fa-hia.example", True),
        ("faß.example:9464", "fass.example", False),
        ("xn--bro-hoa.example:9464", "xn--bro-hoa.example", True),
        ("büro.example:9464", "buro.example", False),
        ("127.0.0.1:9464", "evil.example.localhost.", True),
        ("127.0.0.1:9464", "localhost..", False),
    ],
)
def test_names(listen: str, host: str, answered: bool) -> None:
    assert AllowedHosts(listen).allows(host) is answered


@pytest.mark.parametrize("name", ["Büro.Example", "xn--bro-hoa.example", "XN--bro-hoa.example."])
def test_more_names(name: str) -> None:
    hosts = AllowedHosts("127.0.0.1:9464", ["relay", name])
    assert hosts.allows("xn--bro-hoa.example:443")
    assert hosts.allows("RELAY.")
    assert not hosts.allows("bro-hoa.example")


@pytest.mark.parametrize("listen", ["status.example:9464", "[fe80::7%eth0]:9464", "[::ffff:192.0.2.7]:9464"])
def test_the_address_at_which_it_is_asked(listen: str) -> None:
    """Whoever listens at a host's name is asked at its addresses, too."""
    hosts = AllowedHosts(listen)
    assert hosts.allows("192.0.2.7:9464", "192.0.2.7")
    assert hosts.allows("192.0.2.7", "::ffff:192.0.2.7")
    assert hosts.allows("[fe80::7]:9464", "fe80::7%eth0")
    assert not hosts.allows("192.0.2.8", "192.0.2.7")
    assert not hosts.allows("evil.example", "192.0.2.7")


async def test_a_server_at_a_name_answers_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # The name's address is looked up once, when the server starts. 127.0.0.1 would be answered to in any case.
    server = WebServer(status=FakeStatus(report()), settings=WebSettings(listen="localhost:0"))
    monkeypatch.setattr("relay.web.server.IPv4Address.is_loopback", False)
    async with aiohttp.ClientSession() as client:
        try:
            port = (await server.start()).rstrip("/").rpartition(":")[2]
            async with client.get(f"http://127.0.0.1:{port}/healthz") as response:
                assert response.status == 200
            async with client.get(f"http://127.0.0.1:{port}/healthz", headers={"Host": "127.0.0.2"}) as response:
                assert response.status == 421
        finally:
            await server.close()


async def raw(client: aiohttp.ClientSession, request: bytes) -> bytes:
    base = client._base_url
    assert base is not None
    reader, writer = await asyncio.open_connection(base.host, base.port)
    writer.write(request)
    try:
        return await reader.readline()
    finally:
        writer.close()


async def test_requests_without_a_host_or_with_two() -> None:
    async with serving(FakeStatus(report())) as client:
        assert b" 200 " in await raw(client, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 400 " in await raw(client, b"GET /healthz HTTP/1.1\r\n\r\n")
        twice = await raw(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b" 400 " in twice or b" 421 " in twice


async def test_silent_connections_leave_room_for_others() -> None:
    async with serving(FakeStatus(report())) as client:
        base = client._base_url
        assert base is not None
        silent = [await asyncio.open_connection(base.host, base.port) for _ in range(200)]
        try:
            for number, (_, writer) in enumerate(silent):
                writer.write(b"GET / HT" if number % 2 else b"")
            async with asyncio.timeout(PATIENCE):
                assert (await get(client, "/healthz"))[0].status == 200
                # Those that have waited longest were let go.
                for reader, _ in silent[:100]:
                    with suppress(ConnectionResetError):
                        assert await reader.read() == b""
        finally:
            for _, writer in silent:
                writer.close()


async def test_a_request_that_does_not_come_is_not_waited_for() -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    connections = Connections(web.Server(answer), seconds=0.2)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.02)
                    if reader.at_eof():
                        break
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
    finally:
        writer.close()
        server.close()


async def test_names_that_steer_the_page_do_not() -> None:
    name = "a\u202eb\x9b\x00" + "w" * 300
    async with serving(FakeStatus(report(name, problem="\u2066" + "x" * 5000))) as client:
        _, page = await get(client, "/")
    assert not {"\u202e", "\x9b", "\x00", "\u2066"} & set(page)
    assert "x" * 1001 not in page


async def test_metrics_of_several_tenants_have_their_names() -> None:
    one, two = FakeStatus(report()), FakeStatus(report())
    async with serving(one, tenants=lambda: {"one": one, "two": two, "wrong": None}) as client:
        _, text = await get(client, "/metrics")
    samples = {
        (sample.name, sample.labels.get("tenant"), sample.labels.get("pair")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {name: samples["relay_tenant_problem", name, None] for name in ("one", "two", "wrong")} == {
        "one": 0,
        "two": 0,
        "wrong": 1,
    }
    assert samples["relay_pair_problem", "one", "help"] == samples["relay_pair_problem", "two", "help"] == 0
    assert ("relay_pair_problem", "wrong", "help") not in samples
    assert text.count("# TYPE relay_pair_problem ") == 1


class SlowStatus(FakeStatus):
    """A status whose store does not answer."""

    async def report(self) -> Report:
        await asyncio.Event().wait()
        return self.answer


async def test_a_store_that_does_not_answer_holds_up_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    # The answer would take longer than it may, and be broken off: the whole scrape was lost for one tenant.
    monkeypatch.setattr("relay.web.server._LOOK_SECONDS", 0.01)
    slow = SlowStatus(report())
    async with serving(slow, tenants=lambda: {"slow": slow, "two": FakeStatus(report())}) as client:
        _, text = await get(client, "/metrics")
        _, page = await get(client, "/")
    assert {'relay_pair_problem{pair="help",tenant="slow"}', 'relay_pair_problem{pair="help",tenant="two"}'} <= {
        line.rpartition(" ")[0] for line in text.splitlines()
    }
    assert "help" in page


async def test_one_that_stands_by_is_not_ready_and_says_for_whom() -> None:
    stands_by = replace(report(), stands_by_for="process 7 on one")
    async with serving(FakeStatus(stands_by)) as client:
        response, text = await get(client, "/readyz")
        _, page = await get(client, "/")
        _, metrics = await get(client, "/metrics")
    assert response.status == 503
    assert json.loads(text)["standby"] == "It stands by for process 7 on one."
    assert "This relay stands by for process 7 on one" in page
    families = {family.name for family in text_string_to_metric_families(metrics)}
    assert families == {"relay_standby", "relay_build_info"}
