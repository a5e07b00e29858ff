"""What a request's body may say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.errors import ApiError
from relay.sandbox.messages.drafts import Draft, Upload, read_draft, safe_filename
from relay.sandbox.messages.forms import Form, parse_snowflake, path_snowflake
from relay.sandbox.rest.webhooks import read_image, read_name
from relay.sandbox.world.models import StoredFile

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["content", "embeds", "nonce", "allowed_mentions", "message_reference", "poll", "attachments", "flags", "tts"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4) | JSON)
def test_any_json_is_read_or_refused_with_a_report(body: Any) -> None:
    refusals: list[int] = []
    try:
        assert len(read_draft(body, {}).content) <= 2000
    except ApiError as error:
        refusals.append(error.code)
    assert set(refusals) <= {50035, 50159, 50160, 50161}


def _codes(body: Any) -> dict[str, str]:
    """The first mistake at each path of a refusal."""
    with pytest.raises(ApiError) as refused:
        read_draft(body, {})
    found: dict[str, str] = {}

    def walk(node: dict[str, Any], path: str) -> None:
        for name, inner in node.items():
            if name == "_errors":
                found[path] = inner[0]["code"]
            else:
                walk(inner, f"{path}.{name}".lstrip("."))

    walk(refused.value.body()["errors"], "")
    return found


def test_all_mistakes_are_reported_at_once() -> None:
    body = {
        "content": "x" * 2001,
        "nonce": "n" * 26,
        "tts": "yes",
        "embeds": [{"title": "t", "fields": [{"name": "n"}], "url": "ftp://x"}, "text", {}],
        "allowed_mentions": {"parse": ["users", "me"], "users": ["1"], "roles": ["x", 2, 2]},
        "message_reference": {"type": 1},
        "sticker_ids": ["1", "2", "3", "4"],
        "poll": {"question": {"text": ""}, "answers": [{"poll_media": {"text": "x" * 56}}], "duration": 0},
    }
    assert _codes(body) == {
        "content": "BASE_TYPE_MAX_LENGTH",
        "nonce": "BASE_TYPE_MAX_LENGTH",
        "tts": "BOOLEAN_TYPE_CONVERT",
        "embeds.0.fields.0.value": "BASE_TYPE_REQUIRED",
        "embeds.0.url": "URL_TYPE_INVALID_SCHEME",
        "embeds.1": "DICT_TYPE_CONVERT",
        "embeds.1.description": "BASE_TYPE_REQUIRED",
        "embeds.2.description": "BASE_TYPE_REQUIRED",
        "allowed_mentions": "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE",
        "allowed_mentions.parse.1": "BASE_TYPE_CHOICES",
        "allowed_mentions.roles": "SET_TYPE_ALREADY_CONTAINS_VALUE",
        "allowed_mentions.roles.0": "NUMBER_TYPE_COERCE",
        "message_reference.message_id": "BASE_TYPE_REQUIRED",
        "message_reference.channel_id": "BASE_TYPE_REQUIRED",
        "sticker_ids": "BASE_TYPE_MAX_LENGTH",
        "poll.question.text": "BASE_TYPE_BAD_LENGTH",
        "poll.answers.0.poll_media.text": "BASE_TYPE_BAD_LENGTH",
        "poll.duration": "NUMBER_TYPE_MIN",
    }


def test_a_draft_as_it_should_be() -> None:
    draft = read_draft({"content": "  hi \n", "embeds": [{"title": " t "}], "flags": 4 | 64, "nonce": 5}, {})
    assert (draft.content, draft.flags, draft.nonce) == ("hi", 4, 5)
    assert draft.embeds == [{"type": "rich", "title": "t"}]
    assert draft.given == {"content", "embeds", "flags", "nonce"}
    assert Draft().is_empty()
    assert not draft.is_empty()


def _upload(name: str) -> Upload:
    from pathlib import Path

    return Upload(name, None, StoredFile(Path("x"), 1))


def test_files_are_matched_with_their_descriptions_and_kept_ones_named() -> None:
    body = {
        "attachments": [{"id": 1, "description": "second", "filename": "b 2.txt"}, {"id": "99", "description": "d"}]
    }
    draft = read_draft(body, {0: _upload("a.txt"), 1: _upload("b.txt")})
    assert [(file.filename, file.title, file.description) for file in draft.files] == [
        ("b_2.txt", "b 2", "second"),
        ("a.txt", None, None),
    ]
    assert draft.keep == {99: "d"}
    assert read_draft({}, {}).keep is None
    assert read_draft({"attachments": []}, {}).keep == {}


@pytest.mark.parametrize(
    ("name", "stored", "title"),
    [
        ("cat.png", "cat.png", None),
        ("my cat (1).png", "my_cat_1.png", "my cat (1)"),
        ("ü.txt", "unknown.txt", "ü"),
        ("../../etc/passwd", "passwd", None),
        ("C:\\x\\y.txt", "y.txt", None),
        ("", "unknown", ""),
        ("日本語", "unknown", "日本語"),
        (".hidden", "unknown.hidden", ".hidden"),
    ],
)
def test_names_of_files(name: str, stored: str, title: str | None) -> None:
    assert safe_filename(name) == (stored, title)


@given(st.text(max_size=50))
def test_a_stored_name_is_safe_in_a_path(name: str) -> None:
    stored, _ = safe_filename(name)
    assert stored
    assert not stored.startswith(".")
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in stored)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", 12),
        (12, 12),
        ("x", None),
        (True, None),
        (-1, None),
        ("-1", None),
        (1.5, None),
        ("٣", None),
        ("9" * 30, None),
    ],
)
def test_snowflakes_out_of_json(value: Any, expected: int | None) -> None:
    assert parse_snowflake(value) == expected


def test_a_snowflake_out_of_a_path() -> None:
    assert path_snowflake({"channel_id": "7"}, "channel_id") == 7
    with pytest.raises(ApiError):
        path_snowflake({"channel_id": "x"}, "channel_id")


@pytest.mark.parametrize("name", ["Relay", "relay of \u200btexts", "a@b:c#d", "x" * 80, "  two   words "])
def test_names_that_webhooks_may_have(name: str) -> None:
    form = Form({"name": name})
    assert read_name(form, "name") == " ".join(name.split(" ")).strip().replace("   ", " ")
    form.check()


@pytest.mark.parametrize(
    "name", ["dıscord", "DİSCORD", "diſcord", "ｄｉｓｃｏｒｄ", "Đ díscord", "Clyde B.", "HERE", "ｈere", "x```"]
)
def test_names_that_webhooks_must_not_have(name: str) -> None:
    form = Form({"name": name})
    read_name(form, "name")
    with pytest.raises(ApiError):
        form.check()


@pytest.mark.parametrize(
    ("uri", "fine"), [("data:image/png;base64,AAAA", True), ("https://x/y.png", False), (None, True)]
)
def test_pictures_are_data_uris(uri: str | None, fine: bool) -> None:
    form = Form({"avatar": uri})
    read_image(form, "avatar")
    assert (not form.report) == fine
