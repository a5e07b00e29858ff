"""The sandbox's files in plain requests: uploads, signed URLs, pictures, and downloads that break off."""

import base64

import aiohttp
import pytest

from tests.support.sandbox import Place, form


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
        (200, "image/png"), (404, "application/octet-stream"), (404, "application/octet-stream"),
        (200, "image/png"), (404, "application/octet-stream"), (200, "image/png"), (415, "application/octet-stream"),
        (200, "application/json"), (404, "application/octet-stream"),
    ]  # fmt: skip


async def test_a_download_that_breaks_off(place: Place) -> None:
    message = place.control.say(place.channel, place.ada, attachments=[{"filename": "a.bin", "zeros": 500_000}])
    place.control.add_fault("reset", method="GET", path="^/attachments/")
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        async with place.call.session.get(message["attachments"][0]["url"]) as response:
            await response.read()
