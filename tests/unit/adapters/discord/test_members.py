"""Who of a server goes by a name, and how often Discord is asked."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from relay.adapters.discord.api.client import RestClient, Route
from relay.adapters.discord.api.errors import ApiError, Limited, Refused, Unanswered
from relay.adapters.discord.members import Members
from relay.domain.ids import ChannelRef, Platform, UserRef
from relay.domain.jsontext import Json
from tests.support.clocks import FakeClock

GUILD = "100"


class Server:
    """A server whose members are found by how their names begin; or one that answers with an error."""

    def __init__(self, *members: Json, error: ApiError | None = None, answer: Any = None) -> None:
        self.members, self.error, self.answer = members, error, answer
        self.queries: list[str] = []

    async def call(self, route: Route, *, query: Mapping[str, str]) -> Any:
        assert route.url.endswith(f"/guilds/{GUILD}/members/search")
        self.queries.append(query["query"])
        if self.error is not None:
            raise self.error
        return self.answer if self.answer is not None else [one for one in self.members if self._begins(one, query)]

    @staticmethod
    def _begins(one: Json, query: Mapping[str, str]) -> bool:
        names = (one.get("nick"), one["user"].get("global_name"), one["user"]["username"])
        return any(name and name.casefold().startswith(query["query"]) for name in names)


def member(user: str, username: str, global_name: str | None = None, nick: str | None = None) -> dict[str, Any]:
    return {"user": {"id": user, "username": username, "global_name": global_name}, "nick": nick}


ADA = member("1", "ada", "Ada Lovelace", "The Countess")
BEN, OTHER_BEN = member("2", "ben", "Ben"), member("3", "benny", "Ben")


def people(members: Server, clock: FakeClock | None = None) -> Members:
    return Members(cast(RestClient, members), clock or FakeClock())


def user(number: str) -> UserRef:
    return UserRef(Platform.DISCORD, number)


@pytest.mark.parametrize("name", ["ada", "Ada Lovelace", "ADA  lovelace", "the countess"])
async def test_somebody_goes_by_each_of_their_names(name: str) -> None:
    found = await people(Server(ADA, BEN)).find(GUILD, [name])
    assert list(found.values()) == [user("1")]


async def test_a_name_that_two_have_is_nobody_s() -> None:
    found = await people(Server(BEN, OTHER_BEN)).find(GUILD, ["Ben", "benny"])
    assert found == {"benny": user("3")}


async def test_the_beginning_of_a_name_is_no_name() -> None:
    assert await people(Server(ADA)).find(GUILD, ["the", "Ada L", "  ", ""]) == {}


async def test_names_that_begin_alike_take_one_search() -> None:
    members = Server(ADA, BEN)
    found = await people(members).find(GUILD, ["Ada Lovelace said", "Ada Lovelace", "ada,", "Ada"])
    assert found == {"ada lovelace": user("1"), "ada": user("1")}
    assert members.queries == ["ada"]


async def test_where_not_everybody_was_listed_nobody_is_the_only_one() -> None:
    many = Server(*(member(str(number), f"ada{number}", "Ada") for number in range(2, 101)), ADA)
    assert await people(many).find(GUILD, ["Ada Lovelace"]) == {}


async def test_answers_are_remembered_for_a_while() -> None:
    members, clock = Server(ADA), FakeClock()
    known = people(members, clock)
    for _ in range(3):
        assert await known.find(GUILD, ["ada"]) == {"ada": user("1")}
    assert members.queries == ["ada"]
    clock.seconds += 301
    await known.find(GUILD, ["ada"])
    assert members.queries == ["ada", "ada"]


@pytest.mark.parametrize("error", [Limited(5.0), Unanswered("nothing", sent=True)])
async def test_no_message_waits_for_a_name_and_the_next_one_asks_again(error: ApiError) -> None:
    members = Server(ADA, error=error)
    known = people(members)
    assert await known.find(GUILD, ["ada"]) == {}
    members.error = None
    assert await known.find(GUILD, ["ada"]) == {"ada": user("1")}


async def test_a_refusal_is_remembered() -> None:
    members = Server(ADA, error=Refused(403, 50001, "Missing Access"))
    known = people(members)
    for _ in range(3):
        assert await known.find(GUILD, ["ada"]) == {}
    assert members.queries == ["ada"]


async def test_an_answer_of_another_form_names_nobody() -> None:
    assert await people(Server(answer={"message": "?"})).find(GUILD, ["ada"]) == {}
    assert await people(Server(answer=[None, ADA])).find(GUILD, ["ada"]) == {"ada": user("1")}


# --- How somebody is called -----------------------------------------------------------------------------------


class Objects:
    """A Discord that answers with what stands at a path; or with an error."""

    def __init__(self, found: Json, error: ApiError | None = None) -> None:
        self.found, self.error = found, error
        self.asked: list[str] = []

    async def call(self, route: Route) -> Any:
        assert route.max_wait == 0.0
        self.asked.append(route.url)
        if self.error is not None:
            raise self.error
        if route.url not in self.found:
            raise Refused(404, 10013, "Unknown User")
        return self.found[route.url]


def channel(number: str) -> ChannelRef:
    return ChannelRef(Platform.DISCORD, number)


def nowhere(_: str) -> bool:
    return False


async def test_a_member_has_a_nickname_and_who_has_left_a_name_of_their_own() -> None:
    gone = {"id": "3", "username": "ben", "global_name": None}
    discord = Objects({f"/guilds/{GUILD}/members/1": ADA, f"/guilds/{GUILD}/members/2": BEN, "/users/3": gone})
    known = Members(cast(RestClient, discord), FakeClock())
    found = await known.names(GUILD, [user("1"), user("2"), user("3"), user("4")], nowhere)
    assert found == {user("1"): "The Countess", user("2"): "Ben", user("3"): "ben"}
    asked = len(discord.asked)
    assert await known.names(GUILD, [user("1"), user("2"), user("3"), user("4")], nowhere) == found
    assert len(discord.asked) == asked


async def test_a_channel_s_name_is_told_only_where_everybody_may_know_it() -> None:
    threads: dict[str, dict[str, Any]] = {
        "1": {"name": "asleep", "guild_id": GUILD, "type": 11, "parent_id": "20"},
        "2": {"name": "private", "guild_id": GUILD, "type": 12, "parent_id": "20"},
        "3": {"name": "elsewhere", "guild_id": "999", "type": 11, "parent_id": "20"},
        "4": {"name": "of the staff", "guild_id": GUILD, "type": 11, "parent_id": "21"},
        "5": {"name": "not told by the gateway", "guild_id": GUILD, "type": 0, "parent_id": "20"},
    }
    discord = Objects({f"/channels/{number}": thread for number, thread in threads.items()})
    known = Members(cast(RestClient, discord), FakeClock())
    wanted = [channel(number) for number in threads]
    assert await known.names(GUILD, wanted, lambda parent: parent == "20") == {channel("1"): "asleep"}
    # Another pair's room may know another one.
    assert await known.names(GUILD, wanted, lambda parent: parent == "21") == {channel("4"): "of the staff"}


@pytest.mark.parametrize("error", [Limited(5.0), Unanswered("nothing", sent=True)])
async def test_nothing_more_is_asked_of_a_discord_that_does_not_answer(error: ApiError) -> None:
    discord = Objects({f"/guilds/{GUILD}/members/1": ADA}, error=error)
    known = Members(cast(RestClient, discord), FakeClock())
    assert await known.names(GUILD, [user("1"), user("2")], nowhere) == {}
    assert len(discord.asked) == 1
    discord.error = None
    assert await known.names(GUILD, [user("1")], nowhere) == {user("1"): "The Countess"}
