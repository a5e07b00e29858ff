"""What an emoji of an application may be called, and what its picture may be."""

import base64
import os
from typing import Any

import pytest

from relay.sandbox.messages.forms import Form
from relay.sandbox.rest.emojis import MAX_BYTES, read_emoji_image, read_emoji_name
from relay.sandbox.world.models import Emoji, StoredFile
from relay.sandbox.world.state import State
from tests.support.pictures import data_uri, moving, still


def _code(form: Form, field: str) -> str | None:
    errors = form.report.get(field, {}).get("_errors")
    return errors[0]["code"] if errors else None


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("av_0123456789abcdef0123456789abcd", "BASE_TYPE_BAD_LENGTH"),
        ("av_0123456789abcdef0123456789abc", None),
        ("a", "BASE_TYPE_BAD_LENGTH"),
        ("ab", None),
        ("with space", "STRING_TYPE_REGEX"),
        ("with-dash", "STRING_TYPE_REGEX"),
        ("naïve", "STRING_TYPE_REGEX"),
        ("taken", "APPLICATION_EMOJI_NAME_ALREADY_TAKEN"),
        ("Taken", None),
        ("own", None),
        (None, "BASE_TYPE_REQUIRED"),
        (7, "STRING_TYPE_CONVERT"),
    ],
)
def test_names(name: Any, code: str | None, tmp_path: Any) -> None:
    app = State().add_application("relay")
    own, taken = (Emoji(number, text, False, StoredFile(tmp_path, 0)) for number, text in ((1, "own"), (2, "taken")))
    app.emojis = {1: own, 2: taken}
    form = Form({"name": name})
    read_emoji_name(form, app, own)
    assert _code(form, "name") == code


def _padded(data: bytes, size: int) -> bytes:
    return data + os.urandom(size - len(data))


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        (data_uri(still()), None),
        (data_uri(still("JPEG"), "image/jpeg"), None),
        (data_uri(still("WEBP"), "image/webp"), None),
        (data_uri(moving(), "image/gif"), None),
        (data_uri(still("JPEG")), "IMAGE_INVALID"),
        (data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "IMAGE_INVALID"),
        (data_uri(b"no picture"), "IMAGE_INVALID"),
        (data_uri(still()) + "*", "IMAGE_INVALID"),
        (base64.b64encode(still()).decode(), "IMAGE_INVALID"),
        ("https://example.org/a.png", "IMAGE_INVALID"),
        (data_uri(_padded(still(), MAX_BYTES)), None),
        (data_uri(_padded(still(), MAX_BYTES + 1)), "BINARY_TYPE_MAX_SIZE"),
        (None, "BASE_TYPE_REQUIRED"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_pictures(uri: str | None, code: str | None) -> None:
    form = Form({"image": uri})
    found = read_emoji_image(form)
    assert _code(form, "image") == code
    assert (found is not None) == (code is None)
