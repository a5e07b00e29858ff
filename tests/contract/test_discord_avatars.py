"""Pictures of people on Discord: emoji of the application, put there in the background, once each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.adapters.discord.adapter import DiscordAdapter
from relay.adapters.discord.pictures import avatars as module
from relay.adapters.discord.pictures import shelf
from relay.adapters.discord.pictures.avatars import Avatars
from relay.adapters.discord.pictures.shelf import emoji_name
from relay.core.people.storage import AvatarRecord
from relay.domain.content import Author
from relay.domain.ids import MediaRef, Platform, UserRef
from relay.errors import RateLimited
from relay.sandbox.faults import Fault, Kind
from relay.sandbox.rate_limits import Limits
from relay.sandbox.rest import emojis
from relay.sandbox.server import SandboxServer
from relay.sandbox.world.models import Message
from relay.store.unit_of_work import SqlStore, open_store
from tests.support.discord import World, until
from tests.support.patience import PATIENCE
from tests.support.pictures import Photographs, moving, still
from tests.support.store import new_store

MXC = "mxc://example.org/"


def person(name: str, picture: str | None = None) -> Author:
    avatar = None if picture is None else MediaRef(Platform.MATRIX, MXC + picture)
    return Author(UserRef(Platform.MATRIX, f"@{name}:example.org"), name.capitalize(), avatar, handle=name)


@dataclass
class Faces:
    """A server whose relay knows the other side's pictures."""

    world: World
    store: SqlStore
    files: Photographs = field(default_factory=Photographs)
    _said: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DiscordAdapter]:
        async with self.world.running(files=self.files, store=self.store) as adapter:
            yield adapter

    async def say(self, adapter: DiscordAdapter, author: Author) -> Message:
        """Somebody says something; the message as it stands."""
        self._said += 1
        ref = await adapter.send(self.world.delivery(f"line {self._said}", key=f"k{self._said}", author=author))
        return self.world.channel.messages[int(ref.id)]

    async def face(self, adapter: DiscordAdapter, author: Author, *, other_than: str | None = None) -> str:
        """Say something until a picture is beside it; its address."""
        avatars = inner(adapter)
        await until(lambda: avatars.url(author) not in (None, other_than))
        message = await self.say(adapter, author)
        assert message.webhook_avatar_url is not None
        return message.webhook_avatar_url

    @property
    def emoji(self) -> list[str]:
        return [emoji.name for emoji in self.world.app.emojis.values()]

    def requests(self, request: str) -> int:
        return self.world.server.api.statistics.requests.get(request, 0)

    @property
    def uploads(self) -> int:
        return self.requests("POST /applications/{application_id}/emojis")

    async def fetched(self, url: str) -> Any:
        """What Discord got there."""
        await self.world.server.avatars.settled(url)
        return self.world.state.fetched_avatars[url]

    def fail(self, method: str, kind: Kind, **more: Any) -> Fault:
        """Requests about emoji fail."""
        return self.world.server.faults.add(Fault(kind, method, "/applications/.*/emojis", **more))


def inner(adapter: DiscordAdapter) -> Avatars:
    return adapter._avatars


@pytest.fixture
async def faces(tmp_path: Path) -> AsyncIterator[Faces]:
    store = await open_store(new_store(tmp_path))
    async with SandboxServer(limits=Limits(factor=0)) as server:
        yield Faces(World(server), store)
    await store.close()


async def test_a_picture_is_fetched_by_discord(faces: Faces) -> None:
    faces.files.pictures[MXC + "ann"] = still("JPEG", 256, 200)
    async with faces.running() as adapter:
        ann = person("ann", "ann")
        assert (await faces.say(adapter, ann)).webhook_avatar_url is None, "words never wait for a picture"
        url = await faces.face(adapter, ann)
        found = await faces.fetched(url)
    assert found.error is None
    assert (found.width, found.height, found.animated) == (128, 128, False)
    assert url.endswith(".webp")
    assert faces.uploads == 1


async def test_what_moves_on_one_side_moves_on_the_other(faces: Faces) -> None:
    faces.files.pictures[MXC + "ann"] = moving("WEBP", 256, 256)
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann", "ann"))
        found = await faces.fetched(url)
    assert found.animated
    assert url.endswith(".webp?animated=true"), "GIFs are not sure to be shown as a webhook's picture"


async def test_the_same_picture_is_uploaded_once(faces: Faces) -> None:
    faces.files.pictures |= {MXC + name: still("PNG", 256, 256, "blue") for name in ("ann", "bob")}
    async with faces.running() as adapter:
        urls = {await faces.face(adapter, person(name, name)) for name in ("ann", "bob")}
        urls |= {await faces.face(adapter, person("eve", "ann"))}
    assert len(urls) == 1
    assert faces.uploads == 1
    assert len(faces.files.asked) == 2, "who names the same address is not asked about"


async def test_a_new_picture_is_seen_with_the_next_message(faces: Faces) -> None:
    faces.files.pictures |= {MXC + "old": still(colour="red"), MXC + "new": still(colour="blue")}
    async with faces.running() as adapter:
        before = await faces.face(adapter, person("ann", "old"))
        faces.files.open_gate.clear()
        assert (await faces.say(adapter, person("ann", "new"))).webhook_avatar_url == before
        faces.files.open_gate.set()
        after = await faces.face(adapter, person("ann", "new"), other_than=before)
        assert after != before
        assert await faces.face(adapter, person("ann", "old")) == before


async def test_who_has_no_picture_gets_letters_once(faces: Faces) -> None:
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann"))
        assert (await faces.fetched(url)).error is None
        assert await faces.face(adapter, person("ann")) == url
        assert await faces.face(adapter, person("bob")) != url
    assert faces.uploads == 2
    assert not faces.files.asked


@pytest.mark.parametrize("picture", ["gone", "away", "svg"])
async def test_whose_picture_cannot_be_had_gets_letters(faces: Faces, picture: str) -> None:
    faces.files.pictures[MXC + "svg"] = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    async with faces.running() as adapter:
        assert (await faces.fetched(await faces.face(adapter, person("ann", picture)))).error is None
        for _ in range(3):
            await faces.say(adapter, person("ann", picture))
    assert faces.files.asked == [MXC + picture], "it is not asked for with every message"


async def test_after_a_restart_everything_is_known(faces: Faces) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann", "ann"))
        letters = await faces.face(adapter, person("bob"))
    async with faces.running() as adapter:
        assert (await faces.say(adapter, person("ann", "ann"))).webhook_avatar_url == url
        assert (await faces.say(adapter, person("bob"))).webhook_avatar_url == letters
    assert faces.uploads == 2
    assert len(faces.files.asked) == 1


async def test_an_upload_that_nobody_recorded_is_adopted(faces: Faces) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann", "ann"))
    async with faces.store.write() as uow:  # killed before this was written
        await uow.avatars.forget_copy(MediaRef(Platform.DISCORD, url.rpartition("/")[2].partition(".")[0]))
    async with faces.running() as adapter:
        assert await faces.face(adapter, person("ann", "ann")) == url
    assert faces.uploads == 1
    async with faces.store.read() as uow:
        assert len(await uow.avatars.known(Platform.DISCORD, 9)) == 1


async def test_an_upload_without_an_answer_is_looked_for(faces: Faces) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    fault = faces.fail("POST", "reset", when="after")
    async with faces.running() as adapter:
        await faces.face(adapter, person("ann", "ann"))
    assert fault.fired == 1
    assert len(faces.emoji) == faces.uploads == 1


async def test_another_process_may_have_been_first(faces: Faces) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    async with faces.running() as adapter:
        await until(lambda: faces.requests("GET /applications/{application_id}/emojis"))
        picture = await inner(adapter).pictures.avatar(still())
        state, app = faces.world.state, faces.world.app
        stored = faces.world.server.files.put(picture)
        theirs = state.add_application_emoji(app, emoji_name(picture), stored, app.user, animated=False)
        url = await faces.face(adapter, person("ann", "ann"))
    assert str(theirs.id) in url
    assert len(faces.emoji) == 1


async def test_what_the_operator_deletes_is_put_there_again(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    async with faces.running() as adapter:
        before = await faces.face(adapter, person("ann", "ann"))
        (emoji,) = faces.world.app.emojis.values()
        faces.world.state.remove_application_emoji(faces.world.app, emoji)
        monkeypatch.setattr(module, "_LIST_SECONDS", 0.0)
        inner(adapter)._delete_now.set()
        assert await faces.face(adapter, person("ann", "ann"), other_than=before) != before
    assert len(faces.emoji) == 1


async def test_what_nobody_has_used_for_long_is_deleted(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    operators(faces, 1)
    async with faces.running() as adapter:
        await faces.face(adapter, person("ann"))
        await faces.face(adapter, person("bob"))
        avatars = inner(adapter)
        avatars.kept_for = 90 * 86400.0
        old = avatars.shelf.by_name[avatars.shelf.last["@ann:example.org"]]
        old.used -= 91 * 86400.0
        monkeypatch.setattr(module, "_LIST_SECONDS", 0.0)
        avatars._delete_now.set()
        await until(lambda: old.name not in faces.emoji)
    assert len(faces.emoji) == 2
    async with faces.store.read() as uow:
        assert {record.user.id for record in await uow.avatars.known(Platform.DISCORD, 9)} == {"@bob:example.org"}


# --- A full store ---------------------------------------------------------------------------------------------


def operators(faces: Faces, number: int) -> None:
    """The operator's own emoji, one of them named like ours."""
    files, state, app = faces.world.server.files, faces.world.state, faces.world.app
    for one in range(number):
        name = emoji_name(b"") if one == 0 else f"logo_{one}"
        state.add_application_emoji(app, name, files.put(still()), faces.world.owner, animated=False)


async def test_the_longest_unused_is_replaced_and_never_the_operators(
    faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_AVATARS", 2)
    monkeypatch.setattr(shelf, "KEPT_SECONDS", 0.0)
    operators(faces, 3)
    async with faces.running() as adapter:
        ann = await faces.face(adapter, person("ann"))
        bob = await faces.face(adapter, person("bob"))
        assert await faces.face(adapter, person("ann")) == ann
        await faces.face(adapter, person("eve"))
        names = {url.rpartition("/")[2].partition(".")[0] for url in (ann, bob)}
        assert {str(id_) for id_ in faces.world.app.emojis} & names == {ann.rpartition("/")[2].partition(".")[0]}
        assert await faces.face(adapter, person("bob")) != bob
    async with faces.running() as adapter:
        await faces.face(adapter, person("joe"))
    assert faces.emoji[:3] == [emoji_name(b""), "logo_1", "logo_2"]
    assert len(faces.emoji) == 5
    async with faces.store.read() as uow:
        assert len(await uow.avatars.known(Platform.DISCORD, 9)) == 2


async def test_where_all_are_in_use_the_next_person_has_none(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AVATARS", 1)
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann"))
        await faces.say(adapter, person("bob"))
        await until(lambda: inner(adapter)._retry_at)
        assert (await faces.say(adapter, person("bob"))).webhook_avatar_url is None
        assert (await faces.say(adapter, person("ann"))).webhook_avatar_url == url


async def test_the_operator_may_use_all_of_them(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emojis, "MAX_EMOJIS", 4)
    monkeypatch.setattr(shelf, "KEPT_SECONDS", 0.0)
    async with faces.running() as adapter:
        await faces.face(adapter, person("ann"))
        operators(faces, 3)
        # Discord says that there is no room: one of ours gives way.
        await faces.face(adapter, person("bob"))
        assert len(faces.emoji) == 4
        # Now there is none of ours that could.
        ours = next(emoji for emoji in faces.world.app.emojis.values() if emoji.uploader is faces.world.app.user)
        faces.world.state.remove_application_emoji(faces.world.app, ours)
        operators(faces, 1)
        for number in range(5):
            assert (await faces.say(adapter, person(f"p{number}"))).webhook_avatar_url is None
    assert len(faces.world.shown()) == 7


# --- Discord refuses, and messages cross ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        {"kind": "status", "status": 403, "code": 20012, "message": "no"},
        {"kind": "status", "status": 404, "code": 0, "message": "404: Not Found"},
        {"kind": "status", "status": 500},
        {"kind": "rate_limit", "seconds": 3600.0},
        {"kind": "hang", "seconds": 600.0},
        {"kind": "reset"},
        {"kind": "malformed"},
    ],
    ids=lambda trouble: f"{trouble['kind']} {trouble.get('status', '')}",
)
async def test_messages_flow_whatever_becomes_of_pictures(faces: Faces, trouble: dict[str, Any]) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    faces.fail("*", count=None, **trouble)
    # If each waited for its picture, for three seconds, that would be longer than a test waits.
    async with faces.running() as adapter, asyncio.timeout(PATIENCE):
        for number in range(50):
            await faces.say(adapter, person(f"p{number}", "ann" if number % 2 else None))
    assert len(faces.world.shown()) == 50
    assert not faces.emoji
    tried = sum(count for name, count in faces.world.server.api.statistics.requests.items() if "/emojis" in name)
    assert tried <= 6, "what is refused is not asked for again and again"


async def test_discord_takes_few_an_hour(tmp_path: Path) -> None:
    store = await open_store(new_store(tmp_path))
    async with SandboxServer(limits=Limits(emojis_per_hour=3)) as server:
        faces = Faces(World(server), store)
        faces.files.pictures |= {f"{MXC}{number}": still(colour=f"#0000{number:02x}") for number in range(5)}
        async with faces.running() as adapter:
            for number in range(5):
                await patiently(faces, adapter, person(f"p{number}", str(number)))
            await until(lambda: inner(adapter)._paused_until > inner(adapter).clock.monotonic())
            for number in range(5):
                await patiently(faces, adapter, person(f"p{number}", str(number)))
        shown = [message.webhook_avatar_url for message in faces.world.shown()][5:]
        assert sum(url is not None for url in shown) == 3
        assert faces.uploads == 4, "one was refused, and after that none was tried"
    await store.close()


async def patiently(faces: Faces, adapter: DiscordAdapter, author: Author) -> None:
    """Say something as a lane does: again as soon as it may."""
    while True:
        try:
            await faces.say(adapter, author)
        except RateLimited as error:
            await asyncio.sleep(error.retry_after or 0)
        else:
            return


# --- Who wants to be forgotten --------------------------------------------------------------------------------


async def test_pictures_of_who_is_forgotten_go(faces: Faces) -> None:
    faces.files.pictures |= {MXC + "ann": still(colour="red"), MXC + "both": still(colour="blue")}
    async with faces.running() as adapter:
        own = await faces.face(adapter, person("ann", "ann"))
        shared = await faces.face(adapter, person("ann", "both"), other_than=own)
        await faces.face(adapter, person("bob", "both"))
        await until(lambda: len(inner(adapter).shelf.shown) == 3)
        await inner(adapter).forget(person("ann").user)
        await until(lambda: len(faces.emoji) == 1)
        assert await faces.face(adapter, person("bob", "both")) == shared
    async with faces.store.read() as uow:
        assert {record.user.id for record in await uow.avatars.known(Platform.DISCORD, 9)} == {"@bob:example.org"}


async def test_it_is_done_later_where_discord_does_not_answer(faces: Faces) -> None:
    async with faces.running() as adapter:
        await faces.face(adapter, person("ann"))
        faces.fail("DELETE", "status", status=500, count=None)
        await inner(adapter).forget(person("ann").user)
    assert len(faces.emoji) == 1
    faces.world.server.faults.clear()
    async with faces.running() as adapter:
        await until(lambda: not faces.emoji)
    async with faces.store.read() as uow:
        assert not await uow.avatars.unowned(Platform.DISCORD)


async def test_a_damaged_record_is_passed_over(faces: Faces) -> None:
    ann = person("ann", "ann")
    faces.files.pictures[MXC + "ann"] = still()
    async with faces.store.write() as uow:
        for number, (name, copy) in enumerate([("x", "1"), (emoji_name(b"x"), "../1"), (emoji_name(b"y"), "")]):
            await uow.avatars.put(AvatarRecord(ann.user, f"{number}", name, MediaRef(Platform.DISCORD, copy)))
    async with faces.running() as adapter:
        assert (await faces.fetched(await faces.face(adapter, ann))).error is None


@pytest.mark.parametrize("step", ["fetching", "uploading"])
async def test_a_picture_on_its_way_goes_with_its_person(faces: Faces, step: str) -> None:
    faces.files.pictures[MXC + "ann"] = still()
    async with faces.running() as adapter:
        avatars = inner(adapter)
        if step == "fetching":
            faces.files.open_gate.clear()
            await faces.say(adapter, person("ann", "ann"))
            await until(lambda: faces.files.asked)
            await avatars.forget(person("ann").user)
            faces.files.open_gate.set()
        else:
            upload = faces.fail("POST", "delay", seconds=0.3)
            await faces.say(adapter, person("ann", "ann"))
            await until(lambda: upload.fired)
            await avatars.forget(person("ann").user)
        await until(lambda: faces.uploads and not faces.emoji and not avatars.shelf.by_name)
        assert not avatars.shelf.shown
        assert (await faces.say(adapter, person("bob"))).webhook_avatar_url is None
    async with faces.store.read() as uow:
        assert "@ann:example.org" not in {one.user.id for one in await uow.avatars.known(Platform.DISCORD, 9)}


async def test_what_may_have_been_deleted_is_not_shown(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AVATARS", 1)
    monkeypatch.setattr(shelf, "KEPT_SECONDS", 0.0)
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann"))
        unanswered = faces.fail("DELETE", "reset", when="after", count=None)
        await faces.say(adapter, person("bob"))
        await until(lambda: unanswered.fired and inner(adapter)._paused_until)
        assert (await faces.say(adapter, person("ann"))).webhook_avatar_url != url


async def test_an_answer_of_another_shape_deletes_nothing(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    async with faces.running() as adapter:
        url = await faces.face(adapter, person("ann"))
        monkeypatch.setattr(module, "_LIST_SECONDS", 0.0)
        odd = faces.fail("GET", "status", status=200)
        inner(adapter)._delete_now.set()
        await until(lambda: odd.fired and inner(adapter)._paused_until)
        assert (await faces.say(adapter, person("ann"))).webhook_avatar_url == url
