"""The sandbox's REST API in plain requests: error bodies, limits and headers, as Discord's documentation gives them."""

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import at
from tests.support.discord_bot import Raw, raw


class Place:
    """A sandbox, its bot's plain requests, and what `bootstrap` made."""

    def __init__(self, sandbox: SandboxServer, call: Raw, made: dict[str, Any]) -> None:
        self.sandbox, self.call, self.control = sandbox, call, sandbox.control
        self.guild, self.bot = made["guild"], made["bot"]
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


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with SandboxServer(limits=Limits(factor=0)) as sandbox:
        made = sandbox.control.bootstrap()
        async with raw(sandbox, made["token"]) as call:
            yield Place(sandbox, call, made)


def form_error(path: str, code: str, message: str) -> dict[str, Any]:
    node: dict[str, Any] = {"_errors": [{"code": code, "message": message}]}
    for key in reversed(path.split(".") if path else []):
        node = {key: node}
    return {"message": "Invalid Form Body", "code": 50035, "errors": node}


# --- Who one is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Bot wrong", "Bearer x", ""])
async def test_a_wrong_token_is_401_with_code_0(place: Place, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    async with raw(place.sandbox, None) as call:
        answer = await call("GET", "/users/@me", headers=headers)
    assert answer == (401, {"message": "401: Unauthorized", "code": 0})


async def test_what_discord_py_asks_for_at_login(place: Place) -> None:
    status, me, headers = await place.call.full("GET", "/users/@me")
    assert (status, me["id"], me["bot"], headers["content-type"]) == (200, place.bot, True, "application/json")
    assert headers["via"]
    for path in ("/applications/@me", "/oauth2/applications/@me"):
        status, app = await place.call("GET", path)
        assert (status, app["id"], app["flags"]) == (200, place.bot, (1 << 15) | (1 << 19))
    _, gateway = await place.call("GET", "/gateway/bot")
    assert gateway["url"] == place.sandbox.sessions.gateway_url
    assert gateway["session_start_limit"] == {
        "total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/nothing/here", 0, "404: Not Found"),
        ("/channels/1", 10003, "Unknown Channel"),
        ("/channels/1/messages", 10003, "Unknown Channel"),
        ("/guilds/1", 10004, "Unknown Guild"),
        ("/users/1", 10013, "Unknown User"),
        ("/webhooks/1", 10015, "Unknown Webhook"),
        ("/webhooks/1/token", 10015, "Unknown Webhook"),
        ("/stickers/1", 10060, "Unknown Sticker"),
        ("{channel}/messages/1", 10008, "Unknown Message"),
        ("{guild}/members/{bot}0", 10013, "Unknown User"),
        ("{guild}/roles/1", 10011, "Unknown Role"),
        ("{guild}/emojis/1", 10014, "Unknown Emoji"),
    ],
)
async def test_what_does_not_exist_is_404(place: Place, path: str, code: int, message: str) -> None:
    path = path.format(channel=f"/channels/{place.channel}", guild=f"/guilds/{place.guild}", bot=place.bot)
    assert await place.call("GET", path) == (404, {"message": message, "code": code})


async def test_a_path_that_is_no_snowflake(place: Place) -> None:
    expected = form_error("channel_id", "NUMBER_TYPE_COERCE", 'Value "general" is not snowflake.')
    assert await place.call("GET", "/channels/general") == (400, expected)


async def test_a_guild_and_a_channel_that_one_is_not_in(place: Place) -> None:
    guild = place.control.create_guild("elsewhere")["id"]
    channel = place.control.create_channel(guild, "secret")["id"]
    for path in (f"/guilds/{guild}", f"/channels/{channel}", f"/channels/{channel}/messages"):
        assert await place.call("GET", path) == (403, {"message": "Missing Access", "code": 50001})


# --- Messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"content": "x" * 2001}, form_error("content", "BASE_TYPE_MAX_LENGTH", "Must be 2000 or fewer in length.")),
        (
            {"content": "x", "nonce": "n" * 26},
            form_error("nonce", "BASE_TYPE_MAX_LENGTH", "Must be 25 or fewer in length."),
        ),
        (
            {"embeds": [{"title": "t"}] * 11},
            form_error("embeds", "BASE_TYPE_MAX_LENGTH", "Must be 10 or fewer in length."),
        ),
        (
            {"embeds": [{"description": "x" * 4000}, {"description": "y" * 2001}]},
            form_error("embeds", "MAX_EMBED_SIZE_EXCEEDED", "Embed size exceeds maximum size of 6000"),
        ),
        (
            {"embeds": [{"title": "x" * 257}]},
            form_error("embeds.0.title", "BASE_TYPE_MAX_LENGTH", "Must be 256 or fewer in length."),
        ),
        (
            {"content": "x", "allowed_mentions": {"parse": ["all"]}},
            form_error(
                "allowed_mentions.parse.0", "BASE_TYPE_CHOICES",
                "Value must be one of ('users', 'roles', 'everyone').",
            ),
        ),
        (
            {"content": "x", "allowed_mentions": {"parse": ["users"], "users": ["1"]}},
            form_error(
                "allowed_mentions", "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE",
                'parse:["users"] and users: [ids...] are mutually exclusive.',
            ),
        ),
        (
            {"content": "x", "allowed_mentions": {"users": ["1", "1"]}},
            form_error(
                "allowed_mentions.users", "SET_TYPE_ALREADY_CONTAINS_VALUE", "The set already contains this value",
            ),
        ),
        (
            {"content": "x", "message_reference": {"message_id": "1"}},
            form_error("message_reference", "REPLIES_UNKNOWN_MESSAGE", "Unknown message"),
        ),
        ({"content": ["x"]}, form_error("content", "STRING_TYPE_CONVERT", "Could not interpret \"['x']\" as string.")),
        ({"content": " \n "}, {"message": "Cannot send an empty message", "code": 50006}),
        ({}, {"message": "Cannot send an empty message", "code": 50006}),
    ],
)  # fmt: skip
async def test_what_discord_refuses_to_post(place: Place, body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert await place.call("POST", place.messages, json=body) == (400, expected)
    assert await place.call("POST", await place.hook(), json=body) == (
        (400, expected) if not set(body) & {"message_reference"} else (204, None)
    )


async def test_a_body_that_is_no_json_and_one_of_another_type(place: Place) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await place.call("POST", place.messages, data=b"{nope", headers=headers)
    assert answer == (400, {"message": "The request body contains invalid JSON.", "code": 50109})
    status, body = await place.call("POST", place.messages, data=b"hello", headers={"Content-Type": "text/plain"})
    assert (status, body["code"]) == (400, 50035)
    status, body = await place.call("POST", place.messages, json=["a list"])
    assert (status, body["code"]) == (400, 50035)


async def test_the_whole_message_object_of_a_reply(place: Place) -> None:
    first = place.control.say(place.channel, place.ada, "first")
    body = {"content": " hello ", "message_reference": {"message_id": first["id"]}, "nonce": 7}
    status, message = await place.call("POST", place.messages, json=body)
    assert status == 200
    referenced = message.pop("referenced_message")
    assert (referenced["id"], "referenced_message" in referenced) == (first["id"], False)
    author = message.pop("author")
    assert (author["id"], author["bot"]) == (place.bot, True)
    assert message.pop("timestamp").endswith("+00:00")
    assert [user["id"] for user in message.pop("mentions")] == [place.ada]
    assert message == {
        "id": message["id"], "channel_id": place.channel, "type": 19, "content": "hello", "edited_timestamp": None,
        "tts": False, "mention_everyone": False, "mention_roles": [], "attachments": [], "embeds": [],
        "components": [], "pinned": False, "flags": 0, "nonce": 7,
        "message_reference": {
            "type": 0, "message_id": first["id"], "channel_id": place.channel, "guild_id": place.guild,
        },
    }  # fmt: skip
    _, again = await place.call("GET", f"{place.messages}/{message['id']}")
    assert "nonce" not in again


async def test_a_forward_has_a_snapshot_without_an_author(place: Place) -> None:
    first = place.control.say(place.channel, place.ada, "first", attachments=[{"filename": "a.txt", "zeros": 3}])
    reference = {"type": 1, "message_id": first["id"], "channel_id": place.channel}
    status, message = await place.call("POST", place.messages, json={"message_reference": reference})
    assert (status, message["content"], message["type"], message["flags"]) == (200, "", 0, 1 << 14)
    (snapshot,) = message["message_snapshots"]
    assert (snapshot["message"]["content"], "author" in snapshot["message"]) == ("first", False)
    place.control.delete(place.channel, first["id"])
    url = snapshot["message"]["attachments"][0]["url"]
    async with place.call.session.get(url) as response:
        assert (response.status, await response.read()) == (200, bytes(3))
    status, body = await place.call("POST", place.messages, json={"content": "x", "message_reference": reference})
    assert (status, body["code"]) == (400, 50035)


async def test_listing_messages_is_bounded_and_needs_the_right_to_read(place: Place) -> None:
    ids = place.control.say_many(place.channel, place.ada, ["a", "b", "c"])
    for limit, code in ((0, "NUMBER_TYPE_MIN"), (101, "NUMBER_TYPE_MAX")):
        status, body = await place.call("GET", place.messages, params={"limit": limit})
        assert (status, body["errors"]["limit"]["_errors"][0]["code"]) == (400, code)
    status, _ = await place.call("GET", place.messages, params={"before": ids[1], "after": ids[1]})
    assert status == 400
    for side, expected in (("before", [ids[0]]), ("after", [ids[2]]), ("around", [ids[2], ids[1], ids[0]])):
        _, found = await place.call("GET", place.messages, params={side: ids[1]})
        assert [message["id"] for message in found] == expected
    place.control.set_channel_permissions(place.channel, place.bot, deny=["READ_MESSAGE_HISTORY"])
    assert await place.call("GET", place.messages) == (200, [])


async def test_editing_and_deleting_what_is_not_ones_own(place: Place) -> None:
    mine = (await place.call("POST", place.messages, json={"content": "mine"}))[1]["id"]
    theirs = place.control.say(place.channel, place.ada, "theirs")["id"]
    system = place.control.say_as_system(place.channel, place.ada, 7)["id"]
    refused = (403, {"message": "Cannot edit a message authored by another user", "code": 50005})
    assert await place.call("PATCH", f"{place.messages}/{theirs}", json={"content": "x"}) == refused
    assert await place.call("PATCH", f"{place.messages}/{system}", json={"content": "x"}) == refused
    status, edited = await place.call("PATCH", f"{place.messages}/{mine}", json={"content": "mine!"})
    assert (status, edited["content"], edited["edited_timestamp"] is None) == (200, "mine!", False)
    empty = (400, {"message": "Cannot send an empty message", "code": 50006})
    assert await place.call("PATCH", f"{place.messages}/{mine}", json={"content": ""}) == empty
    place.control.set_bot_permissions(place.bot, place.guild, [])
    refused = (403, {"message": "Missing Permissions", "code": 50013})
    assert await place.call("DELETE", f"{place.messages}/{theirs}") == refused
    assert await place.call("DELETE", f"{place.messages}/{mine}") == (204, None)
    assert await place.call("DELETE", f"{place.messages}/{mine}") == (
        404,
        {"message": "Unknown Message", "code": 10008},
    )


async def test_bulk_deletion(place: Place) -> None:
    ids = place.control.say_many(place.channel, place.ada, ["a", "b", "c"])
    path = f"{place.messages}/bulk-delete"
    for wrong in ([], ids[:1], [str(number) for number in range(101)]):
        status, body = await place.call("POST", path, json={"messages": wrong})
        assert (status, body["code"]) == (400, 50035)
    old = str(at(place.sandbox.state.clock() - 15 * 86_400))
    too_old = (400, {"message": "A message provided was too old to bulk delete", "code": 50034})
    assert await place.call("POST", path, json={"messages": [ids[0], old]}) == too_old
    assert await place.call("POST", path, json={"messages": ids[:2]}) == (204, None)
    assert [message["content"] for message in place.control.messages(place.channel)] == ["c"]


async def test_reactions_and_pins(place: Place) -> None:
    message = place.control.say(place.channel, place.ada, "a")["id"]
    path = f"{place.messages}/{message}/reactions"
    assert await place.call("PUT", f"{path}/👍/@me") == (204, None)
    assert await place.call("PUT", f"{path}/x/@me") == (404, {"message": "Unknown Emoji", "code": 10014})
    assert await place.call("PUT", f"{path}/name:1/@me") == (404, {"message": "Unknown Emoji", "code": 10014})
    _, users = await place.call("GET", f"{path}/👍")
    assert [user["id"] for user in users] == [place.bot]
    _, shown = await place.call("GET", f"{place.messages}/{message}")
    assert [(item["emoji"]["name"], item["count"], item["me"]) for item in shown["reactions"]] == [("👍", 1, True)]
    assert await place.call("DELETE", f"{path}/👍/@me") == (204, None)
    assert await place.call("PUT", f"{place.messages}/pins/{message}") == (204, None)
    _, pins = await place.call("GET", f"{place.messages}/pins")
    assert [item["message"]["id"] for item in pins["items"]] == [message]
    assert [item["type"] for item in place.control.messages(place.channel)] == [0, 6]


# --- Files ----------------------------------------------------------------------------------------------------


def form(payload: dict[str, Any], *files: tuple[str, bytes]) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("payload_json", json.dumps(payload))
    for number, (name, content) in enumerate(files):
        data.add_field(f"files[{number}]", io.BytesIO(content), filename=name, content_type="application/octet-stream")
    return data


async def test_more_than_ten_files_and_a_file_or_request_too_large(place: Place) -> None:
    eleven = [(f"{number}.txt", b"x") for number in range(11)]
    status, body = await place.call("POST", place.messages, data=form({"content": "x"}, *eleven))
    assert (status, body["errors"]["attachments"]["_errors"][0]["code"]) == (400, "BASE_TYPE_MAX_LENGTH")
    mib = 1024 * 1024
    too_large = (413, {"message": "Request entity too large", "code": 40005})
    big = bytes(10 * mib + 1)
    assert await place.call("POST", place.messages, data=form({}, ("big", big))) == too_large
    three = [(f"{number}.bin", bytes(9 * mib)) for number in range(3)]
    assert await place.call("POST", place.messages, data=form({}, *three)) == too_large
    place.control.set_boost_tier(place.guild, 2)
    status, message = await place.call("POST", place.messages, data=form({}, ("big", big)))
    assert (status, message["attachments"][0]["size"]) == (200, len(big))
    # Nothing of what was refused stays on the disk.
    assert len(place.sandbox.files.listing()) == 1


async def test_an_attachment_that_the_request_does_not_contain(place: Place) -> None:
    status, body = await place.call("POST", place.messages, json={"content": "x", "attachments": [{"id": "3"}]})
    assert (status, body["code"]) == (400, 50035)


async def test_a_voice_message(place: Place) -> None:
    described = {"id": 0, "filename": "voice.ogg", "duration_secs": 1.5, "waveform": base64.b64encode(b"wave").decode()}
    payload = {"flags": 1 << 13, "attachments": [described]}
    status, message = await place.call("POST", place.messages, data=form(payload, ("voice.ogg", b"OggS")))
    (attachment,) = message["attachments"]
    assert (status, message["flags"], attachment["duration_secs"]) == (200, 1 << 13, 1.5)
    assert attachment["content_type"] == "audio/ogg"
    status, body = await place.call("POST", place.messages, data=form({"flags": 1 << 13}, ("v.ogg", b"OggS")))
    assert (status, body["code"]) == (400, 50161)


async def test_signed_urls(place: Place) -> None:
    message = place.control.say(place.channel, place.ada, attachments=[{"filename": "a b.txt", "data": "aGVsbG8="}])
    url = message["attachments"][0]["url"]
    session = place.call.session

    async def status_of(target: str) -> int:
        async with session.get(target) as response:
            return response.status

    assert await status_of(url) == 200
    assert await status_of(message["attachments"][0]["proxy_url"]) == 200
    assert await status_of(url.partition("?")[0]) == 404
    assert await status_of(url.replace("a_b.txt", "other.txt")) == 404
    assert await status_of(url.replace("hm=", "hm=0")) == 404
    place.control.expire_attachments()
    assert await status_of(url) == 404
    _, body = await place.call("POST", "/attachments/refresh-urls", json={"attachment_urls": [url]})
    (renewed,) = body["refreshed_urls"]
    assert renewed["original"] == url
    assert await status_of(renewed["refreshed"]) == 200
    assert (await place.call("POST", "/attachments/refresh-urls", json={"attachment_urls": ["http://x/"]}))[0] == 400
    place.control.delete(place.channel, message["id"])
    assert await status_of(renewed["refreshed"]) == 404


async def test_avatars_emoji_and_stickers(place: Place) -> None:
    png = {"filename": "x.png", "data": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()}
    person = place.control.create_person("eve", avatar=png)
    emoji = place.control.create_emoji(place.guild, "wave", png)
    sticker = place.control.create_sticker(place.guild, "wave", 3, {"filename": "x.json", "data": "e30="})
    hook = await place.hook()
    said = {"content": "x", "avatar_url": "https://example.org/e.png"}
    author = (await place.call("POST", hook + "?wait=1", json=said))[1]["author"]
    found = {}
    for path in (
        f"/avatars/{person['id']}/{person['avatar']}.png",
        f"/avatars/{author['id']}/{author['avatar']}.png",
        "/avatars/1/nothing.png",
        "/embed/avatars/5.png",
        "/embed/avatars/6.png",
        f"/emojis/{emoji['id']}.png",
        f"/emojis/{emoji['id']}.gif",
        f"/stickers/{sticker['id']}.json",
        f"/stickers/{sticker['id']}.png",
    ):
        async with place.call.session.get(place.sandbox.origin + path, allow_redirects=False) as response:
            found[path.rpartition("/")[2]] = response.status, response.content_type
    assert list(found.values()) == [
        (200, "image/png"), (302, "text/plain"), (404, "application/octet-stream"),
        (200, "image/png"), (404, "application/octet-stream"), (200, "image/png"), (415, "application/octet-stream"),
        (200, "application/json"), (404, "application/octet-stream"),
    ]  # fmt: skip


async def test_a_download_that_breaks_off(place: Place) -> None:
    message = place.control.say(place.channel, place.ada, attachments=[{"filename": "a.bin", "zeros": 500_000}])
    place.control.add_fault("reset", method="GET", path="^/attachments/")
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        async with place.call.session.get(message["attachments"][0]["url"]) as response:
            await response.read()


# --- Webhooks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Captain Discord", "USERNAME_INVALID_CONTAINS"),
        ("bonnie&CLYDE", "USERNAME_INVALID_CONTAINS"),
        ("x" * 81, "BASE_TYPE_BAD_LENGTH"),
        ("  ", "BASE_TYPE_BAD_LENGTH"),
        ("\u200b\u3164\u202e", "BASE_TYPE_BAD_LENGTH"),
        ("everyone", "USERNAME_INVALID_EQUALS"),
    ],
)
async def test_names_that_webhooks_may_not_have(place: Place, name: str, code: str) -> None:
    status, body = await place.call("POST", f"/channels/{place.channel}/webhooks", json={"name": name})
    assert (status, body["errors"]["name"]["_errors"][0]["code"]) == (400, code)
    status, body = await place.call("POST", await place.hook(), json={"content": "x", "username": name})
    assert (status, body["errors"]["username"]["_errors"][0]["code"]) == (400, code)


async def test_a_channel_has_fifteen_webhooks_at_most(place: Place) -> None:
    for number in range(15):
        await place.hook(f"hook {number}")
    status, body = await place.call("POST", f"/channels/{place.channel}/webhooks", json={"name": "one more"})
    assert (status, body) == (400, {"message": "Maximum number of webhooks reached (15)", "code": 30007})


async def test_what_a_webhook_says(place: Place) -> None:
    path = await place.hook()
    assert await place.call("POST", path, json={"content": "no wait"}) == (204, None)
    said = {"content": "x", "username": " Eve  of Adam ", "avatar_url": "https://example.org/e.png", "nonce": "n"}
    async with raw(place.sandbox, None) as call:
        status, message = await call("POST", path + "?wait=true", json=said)
    hook_id = path.split("/")[2]
    author = message["author"]
    assert (status, message["webhook_id"], message["application_id"], message["type"]) == (200, hook_id, place.bot, 0)
    assert (author["id"], author["username"], author["discriminator"]) == (hook_id, "Eve of Adam", "0000")
    assert (author["bot"], author["global_name"], "nonce" in message) == (True, None, False)
    status, body = await place.call("POST", path, json={"content": "x", "avatar_url": "mxc://x/y"})
    assert body["errors"]["avatar_url"]["_errors"][0]["code"] == "URL_TYPE_INVALID_SCHEME"


async def test_a_wrong_webhook_token_and_a_deleted_webhook(place: Place) -> None:
    path = await place.hook()
    wrong = path[:-4] + "AAAA"
    for method, target in (("POST", wrong), ("GET", wrong), ("DELETE", wrong + "/messages/1")):
        answer = await place.call(method, target, json={"content": "x"} if method == "POST" else None)
        assert answer == (401, {"message": "Invalid Webhook Token", "code": 50027})
    assert await place.call("DELETE", path) == (204, None)
    assert await place.call("POST", path, json={"content": "x"}) == (404, {"message": "Unknown Webhook", "code": 10015})


async def test_webhooks_of_others_show_no_token(place: Place) -> None:
    other, _ = place.control.create_bot("other", place.guild)["id"], None
    place.control.create_webhook(place.channel, "foreign", other)
    place.control.create_webhook(place.channel, "a person's", place.ada)
    await place.hook("own")
    _, listed = await place.call("GET", f"/channels/{place.channel}/webhooks")
    assert [(item["name"], "token" in item) for item in listed] == [
        ("foreign", False), ("a person's", True), ("own", True),
    ]  # fmt: skip
    _, of_guild = await place.call("GET", f"/guilds/{place.guild}/webhooks")
    assert of_guild == listed
    place.control.set_bot_permissions(place.bot, place.guild, [])
    refused = (403, {"message": "Missing Permissions", "code": 50013})
    assert await place.call("GET", f"/channels/{place.channel}/webhooks") == refused
    assert await place.call("GET", f"/guilds/{place.guild}/webhooks") == refused


async def test_a_webhook_reaches_only_its_own_messages_and_threads(place: Place) -> None:
    path, other = await place.hook(), await place.hook("other")
    thread = place.control.open_thread(place.channel, place.ada, "aside")["id"]
    _, message = await place.call("POST", f"{path}?wait=1&thread_id={thread}", json={"content": "inside"})
    assert message["channel_id"] == thread
    unknown = (404, {"message": "Unknown Message", "code": 10008})
    assert await place.call("GET", f"{path}/messages/{message['id']}") == unknown
    assert await place.call("PATCH", f"{other}/messages/{message['id']}?thread_id={thread}", json={}) == unknown
    edit = f"{path}/messages/{message['id']}?thread_id={thread}"
    status, edited = await place.call("PATCH", edit, json={"content": "changed"})
    assert (status, edited["content"]) == (200, "changed")
    status, _ = await place.call("POST", f"{path}?thread_id=1", json={"content": "nowhere"})
    assert status == 404


async def test_a_webhook_is_moved_with_its_token_and_without_its_messages(place: Place) -> None:
    path = await place.hook()
    hook = path.split("/")[2]
    staff = place.control.create_channel(place.guild, "staff")["id"]
    _, before = await place.call("POST", f"{path}?wait=1", json={"content": "here"})
    # A webhook's own token does not move it.
    await place.call("PATCH", path, json={"channel_id": staff})
    assert (await place.call("GET", path))[1]["channel_id"] == place.channel
    status, moved = await place.call("PATCH", f"/webhooks/{hook}", json={"channel_id": staff})
    assert (status, moved["channel_id"]) == (200, staff)
    _, after = await place.call("POST", f"{path}?wait=1", json={"content": "there"})
    assert (before["channel_id"], after["channel_id"]) == (place.channel, staff)
    unknown = (404, {"message": "Unknown Message", "code": 10008})
    assert await place.call("PATCH", f"{path}/messages/{before['id']}", json={"content": "x"}) == unknown
    assert await place.call("DELETE", f"{path}/messages/{before['id']}") == unknown
    elsewhere = place.control.create_channel(place.control.create_guild("Elsewhere")["id"], "far")["id"]
    assert (await place.call("PATCH", f"/webhooks/{hook}", json={"channel_id": elsewhere}))[0] in {403, 404}


async def test_webhooks_in_threads_and_forums(place: Place) -> None:
    path = await place.hook()
    thread = place.control.open_thread(place.channel, place.ada, "aside")["id"]
    _, message = await place.call("POST", f"{path}?wait=1&thread_id={thread}", json={"content": "inside"})
    mine = f"{path}/messages/{message['id']}?thread_id={thread}"
    asleep = (400, {"message": "Thread is archived", "code": 50083})
    place.control.archive_thread(thread)
    assert await place.call("PATCH", mine, json={"content": "changed"}) == asleep
    assert await place.call("DELETE", mine) == asleep
    assert await place.call("PUT", f"/channels/{thread}/thread-members/@me") == asleep
    # Whoever may write in it may open it again, and does so by writing.
    assert (await place.call("PATCH", f"/channels/{thread}", json={"archived": False}))[0] == 200
    assert (await place.call("PATCH", mine, json={"content": "changed"}))[0] == 200
    place.control.archive_thread(thread)
    await place.call("POST", f"{path}?wait=1&thread_id={thread}", json={"content": "awake"})
    assert not (await place.call("GET", f"/channels/{thread}"))[1]["thread_metadata"]["archived"]
    place.control.archive_thread(thread, locked=True)
    assert (await place.call("PATCH", f"/channels/{thread}", json={"archived": False}))[0] == 403
    status, body = await place.call("POST", f"{path}?wait=1&thread_id={thread}", json={"content": "locked"})
    assert (status, body["code"]) == (400, 160005)

    forum = place.control.create_channel(place.guild, "ideas", type=15)["id"]
    _, made = await place.call("POST", f"/channels/{forum}/webhooks", json={"name": "relay"})
    there = f"/webhooks/{made['id']}/{made['token']}"
    status, body = await place.call("POST", f"{there}?wait=1", json={"content": "nowhere"})
    assert (status, body["code"]) == (400, 220001)
    post = place.control.open_post(forum, place.ada, "an idea", "What about this?")
    assert [message["id"] for message in place.control.messages(post["id"])] == [post["id"]]
    status, message = await place.call("POST", f"{there}?wait=1&thread_id={post['id']}", json={"content": "yes"})
    assert (status, message["channel_id"]) == (200, post["id"])
    assert (await place.call("POST", f"{path}?thread_id={post['id']}", json={"content": "no"}))[0] == 404


# --- Threads, members -----------------------------------------------------------------------------------------


async def test_threads(place: Place) -> None:
    message = place.control.say(place.channel, place.ada, "root")["id"]
    path = f"{place.messages}/{message}/threads"
    status, thread = await place.call("POST", path, json={"name": "aside"})
    assert (status, thread["id"], thread["type"], thread["parent_id"]) == (201, message, 11, place.channel)
    assert await place.call("POST", path, json={"name": "again"}) == (
        400, {"message": "A thread has already been created for this message", "code": 160004},
    )  # fmt: skip
    _, private = await place.call("POST", f"/channels/{place.channel}/threads", json={"name": "quiet"})
    assert private["type"] == 12
    _, active = await place.call("GET", f"/guilds/{place.guild}/threads/active")
    assert {item["id"] for item in active["threads"]} == {thread["id"], private["id"]}
    _, root = await place.call("GET", f"{place.messages}/{message}")
    assert (root["thread"]["id"], root["flags"] & 32) == (message, 32)
    place.control.archive_thread(message, locked=True)
    place.control.set_bot_permissions(place.bot, place.guild, [])
    status, body = await place.call("POST", f"/channels/{message}/messages", json={"content": "late"})
    assert (status, body["code"]) == (400, 160005)


async def test_members_need_the_intent_of_the_portal_and_can_be_searched(place: Place) -> None:
    _, found = await place.call("GET", f"/guilds/{place.guild}/members/search", params={"query": "AD", "limit": 5})
    assert [member["user"]["id"] for member in found] == [place.ada]
    _, everybody = await place.call("GET", f"/guilds/{place.guild}/members", params={"limit": 1000})
    assert len(everybody) == 4
    place.control.set_intents(place.bot, members=False)
    assert (await place.call("GET", f"/guilds/{place.guild}/members"))[0] == 403


async def test_without_the_portals_message_content_the_rest_api_is_blank_too(place: Place) -> None:
    place.control.say(place.channel, place.ada, "secret")
    await place.call("POST", place.messages, json={"content": "own"})
    place.control.set_intents(place.bot, message_content=False)
    _, found = await place.call("GET", place.messages)
    assert [message["content"] for message in found] == ["own", ""]


# --- Rate limits ----------------------------------------------------------------------------------------------


async def test_a_bucket_runs_out_and_says_so(place: Place) -> None:
    place.control.set_limits(factor=1)
    for left in (4, 3, 2, 1, 0):
        status, _, headers = await place.call.full("POST", place.messages, json={"content": "x"})
        assert (status, headers["x-ratelimit-remaining"], headers["x-ratelimit-limit"]) == (200, str(left), "5")
    status, body, headers = await place.call.full("POST", place.messages, json={"content": "x"})
    assert (status, body["message"], body["global"]) == (429, "You are being rate limited.", False)
    assert 0 < body["retry_after"] <= 5
    assert (headers["x-ratelimit-scope"], headers["via"]) == ("user", "1.1 google")
    assert int(headers["retry-after"]) >= body["retry_after"]
    assert headers["x-ratelimit-bucket"]
    other = place.control.create_channel(place.guild, "other")["id"]
    assert (await place.call("POST", f"/channels/{other}/messages", json={"content": "x"}))[0] == 200


async def test_the_global_limit_and_the_ban_after_too_many_invalid_requests(place: Place) -> None:
    place.control.set_limits(factor=1, global_per_second=3, invalid_per_ten_minutes=4)
    answers = [await place.call.full("GET", "/users/@me") for _ in range(6)]
    assert [status for status, _, _ in answers][:4] == [200, 200, 200, 429]
    assert (answers[3][1]["global"], answers[3][2]["x-ratelimit-scope"]) == (True, "global")
    async with raw(place.sandbox, "wrong") as call:
        while not place.control.statistics()["invalid"]["banned"]:
            await call("GET", "/users/@me")
        status, body, headers = await call.full("GET", "/users/@me")
    assert (status, body, "via" in headers) == (429, "error code: 1015", False)
    place.control.lift_ban()
    assert not place.control.statistics()["invalid"]["banned"]


async def test_the_allowance_that_no_header_shows(place: Place) -> None:
    path = await place.hook()
    place.control.set_limits(factor=1, webhooks_per_minute=2)
    statuses = [(await place.call("POST", path, json={"content": "x"}))[0] for _ in range(3)]
    assert statuses == [204, 204, 429]
    _, body, headers = await place.call.full("POST", path, json={"content": "x"})
    assert (headers["x-ratelimit-scope"], headers["x-ratelimit-remaining"] != "0") == ("shared", True)
    assert body["retry_after"] > 50
    assert place.control.statistics()["invalid"]["recent"] == 0
