"""What readers make of what stands there."""

from typing import Any

from relay.demo.matrix_client import Shown
from tests.chaos.ledger import File
from tests.chaos.reading import Quote, Said, discord_copy, discord_original, matrix_copy, matrix_original

_LINK = "https://discord.com/channels/1/2/3"
_FILE = File("d1.0-notes.pdf", "abc")


def _on_discord(content: str, name: str = "Mia", *, webhook: str | None = "9") -> dict[str, Any]:
    return {"id": "7", "author": {"username": name}, "content": content, "webhook_id": webhook}


def _on_matrix(body: str, name: str = "Ada", **content: Any) -> Shown:
    return Shown("$7", "@relay:localhost", name, body, "", "m.text", 0, content, reply_to=content.get("answers"))


def test_a_copy_on_discord() -> None:
    copy = discord_copy(_on_discord("m1.0 tea"))
    assert copy.said == (Said("Mia", "m1.0 tea"),)
    assert not copy.by_bot
    answer = discord_copy(_on_discord(f"> [↪ Ada](<{_LINK}>): d7.0 rain\nm8.0 tea"))
    assert answer.said == (Said("Mia", "m8.0 tea", Quote("Ada", "d7.0 rain", _LINK)),)


def test_a_copy_that_the_bot_had_to_post() -> None:
    assert discord_copy(_on_discord("**Mia**: m1.0 tea", "relay", webhook=None)).said == (Said("Mia", "m1.0 tea"),)
    answer = discord_copy(_on_discord(f"**Mia**:\n> [↪ Ada](<{_LINK}>): d7.0\nm8.0", "relay", webhook=None))
    assert answer.said == (Said("Mia", "m8.0", Quote("Ada", "d7.0", _LINK)),)
    together = "**Mia, Noa**: **Mia:** m1.0 tea\n> ↪ Mia: m1.0 tea\n**Noa:** me too"
    several = discord_copy(_on_discord(together, "relay", webhook=None))
    assert several.said == (Said("Mia", "m1.0 tea"), Said("Noa", "me too", Quote("Mia", "m1.0 tea")))
    assert several.by_bot


def test_messages_that_share_a_copy_are_told_apart() -> None:
    one_author = discord_copy(_on_discord("m2.0 tea\n\nm3.1 rain"))
    assert one_author.keys == ("m2", "m3")
    two = matrix_copy(_on_matrix("Ada, Ben: **Ben:** me too\n\n**Ada:** d3.1 rain", "Ada, Ben"))
    assert two.said == (Said("Ben", "me too"), Said("Ada", "d3.1 rain"))
    unsigned = matrix_copy(_on_matrix("Ada, Ben: me too", "Ada, Ben"))
    assert unsigned.said == (Said("(nobody)", "me too"),)


def test_files_and_their_captions() -> None:
    attached = matrix_copy(_on_matrix("Ada: d1.0 see", filename="d1.0-notes.pdf", url="mxc://x/y"), (_FILE,))
    assert attached.said == (Said("Ada", "d1.0 see", files=(_FILE,)),)
    bare = matrix_original(_on_matrix("d1.0-notes.pdf", "", filename="d1.0-notes.pdf"), "Mia", (_FILE,))
    assert bare.said == (Said("Mia", "", files=(_FILE,)),)
    assert bare.keys == ("d1",)


def test_originals_are_read_as_they_are() -> None:
    message = _on_discord("> d1.0 tea") | {"message_reference": {"message_id": "5"}}
    assert discord_original(message, ()).said == (Said("Mia", "> d1.0 tea"),)
    assert discord_original(message, ()).reply_to == "5"
    assert matrix_copy(_on_matrix("Ada: d1.0 tea", answers="$5")).reply_to == "$5"
