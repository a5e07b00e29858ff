"""What a reader of the demo sees of Discord's messages and of Matrix's events."""

from typing import Any

from relay.demo.matrix_client import shown
from relay.demo.sample_files import WAVEFORM, sample_file
from relay.demo.sides import discord_view, matrix_view
from relay.demo.sides.base import DisplayedMessage, MessageAuthor, OutgoingFile, letters
from relay.domain.jsontext import Json
from relay.sandbox.messages.media import describe


def message(**more: Any) -> Json:
    return {"type": 0, "content": "", "flags": 0, "attachments": [], "embeds": [], **more}


def event(number: int, content: Json, kind: str = "m.room.message", sender: str = "@mia:x") -> Json:
    return {"event_id": f"${number}", "type": kind, "sender": sender, "origin_server_ts": number, "content": content}


def test_attachments_are_what_discord_says_of_them() -> None:
    attachment = {"id": "7", "filename": "SPOILER_v.ogg", "size": 9, "content_type": "audio/ogg", "waveform": "AP8="}
    (voice,) = discord_view.files(message(flags=1 << 13, attachments=[attachment]))
    assert (voice.kind, voice.spoiler, voice.waveform, voice.source) == ("voice", True, (0.0, 1.0), "attachment-7")
    (sound,) = discord_view.files(message(attachments=[attachment | {"waveform": "!"}]))
    assert (sound.kind, sound.waveform) == ("audio", ())
    stickers = [{"id": "1", "name": "ahoy", "format_type": 2}, {"id": "2", "name": "wave", "format_type": 3}]
    assert [file.source for file in discord_view.files(message(sticker_items=stickers))] == ["sticker-1", ""]


def test_cards_of_discord_and_their_words() -> None:
    embed = {"title": "Push", "color": 0xFF, "fields": [{"name": "Branch", "value": "main", "inline": True}]}
    answers = [{"answer_id": 1, "poll_media": {"text": "Soup"}}, {"answer_id": 2, "poll_media": {"text": "Salad"}}]
    results = {"is_finalized": True, "answer_counts": [{"id": 2, "count": 3}]}
    poll = {"question": {"text": "Lunch?"}, "answers": answers, "results": results}
    snapshot = {"message": {"content": "news", "embeds": [embed]}}
    buttons = [{"type": 1, "components": [{"type": 2, "label": "Docs", "url": "https://example.org"}]}]
    found = discord_view.cards(message(embeds=[embed], poll=poll, message_snapshots=[snapshot], components=buttons))
    assert [card["kind"] for card in found] == ["forward", "poll", "embed", "buttons"]
    assert found[1]["answers"] == [{"text": "Soup", "votes": 0}, {"text": "Salad", "votes": 3}]
    assert found[2]["colour"] == "#0000ff"
    seen = DisplayedMessage("1", 1, 1, MessageAuthor("Mira"), "person", "look", cards=found[1:3])
    assert letters(seen.words) == "looklunchsoupsaladpushbranchmain"


def test_the_end_of_a_poll_in_words() -> None:
    values = {"poll_question_text": "Lunch?", "victor_answer_votes": "0", "total_votes": "0"}
    embed = {"type": "poll_result", "fields": [{"name": name, "value": value} for name, value in values.items()]}
    result = message(type=46, embeds=[embed])
    assert discord_view.words(result) == "The poll has ended: **Lunch?**\nNobody won."
    assert discord_view.is_system(result)
    assert discord_view.cards(result) == ()


def test_a_poll_of_matrix_counts_the_last_vote_of_each() -> None:
    kind, text = "org.matrix.msc3381.poll", "org.matrix.msc1767.text"
    answers = [{"id": "a", text: "Six"}, {"id": "b", text: "Seven"}]
    about = {"m.relates_to": {"rel_type": "m.reference", "event_id": "$1"}}

    def vote(number: int, answer: str, sender: str) -> Json:
        return event(number, about | {f"{kind}.response": {"answers": [answer]}}, f"{kind}.response", sender)

    events = [
        event(1, {f"{kind}.start": {"question": {text: "When?"}, "answers": answers}}, f"{kind}.start"),
        vote(2, "a", "@mia:x"),
        vote(3, "b", "@mia:x"),
        vote(4, "b", "@ann:x"),
        event(5, about | {f"{kind}.end": {}, text: "over"}, f"{kind}.end"),
    ]
    item, end = shown(matrix_view.as_messages(events))
    (card,) = matrix_view.cards(item, events)
    assert (end.reply_to, matrix_view.body(end)) == ("$1", "over")
    assert matrix_view.excerpt(item) == "When?"
    assert card["answers"] == [{"text": "Six", "votes": 0}, {"text": "Seven", "votes": 2}]
    assert card["over"]
    assert matrix_view.body(item) == ""


def test_files_of_matrix_and_the_words_beside_them() -> None:
    info = {"size": 9, "w": 4, "h": 3}
    image = {"msgtype": "m.image", "body": "a.png", "filename": "a.png", "url": "mxc://x/y", "info": info}
    sound = {"duration": 1500, "waveform": [0, 1024]}
    voice = {"msgtype": "m.audio", "body": "v", "url": "mxc://x/z", "org.matrix.msc1767.audio": sound}
    events = [
        event(1, image | {"page.codeberg.everypizza.msc4193.spoiler": True}),
        event(2, image | {"body": "look"}),
        event(3, voice | {"org.matrix.msc3245.voice": {}}),
        event(4, {"body": "Ahoy", "url": "mxc://x/s", "info": {}}, "m.sticker"),
        event(5, {}, "m.sticker"),
    ]
    items = shown(matrix_view.as_messages(events))
    assert [matrix_view.body(item) for item in items] == ["", "look", "", "", ""]
    files = [file for item in items for file in matrix_view.files(item)]
    assert [(file.kind, file.source, file.spoiler) for file in files] == [
        ("image", "x/y", True),
        ("image", "x/y", False),
        ("voice", "x/z", False),
        ("sticker", "x/s", False),
    ]
    assert (files[2].duration, files[2].waveform) == (1.5, (0.0, 1.0))


def test_props_are_what_their_names_say(tmp_path: Any) -> None:
    for name in ("harbour-map.png", "sunset.jpg", "crab.png", "dance.gif", "ahoy.png", "rocking.png"):
        found = sample_file(name)
        path = tmp_path / name
        path.write_bytes(found.data)
        assert describe(path, name, None).content_type == found.content_type
    assert sample_file("voice.ogg").data.startswith(b"OggS")
    assert sample_file("waves.webm", "film.webm").content_type == "video/webm"
    assert len(WAVEFORM) == 48


def test_a_plain_client_shows_the_fallback() -> None:
    profile = {"id": "discord_7", "displayname": "Mira", "has_fallback": True}
    content = {"msgtype": "m.image", "body": "Mira: ", "filename": "a.png", matrix_view.PROFILE: profile}
    text = {"msgtype": "m.text", "body": "Mira: hello", matrix_view.PROFILE: profile}
    picture, words = shown([event(1, content), event(2, text)])
    assert (matrix_view.body(picture), matrix_view.body(picture, plain=True)) == ("", "Mira: ")
    assert (matrix_view.body(words), matrix_view.body(words, plain=True)) == ("hello", "Mira: hello")
    assert matrix_view.excerpt(words, plain=True) == "Mira: hello"


def test_what_a_client_says_of_a_file_that_it_sends() -> None:
    film = OutgoingFile("a.webm", b"1234", "video/webm", 480, 270, 4.2, spoiler=True)
    (seen,) = shown([event(1, matrix_view.file_content(film, "mxc://x/1"))])
    (file,) = matrix_view.files(seen)
    assert (file.kind, file.width, file.height, file.duration, file.spoiler) == ("video", 480, 270, 4.2, True)
    assert (file.name, file.size, file.source, matrix_view.body(seen)) == ("a.webm", 4, "x/1", "")
    other = OutgoingFile("a.pdf", b"1", "application/pdf")
    assert matrix_view.file_content(other, "mxc://x/2")["msgtype"] == "m.file"
    assert "duration" not in matrix_view.file_content(other, "mxc://x/2")["info"]


def test_what_a_client_makes_of_a_slash() -> None:
    link = {"type": 1, "name": "link", "options": [{"type": 3, "name": "account"}]}
    registered = [{"name": "relay", "options": [link, {"type": 1, "name": "help"}]}]
    assert discord_view.slash_command("/relay link @me:server", registered) == ("relay link", {"account": "@me:server"})
    assert discord_view.slash_command("/relay help", registered) == ("relay help", {})
    assert discord_view.slash_command("/relay", registered) == ("relay", {})
    for text in ("/shrug", "relay help", "/relays", "/"):
        assert discord_view.slash_command(text, registered) is None
