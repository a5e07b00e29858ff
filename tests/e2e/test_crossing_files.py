"""Every kind of file, sticker and emoji through the real daemon, beside what `test_files.py` shows."""

import base64
import struct
import zlib
from typing import Any

import pytest

from relay.sandbox.messages.media import flat_png
from tests.support.chat import Chat, file, stored
from tests.support.encrypted import encrypted
from tests.support.lottie import drawing

pytestmark = pytest.mark.asyncio(loop_scope="session")

PNG = flat_png(0x336699, 48)
GIF = base64.b64decode("R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")
OGG = b"OggS" + bytes(60)
MP4 = b"\0\0\0\x18ftypmp42" + bytes(500)


def animated_png() -> bytes:
    """A PNG that says of itself that it is animated (https://wiki.mozilla.org/APNG_Specification)."""
    control = struct.pack(">II", 1, 0)
    chunk = struct.pack(">I", len(control)) + b"acTL" + control + struct.pack(">I", zlib.crc32(b"acTL" + control))
    return PNG[:33] + chunk + PNG[33:]


def encoded(data: bytes) -> dict[str, Any]:
    return {"data": base64.b64encode(data).decode()}


@pytest.mark.crosses("files", "to_matrix")
@pytest.mark.crosses("voice messages", "to_matrix")
async def test_sounds_and_moving_pictures_to_matrix(chat: Chat) -> None:
    chat.say(
        "listen",
        attachments=[
            file("song.mp3", b"ID3" + bytes(40), duration_secs=61.25),
            file("SPOILER_clip.mp4", MP4, width=320, height=180, duration_secs=4.0, description="the *end*"),
            file("loop.gif", GIF),
        ],
    )
    chat.say(raw={"flags": 1 << 13}, attachments=[file("v.ogg", OGG, duration_secs=2.5, waveform="AID/")])
    song, clip, loop, voice = [message.content for message in await chat.on_matrix(4)]
    assert (song["msgtype"], song["filename"], song["body"]) == ("m.audio", "song.mp3", "Ada: listen")
    assert song["info"] == {"mimetype": "audio/mpeg", "size": 43, "duration": 61250}
    assert "org.matrix.msc3245.voice" not in song
    assert clip["msgtype"] == "m.video"
    assert clip["page.codeberg.everypizza.msc4193.spoiler"] is True
    assert clip["info"] == {"mimetype": "video/mp4", "size": len(MP4), "w": 320, "h": 180, "duration": 4000}
    assert clip["body"].endswith("[Spoiler]")
    assert "data-mx-spoiler>the *end*</span>" in clip["formatted_body"]
    assert (loop["msgtype"], loop["info"]["mimetype"]) == ("m.image", "image/gif")
    assert voice["org.matrix.msc1767.audio"] == {"duration": 2500, "waveform": [0, 515, 1024]}
    assert "org.matrix.msc3245.voice" in voice
    for content, data in ((clip, MP4), (loop, GIF), (voice, OGG)):
        assert (await chat.stack.mia.download(content["url"]))[0] == data


@pytest.mark.crosses("files", "to_discord")
async def test_a_file_that_was_encrypted(chat: Chat) -> None:
    secret, key = encrypted(PNG)
    uri = await chat.upload(secret, "application/octet-stream")
    content = {"msgtype": "m.image", "body": "cat.png", "info": {"mimetype": "image/png", "size": len(PNG)}}
    await chat.tell(content | {"file": {"url": uri, **key}})
    await chat.tell(content | {"file": {"url": uri, **key, "hashes": encrypted(b"other")[1]["hashes"]}})
    message, named = await chat.on_discord(2)
    [picture] = message["attachments"]
    assert (picture["filename"], picture["content_type"]) == ("cat.png", "image/png")
    assert await stored(picture["url"]) == PNG
    assert named["attachments"] == []
    assert "cat.png" in named["content"]
    assert "not what its sender encrypted" in named["content"]


@pytest.mark.crosses("files", "to_discord")
async def test_a_picture_between_words(chat: Chat) -> None:
    uri = await chat.upload(PNG, "image/png")
    await chat.html(f'see <img src="{uri}" alt="the diagram"> there')
    [message] = await chat.on_discord()
    assert message["content"] == "see the diagram there"
    [picture] = message["attachments"]
    assert (picture["description"], picture["content_type"]) == ("the diagram", "image/png")
    assert await stored(picture["url"]) == PNG


@pytest.mark.crosses("files", "to_discord")
@pytest.mark.crosses("voice messages", "to_discord")
async def test_sounds_and_moving_pictures_to_discord(chat: Chat) -> None:
    video, voice = await chat.upload(MP4, "video/mp4"), await chat.upload(OGG, "audio/ogg")
    info = {"mimetype": "video/mp4", "size": len(MP4), "w": 320, "h": 180, "duration": 4000}
    await chat.tell(
        {
            "msgtype": "m.video",
            "body": "see the end",
            "filename": "clip.mp4",
            "url": video,
            "info": info,
            "format": "org.matrix.custom.html",
            "formatted_body": "see the <b>end</b>",
            "page.codeberg.everypizza.msc4193.spoiler": True,
        }
    )
    await chat.tell({"msgtype": "m.audio", "body": "song.ogg", "url": voice, "info": {"mimetype": "audio/ogg"}})
    details = {"duration": 2500, "waveform": [0, 515, 1024]}
    sound = {"msgtype": "m.audio", "body": "Voice message", "url": voice, "info": {"mimetype": "audio/ogg"}}
    await chat.tell(sound | {"org.matrix.msc3245.voice": {}, "org.matrix.msc1767.audio": details})
    await chat.tell({"msgtype": "m.file", "body": "../../etc/passwd", "url": voice, "info": {}})
    shown = await chat.on_discord(4)
    assert [message["content"] for message in shown] == ["see the **end**", "", "", ""]
    attached = [message["attachments"] for message in shown]
    names = [[one["filename"] for one in files] for files in attached]
    assert names[:3] == [["SPOILER_clip.mp4"], ["song.ogg"], ["Voice_message.ogg"]]
    assert not any(sign in names[3][0] for sign in ("/", "\\"))
    for (one,), data in zip(attached, (MP4, OGG, OGG, OGG), strict=True):
        assert await stored(one["url"]) == data
    assert attached[0][0]["content_type"] == "video/mp4"


@pytest.mark.crosses("files", "to_discord")
async def test_a_file_that_answers_somebody(chat: Chat) -> None:
    question = chat.say("which cat?")
    (copy,) = await chat.on_matrix()
    uri = await chat.upload(PNG, "image/png")
    relation = {"m.in_reply_to": {"event_id": copy.event_id}}
    await chat.tell({"msgtype": "m.image", "body": "cat.png", "url": uri, "m.relates_to": relation})
    _, answer = await chat.on_discord(2)
    assert answer["content"].startswith("> [↪ Ada](")
    assert answer["content"].endswith(f"/{question}>): which cat?")
    assert [one["filename"] for one in answer["attachments"]] == ["cat.png"]


@pytest.mark.crosses("stickers", "to_matrix", "to_discord")
async def test_moving_stickers(chat: Chat) -> None:
    control, guild = chat.stack.control, chat.stack.guild
    moving = control.create_sticker(guild, "hop", 2, encoded(animated_png()), description="a hare that hops")
    flash = control.create_sticker(guild, "flash", 4, encoded(GIF))
    chat.say(stickers=[moving["id"]])
    chat.say("and", stickers=[flash["id"]])
    first, second = await chat.on_matrix(2)
    assert first.msgtype == second.msgtype == "m.image"
    assert (await chat.stack.mia.download(first.content["url"]))[0] == animated_png()
    assert (await chat.stack.mia.download(second.content["url"])) == (GIF, "image/gif")
    assert second.body == "Ada: and\nflash"
    uri = await chat.upload(GIF, "image/gif")
    await chat.tell({"body": "hooray", "url": uri, "info": {"mimetype": "image/gif"}}, kind="m.sticker")
    *_, sticker = await chat.on_discord(3)
    assert [(one["filename"], one["description"]) for one in sticker["attachments"]] == [("hooray.gif", "hooray")]
    assert await stored(sticker["attachments"][0]["url"]) == GIF


@pytest.mark.crosses("stickers", "to_matrix")
async def test_drawn_stickers(chat: Chat) -> None:
    wave = chat.stack.control.create_sticker(chat.stack.guild, "wave", 3, encoded(drawing()))
    for _ in range(2):
        chat.say(stickers=[wave["id"]])
    first, second = [message.content for message in await chat.on_matrix(2)]
    assert (first["msgtype"], first["filename"]) == ("m.image", "wave.webp")
    data, kind = await chat.stack.mia.download(first["url"])
    assert (kind, data[:4], data[8:12], b"ANIM" in data) == ("image/webp", b"RIFF", b"WEBP", True)
    assert first["info"]["size"] == len(data)
    # Uploaded once.
    assert (second["url"], second["filename"]) == (first["url"], first["filename"])


@pytest.mark.crosses("custom emoji", "to_matrix", "to_discord")
async def test_custom_emoji(chat: Chat) -> None:
    party = chat.stack.control.create_emoji(chat.stack.guild, "party", encoded(GIF), animated=True)
    chat.say(f"hooray <a:party:{party['id']}>")
    (copy,) = await chat.on_matrix()
    assert copy.body == "Ada: hooray :party:"
    uri = copy.formatted_body.partition('src="')[2].partition('"')[0]
    assert await chat.stack.mia.download(uri) == (GIF, "image/gif")
    await chat.html('<img data-mx-emoticon src="mxc://example.org/nobodys" alt=":blobcat:" height="32"> hi')
    assert (await chat.words(2))[1] == "\\:blobcat: hi"
    # The server's own of that name, also one that it has only just got.
    blobcat = chat.stack.control.create_emoji(chat.stack.guild, "blobcat", encoded(PNG))
    # Discord tells of it before this, and what comes from Matrix may be quicker.
    chat.say("a new one")
    await chat.on_matrix(3)
    both = "".join(f'<img data-mx-emoticon src="mxc://example.org/x" alt=":{name}:">' for name in ("party", "blobcat"))
    await chat.html(f"{both} :party:")
    assert (await chat.words(4))[3] == f"<a:party:{party['id']}><:blobcat:{blobcat['id']}> \\:party:"


@pytest.mark.crosses("a file over", "to_matrix", "to_discord")
async def test_files_that_are_too_large_are_linked(chat: Chat) -> None:
    # Synapse takes 50 MiB; a server without boosts 10 MiB.
    message = chat.say("the film", attachments=[{"filename": "film.mp4", "zeros": 52_500_000}])
    (copy,) = await chat.on_matrix()
    url = chat.stack.on_discord(chat.pair)[0]["attachments"][0]["url"].partition("?")[0]
    assert copy.msgtype == "m.text"
    assert "film.mp4" in copy.body
    assert "52.5 MB" in copy.body
    assert f'<a href="{url}' in copy.formatted_body
    # That address ends after a day, the message's does not.
    where = f"https://discord.com/channels/{chat.stack.guild}/{chat.channel}/{message}"
    assert copy.formatted_body.endswith(f' · <a href="{where}">message</a></p>')
    uri = await chat.upload(bytes(10_500_000), "application/zip")
    info = {"size": 10_500_000}
    event = await chat.tell({"msgtype": "m.file", "body": "all.zip", "url": uri, "info": info})
    words = (await chat.words(2))[1]
    assert words.startswith("*file:* [all.zip](<https://matrix.to/#/")
    assert event in words
    assert "10.5 MB" in words
