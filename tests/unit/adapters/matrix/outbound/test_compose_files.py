"""The events that files become."""

import json
from dataclasses import replace
from typing import Any

import pytest

from relay.adapters.matrix.inbound.content import message_content
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.outbound.compose import UploadedFile, compose, edit_content, file_content, fingerprint
from relay.core.ports import Delivery
from relay.domain.content import Attachment, Author, Content, MediaKind
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text.nodes import RichText

ROOM = ChannelRef(Platform.MATRIX, "!room:example.org")
BOB = Author(UserRef(Platform.DISCORD, "7"), "Bob")


def attachment(kind: MediaKind = "image", **more: Any) -> Attachment:
    return Attachment("41", "cat.png", kind, MediaRef(Platform.DISCORD, "https://cdn/cat.png"), **more)


def delivery(text: str, *files: Attachment, author: Author | None = BOB) -> Delivery:
    return Delivery(ROOM, "key", author, Content(RichText.plain(text), files))


def uploaded(file: Attachment) -> UploadedFile:
    return UploadedFile(file, "mxc://example.org/1", "cat.png", "image/png", 99)


def test_a_whole_image() -> None:
    file = attachment(width=2, height=3, spoiler=True, animated=True, alt="a cat")
    assert compose(delivery("resolver", file), uploaded(file)) == {
        "msgtype": "m.image",
        "body": "Bob: resolver\n[Spoiler]",
        "format": "org.matrix.custom.html",
        "formatted_body": (
            "<p><strong data-mx-profile-fallback>Bob: </strong>resolver</p>"
            "<p><sub><span data-mx-spoiler>a cat</span></sub></p>"
        ),
        "filename": "cat.png",
        "url": "mxc://example.org/1",
        "info": {
            "mimetype": "image/png",
            "size": 99,
            "w": 2,
            "h": 3,
            "is_animated": True,
            "org.matrix.msc4230.is_animated": True,
        },
        "page.codeberg.everypizza.msc4193.spoiler": True,
        "relay.attachment": "41",
        "com.beeper.per_message_profile": {
            "id": "discord_7",
            "displayname": "Bob",
            "avatar_url": "",
            "has_fallback": True,
        },
        "m.mentions": {},
    }


def test_a_file_without_author_and_text_has_its_name_as_body() -> None:
    file = attachment("file")
    content = compose(delivery("", file, author=None), uploaded(file))
    assert (content["msgtype"], content["body"]) == ("m.file", "cat.png")


def test_no_number_is_a_float() -> None:
    file = attachment("voice", duration=1.25, waveform=(0, 7, 255), width=4)
    content = compose(delivery("", file), uploaded(file))
    assert json.loads(json.dumps(content), parse_float=lambda found: 1 / 0) == content
    assert content["info"] == {"mimetype": "image/png", "size": 99, "duration": 1250}
    read = message_content(content, NameLookup(), is_reply=False).attachments[0]
    assert (read.kind, read.duration, read.waveform) == ("voice", 1.25, (0, 7, 255))


def test_an_edit_keeps_the_file() -> None:
    file = attachment()
    standing = compose(delivery("before", file), uploaded(file))
    kept = file_content(delivery("after", file), standing)
    assert kept is not None
    new = compose(delivery("after", file)) | kept
    content = edit_content(MessageRef(ROOM, "$1"), new)
    assert content["m.new_content"] == compose(delivery("after", file), uploaded(file))
    assert (content["url"], content["msgtype"]) == ("mxc://example.org/1", "m.image")


def test_an_edit_cannot_add_remove_or_change_a_file() -> None:
    file = attachment()
    other = Attachment("42", "dog.png", "image", MediaRef(Platform.DISCORD, "https://cdn/dog.png"))
    standing = compose(delivery("", file), uploaded(file))
    assert file_content(delivery("x"), standing) is None
    assert file_content(delivery("x", other), standing) is None
    assert file_content(delivery("x", file), compose(delivery("x"))) is None
    assert file_content(delivery("x"), compose(delivery("y"))) == {}


def test_an_earlier_attempt_is_recognised_before_the_file_is_uploaded() -> None:
    file = attachment()
    posted = compose(delivery("", file), uploaded(file))
    assert fingerprint(compose(delivery("", file))) == fingerprint(posted)
    assert fingerprint(compose(delivery(""))) != fingerprint(posted)


@pytest.mark.parametrize(
    ("content_type", "msgtype"),
    [("image/png", "m.image"), ("video/mp4", "m.video"), ("text/html", "m.file"), ("application/pdf", "m.file")],
)
def test_a_file_is_shown_by_its_real_type(content_type: str, msgtype: str) -> None:
    file = attachment()
    content = compose(delivery("", file), replace(uploaded(file), content_type=content_type))
    assert (content["msgtype"], content["info"]["mimetype"]) == (msgtype, content_type)
