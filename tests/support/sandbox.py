"""A sandbox, and plain requests to its REST API."""

import io
import json
from typing import Any

import aiohttp

from relay.sandbox.server import SandboxServer
from tests.support.discord_bot import Raw


class Place:
    """A sandbox, its bot's plain requests, and what `bootstrap` made."""

    def __init__(self, sandbox: SandboxServer, call: Raw, made: dict[str, Any]) -> None:
        self.sandbox, self.call, self.control = sandbox, call, sandbox.control
        self.guild, self.bot, self.token = made["guild"], made["bot"], made["token"]
        self.channel = made["channels"]["general"]
        self.ada = made["people"]["Ada"]

    @property
    def messages(self) -> str:
        return f"/channels/{self.channel}/messages"

    async def hook(self, name: str = "relay") -> str:
        """The path of a new webhook."""
        status, made = await self.call("POST", f"/channels/{self.channel}/webhooks", json={"name": name})
        assert status == 200, made
        return f"/webhooks/{made['id']}/{made['token']}"


def form_error(path: str, code: str, message: str) -> dict[str, Any]:
    node: dict[str, Any] = {"_errors": [{"code": code, "message": message}]}
    for key in reversed(path.split(".") if path else []):
        node = {key: node}
    return {"message": "Invalid Form Body", "code": 50035, "errors": node}


def form(payload: dict[str, Any], *files: tuple[str, bytes]) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("payload_json", json.dumps(payload))
    for number, (name, content) in enumerate(files):
        data.add_field(f"files[{number}]", io.BytesIO(content), filename=name, content_type="application/octet-stream")
    return data
