"""What is no identifier of Discord becomes no part of anything, and files come from its CDN only."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.rate_limits import RateLimits
from relay.adapters.discord.identifiers import created_at, is_snowflake, is_token, mentioned_user, snowflake
from relay.adapters.discord.inbound.files import OFFICIAL_CDN, attachments, stickers
from relay.adapters.discord.media import Media
from relay.core.clock import SystemClock
from relay.domain.ids import MediaRef, Platform
from relay.errors import TargetGone


@pytest.mark.parametrize("value", ["", "..", "1/2", "1%2e", "٣", "-1", "1.0", str(1 << 64), None, True, " 1"])
def test_what_is_no_snowflake_is_refused(value: object) -> None:
    assert not is_snowflake(value)
    with pytest.raises(ValueError, match="snowflake"):
        snowflake(value)


def test_snowflakes_and_words() -> None:
    assert snowflake(175928847299117063) == snowflake("175928847299117063") == "175928847299117063"
    assert is_token("a_1269e74af4df7417b13759eae50c83dc")
    assert is_token("aB3-_x")
    assert not any(map(is_token, ["", "..", "a/b", "a?b", "a\nb", None, 5, "x" * 1001]))


def test_odd_ids_make_no_address() -> None:
    file = {"id": "../1", "filename": "a.png", "url": "https://cdn.discordapp.com/attachments/1/2/a.png"}
    with pytest.raises(ValueError, match="snowflake"):
        list(attachments({"attachments": [file]}, "page"))
    with pytest.raises(ValueError, match="snowflake"):
        list(stickers({"sticker_items": [{"id": "../../x", "name": "x", "format_type": 1}]}, OFFICIAL_CDN))


@pytest.mark.parametrize("odd", [".", "..", "", "a/b", "a\\b"])
def test_no_route_leaves_its_path(odd: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        _ = Route("GET", "/channels/{channel}/messages/{message}", {"channel": "1", "message": odd}).url


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.discordapp.com/attachments/1/2/a.png",
        "https://discord.com/api/v10/users/@me",
        "https://cdn.discordapp.com@evil.test/a.png",
        "https://cdn.discordapp.com:8443/a.png",
        "https://cdn.discordapp.com\\@evil.test/a.png",
        "https://evil.test\\@cdn.discordapp.com/a.png",
        "https://cdn.disc\nordapp.com/a.png",
        "https://cdn.discordapp.com.evil.test/a.png",
        "https://127.0.0.1/a.png",
        "file:///etc/passwd",
        "//cdn.discordapp.com/a.png",
    ],
)
async def test_only_the_platforms_files_are_fetched(url: str) -> None:
    clock = SystemClock()
    rest = RestClient(token="t", api_url="https://discord.com/api/v10", clock=clock, limits=RateLimits(clock))
    media = Media(rest, None, OFFICIAL_CDN)
    with pytest.raises(TargetGone):
        async with media.open_media(MediaRef(Platform.DISCORD, url)):
            pass


@given(st.datetimes(min_value=datetime(2015, 1, 2), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
def test_ids_are_moments(moment: datetime) -> None:
    exact = moment.replace(tzinfo=UTC)
    snowflake = (exact - datetime(2015, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) << 22
    assert timedelta() <= exact - created_at(str(snowflake)) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("written", "user"),
    [
        ("123456789012345678", "123456789012345678"),
        ("<@123456789012345678>", "123456789012345678"),
        ("<@!123456789012345678>", "123456789012345678"),
        ("<@&123456789012345678>", None),
        ("2345678923", None),
        ("99999999999999999999", None),
        ("@ada:example.org", None),
        ("", None),
    ],
)
def test_a_user_is_named_by_id_or_mention(written: str, user: str | None) -> None:
    assert mentioned_user(written) == user
