"""`relay pairs`: what it prints, what becomes of the file, and what is refused."""

import itertools
import json
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.cli import main
from relay.config.editing import alone, read, replace_file
from relay.core.ports import ChannelInfo
from relay.domain.ids import ChannelRef, Platform
from tests.support.store import store_that_knows

CONFIG = """\
[discord]
token = "MTk4NjIyNDgzNDcxOTI1MjQ4.secret-discord-token"
[matrix]
homeserver_url = "http://127.0.0.1:1"
user_id = "@relay:example.org"
access_token = "syt_secret_matrix_token"

# Ours.
[[pairs]]
name = "help"
discord_channel = 1
matrix_room = "#help:example.org"

[[pairs]]
discord_channel = 2
matrix_room = "#news:example.org"
direction = "to_matrix"
archived = true
"""

Outcome = tuple[int, str, str]
Pairs = Callable[..., Outcome]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def pairs(capsys: pytest.CaptureFixture[str], file: Path) -> Pairs:
    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["pairs", *arguments])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *capsys.readouterr()

    return call


def test_they_are_listed_with_how_they_are(pairs: Pairs, file: Path) -> None:
    assert pairs("list")[:2] == (
        0,
        "help               1  <->  #help:example.org\n#news:example.org  2  -->  #news:example.org  archived\n",
    )
    listed = json.loads(pairs("list", "--json")[1])
    assert listed[0] == {
        "name": "help",
        "discord_channel": "1",
        "matrix_room": "#help:example.org",
        "direction": "both",
        "paused": False,
        "archived": False,
    }
    file.write_text(CONFIG.partition("# Ours.")[0])
    assert "relay pairs add" in pairs("list")[1]


def test_one_is_added_paused_resumed_and_removed(pairs: Pairs, file: Path) -> None:
    status, out, _ = pairs(
        "add", "3", "#new:example.org", "--name", "new", "--direction", "to_discord", "--purpose", "x"
    )
    assert (status, out.splitlines()[0]) == (0, "new: added. It takes effect when the daemon is started.")
    assert tomllib.loads(file.read_text())["pairs"][2] == {
        "name": "new",
        "discord_channel": 3,
        "matrix_room": "#new:example.org",
        "direction": "to_discord",
        "purpose": "x",
    }
    added = file.read_text()
    assert added.startswith(CONFIG)
    assert pairs("pause", "new", "1")[:2] == (
        0,
        (
            "help (1, #help:example.org): paused.\nnew (3, #new:example.org): paused.\n"
            "It takes effect when the daemon is started.\n"
        ),
    )
    assert pairs("pause", "help")[:2] == (0, "help (1, #help:example.org): already paused.\n")
    assert "#help:example.org  paused" in pairs("list")[1]
    assert pairs("resume", "new", "help")[0] == 0
    assert file.read_text() == added
    assert pairs("resume", "help")[:2] == (0, "help (1, #help:example.org): not paused.\n")
    assert pairs("remove", "new")[:2] == (
        0,
        "new (3, #new:example.org): removed.\nIt takes effect when the daemon is started.\n",
    )
    assert file.read_text() == CONFIG
    assert pairs("remove", "help", "#news:example.org")[0] == 0
    assert "pairs" not in tomllib.loads(file.read_text())


def test_what_would_be_a_mistake_is_refused_and_the_file_stays(pairs: Pairs, file: Path) -> None:
    status, _, err = pairs("add", "1", "#new:example.org")
    assert (status, file.read_text()) == (2, CONFIG)
    assert 'CHANNEL: is already in [[pairs]] 1 "help"' in err
    assert pairs("add", "#general", "new")[2].count("\n") == 2
    assert pairs("add", "07", "#new:example.org")[0] == 2
    status, _, err = pairs("pause", "help", "nothing")
    assert (status, err) == (2, "error: NAME: there is no pair nothing; `relay pairs list` shows them\n")
    for name in ("Help", "#help", "hlep"):
        assert pairs("remove", name)[:3:2] == (2, f"error: NAME: there is no pair {name}; did you mean help?\n")
    assert file.read_text() == CONFIG


def test_channels_are_called_by_their_names_with_their_ids_behind(pairs: Pairs, file: Path) -> None:
    """Both IDs stood there, and nobody knows whose they are."""
    channel, room = ChannelRef(Platform.DISCORD, "1"), ChannelRef(Platform.MATRIX, "!room:example.org")
    store_that_knows(file.parent, {channel: ChannelInfo("#support", "Sandbox"), room: ChannelInfo("Support\x1b")})
    file.write_text(CONFIG.replace("#help:example.org", "!room:example.org"))
    called = "help (#support 1, Support\\x1b !room:example.org)"
    assert pairs("pause", "help")[1].splitlines()[0] == f"{called}: paused."
    assert pairs("pause", "help")[1] == f"{called}: already paused.\n"
    # Only what has changed is said to have.
    assert pairs("resume", "help", "2")[1].splitlines()[:2] == [
        "#news:example.org (2): not paused.",
        f"{called}: resumed.",
    ]
    assert pairs("remove", "help")[1].splitlines()[0] == f"{called}: removed."


def test_a_pause_in_the_defaults_is_overruled(pairs: Pairs, file: Path) -> None:
    file.write_text("[defaults]\npaused = true\n" + CONFIG)
    assert pairs("list")[1].count("paused") == 2
    assert pairs("resume", "help")[0] == 0
    assert tomllib.loads(file.read_text())["pairs"][0]["paused"] is False
    assert pairs("list")[1].count("paused") == 1


def test_pairs_of_the_environment_are_not_in_the_file(
    pairs: Pairs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_PAIRS", '[{"name": "x", "discord_channel": 5, "matrix_room": "#x:example.org"}]')
    assert pairs("list")[1].startswith("x  5")
    status, _, err = pairs("pause", "x")
    assert (status, "RELAY_PAIRS" in err, file.read_text()) == (2, True, CONFIG)


def test_headers_and_texts_in_other_forms_are_understood(pairs: Pairs, file: Path) -> None:
    odd = CONFIG.replace("[[pairs]]", '[["pairs"]]').replace('"#help', "'''#help").replace('org"\n\n', "org'''\n\n", 1)
    file.write_text(odd)
    assert pairs("pause", "help")[0] == 0
    assert tomllib.loads(file.read_text())["pairs"][0]["paused"] is True


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["pairs", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_what_is_paused_is_what_was_meant_while_somebody_moves_the_pairs(file: Path) -> None:
    head, first, second = CONFIG.partition("# Ours.")[0], *CONFIG.partition("# Ours.\n")[2].split("\n\n")
    orders = itertools.cycle([f"{head}{first}\n\n{second}", f"{head}{second}\n{first}\n"])
    wrong: list[dict[str, object]] = []
    stop = threading.Event()

    def edit() -> None:
        while not stop.is_set():
            with alone(file):
                wrong.extend(pair for pair in tomllib.loads(read(file))["pairs"] if pair["discord_channel"] == 2)
                replace_file(file, next(orders))

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        outcomes = {command("pause", "help") for _ in range(40)}
    finally:
        stop.set()
        editor.join()
    assert outcomes <= {0, 2}  # "somebody else is changing it just now"
    assert not [pair for pair in wrong if pair.get("paused")]


def test_no_command_undoes_what_another_one_has_just_written(file: Path) -> None:
    names = [f"pair-{number}" for number in range(6)]
    more = (
        f'[[pairs]]\nname = "{name}"\ndiscord_channel = "1{name[-1]}"\nmatrix_room = "#{name}:example.org"\n'
        for name in names
    )
    file.write_text("\n".join([CONFIG, *more]))

    def pause(name: str) -> None:
        while command("pause", name) != 0:
            pass

    threads = [threading.Thread(target=pause, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [pair["name"] for pair in tomllib.loads(file.read_text())["pairs"] if pair.get("paused")] == names


@pytest.mark.parametrize(("option", "written"), [("--nsfw", True), ("--no-nsfw", False), (None, None)])
def test_one_is_added_with_a_room_for_adults(
    pairs: Pairs, file: Path, option: str | None, written: bool | None
) -> None:
    assert pairs("add", "3", "#new:example.org", *([option] if option else []))[0] == 0
    assert tomllib.loads(file.read_text())["pairs"][2].get("nsfw") is written


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        (("x", "#new:example.org"), "CHANNEL: is not a channel ID"),
        (("3", "new"), "ROOM: is neither a room alias nor a room ID"),
        (("2", "#new:example.org"), 'CHANNEL: is already in [[pairs]] 2 "#news:example.org" (line 15)'),
        (("3", "#new:example.org", "--name", "help"), '--name: is already in [[pairs]] 1 "help" (line 10)'),
        (("3", "#new:example.org", "--direction", "x"), "--direction: is not an allowed value; write 'both'"),
        (("3", "#new:example.org", "--purpose", ""), None),
    ],
)
def test_a_mistake_in_an_argument_names_the_argument(
    pairs: Pairs, file: Path, arguments: tuple[str, ...], blamed: str | None
) -> None:
    status, _, error = pairs("add", *arguments)
    if blamed is None:
        assert status == 0
        return
    assert (status, file.read_text()) == (2, CONFIG)
    assert error.startswith(f"error: {blamed}")


def test_what_is_said_of_one_pair_is_not_left_out_where_pairs_are_chosen(pairs: Pairs, file: Path) -> None:
    status, _, error = pairs("add", "--nsfw")
    assert (status, file.read_text()) == (2, CONFIG)
    assert "--nsfw is about one pair: give its CHANNEL and ROOM, too" in " ".join(error.replace("│", " ").split())


def test_what_is_to_be_typed_next_survives_the_shell(pairs: Pairs) -> None:
    assert "`relay check --pair '#new:example.org'`" in pairs("add", "3", "#new:example.org")[1]
    # What a shell leaves of `relay pairs add 4 #more:example.org`.
    assert "put an alias in quotes" in " ".join(pairs("add", "4")[2].split())
