"""The sandbox's application emoji, and the pictures of webhooks that it fetches as Discord does."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.discord_bot import logged_in, raw
from tests.support.patience import PATIENCE
from tests.support.pictures import data_uri, moving, still
from tests.support.sandbox import Place, form_error


async def _made(place: Place, name: str = "face", data: bytes | None = None, kind: str = "image/png") -> dict[str, Any]:
    body = {"name": name, "image": data_uri(data or still(), kind)}
    status, made = await place.call("POST", f"/applications/{place.bot}/emojis", json=body)
    assert status == 201, made
    return dict(made)


async def test_the_life_of_an_application_emoji(place: Place) -> None:
    path = f"/applications/{place.bot}/emojis"
    assert await place.call("GET", path) == (200, {"items": []})
    made = await _made(place)
    assert (made["name"], made["animated"], made["roles"], made["user"]["id"]) == ("face", False, [], place.bot)
    assert (made["require_colons"], made["managed"], made["available"]) == (True, False, True)
    assert await place.call("GET", path) == (200, {"items": [made]})
    assert await place.call("GET", f"{path}/{made['id']}") == (200, made)
    renamed = made | {"name": "other"}
    assert await place.call("PATCH", f"{path}/{made['id']}", json={"name": "other"}) == (200, renamed)
    taken = form_error("name", "APPLICATION_EMOJI_NAME_ALREADY_TAKEN", "This emoji name is already taken")
    assert await place.call("POST", path, json={"name": "other", "image": data_uri(still())}) == (400, taken)
    assert await place.call("DELETE", f"{path}/{made['id']}") == (204, None)
    unknown = (404, {"message": "Unknown Emoji", "code": 10014})
    for method in ("GET", "PATCH", "DELETE"):
        assert await place.call(method, f"{path}/{made['id']}", json={}) == unknown
    assert not [entry for entry in place.sandbox.journal.after(0) if "EMOJI" in entry["event"]]


async def test_only_ones_own_application(place: Place) -> None:
    other = place.control.create_bot("other", place.guild)["id"]
    refused = {"message": "You are not authorized to perform this action on this application", "code": 20012}
    assert await place.call("GET", f"/applications/{other}/emojis") == (403, refused)
    async with raw(place.sandbox, None) as anonymous:
        assert (await anonymous("GET", f"/applications/{place.bot}/emojis"))[0] == 401


async def test_both_mistakes_are_told_at_once(place: Place) -> None:
    status, body = await place.call("POST", f"/applications/{place.bot}/emojis", json={"name": "-", "image": "x"})
    assert (status, body["code"], sorted(body["errors"])) == (400, 50035, ["image", "name"])


async def test_two_thousand_are_the_most(place: Place) -> None:
    app = place.sandbox.state.applications[int(place.bot)]
    file = place.sandbox.files.put(still())
    for number in range(1999):
        place.sandbox.state.add_application_emoji(app, f"e{number}", file, app.user)
    await _made(place)
    full = {"message": "Maximum number of emojis reached (2000)", "code": 30008}
    path = f"/applications/{place.bot}/emojis"
    assert await place.call("POST", path, json={"name": "more", "image": data_uri(still())}) == (400, full)


async def test_emoji_have_an_allowance_that_no_header_shows() -> None:
    async with SandboxServer(limits=Limits(emojis_per_hour=2)) as sandbox:
        made = sandbox.control.bootstrap()
        path = f"/applications/{made['bot']}/emojis"
        async with raw(sandbox, made["token"]) as call:
            answers = [
                await call.full("POST", path, json={"name": f"e{number}", "image": data_uri(still())})
                for number in range(3)
            ]
            listed = await call.full("GET", path)
    assert [status for status, _, _ in answers] == [201, 201, 429]
    assert not [name for _, _, headers in answers[:2] for name in headers if name.startswith("x-ratelimit")]
    _, body, headers = answers[2]
    assert 3590 < body["retry_after"] <= 3600
    assert (headers["x-ratelimit-scope"], body["global"]) == ("shared", False)
    assert listed[2]["x-ratelimit-remaining"] == "9"


async def test_the_cdn_shows_an_emoji_to_anybody(place: Place) -> None:
    small = await _made(place, "small", still("PNG", 300, 150))
    dancing = await _made(place, "dancing", moving(), "image/gif")
    found = []
    async with raw(place.sandbox, None) as anonymous:
        for path in (
            f"{small['id']}.webp", f"{small['id']}.png?size=32", f"{small['id']}.gif", f"{small['id']}.svg",
            f"{small['id']}.png?size=33", f"{dancing['id']}.gif", f"{dancing['id']}.webp",
            f"{dancing['id']}.webp?animated=true", "1.webp",
        ):  # fmt: skip
            async with anonymous.session.get(f"{place.sandbox.origin}/emojis/{path}") as response:
                found.append((response.status, _shape(await response.read())))
    assert found == [
        (200, ("WEBP", (128, 64), 1)), (200, ("PNG", (32, 16), 1)), (415, None), (415, None), (400, None),
        (200, ("GIF", (64, 64), 3)), (200, ("WEBP", (64, 64), 1)), (200, ("WEBP", (64, 64), 3)), (404, None),
    ]  # fmt: skip


def _shape(data: bytes) -> tuple[str | None, tuple[int, int], int] | None:
    if not data or data.startswith(b"4"):
        return None
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size, getattr(image, "n_frames", 1)


async def test_what_the_operator_does_in_the_developer_portal(place: Place) -> None:
    png = {"filename": "x.png", "data": base64.b64encode(still()).decode()}
    logo = place.control.create_application_emoji(place.bot, "logo", png)
    await _made(place)
    names = {item["name"]: item["user"]["id"] for item in place.control.application_emojis(place.bot)}
    assert names["face"] == place.bot
    assert names["logo"] not in {place.bot, place.ada}
    place.control.delete_application_emoji(place.bot, logo["id"])
    assert [item["name"] for item in place.control.application_emojis(place.bot)] == ["face"]


async def test_discordpy_uploads_renames_and_deletes(place: Place) -> None:
    token = place.sandbox.state.applications[int(place.bot)].token
    async with logged_in(place.sandbox, token) as bot:
        made = await bot.create_application_emoji(name="face", image=moving())
        assert (made.name, made.animated, made.is_application_owned()) == ("face", True, True)
        await made.edit(name="other")
        assert [emoji.name for emoji in await bot.fetch_application_emojis()] == ["other"]
        assert (await bot.fetch_application_emoji(made.id)).name == "other"
        await made.delete()
        assert await bot.fetch_application_emojis() == []


# --- The pictures of webhooks -----------------------------------------------------------------------------


class PictureServer:
    """Answers at loopback with what a test puts there; remembers who asked."""

    def __init__(self) -> None:
        self.pages: dict[str, web.Response] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, dict(request.headers)))
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        return web.Response(status=page.status, body=page.body, headers=page.headers)


@pytest.fixture
async def pictures() -> AsyncIterator[PictureServer]:
    server = PictureServer()
    application = web.Application()
    application.router.add_get("/{tail:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def _said(place: Place, url: str) -> dict[str, Any]:
    """A webhook's message with this picture, as it is shown once the picture has been fetched."""
    message = place.control.say_as_webhook((await place.hook()).split("/")[2], "x", avatar_url=url)
    await asyncio.wait_for(place.sandbox.avatars.settled(url), PATIENCE)
    return dict(place.control.message(place.channel, message["id"]))


async def _served(place: Place, message: dict[str, Any]) -> int:
    author = message["author"]
    url = f"{place.sandbox.origin}/avatars/{author['id']}/{author['avatar']}.png"
    async with place.call.session.get(url, allow_redirects=False) as response:
        return response.status


async def test_the_picture_of_a_webhook_is_fetched_once_and_without_credentials(
    place: Place, pictures: PictureServer
) -> None:
    pictures.pages["/a.png"] = web.Response(body=still(), content_type="image/png")
    url = f"{pictures.url}/a.png"
    message = await _said(place, url)
    seen = message["webhook_avatar"]
    assert (seen["error"], seen["status"], seen["content_type"]) == (None, 200, "image/png")
    assert (seen["width"], seen["height"], seen["size"], seen["pending"]) == (64, 64, len(still()), False)
    await _said(place, url)
    ((path, headers),) = pictures.asked
    assert (path, {"Authorization", "Cookie", "User-Agent"} & set(headers)) == ("/a.png", set())
    assert await _served(place, message) == 200
    assert [item["url"] for item in place.control.avatars()] == [url]
    (told,) = place.sandbox.journal.after(0, event="SANDBOX_AVATAR")
    assert told["data"] == seen


async def test_a_dead_picture_is_seen_and_tried_again(place: Place, pictures: PictureServer) -> None:
    url = f"{pictures.url}/later.png"
    message = await _said(place, url)
    assert (message["webhook_avatar"]["error"], await _served(place, message)) == ("status 404", 404)
    pictures.pages["/later.png"] = web.Response(body=still("WEBP"), content_type="image/webp")
    message = await _said(place, url)
    assert (message["webhook_avatar"]["error"], message["webhook_avatar"]["fetches"]) == (None, 2)
    assert await _served(place, message) == 200


async def test_what_counts_as_dead(place: Place, pictures: PictureServer) -> None:
    pictures.pages |= {
        "/page": web.Response(text="<p>log in first</p>", content_type="text/html"),
        "/lie.png": web.Response(text="no picture", content_type="image/png"),
        "/drawing.svg": web.Response(text="<svg/>", content_type="image/svg+xml"),
        "/huge.png": web.Response(body=still() + bytes(9 << 20), content_type="image/png"),
        "/loop": web.Response(status=302, headers={"Location": "/loop"}),
        "/away": web.Response(status=302, headers={"Location": "https://example.org/a.png"}),
        "/here": web.Response(status=302, headers={"Location": "/a.png"}),
        "/a.png": web.Response(body=still(), content_type="image/png"),
    }
    errors = {path: (await _said(place, pictures.url + path))["webhook_avatar"]["error"] for path in pictures.pages}
    foreign = (await _said(place, "https://example.org/e.png"))["webhook_avatar"]
    not_asked = "not asked: the sandbox fetches from loopback addresses only"
    assert errors == {
        "/page": "no picture, but text/html",
        "/lie.png": "no picture, but image/png",
        "/drawing.svg": "no picture, but image/svg+xml",
        "/huge.png": "larger than 8388608 bytes",
        "/loop": "too many redirects",
        "/away": not_asked,
        "/here": None,
        "/a.png": None,
    }
    assert (foreign["error"], foreign["status"]) == (not_asked, None)


async def test_an_emoji_is_a_picture_for_a_webhook_until_it_is_deleted(place: Place) -> None:
    made = await _made(place)
    url = f"{place.sandbox.origin}/emojis/{made['id']}.webp"
    old = await _said(place, url)
    assert (old["webhook_avatar"]["error"], old["webhook_avatar"]["content_type"]) == (None, "image/webp")
    assert (await place.call("DELETE", f"/applications/{place.bot}/emojis/{made['id']}"))[0] == 204
    assert await _served(place, old) == 200  # Discord keeps its copy
    fresh = await _said(place, url + "?size=128")
    assert fresh["webhook_avatar"]["error"] == "status 404"
