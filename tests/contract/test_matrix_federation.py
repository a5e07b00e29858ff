"""Messages of other homeservers, which come late or only when they are asked for: between two real ones."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from relay.adapters.matrix.survey import MatrixSurvey
from relay.config.mistakes import validated
from relay.config.settings import MatrixSettings
from relay.core.ports import Delivery, PastPage
from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.domain.jsontext import Json
from relay.errors import ActionNeeded, Transient
from tests.support.federation import federating
from tests.support.matrix import BOB, SavedState, Side, address, matrix_side, past_lines, person, read_past, room, words
from tests.support.stack import eventually
from tests.support.world import pair

_MISSED = 25  # A homeserver asks another one for ten of them by itself.


async def test_what_was_said_elsewhere_while_the_homeserver_was_down_arrives_in_order(tmp_path: Path) -> None:
    """A server that was restarted as well tells of the newest event only. Those before it are fetched by who reads."""
    async with federating(tmp_path / "home") as home, federating(tmp_path / "other") as other:
        token = await home.register("bot")
        async with person(other, "ann") as ann:
            room, alias = await ann.create_room(), f"#town:{other.server_name}"
            await ann.set_alias(alias, room)
            saved, user = SavedState(), f"@bot:{home.server_name}"
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "before")
                await side.until_said("before")
            await home.stop()
            missed = [str(number) for number in range(_MISSED)]
            for line in missed:
                await ann.text(room, line)
            await other.stop()
            await other.start()
            await home.start()
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "after")
                await side.until(lambda: "after" in side.said)
                assert side.said == ["before", *missed, "after"]


async def test_what_one_homeserver_told_late_arrives_although_others_went_on_talking(tmp_path: Path) -> None:
    """It is older than what was told meanwhile."""
    settings: Json = {}
    async with federating(tmp_path / "home", settings) as home, federating(tmp_path / "other") as other:
        token = await home.register("bot")
        async with person(other, "ann") as ann, person(home, "ben") as ben:
            room, alias = await ann.create_room(), f"#town:{other.server_name}"
            await ann.set_alias(alias, room)
            await ben.join(alias)
            saved, user = SavedState(), f"@bot:{home.server_name}"
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "before")
                await side.until_said("before")
            settings["federation_domain_whitelist"] = []
            await home.stop()
            await home.start()
            missed = [str(number) for number in range(_MISSED)]
            for line in missed:
                await ann.text(room, line)
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ben.text(room, "here")
                await side.until_said("before", "here")
            settings["federation_domain_whitelist"] = None
            await other.stop()
            await home.stop()
            await other.start()
            await home.start()
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "after")
                await side.until(lambda: "after" in side.said)
                assert side.said == ["before", "here", *missed, "after"]


async def test_nothing_is_written_where_the_own_server_is_denied(tmp_path: Path) -> None:
    """The homeserver took it, so that it counted as delivered, and all others refused it."""
    host = "127.0.0.1"
    async with federating(tmp_path / "home", host=host) as home, federating(tmp_path / "other") as other:
        token = await home.register("bot")
        user = f"@bot:{home.server_name}"
        async with person(other, "ann") as ann:
            room_id, alias = await ann.create_room(), f"#town:{other.server_name}"
            await ann.set_alias(alias, room_id)
            async with matrix_side(home, user, [alias], token=token) as side:
                await side.adapter.send(Delivery(room(room_id), "k1", BOB, words("one")))
                await ann.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["*.example", host]})
                await side.until(lambda: alias in side.inbox.problems)
                assert side.inbox.problems[alias].startswith(f"{alias} denies the server {home.server_name} ")
                with pytest.raises(ActionNeeded, match="has to allow it in that list"):
                    await side.adapter.send(Delivery(room(room_id), "k2", BOB, words("two")))
                await ann.text(room_id, "can you hear me?")
                await side.until_said("can you hear me?")
                settings = {"homeserver_url": home.url, "user_id": user, "access_token": token}
                survey = MatrixSurvey(
                    settings=validated(MatrixSettings, settings), load=SavedState().load, save=SavedState().save
                )
                found = [one async for one in survey.pairs([replace(pair(), sides=(pair().sides[0], address(alias)))])]
                await survey.close()
                assert [(one.state, one.remedy.partition(",")[0]) for one in found] == [
                    ("wrong", "somebody on another one has to allow it in that list")
                ]
                await ann.set_state(room_id, "m.room.server_acl", {"allow": ["*"]})
                await side.until(lambda: alias not in side.inbox.problems)
                await side.adapter.send(Delivery(room(room_id), "k2", BOB, words("two")))
            await eventually(lambda: ann.messages(room_id), lambda seen: "Bob: two" in [it.body for it in seen])


@pytest.mark.parametrize("edits", [1, 2])
async def test_who_lifts_it_on_the_own_server_lifts_it_for_nobody_else_and_for_all_where_nobody_else_is(
    tmp_path: Path, edits: int
) -> None:
    """Two edits in a row hide from the state what the others go by; and where there are none, ours is all there is."""
    host = "127.0.0.1"
    async with federating(tmp_path / "home", host=host) as home, federating(tmp_path / "other") as other:
        token, user, saved = await home.register("bot"), f"@bot:{home.server_name}", SavedState()
        async with person(other, "ann") as ann, person(home, "ben") as ben:
            room_id, alias = await ann.create_room(version="11"), f"#town:{other.server_name}"
            await ann.set_alias(alias, room_id)
            await ben.join(alias)
            await ann.set_power(room_id, users={ann.user_id: 100, ben.user_id: 100})
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [host]})
                await side.until(lambda: alias in side.inbox.problems)
                await lift(ben, room_id, edits, but="a.example")
                await ben.text(room_id, "lifted")
                await side.until_said("lifted")
                assert alias in side.inbox.problems
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await side.until(lambda: "denies the server" in side.inbox.problems.get(alias, ""))
            await ann.leave(room_id)
            await eventually(lambda: ben.members(room_id), lambda members: members == {ben.user_id, user})
            # Her last event has brought her list back, by which she went.
            await lift(ben, room_id, edits, but="b.example")
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await side.until(lambda: side.inbox.news and side.inbox.news[-1] == f"opened {alias}")
                await side.adapter.send(Delivery(room(room_id), "k1", BOB, words("heard")))
                await eventually(lambda: ben.messages(room_id), lambda seen: "Bob: heard" in [it.body for it in seen])


async def lift(moderator: Person, room_id: str, edits: int, *, but: str) -> None:
    """The list allows every server `but` one of that name, and says so in so many edits."""
    for number in range(edits):
        await moderator.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [f"{number}.{but}"]})


@dataclass(frozen=True)
class Elsewhere:
    """A room on another homeserver than the relay's, which the relay enters by its alias."""

    home: Homeserver
    other: Homeserver
    ann: Person
    place: str
    alias: str
    token: str
    saved: SavedState

    def relay(self) -> AbstractAsyncContextManager[Side]:
        return matrix_side(self.home, f"@bot:{self.home.server_name}", [self.alias], token=self.token, saved=self.saved)


@asynccontextmanager
async def elsewhere(folder: Path) -> AsyncIterator[Elsewhere]:
    async with federating(folder / "home") as home, federating(folder / "other") as other:
        token = await home.register("bot")
        async with person(other, "ann") as ann:
            place, alias = await ann.create_room(), f"#town:{other.server_name}"
            await ann.set_alias(alias, place)
            yield Elsewhere(home, other, ann, place, alias, token, SavedState())


async def test_what_others_have_of_the_time_before_is_fetched_from_them(tmp_path: Path) -> None:
    """While they are away it waits: what cannot be fetched is not taken for what was never said."""
    async with elsewhere(tmp_path) as town:
        other, ann, place = town.other, town.ann, town.place
        said = [str(number) for number in range(130)]
        for line in said:
            await ann.text(place, line)
        async with town.relay() as side:
            await ann.text(place, "now")
            await side.until_said("now")
            await other.stop()
            pages: list[PastPage] = []
            with pytest.raises(Transient, match="on other homeservers, and ours cannot fetch them now"):
                await read_past(side, place, town.saved.position, pages=pages)
            assert past_lines(pages) == []
            await other.start()
            position = pages[-1].position
            pages = await read_past(side, place, town.saved.position, position=position)
            assert past_lines(pages) == said
            for number, page in enumerate(pages):
                rest = await read_past(side, place, town.saved.position, position=page.position)
                assert rest == pages[number + 1 :]


@pytest.mark.parametrize("is_hidden_now", [True, False])
async def test_the_past_of_a_room_elsewhere_that_we_may_not_see_is_not_waited_for(
    tmp_path: Path, is_hidden_now: bool
) -> None:
    async with elsewhere(tmp_path) as town:
        ann, place = town.ann, town.place
        await ann.set_state(place, "m.room.history_visibility", {"history_visibility": "joined"})
        for number in range(130):
            await ann.text(place, f"hidden {number}")
        said = [] if is_hidden_now else [str(number) for number in range(110)]
        if said:
            await ann.set_state(place, "m.room.history_visibility", {"history_visibility": "shared"})
        for line in said:
            await ann.text(place, line)
        async with town.relay() as side:
            await ann.text(place, "now")
            await side.until_said("now")
            assert past_lines(await read_past(side, place, town.saved.position)) == said


async def test_what_the_homeserver_missed_before_the_relay_was_there_is_fetched_too(tmp_path: Path) -> None:
    """Of what stands between that it has some newer and some older messages."""
    async with elsewhere(tmp_path) as town:
        other, ann, place = town.other, town.ann, town.place
        async with person(town.home, "ben") as ben:
            said = [str(number) for number in range(190)]
            await ben.join(town.alias)
            for line in said[:50]:
                await ann.text(place, line)
            await eventually(lambda: ben.messages(place), lambda seen: said[49] in [it.body for it in seen])
            await town.home.stop()
            for line in said[50:180]:
                await ann.text(place, line)
            await other.stop()
            await other.start()
            await town.home.start()
            for line in said[180:]:
                await ann.text(place, line)
            path, newest = f"client/v3/rooms/{place}/messages", {"dir": "b", "limit": "1"}
            await eventually(
                lambda: ben.call("GET", path, query=newest),
                lambda seen: seen["chunk"][0]["content"]["body"] == said[-1],
            )
            async with town.relay() as side:
                await ann.text(place, "now")
                await side.until_said("now")
                assert past_lines(await read_past(side, place, town.saved.position)) == said


async def test_what_was_fetched_late_of_the_time_after_is_not_of_the_past(tmp_path: Path) -> None:
    """Synapse counts it as older than all that it has told."""
    async with elsewhere(tmp_path) as town:
        other, ann, place = town.other, town.ann, town.place
        said = [str(number) for number in range(40)]
        for line in said:
            await ann.text(place, line)
        async with town.relay() as side:
            await ann.text(place, "before")
            await side.until_said("before")
            await side.adapter.send(Delivery(room(place), "k", BOB, words("heard")))
            await eventually(lambda: ann.messages(place), lambda seen: "Bob: heard" in [it.body for it in seen])
        await town.home.stop()
        missed = [f"missed {number}" for number in range(60)]
        for line in missed:
            await ann.text(place, line)
        await other.stop()
        await other.start()
        await town.home.start()
        async with town.relay() as side:
            await ann.text(place, "after")
            await side.until(lambda: "after" in side.said)
            assert side.said == ["before", *missed, "after"]
            pages = await read_past(side, place, town.saved.position)
            assert past_lines(pages) == said
            for number, page in enumerate(pages):
                rest = await read_past(side, place, town.saved.position, position=page.position)
                assert rest == pages[number + 1 :]
