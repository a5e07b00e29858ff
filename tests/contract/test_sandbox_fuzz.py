"""Whatever is sent to the sandbox, it answers with one of Discord's own refusals, never with a failure of its own."""

import json
import random
from typing import Any

import aiohttp

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord_bot import raw

VALUES: list[Any] = [
    None, True, 0, -1, 1 << 70, 1.5, "", "x", "1", "@me", "é\u0000", [], ["1"], [1, [2]], {}, {"id": 1}, {"text": {}},
    [{"id": "1", "title": "t", "fields": [{}], "poll_media": None}], "x" * 3000,
]  # fmt: skip
FIELDS = [
    "content", "embeds", "attachments", "allowed_mentions", "message_reference", "poll", "components", "sticker_ids",
    "flags", "nonce", "enforce_nonce", "tts", "name", "avatar", "channel_id", "username", "avatar_url", "messages",
    "type", "auto_archive_duration", "archived", "topic", "attachment_urls", "parse", "users", "image",
    "description", "options", "choices", "data",
]  # fmt: skip


def _body(rng: random.Random) -> Any:
    if rng.random() < 0.1:
        return rng.choice(VALUES)
    body = {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.randint(0, 4))}
    if rng.random() < 0.3:
        body[rng.choice(FIELDS)] = {rng.choice(FIELDS): rng.choice(VALUES)}
    return body


def _paths(sandbox: SandboxServer) -> list[tuple[str, str]]:
    """Each route with IDs that exist."""
    control = sandbox.control
    made = control.bootstrap()
    control.set_bot_permissions(made["bot"], made["guild"], ["ADMINISTRATOR"])
    channel = made["channels"]["general"]
    message = control.say(channel, made["people"]["Ada"], "hello")["id"]
    hook = control.create_webhook(channel, "hook", made["bot"])
    values = {
        "channel_id": channel, "guild_id": made["guild"], "message_id": message, "user_id": made["people"]["Ben"],
        "webhook_id": hook["id"], "webhook_token": hook["token"], "emoji": "👍", "role_id": made["guild"],
        "emoji_id": "1", "sticker_id": "1", "application_id": made["bot"], "command_id": "1",
        "interaction_id": "1", "interaction_token": "x",
    }  # fmt: skip
    found = []
    for method, path in sorted(sandbox.api.routes):
        if method != "DELETE" or "{message_id}/reactions" in path:
            found.append((method, path.format(**values)))
    return found


async def test_no_request_makes_the_sandbox_fail() -> None:
    rng = random.Random(1)
    async with SandboxServer(limits=Limits(factor=0)) as sandbox:
        routes = _paths(sandbox)
        token = next(iter(sandbox.state.applications.values())).token
        statuses = set()
        async with raw(sandbox, token) as call:
            for _ in range(40):
                for method, path in routes:
                    query = {rng.choice(["limit", "after", "before", "wait", "thread_id", "query"]): rng.choice("x1-")}
                    body = json.dumps(_body(rng))
                    headers = {
                        "Content-Type": rng.choice(["application/json"] * 9 + ["multipart/form-data; boundary=b"])
                    }
                    status, answer = await call(method, path, data=body, params=query, headers=headers)
                    assert status < 500, (method, path, query, body, answer)
                    if status >= 400:
                        assert set(answer) - {"errors"} == {"message", "code"}
                    statuses.add(status)
    assert {200, 201, 204, 400, 404} <= statuses


async def test_no_frame_makes_the_gateway_fail() -> None:
    rng = random.Random(1)
    async with SandboxServer(limits=Limits(identify_every=0.0, global_per_second=10_000)) as sandbox:
        made = sandbox.control.bootstrap()
        async with aiohttp.ClientSession() as session:
            for number in range(150):
                url = f"{sandbox.sessions.gateway_url}/?v=10&encoding=json"
                async with session.ws_connect(url) as socket:
                    await socket.receive(5)
                    if number % 2:
                        data = {"token": made["token"], "intents": 513, "properties": {}}
                        await socket.send_json({"op": 2, "d": data})
                    frame: dict[str, Any] = {"op": rng.choice([1, 2, 3, 6, 8, 31, 5, "x", None])}
                    frame["d"] = rng.choice([*VALUES, {"guild_id": made["guild"], "query": 5}, {"guild_id": "x"}])
                    if rng.random() < 0.3 and isinstance(frame["d"], dict):
                        frame["d"] = frame["d"] | {"token": made["token"], "seq": rng.choice(VALUES)}
                    await socket.send_json(frame)
                    await socket.send_json({"op": 99})
                    while not socket.closed:
                        await socket.receive(5)
                    assert socket.close_code in range(4001, 4015), (frame, socket.close_code)
