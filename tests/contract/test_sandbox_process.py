"""The sandbox as a process of its own, through `SandboxClient`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from relay.sandbox.client import SandboxClient, SandboxError, World
from tests.support.patience import PATIENCE


@pytest.fixture
async def client() -> AsyncIterator[SandboxClient]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay.sandbox", "--print-ready", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert set(ready) == {"url", "api_url", "control_url", "gateway_url"}
    async with SandboxClient(ready["url"]) as opened:
        assert opened.api_url == ready["api_url"]
        yield opened
    process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_a_conversation_from_another_process(client: SandboxClient) -> None:
    world = await client.bootstrap(["general", "other"], ["Ada", "Ben"])
    assert isinstance(world, World)
    general, ada, ben = world.channels["general"], world.people["Ada"], world.people["Ben"]
    first = await client.call("say", channel=general, author=ada, content=f"hello <@{ben}>")
    assert first["pinged"] == {"everyone": False, "users": [str(ben)], "roles": []}
    reply = {"channel": general, "author": ben, "content": "hi", "reply_to": first["id"]}
    await client.call("say", **reply, allowed_mentions={"parse": []})
    await client.call("edit", channel=general, message=first["id"], content="hello!")
    await client.call("react", channel=general, message=first["id"], user=ben, emoji="👍")
    upload = await client.upload(b"\x89PNG\r\n\x1a\n" + bytes(8) + bytes([0, 0, 0, 5, 0, 0, 0, 7]))
    image = {"filename": "a.png", "upload": upload, "spoiler": True}
    picture = await client.call("say", channel=general, author=ada, attachments=[image])
    found = picture["attachments"][0]
    assert (found["width"], found["height"], found["content_type"], found["flags"]) == (5, 7, "image/png", 8)
    video = {"filename": "v.mp4", "zeros": 10, "width": 640, "height": 360, "duration_secs": 2.5}
    shown = (await client.call("say", channel=general, author=ada, attachments=[video]))["attachments"][0]
    assert (shown["size"], shown["width"], shown["duration_secs"]) == (10, 640, 2.5)
    thread = await client.call("open_thread", channel=general, user=ada, name="aside", message=first["id"])
    await client.call("say", channel=thread["id"], author=ben, content="aside")
    hook = (await client.call("create_webhook", channel=general, name="feed", creator=ada))["id"]
    raw = {"embeds": [{"type": "article", "title": "t"}]}
    await client.call("say_as_webhook", webhook=hook, content="news", username="Feed", raw=raw)
    messages = await client.call("messages", channel=general)
    assert [message["content"] for message in messages] == ["hello!", "hi", "", "", "news"]
    assert messages[1]["pinged"]["users"] == []
    assert messages[4]["embeds"] == [{"type": "article", "title": "t"}]
    await client.call("bulk_delete", channel=general, messages=[message["id"] for message in messages[2:]])
    await client.call("delete", channel=general, message=messages[1]["id"])
    assert len(await client.call("messages", channel=general)) == 1
    other = world.channels["other"]
    ids = await client.call("say_many", channel=other, author=ben, contents=["a", "b"])
    assert [message["id"] for message in await client.call("messages", channel=other)] == ids
    with pytest.raises(SandboxError) as refused:
        await client.call("say", channel=general, author=ada, content="x" * 2001)
    assert (refused.value.status, refused.value.code) == (400, 50035)


async def test_events_can_be_waited_for_and_streamed(client: SandboxClient) -> None:
    world = await client.bootstrap()
    general, ada = world.channels["general"], world.people["Ada"]
    _, last = await client.events()
    waiting = asyncio.create_task(
        client.wait_for(lambda entry: entry["data"]["content"] == "second", after=last, event="MESSAGE_CREATE")
    )
    seen = asyncio.create_task(client.wait_for_message(general, lambda message: message["content"] == "third!"))
    url = f"{client.base_url}/_sandbox/stream"
    query = {"after": str(last), "channel": str(general)}
    async with aiohttp.ClientSession() as session, session.get(url, params=query) as stream:
        assert stream.content_type == "text/event-stream"
        for words in ("first", "second"):
            await client.call("say", channel=general, author=ada, content=words)
        third = await client.call("say", channel=general, author=ada, content="third")
        await client.call("edit", channel=general, message=third["id"], content="third!")
        assert (await waiting)["seq"] == last + 2
        assert (await seen)["id"] == third["id"]
        heard = []
        async for line in stream.content:
            if line.startswith(b"data: "):
                entry = json.loads(line.removeprefix(b"data: "))
                heard.append((entry["event"], entry["data"]["content"]))
            if len(heard) == 4:
                break
    assert heard == [
        ("MESSAGE_CREATE", "first"),
        ("MESSAGE_CREATE", "second"),
        ("MESSAGE_CREATE", "third"),
        ("MESSAGE_UPDATE", "third!"),
    ]
    with pytest.raises(TimeoutError):
        await client.wait_for(lambda entry: False, 0.05)
    with pytest.raises(TimeoutError):
        await client.wait_connected(world.bot, 0.05)


async def test_faults_and_outages_from_another_process(client: SandboxClient) -> None:
    world = await client.bootstrap()
    wanted = {"kind": "status", "method": "GET", "path": "/users/@me", "status": 503, "count": 2, "skip": 1}
    fault = (await client.call("add_fault", **wanted))["id"]
    statuses = []
    headers = {"Authorization": f"Bot {world.token}"}
    async with aiohttp.ClientSession() as session:
        for _ in range(4):
            async with session.get(f"{client.api_url}/users/@me", headers=headers) as response:
                statuses.append(response.status)
        assert statuses == [200, 503, 503, 200]
        found = await client.call("faults")
        assert [(item["id"], item["fired"]) for item in found["rest"]] == [(fault, 2)]
        await client.call("go_offline")
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{client.api_url}/users/@me", headers=headers)
        await client.call("clear_faults")
        async with session.get(f"{client.api_url}/users/@me", headers=headers) as response:
            assert response.status == 200
    statistics = await client.call("statistics")
    assert statistics["requests"]["GET /users/@me"] == 5
    assert statistics["faults"] == {"status_before": 2, "offline": 1}
    assert (await client.call("set_limits", factor=0))["factor"] == 0


async def test_control_says_what_is_wrong(client: SandboxClient) -> None:
    mistakes: list[tuple[str, dict[str, object], int]] = [
        ("nothing", {}, 404),
        ("_guild", {"guild": 1}, 404),
        ("correct", {}, 404),
        ("say", {"channel": 1}, 400),
        ("say", {"channel": 1, "author": 1, "content": "x"}, 404),
        ("add_fault", {"kind": "rain"}, 400),
        ("add_fault", {"kind": "delay", "colour": "red"}, 400),
        ("add_fault", {"kind": "delay", "path": "("}, 400),
        ("set_limits", {"colour": 1}, 400),
        ("create_bot", {"name": "b", "guild": 1}, 404),
        ("create_channel", {"guild": "one", "name": "x"}, 400),
    ]
    for method, arguments, status in mistakes:
        with pytest.raises(SandboxError) as refused:
            await client.call(method, **arguments)
        assert (method, refused.value.status) == (method, status)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--port", "99999"], 2, "'99999' is no number up to 65535"),
        (["--host", "198.51.100.1"], 1, "198.51.100.1:0 cannot be used: cannot assign requested address; name another"),
    ],
)
async def test_where_it_cannot_listen_is_told_in_a_line(arguments: list[str], status: int, words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay.sandbox", *arguments, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        _, told = await process.communicate()
    assert process.returncode == status
    assert words in told.decode().splitlines()[-1]


async def test_somebody_at_a_terminal_is_told_where_it_is() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay.sandbox", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        assert b"The sandbox is at http://127.0.0.1:" in await process.stderr.readline()
        process.terminate()
        assert await process.wait() == 0
