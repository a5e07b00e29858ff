"""Snowflakes, permissions, URLs, compression: the small pure parts of the sandbox."""

import json
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.gateway.handshake import ZlibStream, ZstdStream, compressor_for
from relay.sandbox.messages.media import describe
from relay.sandbox.world import permissions
from relay.sandbox.world.files import UrlSigner
from relay.sandbox.world.models import Attachment, Overwrite, Snowflakes, StoredFile, at, timestamp_of
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.state import State


@given(st.lists(st.floats(1_500_000_000, 2_000_000_000), min_size=1, max_size=50))
def test_snowflakes_rise_whatever_the_clock_does(times: list[float]) -> None:
    moments = iter(times)
    mint = Snowflakes(lambda: next(moments))
    minted = [mint.next() for _ in times]
    assert minted == sorted(set(minted))
    assert timestamp_of(minted[0]) == pytest.approx(times[0], abs=0.002)


def test_the_documentations_own_snowflake() -> None:
    # https://discord.com/developers/docs/reference#convert-snowflake-to-datetime
    assert timestamp_of(175928847299117063) == 1462015105.796
    assert at(1462015105.796) <= 175928847299117063 < at(1462015105.797)


# --- Permissions ----------------------------------------------------------------------------------------------


def test_overwrites_are_applied_from_everyone_to_roles_to_the_member() -> None:
    state = State()
    guild = state.add_guild("G", state.add_user("owner"))
    channel = state.add_channel(guild, "general")
    ada = state.add_user("ada")
    state.add_member(guild, ada)
    role = state.add_role(guild, "helpers", permissions.NONE)
    guild.members[ada.id].roles.append(role.id)
    view, send = Permission.VIEW_CHANNEL, Permission.SEND_MESSAGES
    assert state.permissions(ada.id, channel) == permissions.EVERYONE
    state.set_overwrite(channel, Overwrite(guild.id, 0, deny=view))
    assert state.permissions(ada.id, channel) == permissions.NONE
    state.set_overwrite(channel, Overwrite(role.id, 0, allow=view, deny=send))
    assert state.permissions(ada.id, channel) & (view | send) == view
    # Who may not send may not attach either.
    assert not state.permissions(ada.id, channel) & Permission.ATTACH_FILES
    state.set_overwrite(channel, Overwrite(ada.id, 1, allow=send))
    assert state.permissions(ada.id, channel) & (view | send) == view | send
    assert state.permissions(guild.owner_id, channel) == Permission.ALL
    assert state.permissions(state.add_user("stranger").id, channel) == permissions.NONE


def test_administrators_pass_every_overwrite() -> None:
    state = State()
    guild = state.add_guild("G", state.add_user("owner"))
    channel = state.add_channel(guild, "general")
    bot = state.add_application("bot")
    state.add_bot(guild, bot, Permission.ADMINISTRATOR)
    state.set_overwrite(channel, Overwrite(bot.user.id, 1, deny=Permission.ALL))
    assert state.permissions(bot.user.id, channel) == Permission.ALL


def test_a_permission_that_does_not_exist() -> None:
    assert permissions.parse(["VIEW_CHANNEL", "SEND_MESSAGES"]) == Permission.VIEW_CHANNEL | Permission.SEND_MESSAGES
    with pytest.raises(KeyError):
        permissions.parse(["FLY"])


# --- URLs -----------------------------------------------------------------------------------------------------


def _query(url: str) -> tuple[str, dict[str, str]]:
    path, _, query = url.removeprefix("http://sandbox").partition("?")
    return path, dict(item.split("=") for item in query.split("&") if item)


def test_a_url_lives_as_long_as_it_says_and_can_be_renewed() -> None:
    now = [1000.0]
    signer = UrlSigner(lambda: now[0], 60)
    signer.origin = "http://sandbox"
    file = Attachment(7, 5, "a_b.png", StoredFile(Path("x"), 1), None)
    path, query = _query(signer.url(file))
    assert (path, int(query["is"], 16), int(query["ex"], 16)) == ("/attachments/5/7/a_b.png", 1000, 1060)
    assert signer.valid(path, query)
    assert not signer.valid(path, {})
    assert not signer.valid(path, query | {"ex": "ffffffff"})
    assert not signer.valid("/attachments/5/8/a_b.png", query)
    now[0] += 61
    assert not signer.valid(path, query)
    renewed = signer.renew(signer.origin + path + "?ex=1")
    assert renewed is not None
    assert signer.valid(*_query(renewed))
    signer.expire_all()
    assert not signer.valid(*_query(renewed))
    assert signer.renew("http://elsewhere/attachments/5/7/a_b.png") is None


# --- Compression ----------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=200).map(lambda text: json.dumps({"d": text})), min_size=1, max_size=10))
def test_each_payload_can_be_read_when_it_arrives(payloads: list[str]) -> None:
    deflate, inflate = ZlibStream(), zlib.decompressobj()
    squeeze, release = ZstdStream(), zstandard.ZstdDecompressor().decompressobj()
    for payload in payloads:
        assert inflate.decompress(deflate.compress(payload)).decode() == payload
        assert release.decompress(squeeze.compress(payload)).decode() == payload


def test_a_compression_that_does_not_exist() -> None:
    assert compressor_for("") is None
    with pytest.raises(KeyError):
        compressor_for("brotli")


# --- Files ----------------------------------------------------------------------------------------------------

_JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0001108000700050311")


@pytest.mark.parametrize(
    ("head", "name", "declared", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + bytes([0, 0, 0, 5, 0, 0, 0, 7]), "x.bin", None, ("image/png", 5, 7)),
        (b"GIF89a" + bytes([5, 0, 7, 0]), "x", None, ("image/gif", 5, 7)),
        (_JPEG, "x.png", None, ("image/jpeg", 5, 7)),
        (b"RIFF0000WEBPVP8X" + bytes(8) + bytes([4, 0, 0, 6, 0, 0]), "x", None, ("image/webp", 5, 7)),
        (b"hello", "x.txt", "application/octet-stream", ("text/plain; charset=utf-8", None, None)),
        (b"OggS", "voice.ogg", None, ("audio/ogg", None, None)),
        (b"?", "x.unknown-thing", "application/octet-stream", (None, None, None)),
        (b"?", "x.unknown-thing", "application/x-mine", ("application/x-mine", None, None)),
    ],
)
def test_what_a_file_is(
    tmp_path: Path, head: bytes, name: str, declared: str | None, expected: tuple[str | None, int | None, int | None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(head)
    found = describe(path, name, declared)
    assert (found.content_type, found.width, found.height) == expected


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF0000WEBP"]), st.binary(max_size=64))
def test_a_broken_picture_is_no_error(magic: bytes, rest: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(magic + rest)
        file.flush()
        describe(Path(file.name), "x", None)
