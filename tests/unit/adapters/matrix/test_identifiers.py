"""The identifiers of Matrix: what is not one gets into no URL, key or text."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from relay.adapters.matrix.api import client
from relay.adapters.matrix.identifiers import is_alias, is_event_id, is_room_id, is_user_id, parse_mxc
from relay.adapters.matrix.inbound.content import message_content
from relay.adapters.matrix.inbound.events import convert
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.rooms.state import RoomState
from relay.domain.events import FeatureUsed
from relay.domain.text.nodes import InlineImage, Paragraph

ELSEWHERE = (
    "mxc://../odd",
    "mxc://%2e%2e/odd",
    "mxc://./odd",
    "mxc://a..b/odd",
    "mxc://example.org/..",
    "mxc://example.org/%2e%2e",
    "mxc://example.org/a?b=c",
    "mxc://example.org/a#b",
    "mxc://user@example.org/a",
    "mxc://example.org:x/a",
    "mxc://example.org/",
    "mxc:///a",
    "MXC://example.org/a",
)


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_no_file_is_read_from_another_path(uri: str) -> None:
    assert parse_mxc(uri) is None
    image = {"msgtype": "m.image", "body": "cat.png", "url": uri}
    assert message_content(image, NameLookup(), is_reply=False).attachments == ()
    html = {"msgtype": "m.text", "body": "", "format": "org.matrix.custom.html", "formatted_body": f'<img src="{uri}">'}
    said = message_content(html, NameLookup(), is_reply=False).text
    assert not any(isinstance(n, InlineImage) for b in said.blocks if isinstance(b, Paragraph) for n in b.children)
    state = RoomState("!room:example.org")
    content = {"membership": "join", "displayname": "Ann", "avatar_url": uri}
    state.apply({"type": "m.room.member", "state_key": "@ann:example.org", "content": content})
    assert state.profile("@ann:example.org").avatar is None


@pytest.mark.parametrize(
    "uri",
    ["mxc://example.org/abc-_1", "mxc://localhost:8448/x", "mxc://[::1]:8448/x", "mxc://1.2.3.4/x"],
)
def test_addresses_of_files_are_read(uri: str) -> None:
    assert parse_mxc(uri) is not None


_PIECES = st.lists(
    st.sampled_from(["mxc://", "/", ".", "..", "%2e", "%2F", ":", "[", "]", "?", "#", "@", "\\", "\n", "é", "a", "0"])
    | st.characters(),
    max_size=12,
).map("".join)


@given(_PIECES.map("mxc://".__add__) | _PIECES)
@example("mxc://[..]/a")
def test_what_is_read_as_an_address_is_under_the_path_of_files(uri: str) -> None:
    address = parse_mxc(uri)
    if address is None:
        return
    path = client._address("/_matrix/client/v1/media/", ("download", *address), None)
    sent = URL("https://example.org" + path)
    segments = sent.raw_path.removeprefix("/_matrix/client/v1/media/download/").split("/")
    assert [unquote(segment) for segment in segments] == list(address)
    assert not sent.raw_query_string
    assert not sent.raw_fragment


@pytest.mark.parametrize("segment", [".", ".."])
def test_no_path_leaves_its_root(segment: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        client._address("/_matrix/client/v3/", ("rooms", segment, "messages"), None)


def test_valid_and_invalid_ids() -> None:
    assert is_event_id("$143273582443PhrSn:example.org")
    assert is_event_id("$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg")
    assert is_event_id("$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk")
    assert is_room_id("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM")
    assert is_room_id("!opaque:example.org")
    assert is_alias("#tea room:example.org")
    assert is_user_id("@Ann=2f/+:example.org:8448")
    assert not any(map(is_event_id, ["", "$", "abc", "$a b", "$a\nb", "$a\x1b[31m", "$\ud800", "$" + "x" * 255]))
    assert not any(map(is_room_id, ["", "!", "..", "!a\r\nb", "#a:b"]))
    assert not any(map(is_user_id, ["@a", "@a:..", "@a:b/c", "@a\n:example.org", "@a:example.org/../x"]))
    assert not any(map(is_alias, ["#:example.org", "#a", "#a:%2e%2e"]))


def test_an_event_with_an_odd_id_is_counted_and_left() -> None:
    state = RoomState("!room:example.org")
    said = {"msgtype": "m.text", "body": "hello"}
    for event_id, sender in (("..", "@ann:example.org"), ("$a\nb", "@ann:example.org"), ("$1", "ann")):
        event = {"type": "m.room.message", "event_id": event_id, "sender": sender, "content": said}
        converted = convert(event, state, "@relay:example.org")
        assert isinstance(converted, FeatureUsed)
        assert converted.feature == "unreadable"
