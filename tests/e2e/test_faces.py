"""Matrix people's faces on Discord: from a real homeserver, as the sandbox fetches them, without credentials."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.faults import Fault
from tests.support.patience import PATIENCE
from tests.support.pictures import moving, still
from tests.support.stack import FullStack, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


async def shown(stack: FullStack, words: str) -> dict[str, Any]:
    """A message on Discord, once it is there and its picture has been fetched."""

    async def look() -> dict[str, Any] | None:
        found = next((one for one in stack.on_discord("help") if one["content"] == words), None)
        return None if found is None or (found["webhook_avatar"] or {}).get("pending") else found

    seen = await eventually(look, lambda it: it is not None, what=stack.daemon.log)
    assert seen is not None
    return seen


async def face(stack: FullStack, person: Person, words: str, *, other_than: str | None = None) -> dict[str, Any]:
    """What Discord got beside what somebody says, once there is a picture. Says it until there is."""
    deadline, number = time.monotonic() + PATIENCE, 0
    while True:
        await person.text(stack.rooms["help"], f"{words} {number}")
        message = await shown(stack, f"{words} {number}")
        if message["webhook_avatar_url"] not in (None, other_than):
            found: dict[str, Any] = message["webhook_avatar"]
            return found
        assert time.monotonic() < deadline, f"no picture:\n{stack.daemon.log()}"
        await asyncio.sleep(0.3)  # people take their time, too
        number += 1


@asynccontextmanager
async def another(stack: FullStack, homeserver: Homeserver, name: str) -> AsyncIterator[Person]:
    """Somebody else in the room."""
    tag = stack.relay_user[1:].partition(":")[0].removeprefix("relay-")
    token = await homeserver.register(f"{name}-{tag}", displayname=name.capitalize())
    user = f"@{name}-{tag}:{homeserver.server_name}"
    async with Person(homeserver.url, user, token) as person:
        await stack.mia.invite(stack.rooms["help"], user)
        await person.join(stack.rooms["help"])
        yield person


async def wear(stack: FullStack, data: bytes, kind: str) -> None:
    """Mia has this picture from now on, also in the room."""
    uri, room = await stack.mia.set_avatar(data, kind), stack.rooms["help"]
    await eventually(
        lambda: stack.mia.state(room, "m.room.member", stack.mia.user_id), lambda it: it.get("avatar_url") == uri
    )


def emoji(stack: FullStack) -> list[str]:
    return [one["name"] for one in stack.control.application_emojis(stack.bot)]


def on_record(stack: FullStack) -> int:
    """How many pictures the relay can use."""
    with closing(sqlite3.connect(stack.folder / "relay.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM avatar WHERE copy_id <> ''").fetchone()[0])


def uploads(stack: FullStack) -> int:
    return stack.sandbox.api.statistics.requests.get("POST /applications/{application_id}/emojis", 0)


async def test_a_face_crosses_and_a_new_one_with_the_next_message(help_stack: FullStack) -> None:
    await wear(help_stack, still("JPEG", 640, 480, "red"), "image/jpeg")
    before = await face(help_stack, help_stack.mia, "hello")
    assert (before["error"], before["width"], before["height"]) == (None, 128, 128)
    await wear(help_stack, moving("GIF", 200, 200), "image/gif")
    # It is made ready when it is changed, so that it is there when something is said: once it is on record.
    await eventually(lambda: asyncio.to_thread(on_record, help_stack), lambda pictures: pictures == 2)
    await help_stack.tell("help", "next")
    after = (await shown(help_stack, "next"))["webhook_avatar"]
    assert after["url"] != before["url"]
    assert (after["error"], after["width"]) == (None, 128)


async def test_one_picture_for_two_people_is_uploaded_once(help_stack: FullStack, homeserver: Homeserver) -> None:
    async with another(help_stack, homeserver, "noa") as noa:
        uris = {await person.set_avatar(still("PNG", 300, 300), "image/png") for person in (help_stack.mia, noa)}
        assert len(uris) == 2
        # Not by their IDs: those may cross as names.
        people = {"mia": help_stack.mia, "noa": noa}
        urls = {(await face(help_stack, person, f"{name} says"))["url"] for name, person in people.items()}
    assert len(urls) == 1
    assert uploads(help_stack) == len(emoji(help_stack)) == 1


@pytest.mark.parametrize(
    ("data", "kind"),
    [(None, ""), (SVG, "image/svg+xml"), (SVG, "image/png"), (b"\x89PNG\r\n\x1a\n" + bytes(999), "image/png")],
    ids=["none", "svg", "a lie", "damaged"],
)
async def test_who_has_no_picture_that_can_be_had_gets_letters(
    help_stack: FullStack, data: bytes | None, kind: str
) -> None:
    if data is not None:
        await wear(help_stack, data, kind)
    found = await face(help_stack, help_stack.mia, "hello")
    assert (found["error"], found["width"], found["animated"]) == (None, 128, False)


async def test_a_death_between_the_upload_and_its_record_uploads_nothing_twice(help_stack: FullStack) -> None:
    await wear(help_stack, still("PNG", 300, 300), "image/png")
    fault = Fault("hang", "POST", "/applications/.*/emojis", when="after", seconds=600.0)
    help_stack.sandbox.faults.add(fault)
    await help_stack.tell("help", "hello")
    await eventually(lambda: asyncio.to_thread(emoji, help_stack), lambda names: len(names) == 1)
    # The picture is made ready before anything is said: the words may be behind it.
    await help_stack.until_discord("help", lambda words: words == ["hello"])
    await help_stack.daemon.kill()
    help_stack.sandbox.faults.clear()
    await help_stack.daemon.start()
    assert (await face(help_stack, help_stack.mia, "again"))["error"] is None
    assert len(emoji(help_stack)) == fault.fired == 1
    assert not uploads(help_stack), "the first got no answer, and there was no second"
    assert (await shown(help_stack, "hello"))["webhook_avatar_url"] is None


@pytest.mark.parametrize("trouble", [{"kind": "rate_limit", "seconds": 3600.0}, {"kind": "status", "status": 403}])
async def test_words_cross_while_there_can_be_no_pictures(help_stack: FullStack, trouble: dict[str, Any]) -> None:
    await wear(help_stack, still(), "image/png")
    help_stack.sandbox.faults.add(Fault(method="*", path="/applications/.*/emojis", count=None, **trouble))
    said = [f"line {number}" for number in range(10)]
    for words in said:
        await help_stack.tell("help", words)
    assert await help_stack.until_discord("help", lambda seen: len(seen) >= 10) == said
    assert not emoji(help_stack)
