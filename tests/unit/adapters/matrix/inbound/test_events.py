"""Events as homeservers send them, and the domain events that they become."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.matrix.identifiers import OwnAccounts
from relay.adapters.matrix.inbound.events import ban_event, changed_picture, convert, ephemeral_events, is_message
from relay.adapters.matrix.markup import NameLookup
from relay.adapters.matrix.rooms.state import RoomState
from relay.domain.content import Attachment, Author, Content
from relay.domain.events import (
    Event,
    Feature,
    FeatureUsed,
    MemberBanned,
    MemberUnbanned,
    MessageCreated,
    MessageDeleted,
    MessageEdited,
    PictureChanged,
)
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, PlaceRef, Platform, ThreadRef, UserRef
from relay.domain.text.nodes import RichText, UserMention, plain_text
from relay.domain.text.rewrite import walk

ROOM = ChannelRef(Platform.MATRIX, "!room")
PLACE, EVE = PlaceRef(Platform.MATRIX, "!room:localhost"), UserRef(Platform.MATRIX, "@eve:localhost")
ANN, ME = "@ann:example.org", "@relay:example.org"
MXC = "mxc://example.org/abc"


def event(content: dict[str, Any], kind: str = "m.room.message", **changes: Any) -> dict[str, Any]:
    known = {"type": kind, "event_id": "$1", "sender": ANN, "origin_server_ts": 1_700_000_000_000, "content": content}
    return known | changes


def read(content: dict[str, Any], kind: str = "m.room.message", **changes: Any) -> Event | None:
    state = RoomState("!room")
    member = {"membership": "join", "displayname": "Ann", "avatar_url": MXC}
    state.apply({"type": "m.room.member", "state_key": ANN, "content": member})
    return convert(event(content, kind, **changes), state, ME)


def text(body: str, **extra: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body} | extra


def said(content: dict[str, Any], kind: str = "m.room.message") -> MessageCreated:
    found = read(content, kind)
    assert isinstance(found, MessageCreated)
    return found


def relates(**relation: Any) -> dict[str, Any]:
    return {"m.relates_to": relation}


def test_a_message_with_its_author_and_time() -> None:
    assert read(text("hello\nworld")) == MessageCreated(
        MessageRef(ROOM, "$1"),
        Author(UserRef(Platform.MATRIX, ANN), "Ann", MediaRef(Platform.MATRIX, MXC)),
        Content(RichText.plain("hello\nworld")),
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
    )


def test_our_own_messages_are_marked_and_unknown_members_have_their_id_as_name() -> None:
    own = read(text("x"), sender=ME)
    assert isinstance(own, MessageCreated)
    assert (own.author.is_self, own.author.name) == (True, ME)
    copy = text("x", **{"com.beeper.per_message_profile": {"displayname": "Bob"}})
    ours, theirs = read(copy, sender=ME), read(copy)
    assert isinstance(ours, MessageCreated)
    assert isinstance(theirs, MessageCreated)
    assert (ours.author.name, theirs.author.name) == ("Bob", "Bob (via Ann)")


@pytest.mark.parametrize(
    "via", ["(via Bridge)", "(v\u200bia Bridge)", "(\u2060via Bridge)", "（via Bridge）", "[via Bridge]"]
)
def test_a_name_that_imitates_another_bridge_gets_a_suffix(via: str) -> None:
    state = RoomState(ROOM.id)
    content = {"membership": "join", "displayname": f"Alice {via}"}
    state.apply({"type": "m.room.member", "state_key": ANN, "content": content})
    found = convert(event(text("x")), state, ME)
    assert isinstance(found, MessageCreated)
    assert found.author.name.endswith("(ann)")


def test_a_gallery_has_as_many_files_as_a_message_may_hold_and_counts_the_rest() -> None:
    items = [{"itemtype": "m.file", "body": f"{n}.txt", "url": f"mxc://e.t/{n}"} for n in range(1300)]
    found = said({"msgtype": "m.gallery", "body": "", "itemtypes": items}).content
    assert (len(found.attachments), found.left_out) == (10, 1290)
    words = "and 1,290 more files, not carried over: 10.txt, 11.txt, 12.txt, 13.txt, 14.txt, …"
    assert plain_text(found.text).endswith(words)


def test_the_files_of_a_gallery_and_the_images_in_its_text_are_counted_together() -> None:
    items: list[Any] = [{"itemtype": "m.file", "body": f"{n}.txt", "url": f"mxc://e.t/{n}"} for n in range(10)]
    items += [{"itemtype": "m.image", "body": "hidden.png", "url": "mxc://e.t/h", "m.spoiler": True}, 7, {"body": " "}]
    html = {"format": "org.matrix.custom.html", "formatted_body": 'look <img src="mxc://e.t/p" alt="a cat">'}
    found = said({"msgtype": "m.gallery", "body": "look", "itemtypes": items, **html}).content
    assert (len(found.attachments), found.left_out) == (10, 4)
    assert plain_text(found.text).endswith("and 4 more files, not carried over: a cat, …")


def test_a_reply_without_the_quotation_that_old_clients_put_in_front() -> None:
    reply = {"m.in_reply_to": {"event_id": "$0"}}
    body = "> <@bob:example.org> one\n> two\n\nthree"
    formatted = "<mx-reply><blockquote>one</blockquote></mx-reply><b>three</b>"
    extra = {"format": "org.matrix.custom.html", "formatted_body": formatted}
    for content in (text(body, **relates(**reply)), text(body, **relates(**reply), **extra)):
        found = said(content)
        assert (found.reply_to, plain_text(found.content.text)) == (MessageRef(ROOM, "$0"), "three")
    # A quotation that somebody typed is kept.
    assert "one" in plain_text(said(text("> one\n\ntwo", **relates(**reply))).content.text)


def test_a_message_in_a_thread_is_no_reply_unless_it_says_so() -> None:
    falling = {"rel_type": "m.thread", "event_id": "$root", "m.in_reply_to": {"event_id": "$0"}}
    found = said(text("x", **relates(**falling, is_falling_back=True)))
    assert (found.thread, found.reply_to) == (ThreadRef(ROOM, "$root"), None)
    assert said(text("x", **relates(**falling))).reply_to == MessageRef(ROOM, "$0")


def test_an_edit_has_the_new_content() -> None:
    found = read(text("* new", **relates(rel_type="m.replace", event_id="$0"), **{"m.new_content": text("new")}))
    assert isinstance(found, MessageEdited)
    assert (found.ref, plain_text(found.content.text)) == (MessageRef(ROOM, "$0"), "new")
    assert not is_message(event(text("x", **relates(rel_type="m.replace", event_id="$0"))))


@pytest.mark.parametrize(("content", "top"), [({"redacts": "$0"}, {}), ({}, {"redacts": "$0"})])
def test_a_redaction_in_old_and_in_new_rooms(content: dict[str, Any], top: dict[str, Any]) -> None:
    assert read(content, "m.room.redaction", **top) == MessageDeleted(MessageRef(ROOM, "$0"))


@pytest.mark.parametrize(("version", "removed"), [("1", "$beside"), ("10", "$beside"), ("11", "$in"), ("12", "$in")])
def test_a_redaction_removes_what_its_room_version_says(version: str, removed: str) -> None:
    """Who redacts a message of their own could name somebody else's in the other place."""
    state = RoomState("!room")
    state.apply(event({"room_version": version}, "m.room.create", state_key=""))
    found = convert(event({"redacts": "$in"}, "m.room.redaction", redacts="$beside"), state, ME)
    assert found == MessageDeleted(MessageRef(ROOM, removed))


def test_a_message_that_is_redacted_already_is_ignored() -> None:
    assert read({}) is None
    assert read(text("x"), unsigned={"redacted_because": {}}) is None
    assert not is_message(event({}))


@pytest.mark.parametrize(
    ("kind", "content", "feature"),
    [
        ("m.reaction", relates(rel_type="m.annotation", event_id="$0", key="👍"), "reaction"),
        ("m.call.invite", {"call_id": "1"}, "call"),
        ("m.room.encrypted", {"ciphertext": "x"}, "encryption"),
        ("org.matrix.msc3381.poll.response", {"answers": []}, "vote"),
        ("m.room.message", {"msgtype": "m.key.verification.request", "body": "x"}, "verification"),
        ("com.example.game", {"move": "e4"}, "unknown"),
    ],
)
def test_features_that_are_not_copied_have_names(kind: str, content: dict[str, Any], feature: Feature) -> None:
    assert read(content, kind) == FeatureUsed(ROOM, feature)


def test_state_events_are_ignored() -> None:
    assert read({"name": "x"}, "m.room.name", state_key="") is None


def test_an_image_with_a_caption() -> None:
    info = {"mimetype": "image/png", "size": 9, "w": 2, "h": 3, "thumbnail_url": MXC + "t", "is_animated": True}
    content = {"msgtype": "m.image", "body": "look", "filename": "a.png", "url": MXC, "info": info}
    found = said(content | {"page.codeberg.everypizza.msc4193.spoiler": True}).content
    assert plain_text(found.text) == "look"
    assert found.attachments == (
        Attachment(
            MXC,
            "a.png",
            "image",
            MediaRef(Platform.MATRIX, MXC),
            "image/png",
            9,
            2,
            3,
            spoiler=True,
            animated=True,
            thumbnail=MediaRef(Platform.MATRIX, MXC + "t"),
            url="https://matrix.to/#/!room/$1",
        ),
    )


def test_a_file_without_a_caption() -> None:
    for content in ({"body": "a.bin"}, {"body": "a.bin", "filename": "a.bin"}):
        found = said({"msgtype": "m.file", "url": MXC} | content).content
        assert (found.text, [file.name for file in found.attachments]) == (RichText(), ["a.bin"])


def test_a_voice_message() -> None:
    audio = {"org.matrix.msc1767.audio": {"duration": 1500, "waveform": [0, 512, 1024, 9999]}}
    content = {"msgtype": "m.audio", "body": "Voice message", "url": MXC, "org.matrix.msc3245.voice": {}} | audio
    [file] = said(content).content.attachments
    assert (file.kind, file.duration, file.waveform) == ("voice", 1.5, (0, 127, 255, 255))


def test_a_sticker() -> None:
    [file] = said({"body": "a cat", "url": MXC, "info": {"mimetype": "image/png"}}, "m.sticker").content.attachments
    assert (file.kind, file.name, file.alt) == ("sticker", "a cat", "a cat")


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (
            {"msgtype": "m.location", "body": "the pub", "geo_uri": "geo:51.5,-0.1;u=3"},
            "m.room.message",
            "📍 the pub\nhttps://www.openstreetmap.org/?mlat=51.500000&mlon=-0.100000#map=16/51.500000/-0.100000",
        ),
        ({"msgtype": "m.location", "body": "somewhere", "geo_uri": "geo:x"}, "m.room.message", "📍 somewhere"),
        ({"msgtype": "com.example.dice", "body": "4"}, "m.room.message", "4\n(a message of the type com.example.dice)"),
        ({"body": "old"}, "m.room.message", "old\n(a message of the type unknown)"),
        (
            {"msgtype": "m.image", "body": "a.png", "file": {"url": 7}},
            "m.room.message",
            "📎 a.png (image that cannot be read)",
        ),
        (
            {
                "org.matrix.msc3381.poll.start": {
                    "question": {"org.matrix.msc1767.text": "Tea?"},
                    "answers": [{"id": "1", "org.matrix.msc1767.text": "Yes"}, {"id": "2", "body": "No"}],
                }
            },
            "org.matrix.msc3381.poll.start",
            "📊 Tea?\nYes\nNo",
        ),
        (
            {"m.poll": {"question": {"m.text": [{"body": "Tea?"}]}, "answers": [{"m.text": [{"body": "Yes"}]}]}},
            "m.poll.start",
            "📊 Tea?\nYes",
        ),
        ({"m.text": [{"body": "Yes won"}]}, "m.poll.end", "Yes won"),
    ],
)
def test_other_messages_become_text(content: dict[str, Any], kind: str, words: str) -> None:
    assert plain_text(said(content, kind).content.text) == words


def test_typing_and_receipts_count_once_for_each_person() -> None:
    def typing(*users: str) -> dict[str, Any]:
        return {"events": [{"type": "m.typing", "content": {"user_ids": list(users)}}]}

    found, now = ephemeral_events(typing(ANN, ME), ROOM, ME, frozenset())
    assert (found, now) == ([FeatureUsed(ROOM, "typing")], {ANN, ME})
    assert ephemeral_events(typing(ANN), ROOM, ME, frozenset(now)) == ([], {ANN})
    receipts = {"$1": {"m.read": {ANN: {"ts": 1}, ME: {"ts": 1}}}}
    found, _ = ephemeral_events({"events": [{"type": "m.receipt", "content": receipts}]}, ROOM, ME, frozenset())
    assert found == [FeatureUsed(ROOM, "receipt")]


HALF = "$half\ud800"
UNREADABLE = FeatureUsed(ROOM, "unreadable")


def test_an_id_that_is_not_valid_text_is_unreadable() -> None:
    """JSON can hold half a surrogate pair; a database that is given one refuses everything around it."""
    assert read(text("x"), event_id=HALF) == UNREADABLE
    assert read(text("x"), sender="@half\ud800:example.org") == UNREADABLE
    assert read({"redacts": HALF}, "m.room.redaction") == UNREADABLE
    edit = relates(rel_type="m.replace", event_id=HALF) | {"m.new_content": text("new")}
    assert read(text("* new", **edit)) == UNREADABLE
    related = [
        relates(**{"m.in_reply_to": {"event_id": HALF}}),
        relates(rel_type="m.thread", event_id=HALF),
        relates(rel_type="m.thread", event_id=HALF, **{"m.in_reply_to": {"event_id": HALF}}),
    ]
    for relation in related:
        found = said(text("x", **relation))
        assert (found.reply_to, found.thread, plain_text(found.content.text)) == (None, None, "x")


def test_an_image_whose_address_is_not_valid_text_is_left_out() -> None:
    half = "mxc://example.org/half\ud800"
    html = f'<img data-mx-emoticon src="{half}" alt=":a:"><img src="{half}" alt="b">'
    state = RoomState("!room")
    member = {"membership": "join", "displayname": "Ann", "avatar_url": half}
    state.apply({"type": "m.room.member", "state_key": ANN, "content": member})
    contents = (
        text("x", format="org.matrix.custom.html", formatted_body=html),
        text("x", **{"com.beeper.per_message_profile": {"displayname": "Bob", "avatar_url": half}}),
        {"msgtype": "m.image", "body": "x", "url": half},
    )
    for content in contents:
        found = convert(event(content), state, ME)
        assert isinstance(found, MessageCreated)
        assert all(identifier.isascii() for identifier in _ids(found))


def _ids(node: object) -> Iterator[str]:
    """All IDs and addresses of files in an event."""
    if isinstance(node, UserRef | ChannelRef | MessageRef):
        yield node.id
    if isinstance(node, MediaRef):
        yield node.locator
    if is_dataclass(node):
        for part in fields(node):
            yield from _ids(getattr(node, part.name))
    elif isinstance(node, tuple):
        for item in node:
            yield from _ids(item)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=20)
    | st.text(st.sampled_from("$a\ud800"), max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KEYS = st.one_of(
    st.sampled_from(["msgtype", "body", "formatted_body", "format", "url", "info", "filename", "geo_uri"]),
    st.sampled_from(["m.relates_to", "m.new_content", "redacts", "org.matrix.msc1767.audio", "waveform", "duration"]),
    st.sampled_from(["m.poll", "org.matrix.msc3381.poll.start", "question", "answers", "m.text"]),
)
_RELATIONS = st.fixed_dictionaries(
    {"rel_type": st.sampled_from(["m.replace", "m.thread", "m.reference", "x"])},
    optional={"event_id": _JSON, "m.in_reply_to": _JSON, "is_falling_back": _JSON},
)
_MSGTYPES = st.sampled_from(["m.text", "m.image", "m.audio", "m.location", "m.emote", "x"])
_CONTENTS = st.dictionaries(_KEYS, _JSON | _RELATIONS | _MSGTYPES, max_size=8)
_TYPES = st.sampled_from(
    ["m.room.message", "m.sticker", "m.poll.start", "m.poll.end", "m.room.redaction", "m.reaction", "x"]
)


@given(content=_CONTENTS | _JSON, kind=_TYPES, extra=st.dictionaries(st.sampled_from(["unsigned", "sender"]), _JSON))
def test_anything_at_all_can_be_read(content: Any, kind: str, extra: dict[str, Any]) -> None:
    found = read(content, kind, **extra)
    assert found is None or isinstance(found, Event)
    for identifier in _ids(found):
        identifier.encode()


@given(
    target=st.text(st.sampled_from("@#!$:/?%ED0a\ud800\udc00"), max_size=12).map("https://matrix.to/#/{}".format),
    before=st.sampled_from(["@a", "#a", "!a", "!a:b/$"]),
)
def test_no_link_leads_to_an_id_that_is_not_valid_text(target: str, before: str) -> None:
    url = target.replace("#/", f"#/{before}", 1)
    html = {"format": "org.matrix.custom.html", "formatted_body": f'<a href="{url}">x</a>'}
    for content in (text(url), text("x", **html)):
        for identifier in _ids(said(content)):
            identifier.encode()


@given(timestamp=_JSON)
def test_any_number_is_read_as_a_time(timestamp: Any) -> None:
    assert isinstance(read(text("x"), origin_server_ts=timestamp), MessageCreated)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("!relay", ()),
        ("!relay help", ("help",)),
        ("  !Relay   link  ABC \n and more", ("link", "ABC")),
        ("!relay link `abc`", ("link", "`abc`")),
        ("!relay a b c d e f g h i j k", ("a", "b", "c", "d", "e", "f", "g")),
        ("!relayed", None),
        ("say !relay help", None),
        ("relay help", None),
    ],
)
def test_a_message_that_begins_with_the_relay_s_word_is_a_command(body: str, words: tuple[str, ...] | None) -> None:
    assert said(text(body)).command == words


def test_a_command_may_be_marked_up_and_answer_something() -> None:
    html = "<mx-reply><blockquote>x</blockquote></mx-reply><p>!relay <b>link</b> <code>abc</code></p><p>please</p>"
    content = text("> x\n\n!relay link abc", format="org.matrix.custom.html", formatted_body=html)
    answered = content | relates(**{"m.in_reply_to": {"event_id": "$0"}})
    assert said(answered).command == ("link", "abc")


@pytest.mark.parametrize(
    "content",
    [
        {"msgtype": "m.notice", "body": "!relay optout"},
        {"msgtype": "m.emote", "body": "!relay optout"},
        {"msgtype": "m.file", "body": "!relay optout", "filename": "x", "url": MXC},
        text("!relay optout", **{"com.beeper.per_message_profile": {"id": "1", "displayname": "Bob"}}),
    ],
    ids=["notice", "emote", "caption", "another bridge's person"],
)
def test_a_bot_gives_no_commands(content: dict[str, Any]) -> None:
    assert said(content).command is None


def test_an_edit_says_whether_it_reads_like_a_command() -> None:
    for new, is_command in (("!relay optout", True), ("hello", False)):
        edit = text("* x") | {"m.new_content": text(new)} | relates(rel_type="m.replace", event_id="$0")
        found = read(edit)
        assert isinstance(found, MessageEdited)
        assert found.is_command is is_command


# --- Pictures -------------------------------------------------------------------------------------------------


def member(before: Any, after: Any, **changes: Any) -> dict[str, Any]:
    kept = {"displayname": "Ann", "membership": "join"}
    unsigned = {} if before is None else {"prev_content": kept | before}
    return event(kept | after, "m.room.member", **{"state_key": ANN, "unsigned": unsigned} | changes)


def test_a_member_has_another_picture() -> None:
    other = "mxc://example.org/other"
    found = changed_picture(member({"avatar_url": MXC}, {"avatar_url": other}), ROOM, ME, NameLookup())
    ann = Author(UserRef(Platform.MATRIX, ANN), "Ann", MediaRef(Platform.MATRIX, other))
    assert found == PictureChanged(ROOM, ann)
    assert found.author.handle == "ann"
    removed = changed_picture(member({"avatar_url": MXC}, {}), ROOM, ME, NameLookup())
    assert removed == PictureChanged(ROOM, replace(ann, avatar=None))
    own = changed_picture(member({}, {"avatar_url": MXC}, state_key=ME), ROOM, ME, NameLookup())
    assert own is not None
    assert own.author.is_self


@pytest.mark.parametrize(
    "said",
    [
        member({"avatar_url": MXC}, {"avatar_url": MXC, "displayname": "Anna"}),
        member(None, {"avatar_url": MXC}),
        member({"membership": "leave"}, {"avatar_url": MXC}),
        member({"avatar_url": MXC}, {"membership": "leave"}),
        member({"avatar_url": MXC}, {"avatar_url": MXC}, state_key=7),
        member({}, {"avatar_url": "https://example.org/x.png"}),
        event({"avatar_url": MXC}, "m.room.avatar", state_key=""),
        event("x", "m.room.member", state_key=ANN),  # type: ignore[arg-type]
        {"type": "m.room.member", "state_key": ANN, "content": {"membership": "join"}, "unsigned": []},
    ],
)
def test_nobody_has_another_picture(said: dict[str, Any]) -> None:
    assert changed_picture(said, ROOM, ME, NameLookup()) is None


GHOST = "@_discord_42:example.org"
GHOSTS = NameLookup(person=OwnAccounts(me=ME, prefix="_discord_").person)


def test_what_a_ghost_says_and_removes_is_our_own() -> None:
    state = RoomState(ROOM.id)
    for sender, ours in ((GHOST, True), ("@_discord_x:example.org", False), ("@_discord_42:elsewhere.org", False)):
        said = convert(event(text("x"), sender=sender), state, ME, GHOSTS)
        assert isinstance(said, MessageCreated)
        assert said.author.is_self is ours
        removed = convert(event({"redacts": "$0"}, "m.room.redaction", sender=sender), state, ME, GHOSTS)
        assert isinstance(removed, MessageDeleted)
        assert removed.by_self is ours
        used = convert(event({"m.relates_to": {}}, "m.reaction", sender=sender), state, ME, GHOSTS)
        assert isinstance(used, FeatureUsed)
        assert used.user_is_self is ours


def test_who_mentions_or_answers_a_ghost_means_its_person() -> None:
    pill = f'hello <a href="https://matrix.to/#/{GHOST}">Ada</a>'
    content = text("hello Ada", format="org.matrix.custom.html", formatted_body=pill)
    said = convert(event(content | {"m.mentions": {"user_ids": [GHOST, 5]}}), RoomState(ROOM.id), ME, GHOSTS)
    assert isinstance(said, MessageCreated)
    assert UserMention(UserRef(Platform.DISCORD, "42"), "Ada") in list(walk(said.content.text.blocks))
    assert said.content.calls_answered


@pytest.mark.parametrize(
    ("before", "after", "more", "expected"),
    [
        ("join", "ban", {}, MemberBanned(PLACE, EVE)),
        (None, "ban", {"redact_events": "yes"}, MemberBanned(PLACE, EVE)),
        # Whoever may ban, but not redact, cannot have it all removed either.
        ("join", "ban", {"redact_events": True}, MemberBanned(PLACE, EVE)),
        ("ban", "leave", {}, MemberUnbanned(PLACE, EVE)),
        ("ban", "join", {}, MemberUnbanned(PLACE, EVE)),
        ("join", "leave", {}, None),
        (None, "join", {}, None),
        (None, 5, {}, None),
    ],
)
def test_bans_and_their_end(before: Any, after: Any, more: Any, expected: Any) -> None:
    said: dict[str, Any] = {"type": "m.room.member", "sender": "@mod:localhost", "state_key": EVE.id}
    said |= {"content": {"membership": after} | more, "unsigned": {"prev_content": {"membership": before}}}
    state = RoomState(PLACE.id)
    state.apply({"type": "m.room.power_levels", "state_key": "", "content": {"users": {"@mod:localhost": 40}}})
    assert ban_event(said, state, EVE) == expected
    state.apply({"type": "m.room.power_levels", "state_key": "", "content": {"users": {"@mod:localhost": 50}}})
    if more.get("redact_events") is True:
        assert ban_event(said, state, EVE) == MemberBanned(PLACE, EVE, removes_all=True)
    assert ban_event(said | {"content": None}, state, EVE) is None
