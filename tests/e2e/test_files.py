"""Files, stickers and emoji through the real daemon, between the sandbox and a real homeserver."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from relay.sandbox.messages.media import GREY_JPEG, flat_png
from tests.support.chat import file, stored
from tests.support.homeserver import ForkedHomeserver
from tests.support.patience import PATIENCE
from tests.support.stack import FullStack, eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PNG = flat_png(0x336699, 48)


@pytest.mark.crosses("files", "to_matrix")
@pytest.mark.crosses("voice messages", "to_matrix")
async def test_files_cross_to_matrix_each_as_what_it_is(own_pair: FullStack) -> None:
    waveform = base64.b64encode(bytes([0, 128, 255])).decode()
    own_pair.say(
        "help",
        "look at these",
        attachments=[
            file("SPOILER_cat.png", PNG, description="a **blue** cat"),
            file("film.mp4", b"\0\0\0\x18ftypmp42" + bytes(500), width=640, height=360, duration_secs=2.5),
            file("notes.pdf", b"%PDF-1.7\n", content_type="text/plain"),
        ],
    )
    own_pair.say(
        "help",
        "",
        raw={"flags": 1 << 13},
        attachments=[file("voice.ogg", b"OggS" + bytes(99), duration_secs=1.5, waveform=waveform)],
    )
    await own_pair.until_matrix("help", lambda words: len(words) == 4)
    image, film, notes, voice = [message.content for message in await own_pair.on_matrix("help")]
    assert image["msgtype"] == "m.image"
    assert image["body"] == "Ada: look at these\n[Spoiler]"
    assert "data-mx-spoiler>a **blue** cat</span>" in image["formatted_body"]
    assert image["filename"] == "SPOILER_cat.png"
    assert image["page.codeberg.everypizza.msc4193.spoiler"] is True
    assert image["info"] == {"mimetype": "image/png", "size": len(PNG), "w": 48, "h": 48}
    assert await own_pair.mia.download(image["url"]) == (PNG, "image/png")
    assert film["msgtype"] == "m.video"
    assert film["body"] == "Ada: "
    still = film["info"].pop("thumbnail_url")
    assert await own_pair.mia.download(still) == (GREY_JPEG, "image/jpeg")
    assert film["info"].pop("thumbnail_info") == {"mimetype": "image/jpeg", "size": len(GREY_JPEG), "w": 640, "h": 360}
    assert film["info"] == {"mimetype": "video/mp4", "size": 512, "w": 640, "h": 360, "duration": 2500}
    assert notes["msgtype"] == "m.file"
    assert notes["info"]["mimetype"] == "application/pdf"
    assert voice["msgtype"] == "m.audio"
    assert voice["org.matrix.msc3245.voice"] == {}
    assert voice["org.matrix.msc1767.audio"] == {"duration": 1500, "waveform": [0, 515, 1024]}


@pytest.mark.crosses("files", "to_discord")
@pytest.mark.crosses("voice messages", "to_discord")
async def test_files_cross_to_discord(own_pair: FullStack) -> None:
    room = own_pair.rooms["help"]
    uri = await own_pair.mia.upload(PNG, "image/png", "cat.png")
    info = {"mimetype": "image/png", "size": len(PNG), "w": 48, "h": 48}
    captioned = {"msgtype": "m.image", "body": "my *cat*", "filename": "cat.png", "url": uri, "info": info}
    await own_pair.mia.send(room, captioned | {"page.codeberg.everypizza.msc4193.spoiler": True})
    audio = await own_pair.mia.upload(b"OggS" + bytes(20), "audio/ogg")
    await own_pair.mia.send(
        room, {"msgtype": "m.audio", "body": "Sprachnachricht", "url": audio, "org.matrix.msc3245.voice": {}}
    )
    await own_pair.mia.send(room, {"body": "wave", "url": uri, "info": {"size": 7}}, kind="m.sticker")
    await own_pair.until_discord("help", lambda words: len(words) == 3)
    image, voice, sticker = own_pair.on_discord("help")
    assert image["content"] == "my \\*cat\\*"
    assert image["author"]["username"] == "Mia"
    assert [item["filename"] for item in image["attachments"]] == ["SPOILER_cat.png"]
    assert await stored(image["attachments"][0]["url"]) == PNG
    assert image["attachments"][0]["content_type"] == "image/png"
    assert (voice["content"], voice["attachments"][0]["filename"]) == ("", "Sprachnachricht.ogg")
    assert sticker["attachments"][0]["filename"] == "wave.png"
    assert sticker["attachments"][0]["description"] == "wave"


async def test_edits_and_deletions_of_messages_with_files(own_pair: FullStack) -> None:
    channel, room = own_pair.channels["help"], own_pair.rooms["help"]
    message = own_pair.say("help", "before", attachments=[file("a.png", PNG), file("b.png", PNG), file("c.png", PNG)])
    await own_pair.until_matrix("help", lambda words: len(words) == 3)
    first, *_ = await own_pair.on_matrix("help")
    own_pair.control.edit(channel, message, "after")
    await own_pair.until_matrix("help", lambda words: words[0] == "after")
    edited, *_ = await own_pair.on_matrix("help")
    assert (edited.event_id, edited.content["url"], edited.msgtype) == (first.event_id, first.content["url"], "m.image")
    a, _, c = (item["id"] for item in own_pair.control.message(channel, message)["attachments"])
    own_pair.control.edit(channel, message, keep=[a, c])
    await eventually(
        lambda: own_pair.on_matrix("help"),
        lambda seen: [one.content["filename"] for one in seen] == ["a.png", "c.png"],
        what=own_pair.daemon.log,
    )
    own_pair.control.delete(channel, message)
    await own_pair.until_matrix("help", lambda words: not words)

    uri = await own_pair.mia.upload(PNG, "image/png")
    content = {"msgtype": "m.image", "body": "vorher", "filename": "d.png", "url": uri, "info": {}}
    event = await own_pair.mia.send(room, content)
    await own_pair.until_discord("help", lambda words: words == ["vorher"])
    new = content | {"body": "nachher"}
    await own_pair.mia.send(
        room, new | {"m.new_content": new, "m.relates_to": {"rel_type": "m.replace", "event_id": event}}
    )
    await own_pair.until_discord("help", lambda words: words == ["nachher"])
    assert [item["filename"] for item in own_pair.on_discord("help")[0]["attachments"]] == ["d.png"]
    await own_pair.mia.redact(room, event)
    await own_pair.until_discord("help", lambda words: not words)


async def test_an_edit_on_matrix_that_changes_the_file_without_telling_its_size(help_stack: FullStack) -> None:
    room = help_stack.rooms["help"]
    # As long as each other: nothing but where they are tells them apart.
    sounds = [b"OggS" + bytes([number]) * 60 for number in range(3)]
    uris = [await help_stack.mia.upload(sound, "audio/ogg") for sound in sounds]
    said = [{"msgtype": "m.audio", "body": f"song{number}.ogg", "url": uri} for number, uri in enumerate(uris)]
    event = await help_stack.mia.text(room, "soon")
    await help_stack.until_discord("help", lambda words: words == ["soon"])
    posted = help_stack.on_discord("help")[0]["id"]

    async def shown(number: int) -> bytes:
        relation = {"rel_type": "m.replace", "event_id": event}
        await help_stack.mia.send(room, said[number] | {"m.new_content": said[number], "m.relates_to": relation})

        async def files() -> list[str]:
            [message] = help_stack.on_discord("help")
            assert message["id"] == posted
            return [one["filename"] for one in message["attachments"]]

        await eventually(files, lambda names: names == [f"song{number}.ogg"], what=help_stack.daemon.log)
        return await stored(help_stack.on_discord("help")[0]["attachments"][0]["url"])

    for number in (0, 1):
        assert await shown(number) == sounds[number]
    await help_stack.daemon.stop()
    await help_stack.daemon.start()
    assert await shown(2) == sounds[2]


async def test_files_that_an_edit_on_discord_adds_and_takes_away(own_pair: FullStack) -> None:
    channel = own_pair.channels["help"]
    message = own_pair.say("help", "one")
    await own_pair.until_matrix("help", lambda words: words == ["one"])
    own_pair.control.edit(channel, message, "two", attachments=[file("a.png", PNG)])

    async def files() -> list[tuple[str, str | None]]:
        return [(one.body, one.content.get("filename")) for one in await own_pair.on_matrix("help")]

    await eventually(files, lambda seen: seen == [("Ada: two", "a.png")], what=own_pair.daemon.log)


async def test_an_edit_on_matrix_that_changes_the_file(help_stack: FullStack) -> None:
    room = help_stack.rooms["help"]
    pictures = [PNG, flat_png(0x00FF00, 64), flat_png(0xFF0000, 96)]
    uris = [await help_stack.mia.upload(picture, "image/png") for picture in pictures]
    said = [
        {"msgtype": "m.image", "body": f"look {number}", "filename": "a.png", "url": uri, "info": {"size": len(data)}}
        for number, (uri, data) in enumerate(zip(uris, pictures, strict=True))
    ]
    event = await help_stack.mia.send(room, said[0])
    await help_stack.mia.text(room, "below")
    await help_stack.until_discord("help", lambda words: words == ["look 0", "below"])
    posted = help_stack.on_discord("help")[0]["id"]

    async def shown(number: int) -> bytes:
        relation = {"rel_type": "m.replace", "event_id": event}
        await help_stack.mia.send(room, said[number] | {"m.new_content": said[number], "m.relates_to": relation})
        await help_stack.until_discord("help", lambda words: words == [f"look {number}", "below"])
        message = help_stack.on_discord("help")[0]
        assert message["id"] == posted
        [one] = message["attachments"]
        return await stored(one["url"])

    assert await shown(1) == pictures[1]
    # What the message stands with now is no longer remembered, but told by Discord.
    await help_stack.daemon.stop()
    await help_stack.daemon.start()
    assert await shown(2) == pictures[2]
    words = {"msgtype": "m.text", "body": "no picture"}
    relation = {"rel_type": "m.replace", "event_id": event}
    await help_stack.mia.send(room, words | {"m.new_content": words, "m.relates_to": relation})
    await help_stack.until_discord("help", lambda words: words == ["no picture", "below"])
    assert help_stack.on_discord("help")[0]["attachments"] == []


async def test_an_expired_address_is_refreshed(homeserver: Homeserver, tmp_path: Path) -> None:
    async with stack(tmp_path, homeserver) as place:
        await place.daemon.start()
        # While Matrix is away, the message waits with the address that it came with.
        await place.homeserver.stop()
        try:
            place.say("help", "", attachments=[file("old.png", PNG)])
            await place.until_metric("relay_outbox_depth", 1, pair="help", direction="to_matrix")
            place.control.expire_attachments()
        finally:
            # It is that of all tests of this worker.
            await place.homeserver.start()
        await place.until_matrix("help", lambda words: len(words) == 1)
        assert (await place.on_matrix("help"))[0].content["filename"] == "old.png"


@pytest.mark.crosses("a file over", "to_discord")
async def test_a_file_that_is_gone_is_named_and_the_words_cross(own_pair: FullStack) -> None:
    room = own_pair.rooms["help"]
    server = own_pair.mia.user_id.partition(":")[2]
    content = {
        "msgtype": "m.file",
        "body": "the plan",
        "filename": "plan.pdf",
        "url": f"mxc://{server}/nowhere",
        "info": {},
    }
    await own_pair.mia.send(room, content)
    seen = await own_pair.until_discord("help", lambda words: len(words) == 1)
    assert seen == ["the plan\n\n*file:* plan.pdf (not there any more)"]
    await own_pair.tell("help", "goes on")
    await own_pair.until_discord("help", lambda words: words[1:] == ["goes on"])


async def test_what_is_larger_than_it_says_is_stopped(own_pair: FullStack) -> None:
    uri = await own_pair.mia.upload(os.urandom(11_000_000), "application/octet-stream")
    content = {"msgtype": "m.file", "body": "liar.bin", "url": uri, "info": {"size": 10}}
    await own_pair.mia.send(own_pair.rooms["help"], content)
    seen = await own_pair.until_discord("help", lambda words: len(words) == 1)
    assert "liar.bin" in seen[0]
    assert "11.0 MB" in seen[0]


@pytest.mark.crosses("stickers", "to_matrix")
@pytest.mark.crosses("custom emoji", "to_matrix")
async def test_stickers_emoji_and_avatars_cross_to_matrix(own_pair: FullStack) -> None:
    emoji = own_pair.control.create_emoji(own_pair.guild, "party", {"data": base64.b64encode(PNG).decode()})
    sticker = own_pair.control.create_sticker(own_pair.guild, "wave", 1, {"data": base64.b64encode(PNG).decode()})
    cleo = own_pair.control.create_person("cleo", "Cleo", avatar={"data": base64.b64encode(PNG).decode()})
    own_pair.control.join(own_pair.guild, cleo["id"])
    channel = own_pair.channels["help"]
    for words in ("hi", "again"):
        own_pair.control.say(channel, cleo["id"], f"{words} <:party:{emoji['id']}>")
    own_pair.control.say(channel, cleo["id"], "", stickers=[sticker["id"]])
    await own_pair.until_matrix("help", lambda words: len(words) == 3)
    first, second, third = await own_pair.on_matrix("help")
    sources = [message.formatted_body.partition('src="')[2].partition('"')[0] for message in (first, second)]
    assert sources[0] == sources[1]
    assert await own_pair.mia.download(sources[0]) == (PNG, "image/png")
    avatars = {message.content["com.beeper.per_message_profile"]["avatar_url"] for message in (first, second, third)}
    assert len(avatars) == 1
    assert await own_pair.mia.download(avatars.pop()) == (PNG, "image/png")
    assert third.msgtype == "m.image"
    assert third.content["info"] == {"mimetype": "image/png", "size": len(PNG), "w": 160, "h": 160}


async def test_a_file_crosses_once_whatever_goes_wrong_on_discord(help_stack: FullStack) -> None:
    uri = await help_stack.mia.upload(PNG, "image/png", "cat.png")
    content = {"msgtype": "m.image", "body": "cat.png", "url": uri, "info": {"size": len(PNG)}}
    faults: list[dict[str, Any]] = [
        {"kind": "status", "status": 502, "when": "after"},
        {"kind": "reset", "when": "after"},
        {"kind": "reset", "when": "before"},
        {"kind": "rate_limit", "seconds": 0.3},
    ]
    for number, fault in enumerate(faults, 1):
        help_stack.control.add_fault(**fault, method="POST", path="^/webhooks/")
        await help_stack.mia.send(
            help_stack.rooms["help"], content | {"filename": f"{number}.png", "body": str(number)}
        )
        await help_stack.until_discord("help", lambda words, number=number: len(words) == number)  # type: ignore[misc]
    await help_stack.tell("help", "the end")
    words = await help_stack.until_discord("help", lambda words: "the end" in words)
    assert [one["fired"] for one in help_stack.control.faults()["rest"]] == [1, 1, 1, 1]
    assert words == ["1", "2", "3", "4", "the end"]
    names = [[item["filename"] for item in message["attachments"]] for message in help_stack.on_discord("help")]
    assert names == [["1.png"], ["2.png"], ["3.png"], ["4.png"], []]


async def test_a_file_crosses_once_whatever_goes_wrong_with_reading_it(help_stack: FullStack) -> None:
    faults: list[dict[str, Any]] = [
        {"kind": "status", "status": 503},
        {"kind": "rate_limit", "seconds": 0.3},
        {"kind": "reset"},
    ]
    for number, fault in enumerate(faults, 1):
        help_stack.control.add_fault(**fault, method="GET", path="^/attachments/")
        help_stack.say("help", "", attachments=[file(f"{number}.bin", os.urandom(600_000))])
    help_stack.say("help", "the end")
    await help_stack.until_matrix("help", lambda words: "the end" in words)
    assert [one["fired"] for one in help_stack.control.faults()["rest"]] == [1, 1, 1]
    messages = await help_stack.on_matrix("help")
    assert [message.content.get("filename") for message in messages] == ["1.bin", "2.bin", "3.bin", None]
    for message in messages[:3]:
        data, _ = await help_stack.mia.download(message.content["url"])
        assert len(data) == 600_000


async def test_files_cross_once_through_a_kill(help_stack: FullStack) -> None:
    uri = await help_stack.mia.upload(PNG, "image/png", "cat.png")
    for number in range(8):
        content = {"msgtype": "m.image", "body": str(number), "filename": "cat.png", "url": uri, "info": {}}
        await help_stack.mia.send(help_stack.rooms["help"], content)
        help_stack.say("help", "", attachments=[file(f"{number}.png", PNG), file(f"{number}.txt", b"words")])
    await help_stack.until_discord("help", lambda words: "1" in words)
    await help_stack.daemon.kill()
    await help_stack.daemon.start()
    # Whatever would be doubled has come before these.
    help_stack.say("help", "the end")
    await help_stack.tell("help", "das Ende")
    await help_stack.until_matrix("help", lambda words: "the end" in words)
    words = await help_stack.until_discord("help", lambda words: "das Ende" in words)
    ours = [word for word in words if word and word != "the end"]
    assert ours == [*(str(number) for number in range(8)), "das Ende"]
    shown = [message.content for message in await help_stack.on_matrix("help")]
    names = [content["filename"] for content in shown if "filename" in content]
    assert [name for name in names if name != "cat.png"] == [f"{n}.{end}" for n in range(8) for end in ("png", "txt")]


async def test_a_bot_that_speaks_for_all_attaches_files_where_it_may(own_pair: FullStack) -> None:
    channel = own_pair.channels["help"]
    uri = await own_pair.mia.upload(PNG, "image/png", "cat.png")
    content = {"msgtype": "m.image", "body": "look", "filename": "cat.png", "url": uri, "info": {"size": len(PNG)}}
    own_pair.control.set_channel_permissions(channel, own_pair.bot, deny=["MANAGE_WEBHOOKS"])
    await own_pair.mia.send(own_pair.rooms["help"], content)
    await own_pair.until_discord("help", lambda words: words == ["**Mia**: look"])
    assert [item["filename"] for item in own_pair.on_discord("help")[0]["attachments"]] == ["cat.png"]
    own_pair.control.set_channel_permissions(channel, own_pair.bot, deny=["MANAGE_WEBHOOKS", "ATTACH_FILES"])
    await own_pair.mia.send(own_pair.rooms["help"], content | {"body": "cat.png"})
    words = await own_pair.until_discord("help", lambda words: len(words) == 2)
    assert words[1].startswith("**Mia**:")
    assert "cat.png" in words[1]
    assert "matrix.to" in words[1]


async def test_the_homeserver_s_limit_is_asked_for(tmp_path: Path) -> None:
    async with ForkedHomeserver(settings={"max_upload_size": "100K"}) as small, stack(tmp_path, small) as place:
        await place.daemon.start()
        place.say("help", "look", attachments=[{"filename": "film.mp4", "zeros": 200_000}, file("cat.png", PNG)])
        await place.until_matrix("help", lambda words: len(words) == 1)
        [message] = await place.on_matrix("help")
        assert message.content["filename"] == "cat.png"
        assert "look" in message.body
        assert "200.0 kB" in message.body
        assert f'<a href="{place.on_discord("help")[0]["attachments"][0]["url"].partition("?")[0]}' in (
            message.formatted_body
        )


async def test_a_video_without_its_picture_crosses_all_the_same(help_stack: FullStack) -> None:
    film = b"\0\0\0\x18ftypmp42" + bytes(500)
    help_stack.control.add_fault("status", status=415, path="^/media/attachments/")
    help_stack.say("help", "a film", attachments=[file("film.mp4", film)])
    await help_stack.until_matrix("help", lambda words: len(words) == 1)
    help_stack.control.add_fault("hang", path="^/media/attachments/", seconds=2 * PATIENCE)
    help_stack.say("help", "another", attachments=[file("film.mp4", film)])
    await help_stack.until_matrix("help", lambda words: len(words) == 2)
    for message in await help_stack.on_matrix("help"):
        assert message.content["info"] == {"mimetype": "video/mp4", "size": 512}


async def test_a_picture_that_hangs_holds_up_no_message_for_long(help_stack: FullStack) -> None:
    emoji = help_stack.control.create_emoji(help_stack.guild, "party", {"data": base64.b64encode(PNG).decode()})
    # Longer than a test waits.
    help_stack.control.add_fault("hang", path="^/emojis/", seconds=2 * PATIENCE, count=None)
    help_stack.say("help", f"hi <:party:{emoji['id']}>")
    help_stack.say("help", f"again <:party:{emoji['id']}>")
    await help_stack.until_matrix("help", lambda words: words == ["hi :party:", "again :party:"])
    help_stack.control.clear_faults()
