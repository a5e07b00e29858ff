"""Discord's payloads -> events."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.inbound import messages as inbound
from relay.adapters.discord.inbound.messages import MessageContext
from relay.adapters.discord.markup import NameLookup
from relay.domain.content import Content
from relay.domain.events import FeatureUsed, MessageCreated
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, ThreadRef
from relay.domain.text.nodes import RichText, plain_text

CHANNEL = ChannelRef(Platform.DISCORD, "100")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
VIEW = MessageContext(
    channel=CHANNEL,
    own_user="1",
    own_application="1",
    own_webhooks={"11"},
    names=lambda _: NameLookup(),
    nickname=lambda _: None,
    cdn_url="https://cdn.example",
    guild="5",
)


def message(**fields: Any) -> dict[str, Any]:
    """A message of the gateway, as it comes for ordinary text."""
    return {
        "id": "175928847299117063",
        "channel_id": "100",
        "guild_id": "5",
        "author": {"id": "7", "username": "bob", "global_name": "Bob", "avatar": None},
        "member": {"nick": None, "roles": []},
        "content": "hello",
        "timestamp": "2016-04-30T11:18:25.796000+00:00",
        "edited_timestamp": None,
        "type": 0,
        "flags": 0,
        "mention_everyone": False,
        "mentions": [],
        "attachments": [],
        "embeds": [],
        "components": [],
    } | fields


def created(**fields: Any) -> MessageCreated:
    [event] = inbound.created(message(**fields), VIEW)
    assert isinstance(event, MessageCreated)
    return event


def words(**fields: Any) -> str:
    return plain_text(created(**fields).content.text)


BOT = {"id": "8", "username": "GitHub", "bot": True}


def test_an_ordinary_message() -> None:
    event = created()
    assert event.ref == MessageRef(CHANNEL, "175928847299117063")
    assert event.created_at == datetime(2016, 4, 30, 11, 18, 25, 796000, UTC)
    assert (event.author.name, event.author.user.id, event.author.avatar) == ("Bob", "7", None)
    assert (event.author.is_self, event.author.is_bot, event.author.may_broadcast) == (False, False, False)
    assert event.content == Content(RichText.plain("hello"))
    assert (event.reply_to, event.thread, event.edited_at) == (None, None, None)


def test_the_name_is_the_one_in_the_server() -> None:
    assert created(member={"nick": "Bobby"}).author.name == "Bobby"
    assert created(author={"id": "7", "username": "bob", "global_name": None}).author.name == "bob"
    history = message()
    del history["member"]
    [event] = inbound.created(history, replace(VIEW, nickname={"7": "Robert"}.get))
    assert isinstance(event, MessageCreated)
    assert event.author.name == "Robert"


def test_the_picture_is_the_one_in_the_server_also_in_the_history() -> None:
    author = {"id": "7", "username": "bob", "avatar": "a_1f"}
    url = "https://cdn.example/guilds/5/users/7/avatars/2e.png?size=256"
    assert created(author=author, member={"avatar": "2e"}).author.avatar == MediaRef(Platform.DISCORD, url)
    history = message(author=author)
    del history["member"]
    [event] = inbound.created(history, replace(VIEW, picture={"7": "2e"}.get))
    assert isinstance(event, MessageCreated)
    assert event.author.avatar == MediaRef(Platform.DISCORD, url)


def test_an_avatar_is_on_the_cdn() -> None:
    author = {"id": "7", "username": "bob", "avatar": "a_1f"}
    url = "https://cdn.example/avatars/7/a_1f.png?size=256"
    assert created(author=author).author.avatar == MediaRef(Platform.DISCORD, url)


@pytest.mark.parametrize(
    ("fields", "is_self"),
    [
        ({"author": {"id": "1", "username": "relay", "bot": True}}, True),
        ({"author": {"id": "11", "username": "Alice", "bot": True}, "webhook_id": "11"}, True),
        ({"author": {"id": "12", "username": "A", "bot": True}, "webhook_id": "12", "application_id": "1"}, True),
        ({"author": {"id": "13", "username": "relay", "bot": True}, "webhook_id": "13"}, False),
        ({"author": {"id": "13", "username": "B", "bot": True}, "webhook_id": "13", "application_id": "2"}, False),
        ({"author": {"id": "7", "username": "relay"}}, False),
    ],
)
def test_an_echo_is_told_by_ids_alone(fields: dict[str, Any], is_self: bool) -> None:
    assert created(**fields).author.is_self is is_self


def test_replies_point_into_the_channel_and_crossposts_and_forwards_do_not() -> None:
    reply = {"type": 0, "message_id": "3", "channel_id": "100", "guild_id": "5"}
    assert created(type=19, message_reference=reply).reply_to == MessageRef(CHANNEL, "3")
    assert created(type=19, message_reference=reply | {"channel_id": "9"}).reply_to is None
    assert created(message_reference=reply | {"type": 1}).reply_to is None
    assert created(type=6, content="", message_reference=reply).reply_to == MessageRef(CHANNEL, "3")
    assert created(type=12, content="", message_reference=reply).reply_to is None


def test_a_message_inside_a_thread_belongs_to_the_channel() -> None:
    thread = ThreadRef(CHANNEL, "200")
    [event] = inbound.created(message(channel_id="200"), replace(VIEW, thread=thread))
    assert isinstance(event, MessageCreated)
    assert (event.ref.channel, event.thread) == (CHANNEL, thread)


def test_what_only_shows_a_thread_is_no_message() -> None:
    assert inbound.created(message(type=18, content="aside"), VIEW) == (FeatureUsed(CHANNEL, "thread"),)
    assert inbound.created(message(type=21, content=""), VIEW) == ()


def test_a_forward_is_quoted_and_brings_its_files() -> None:
    snapshot = {"content": "the **news**", "attachments": [FILE], "embeds": [], "type": 0}
    event = created(
        content="",
        message_reference={"type": 1, "message_id": "3", "channel_id": "9"},
        message_snapshots=[{"message": snapshot}],
    )
    assert plain_text(event.content.text) == "↪ Forwarded:\nthe news"
    assert [attachment.name for attachment in event.content.attachments] == ["SPOILER_cat.png"]


FILE = {
    "id": "31",
    "filename": "SPOILER_cat.png",
    "url": "https://cdn.example/attachments/100/31/SPOILER_cat.png?ex=1",
    "size": 1234,
    "content_type": "image/png; charset=binary",
    "width": 640,
    "height": 480,
    "description": "a cat",
}


def test_a_file_with_everything_that_is_known_of_it() -> None:
    [attachment] = created(content="", attachments=[FILE]).content.attachments
    assert (attachment.id, attachment.name, attachment.kind) == ("31", "SPOILER_cat.png", "image")
    assert (attachment.content_type, attachment.size) == ("image/png", 1234)
    assert (attachment.width, attachment.height, attachment.alt, attachment.spoiler) == (640, 480, "a cat", True)
    assert attachment.source.locator == FILE["url"]


def test_a_voice_message() -> None:
    voice = {
        "id": "32",
        "filename": "voice-message.ogg",
        "url": "https://cdn.example/v.ogg",
        "size": 9,
        "content_type": "audio/ogg",
        "duration_secs": 2.5,
        "waveform": "AAEC/w==",
    }
    [attachment] = created(content="", flags=1 << 13, attachments=[voice]).content.attachments
    assert (attachment.kind, attachment.duration, attachment.waveform) == ("voice", 2.5, (0, 1, 2, 255))


@pytest.mark.parametrize(
    ("form", "name", "content_type", "animated"),
    [
        (1, "wave.png", "image/png", False),
        (4, "wave.gif", "image/gif", True),
    ],
)
def test_a_sticker_is_a_file(form: int, name: str, content_type: str, animated: bool) -> None:
    sticker = {"id": "41", "name": "wave", "format_type": form}
    [attachment] = created(content="", sticker_items=[sticker]).content.attachments
    assert (attachment.kind, attachment.name, attachment.content_type) == ("sticker", name, content_type)
    assert attachment.animated is animated
    assert attachment.source.locator == f"https://cdn.example/stickers/41.{name.partition('.')[2]}"


def test_a_lottie_sticker_is_what_it_will_be_drawn_as() -> None:
    [sticker] = created(content="", sticker_items=[{"id": "41", "name": "wave", "format_type": 3}]).content.attachments
    assert (sticker.name, sticker.content_type, sticker.animated) == ("wave.webp", "image/webp", True)
    assert sticker.source.locator == "https://cdn.example/stickers/41.json"


@pytest.mark.parametrize(
    ("kind", "said"),
    [(6, "pinned a message to this channel."), (7, "joined the server."), (4, "changed the channel's name: new")],
)
def test_system_messages_worth_seeing(kind: int, said: str) -> None:
    event = created(type=kind, content="new" if kind == 4 else "")
    assert plain_text(event.content.text) == said
    assert event.content.style == "notice"


@pytest.mark.parametrize("kind", [1, 14, 22, 24])
def test_system_messages_that_nobody_needs_are_counted(kind: int) -> None:
    assert inbound.created(message(type=kind, content=""), VIEW) == (FeatureUsed(CHANNEL, "system"),)


def test_nothing_arrives_as_nothing() -> None:
    assert words(content="") == "A message with nothing in it that can be shown here."
    assert words(content="", author=BOT, flags=1 << 7) == "…"
    assert "type 99" in words(content="", type=99)


def test_a_preview_or_a_pin_is_no_edit() -> None:
    preview = message(embeds=[{"type": "link", "url": "https://example.org"}])
    assert inbound.edited(preview, VIEW, NOW) is None
    assert inbound.edited({"id": "3", "channel_id": "100", "embeds": []}, VIEW, NOW) is None
    part = message(edited_timestamp="2016-04-30T11:20:00+00:00", embeds=[])
    del part["content"]
    assert inbound.edited(part, VIEW, NOW) is None, "it does not tell what the message says now"
    assert inbound.edited(message(author=BOT, pinned=True), VIEW, NOW) is None, "years later"


def test_an_edit() -> None:
    event = inbound.edited(message(edited_timestamp="2016-04-30T11:20:00+00:00", content="bye"), VIEW, NOW)
    assert event is not None
    assert event.edited_at == datetime(2016, 4, 30, 11, 20, tzinfo=UTC)
    assert plain_text(event.content.text) == "bye"


def test_a_bot_that_fills_in_its_answer_has_edited_it() -> None:
    then = datetime(2016, 4, 30, 11, 30, tzinfo=UTC)
    event = inbound.edited(message(author=BOT, content="done"), VIEW, then)
    assert event is not None
    assert event.edited_at == then


def test_previews_are_not_shown_and_a_bots_own_embeds_are() -> None:
    embed = {"type": "rich", "title": "Build failed", "url": "https://example.org/1", "description": "on *main*"}
    assert words(embeds=[embed]) == "hello"
    assert words(author=BOT, embeds=[embed]) == "hello\nBuild failed\non main"
    assert words(author=BOT, embeds=[embed | {"type": "article"}]) == "hello"


def test_flags_may_be_null() -> None:
    file = {"id": "4", "filename": "a.png", "url": "https://cdn.example/attachments/1/2/a.png", "flags": None}
    assert words(flags=None, attachments=[file]) == "hello"


def test_a_message_of_an_unknown_form_is_not_missing() -> None:
    event = inbound.unreadable({"id": "175928847299117063", "author": None}, VIEW)
    assert plain_text(event.content.text) == "A message that the relay could not read."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.dictionaries(
    st.sampled_from(["type", "title", "fields", "components", "items", "content", "name", "value", "url", "author"]),
    JSON,
    max_size=5,
)


@given(st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3), st.text(max_size=40))
def test_whatever_a_bot_writes_gives_a_message_or_a_known_error(
    embeds: list[Any], components: list[Any], text: str
) -> None:
    try:
        [event] = inbound.created(message(author=BOT, embeds=embeds, components=components, content=text), VIEW)
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    assert isinstance(event, MessageCreated)
    assert event.content
