"""The sandbox's webhooks in plain requests: names, tokens, what they reach, threads and forums."""

import pytest

from tests.support.discord_bot import raw
from tests.support.sandbox import Place


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
