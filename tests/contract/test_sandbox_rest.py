"""The sandbox's REST API in plain requests: error bodies, limits and headers, as Discord's documentation gives them."""

from typing import Any

import pytest

from relay.sandbox.errors import ApiError
from relay.sandbox.world.models import at
from tests.support.discord_bot import raw
from tests.support.sandbox import Place, form_error

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
    assert (gateway["url"], gateway["shards"]) == (place.sandbox.sessions.gateway_url, 1)
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


async def test_bans_are_listed_to_bots_that_may_ban(place: Place) -> None:
    path = f"/guilds/{place.guild}/bans"
    assert await place.call("GET", path) == (403, {"message": "Missing Permissions", "code": 50013})
    place.control.set_bot_permissions(place.bot, place.guild, ["BAN_MEMBERS", "VIEW_CHANNEL"])
    gone = sorted((place.control.create_person(f"gone{number}")["id"] for number in range(3)), key=int)
    for user in gone:
        place.control.ban(place.guild, user, reason="spam")
    _, found = await place.call("GET", f"{path}?limit=2")
    assert [(ban["user"]["id"], ban["reason"]) for ban in found] == [(user, "spam") for user in gone[:2]]
    _, found = await place.call("GET", f"{path}?limit=2&after={gone[1]}")
    assert [ban["user"]["id"] for ban in found] == gone[2:]
    _, found = await place.call("GET", f"{path}?limit=1&before={gone[2]}")
    assert [ban["user"]["id"] for ban in found] == [gone[1]]
    assert (await place.call("GET", f"{path}?limit=1001"))[0] == 400
    assert (await place.call("GET", f"{path}/{gone[0]}"))[1]["user"]["id"] == gone[0]
    place.control.unban(place.guild, gone[0])
    assert await place.call("GET", f"{path}/{gone[0]}") == (404, {"message": "Unknown Ban", "code": 10026})
    with pytest.raises(ApiError, match="Unknown Ban"):
        place.control.unban(place.guild, gone[0])
    with pytest.raises(ApiError, match="banned"):
        place.control.join(place.guild, gone[1])


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


async def test_the_allowance_that_no_header_shows(place: Place) -> None:
    path = await place.hook()
    place.control.set_limits(factor=1, webhooks_per_minute=2)
    statuses = [(await place.call("POST", path, json={"content": "x"}))[0] for _ in range(3)]
    assert statuses == [204, 204, 429]
    _, body, headers = await place.call.full("POST", path, json={"content": "x"})
    assert (headers["x-ratelimit-scope"], headers["x-ratelimit-remaining"] != "0") == ("shared", True)
    assert body["retry_after"] > 50
    assert place.control.statistics()["invalid"]["recent"] == 0


async def test_the_audit_log_is_shown_to_bots_that_may_view_it(place: Place) -> None:
    path = f"/guilds/{place.guild}/audit-logs"
    place.control.set_bot_permissions(place.bot, place.guild, ["BAN_MEMBERS", "VIEW_CHANNEL"])
    assert (await place.call("GET", path))[0] == 403
    place.control.set_bot_permissions(place.bot, place.guild, ["VIEW_AUDIT_LOG", "VIEW_CHANNEL"])
    mal = place.control.create_person("mal")["id"]
    place.control.ban(place.guild, mal, reason="spam", by=place.ada)
    place.control.unban(place.guild, mal)
    _, log = await place.call("GET", path)
    assert [(one["action_type"], one["target_id"]) for one in log["audit_log_entries"]] == [
        (23, mal),
        (22, mal),
    ]
    assert {one["id"] for one in log["users"]} >= {place.ada, mal}
    _, log = await place.call("GET", f"{path}?action_type=22&user_id={place.ada}&limit=1")
    assert [(one["user_id"], one["reason"]) for one in log["audit_log_entries"]] == [(place.ada, "spam")]
    assert (await place.call("GET", f"{path}?limit=101"))[0] == 400
