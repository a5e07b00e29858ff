"""The events that deliveries become."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.identifiers import permalink
from relay.adapters.matrix.outbound.compose import MAX_TEXT_LENGTH, compose, edit_content, measure
from relay.core.ports import Delivery
from relay.domain.content import Author, Content
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, ThreadRef, UserRef
from relay.domain.text import nodes as n

ROOM = ChannelRef(Platform.MATRIX, "!room:example.org")
TARGET = MessageRef(ROOM, "$target")
BOB = Author(UserRef(Platform.DISCORD, "7"), "Bob")


def delivery(text: n.RichText | str, author: Author | None = BOB, **changes: Any) -> Delivery:
    said = n.RichText.plain(text) if isinstance(text, str) else text
    style = changes.pop("style", "text")
    return Delivery(ROOM, "key", author, Content(said, style=style), **changes)


def test_a_whole_message() -> None:
    assert compose(delivery(n.RichText((n.Paragraph((n.Strong((n.Text("hi"),)),)),)))) == {
        "msgtype": "m.text",
        "body": "Bob: **hi**",
        "format": "org.matrix.custom.html",
        "formatted_body": "<strong data-mx-profile-fallback>Bob: </strong><strong>hi</strong>",
        "com.beeper.per_message_profile": {
            "id": "discord_7",
            "displayname": "Bob",
            "avatar_url": "",
            "has_fallback": True,
        },
        "m.mentions": {},
    }


def test_the_relay_in_its_own_name() -> None:
    assert compose(delivery("hi", None)) == {"msgtype": "m.notice", "body": "hi", "m.mentions": {}}


def test_the_name_is_on_the_line_of_the_first_paragraph() -> None:
    text = n.RichText((n.Paragraph((n.Strong((n.Text("one"),)),)), n.Paragraph((n.Text("two"),))))
    fallback = "<strong data-mx-profile-fallback>Bob: </strong>"
    assert compose(delivery(text))["formatted_body"] == f"<p>{fallback}<strong>one</strong></p><p>two</p>"


def test_line_breaks_survive_in_text_that_needs_no_html() -> None:
    content = compose(delivery("a < b\nc"))
    assert content["formatted_body"] == "<strong data-mx-profile-fallback>Bob: </strong>a &lt; b<br>c"
    assert content["body"] == "Bob: a < b\nc"


def test_messages_of_bots_are_notices() -> None:
    bot = Author(BOB.user, "Bot", is_bot=True)
    kinds = [compose(delivery("x", bot)), compose(delivery("x", style="notice")), compose(delivery("x", style="emote"))]
    assert [content["msgtype"] for content in kinds] == ["m.notice", "m.notice", "m.emote"]


def test_relations() -> None:
    thread = ThreadRef(ROOM, "$root")
    reply = {"event_id": "$target"}
    assert compose(delivery("x", reply_to=TARGET))["m.relates_to"] == {"m.in_reply_to": reply}
    assert compose(delivery("x", thread=thread))["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$root"},
    }
    assert compose(delivery("x", thread=thread, reply_to=TARGET))["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": False,
        "m.in_reply_to": reply,
    }


def test_an_edit_holds_everything_twice_and_notifies_nobody_again() -> None:
    ann = n.UserMention(UserRef(Platform.MATRIX, "@ann:example.org"), "Ann")
    content = compose(delivery(n.RichText((n.Paragraph((ann,)),)), reply_to=TARGET))
    edit = edit_content(TARGET, content)
    assert edit["m.relates_to"] == {"rel_type": "m.replace", "event_id": "$target"}
    assert edit["m.new_content"] == {key: value for key, value in content.items() if key != "m.relates_to"}
    assert edit["body"] == f"* {content['body']}"
    assert edit["formatted_body"] == f"* {content['formatted_body']}"
    assert (content["m.mentions"], edit["m.mentions"]) == ({"user_ids": ["@ann:example.org"]}, {})
    assert edit["com.beeper.per_message_profile"]["displayname"] == "Bob"


def test_everyone_is_mentioned_only_on_purpose() -> None:
    assert compose(delivery("@room"))["m.mentions"] == {}
    everyone = n.RichText((n.Paragraph((n.BroadcastMention("everyone"),)),))
    assert compose(delivery(everyone))["m.mentions"] == {"room": True}


def test_a_name_is_escaped_and_has_no_hidden_characters() -> None:
    hostile = Author(BOB.user, "\u202eEvil\u202c<b>\n\u200bx")
    content = compose(delivery("hi", hostile))
    assert content["com.beeper.per_message_profile"]["displayname"] == "Evil<b> x"
    assert content["formatted_body"].startswith("<strong data-mx-profile-fallback>Evil&lt;b&gt; x: </strong>")
    nameless = compose(delivery("hi", Author(BOB.user, "\u200b ")))
    assert nameless["com.beeper.per_message_profile"]["displayname"] == "7"


def test_an_avatar_is_shown_only_where_the_homeserver_has_it() -> None:
    ours = Author(BOB.user, "Bob", MediaRef(Platform.MATRIX, "mxc://a/b"))
    theirs = Author(BOB.user, "Bob", MediaRef(Platform.DISCORD, "https://cdn.example/a.png"))
    profiles = [compose(delivery("x", author))["com.beeper.per_message_profile"] for author in (ours, theirs)]
    assert [profile["avatar_url"] for profile in profiles] == ["mxc://a/b", ""]


def test_a_permalink() -> None:
    assert permalink(TARGET) == "https://matrix.to/#/!room:example.org/$target?via=example.org"


@given(text=st.text(max_size=200), name=st.text(max_size=300))
def test_any_text_is_json_that_a_homeserver_takes_and_is_measured_as_it_is(text: str, name: str) -> None:
    author = Author(BOB.user, name)
    content = compose(delivery(text + "\ud800\0", author))
    json.dumps(content, ensure_ascii=False).encode()
    assert "\0" not in content["body"]
    bodies = (content["body"], content["formatted_body"])
    size = sum(len(json.dumps(body, ensure_ascii=False).encode()) for body in bodies)
    assert measure(n.RichText.plain(text + "\ud800\0"), author) == size


def test_the_longest_text_leaves_room_for_its_edit() -> None:
    text = n.RichText.plain("é" * (MAX_TEXT_LENGTH // 4 - 100))
    assert measure(text, BOB) <= MAX_TEXT_LENGTH
    edit = edit_content(TARGET, compose(delivery(text)))
    assert len(json.dumps(edit, ensure_ascii=False).encode()) < 65_536 - 4_096
