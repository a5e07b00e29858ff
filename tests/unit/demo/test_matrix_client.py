"""`shown` applies edits and redactions as clients do."""

from typing import Any

from relay.demo.matrix_client import shown

ANN, BOB = "@ann:localhost", "@bob:localhost"


def message(event_id: str, body: str, *, sender: str = ANN, at: int = 1, extra: Any = None) -> dict[str, Any]:
    content = {"msgtype": "m.text", "body": body} | (extra or {})
    return {
        "type": "m.room.message",
        "event_id": event_id,
        "sender": sender,
        "origin_server_ts": at,
        "content": content,
    }


def edit(event_id: str, target: str, body: str, *, sender: str = ANN, at: int = 2) -> dict[str, Any]:
    relation = {"rel_type": "m.replace", "event_id": target}
    new = {"msgtype": "m.text", "body": body}
    return message(event_id, f"* {body}", sender=sender, at=at, extra={"m.new_content": new, "m.relates_to": relation})


def test_the_newest_edit_of_the_author_wins() -> None:
    timeline = [
        message("$1", "one"),
        edit("$3", "$1", "three", at=3),
        edit("$2", "$1", "two", at=2),
        edit("$4", "$1", "forged", sender=BOB, at=4),
    ]
    assert [(line.body, line.edits) for line in shown(timeline)] == [("three", 2)]


def test_a_redacted_message_has_no_words_even_if_it_was_edited() -> None:
    gone = message("$1", "") | {"content": {}}
    [line] = shown([gone, edit("$2", "$1", "later")])
    assert (line.redacted, line.body) == (True, "")


def test_relations_and_profiles_are_read() -> None:
    reply = message("$2", "yes", extra={"m.relates_to": {"m.in_reply_to": {"event_id": "$1"}}})
    thread = {"rel_type": "m.thread", "event_id": "$1", "is_falling_back": True, "m.in_reply_to": {"event_id": "$2"}}
    inside = message(
        "$3", "in", extra={"m.relates_to": thread, "com.beeper.per_message_profile": {"displayname": "Cy"}}
    )
    lines = shown([message("$1", "?"), reply, inside])
    assert [(line.reply_to, line.thread, line.name) for line in lines] == [
        (None, None, ""),
        ("$1", None, ""),
        (None, "$1", "Cy"),
    ]
