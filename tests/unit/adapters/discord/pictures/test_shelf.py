"""Which avatars stand, are wanted and give way, and what is written on those of people without a picture."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.pictures.shelf import (
    BURST,
    KEPT_SECONDS,
    MOST_OF_ACCOUNT,
    MOST_RECORDS,
    SECONDS_EACH,
    Emoji,
    Shelf,
    Wanted,
    Wishes,
    emoji_name,
    initials,
    is_emoji_name,
    letters_of,
    shows_several,
)
from relay.domain.content import Author
from relay.domain.ids import MediaRef, Platform, UserRef
from tests.support.clocks import FakeClock


def user(name: str) -> UserRef:
    return UserRef(Platform.MATRIX, f"@{name}:b")


def picture(name: str, number: int = 0) -> Wanted:
    source = f"mxc://b/{name}{number}"
    return Wanted(user(name), source, MediaRef(Platform.MATRIX, source))


def letters(name: str) -> Wanted:
    return letters_of(Author(user(name), name))


def shelf_of(**used: float) -> Shelf:
    shelf = Shelf()
    for number, (name, moment) in enumerate(used.items()):
        shelf.by_name[name] = Emoji(name, str(number), moment)
        shelf.show(user(name).id, f"mxc://b/{name}", name)
    return shelf


# --- What stands ----------------------------------------------------------------------------------------------


def test_the_longest_unused_gives_way_and_never_what_was_used_just_now() -> None:
    shelf = shelf_of(ann=100.0, bob=50.0, eve=200.0)
    assert shelf.replaceable("@new:b", 50.0 + KEPT_SECONDS - 1) is None
    found = shelf.replaceable("@new:b", 50.0 + KEPT_SECONDS)
    assert found is not None
    assert found.name == "bob"
    shelf.remove("bob")
    assert set(shelf.by_name) == {"ann", "eve"}
    assert (user("bob").id, "mxc://b/bob") not in shelf.shown
    assert "mxc://b/bob" not in shelf.by_source


def test_an_account_with_very_many_pictures_makes_room_among_its_own() -> None:
    shelf = shelf_of(ann=0.0)
    bridge = "@bridge:b"
    for number in range(MOST_OF_ACCOUNT):
        assert not shelf.is_crowded_by(bridge)
        shelf.by_name[f"p{number}"] = Emoji(f"p{number}", str(number), 1000.0 + number)
        shelf.show(bridge, f"mxc://b/{number}", f"p{number}")
    assert shelf.is_crowded_by(bridge)
    found = shelf.replaceable(bridge, 1e6)
    assert found is not None
    assert found.name == "p0"
    other = shelf.replaceable("@new:b", 1e6)
    assert other is not None
    assert other.name == "ann"


def test_who_is_forgotten_leaves_shared_pictures_to_the_others() -> None:
    shelf = shelf_of(ann=0.0, bob=0.0)
    shelf.show(user("ann").id, "mxc://c/same", "bob")
    assert [emoji.name for emoji in shelf.forget(user("ann").id)] == ["ann"]
    assert set(shelf.by_name) == {"bob"}
    assert [emoji.name for emoji in shelf.forget(user("bob").id)] == ["bob"]
    assert not shelf.by_name
    assert not shelf.shown
    assert not shelf.by_source
    assert not shelf.last


def test_who_is_remembered_is_bounded() -> None:
    shelf = shelf_of(same=0.0)
    for number in range(MOST_RECORDS + 50):
        shelf.show(f"@{number}:b", "mxc://b/same", "same")
    assert len(shelf.shown) <= MOST_RECORDS
    assert len(shelf.last) <= MOST_RECORDS
    assert len(shelf.by_name["same"].people) <= MOST_RECORDS
    assert shelf.by_source == {"mxc://b/same": "same"}


# --- What is wanted -------------------------------------------------------------------------------------------


async def test_accounts_take_turns_and_letters_come_last() -> None:
    wishes = Wishes(FakeClock())
    wishes.add(letters("zoe"))
    for number in range(3):
        wishes.add(picture("flood", number))
    wishes.add(picture("ann"))
    wishes.add(picture("ann"))
    order = [await wishes.take() for _ in range(5)]
    assert [wanted.user.id for wanted in order] == ["@flood:b", "@ann:b", "@flood:b", "@flood:b", "@zoe:b"]
    assert not len(wishes)


async def test_what_is_being_made_is_not_wanted_twice() -> None:
    wishes = Wishes(FakeClock())
    wishes.add(picture("ann"))
    wanted = await wishes.take()
    wishes.add(picture("ann"))
    assert not len(wishes)
    wishes.again(wanted)
    wishes.done(wanted)
    wishes.add(picture("ann"))
    assert len(wishes) == 1
    assert await wishes.take() == wanted


async def test_it_waits_until_something_is_wanted() -> None:
    wishes = Wishes(FakeClock())
    task = asyncio.create_task(wishes.take())
    await asyncio.sleep(0)
    assert not task.done()
    wishes.add(picture("ann"))
    assert (await task).user == user("ann")


def test_one_account_cannot_want_without_end() -> None:
    clock = FakeClock()
    wishes = Wishes(clock)
    for number in range(1000):
        wishes.add(picture("flood", number))
    assert len(wishes) <= BURST
    wishes.forget(user("flood").id)
    assert not len(wishes)
    wishes.add(picture("flood", 2000))
    assert not len(wishes)
    clock.seconds += SECONDS_EACH + 1
    wishes.add(picture("flood", 2001))
    assert len(wishes) == 1


def test_all_together_are_bounded() -> None:
    wishes = Wishes(FakeClock())
    for number in range(5000):
        wishes.add(picture(f"p{number}"))
    assert len(wishes) == 1000


# --- Names and letters ----------------------------------------------------------------------------------------


def test_a_picture_has_one_name() -> None:
    still, moving = emoji_name(b"\x89PNG1"), emoji_name(b"GIF89a1")
    assert still == emoji_name(b"\x89PNG1") != emoji_name(b"\x89PNG2")
    assert moving.endswith("_a")
    for name in (still, moving):
        assert is_emoji_name(name)
        assert 2 <= len(name) <= 32


@pytest.mark.parametrize("name", ["relay", "relay_logo", f"relay_{'g' * 24}", f"relay_{'0' * 25}", None, 7, "party"])
def test_the_operators_emoji_are_not_taken_for_ours(name: object) -> None:
    assert not is_emoji_name(name)


@pytest.mark.parametrize(
    ("name", "handle", "first"),
    [
        ("Ann", "ann", "A"),
        ("ann lee", "x", "AL"),
        ("Ann Marie Lee", "x", "AL"),
        ("Ángel Ñandú", "x", "AN"),
        ("Ann ⟨ann2⟩", "x", "A"),
        ("liz (via IRC)", "irc", "L"),
        ("(bot) Ann", "x", "BA"),
        ("🦊", "fox", "F"),
        ("\u202eevil", "x", "E"),
        ("...", "dot", "D"),
        ("42", "x", "4"),
        ("ß", "x", "S"),
        ("x" * 4000, "x", "X"),
    ],
)
def test_initials(name: str, handle: str, first: str) -> None:
    assert initials(name, handle)[0] == first


def test_where_no_font_may_have_the_letters_those_of_the_handle_follow() -> None:
    assert initials("Дмитрий Ж", "dmitri") == ("ДЖ", "Д", "D")
    assert initials("🦊", "🦊") == ()


@given(st.text(max_size=200), st.text(max_size=50))
def test_initials_are_one_or_two_characters(name: str, handle: str) -> None:
    for text in initials(name, handle):
        assert 1 <= len(text) <= 2
        assert all(not char.isspace() and char.isprintable() for char in text)


def test_a_colour_for_each_person() -> None:
    hues = {letters_of(Author(user(f"p{number}"), "Ann")).hue for number in range(500)}
    assert len(hues) == 24
    assert letters_of(Author(user("ann"), "Ann")) == letters_of(Author(user("ann"), "Ann"))


def test_a_message_of_several_people_is_nobodys() -> None:
    assert shows_several(Author(user("ann"), "⟨Ann, Bob⟩"))
    assert not shows_several(Author(user("ann"), "Ann"))
