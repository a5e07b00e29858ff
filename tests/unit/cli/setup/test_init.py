"""`relay init` and `relay login` without anybody to ask; from end to end they are in tests/e2e/test_init.py."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.cli import main
from relay.cli.setup import init, pairing
from relay.cli.setup.asking import Answers, Question, rows
from relay.config.loading import load
from relay.config.template import Account, DeclaredPair, relay_toml
from relay.core.operations.findings import VisibleChannel
from relay.errors import ConfigurationError
from tests.support.patience import PATIENCE

Outcome = tuple[int, str, str]
Relay = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Relay:
    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *capsys.readouterr()

    return call


def answers(folder: Path, text: str) -> Answers:
    path = folder / "answers.toml"
    path.write_text(text)
    return Answers(path, ("token", "where", "sure", "pairs"))


def test_without_a_terminal_there_must_be_answers(cli: Relay, tmp_path: Path) -> None:
    status, _, err = cli("init")
    assert (status, "--answers FILE" in err) == (2, True)
    status, _, err = cli("init", "--answers", "nothing.toml")
    assert (status, "nothing.toml: cannot be read" in err) == (2, True)
    (tmp_path / "a.toml").write_text('suggestd = "all"\n')
    status, _, err = cli("init", "--answers", "a.toml")
    assert (status, "did you mean suggested?" in err) == (2, True)
    (tmp_path / "a.toml").write_text('suggested = "all"\ndiscord_token = abc\n')
    status, _, err = cli("init", "--answers", "a.toml")
    assert (status, 'in line 2 put the value in quotes (")' in err, "abc" in err) == (2, True, False)
    assert cli("init", "--answers", "a.toml", "--config", "no/relay.toml")[0] == 2
    assert not (tmp_path / "relay.toml").exists()


@pytest.mark.parametrize("mode", [0o555, 0o600])
def test_nothing_is_asked_where_the_file_cannot_be_written(tmp_path: Path, mode: int) -> None:
    """Who had made Docker's folder `config` himself was told so after all questions, with a device made for nothing."""
    (tmp_path / "a.toml").write_text("")
    folder = tmp_path / "config"
    folder.mkdir(mode=mode)
    command = [sys.executable, "-m", "relay", "init", "--answers", "a.toml", "--config", f"{folder}/relay.toml"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"may not write in {folder}; run it as the user whose folder that is" in done.stderr


def test_a_file_that_is_there_stays(cli: Relay, tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text("mine")
    (tmp_path / "a.toml").write_text("")
    status, out, _ = cli("init", "--answers", "a.toml")
    assert (status, "relay.toml exists, and stays as it is" in out) == (1, True)
    assert (tmp_path / "relay.toml").read_text() == "mine"


def test_a_login_says_what_it_lacks_and_writes_over_nothing(cli: Relay, tmp_path: Path) -> None:
    status, _, err = cli("login", "--user", "@relay:example.org")
    assert (status, "there is no such file" in err) == (2, True)
    (tmp_path / "relay.toml").write_text('[matrix]\nhomeserver_url = "http://127.0.0.1:1"\n')
    status, _, err = cli("login")
    assert (status, "user_id: is missing" in err) == (2, True)
    status, _, err = cli("login", "--user", "relay")
    assert (status, "write it in full" in err) == (2, True)
    (tmp_path / "token").write_text("mine")
    status, _, err = cli("login", "--user", "@relay:example.org", "--output", "token")
    assert (status, "token is there already" in err, (tmp_path / "token").read_text()) == (2, True, "mine")


def test_answers_have_defaults_and_secrets_may_be_in_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" s3cret \n")
    given = answers(tmp_path, 'token_file = "secret"\nsure = true\npairs = [["#a", "B room"], [1, "#c:d"]]\n')
    assert given.ask(Question(key="token", words="", secret=True)) == "s3cret"
    assert given.ask(Question(key="where", words="", default="here")) == "here"
    assert given.agrees(Question(key="sure", words="", default="no"))
    assert given.pairs(Question(key="pairs", words=""), lambda _: None) == ["#a B room", "1 #c:d"]
    with pytest.raises(ConfigurationError, match="where: is missing"):
        given.ask(Question(key="where", words=""))
    with pytest.raises(ConfigurationError, match="pairs: no; correct it"):
        given.pairs(Question(key="pairs", words=""), lambda _: "no.")
    with pytest.raises(ConfigurationError, match="token_file: the file cannot be read"):
        answers(tmp_path, 'token_file = "none"').ask(Question(key="token", words="", secret=True))
    with pytest.raises(ConfigurationError, match="must be true or false"):
        answers(tmp_path, 'sure = "yes"').agrees(Question(key="sure", words=""))


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("all", [1, 2, 3]),
        ("none", []),
        ("2", [2]),
        ("1, 3", [1, 3]),
        ("2-3 1", [2, 3, 1]),
        ("1 1", [1]),
        ("4", None),
        ("0", None),
        ("1-", None),
        ("1-999999999999", None),
        ("x", None),
        ("", None),
        ("3-1", None),
        ("1, 9", None),
        ("1 3-1", None),
    ],
)
def test_numbers_as_people_write_them(words: str, numbers: list[int] | None) -> None:
    assert pairing._numbers(words, 3) == numbers


def test_a_channel_is_meant_with_and_without_its_sign() -> None:
    channels = [VisibleChannel("1", "#help"), VisibleChannel("2", "#dev-chat")]
    assert [pairing._meant(words, channels) for words in ("#Dev-Chat", "dev-chat", "dev")] == [channels[1]] * 2 + [None]


def test_numbers_are_offered_in_short() -> None:
    assert [pairing._spelled(numbers) for numbers in ([], [2], [1, 2, 3, 5, 7, 8])] == ["none", "2", "1-3 5 7-8"]
    assert pairing._numbers(pairing._spelled([1, 2, 3, 5]), 5) == [1, 2, 3, 5]


def test_a_table_fits_into_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows([("1", "#" + "long-" * 20, "<->", "\x1b[2J" + "Room " * 40), ("2", "#a", "<->", "B")])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_the_topic_is_suggested_as_the_purpose_and_nobody_is_told_it_unasked() -> None:
    topic = 'Ask "here"\n[[pairs]]\u202e and \\ wait' + " on" * 200
    channel, room = VisibleChannel("1", "#a"), VisibleChannel("#b:example.org", "B", topic=topic)
    choice = pairing.Choice(channel, "#b:example.org", room)
    account = Account(name="Bot", settings={}, secret_key="token", secret="t")
    pair = DeclaredPair(about=choice.about, settings={"name": "a", **choice.settings}, topic=choice.topic)
    text = relay_toml(account, account, [pair])
    assert tomllib.loads(text)["pairs"] == [{"name": "a", "discord_channel": 1, "matrix_room": "#b:example.org"}]
    [line] = [line for line in text.splitlines() if line.startswith("# purpose")]
    purpose = tomllib.loads(line.removeprefix("# "))["purpose"]
    assert purpose.startswith('Ask "here" [[pairs]] and \\ wait on on')
    assert len(purpose) <= 200


@pytest.mark.parametrize(
    ("said", "marked", "waiting"),
    [
        ("", [], "between #art, #late and their rooms"),
        ('nsfw = "2"', ["#late"], "between #art and its room"),
        ("nsfw = 1", ["#art"], "between #late and its room"),
        ('nsfw = "all"', ["#art", "#late"], None),
    ],
)
def test_which_rooms_are_for_adults_is_said_room_by_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, marked: list[str], waiting: str | None
) -> None:
    """Of a channel that everybody may read nobody asks."""
    names = {"#help": False, "#art": True, "#late": True}
    channels = [VisibleChannel(f"{number}", name, nsfw=nsfw) for number, (name, nsfw) in enumerate(names.items(), 1)]
    rooms = [VisibleChannel(f"!{name[1:]}:example.org", name[1:].title()) for name in names]
    (tmp_path / "answers.toml").write_text(said)
    given = Answers(tmp_path / "answers.toml", ("suggested", "pairs", "nsfw"))
    chosen = pairing.choose_pairs(given, channels, rooms)
    assert [one.channel.name for one in chosen if one.settings.get("nsfw")] == marked
    told = " ".join(capsys.readouterr().out.split())
    assert waiting in told if waiting else "Nothing crosses" not in told
    everybody = pairing.choose_pairs(given, channels[:1], rooms)
    assert [one.settings.get("nsfw") for one in everybody] == [None]
    assert "adults" not in capsys.readouterr().out


@pytest.mark.parametrize("room", ["!help:example.org", "#help:example.org", "Help"])
def test_a_pair_in_the_answers_may_be_one_that_is_suggested(tmp_path: Path, room: str) -> None:
    """Who wrote down the pairs, and nothing about suggestions, was told that they are in a pair already."""
    channels = [VisibleChannel("1", "#help"), VisibleChannel("2", "#dev")]
    rooms = [VisibleChannel("!help:example.org", "Help", also=frozenset({"#help:example.org"}))]
    rooms.append(VisibleChannel("!dev:example.org", "Elsewhere"))
    keys = ("suggested", "pairs")
    (tmp_path / "answers.toml").write_text(f'pairs = [["1", "{room}"], ["#dev", "!dev:example.org"]]')
    chosen = pairing.choose_pairs(Answers(tmp_path / "answers.toml", keys), channels, rooms)
    assert [one.channel.name for one in chosen] == ["#help", "#dev"]
    (tmp_path / "answers.toml").write_text('pairs = [["1", "!dev:example.org"]]')
    with pytest.raises(ConfigurationError, match='in a pair already, a suggested one; choose others with "suggested"'):
        pairing.choose_pairs(Answers(tmp_path / "answers.toml", keys), channels, rooms)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker run --user 12345`: `relay init` ended with a traceback once all was written."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert init._user() == f"the user with the ID {os.getuid()}"


def test_a_number_too_many_is_told(tmp_path: Path) -> None:
    (tmp_path / "answers.toml").write_text('nsfw = "2"')
    channel = VisibleChannel("1", "#art", nsfw=True)
    with pytest.raises(ConfigurationError, match="nsfw: Write numbers up to 1"):
        pairing.choose_pairs(
            Answers(tmp_path / "answers.toml", ("nsfw",)), [channel], [VisibleChannel("!a:example.org", "Art")]
        )


def test_what_is_written_can_be_read_whatever_people_called_their_channels(tmp_path: Path) -> None:
    channel = VisibleChannel("1", '#a"\n[[pairs]]', place="S\u2028", section='"x', nsfw=True)
    choice = pairing.Choice(channel, "#b:example.org", for_adults=True)
    text = relay_toml(
        Account(name="Bot\n[x]", settings={}, secret_key="token", secret='t"k'),
        Account(
            name="@relay:example.org",
            settings={"homeserver_url": "https://example.org", "user_id": "@relay:example.org"},
            secret_key="access_token",
            secret="x",
        ),
        [DeclaredPair(about=choice.about, settings={"name": "a", **choice.settings})],
    )
    path = tmp_path / "relay.toml"
    path.write_text(text)
    settings = load(path, {})
    assert settings.discord.token.get_secret_value() == 't"k'
    assert tomllib.loads(text)["pairs"] == [
        {"name": "a", "discord_channel": 1, "matrix_room": "#b:example.org", "section": '"x', "nsfw": True}
    ]


def test_what_to_type_next_is_right_where_it_was_typed(tmp_path: Path) -> None:
    def after(config: str, program: str = "/opt/relay/bin/relay", **environ: str) -> tuple[str, str]:
        made = init.commands_after(Path(config), environ, program)
        return made.check, made.start

    program = tmp_path / "relay"
    program.touch(0o755)
    called = str(program)
    assert after("relay.toml", called, PATH=str(tmp_path)) == ("relay check", "relay run")
    assert after("relay.toml", called, PATH="") == (f"{called} check", f"{called} run")
    assert after("my relay.toml", called, PATH=str(tmp_path))[1] == "relay run --config 'my relay.toml'"
    assert after("b.toml", called, PATH=str(tmp_path), RELAY_CONFIG="b.toml")[1] == "relay run"
    assert after("relay.toml", "/x/relay/__main__.py", PATH="")[1].endswith(" -m relay run")
    in_image = after("/etc/relay/relay.toml", RELAY_CONFIG="/etc/relay/relay.toml", PATH="/opt/relay/bin")
    assert in_image == ("docker compose run --rm relay check", "docker compose up -d")
    check, start = after("/var/lib/relay/relay.toml", PATH="/usr/bin")
    assert check == "/opt/relay/bin/relay check --config /var/lib/relay/relay.toml"
    assert start == "systemctl enable --now relay"
    root = Path(__file__).parents[4]
    assert f"RELAY_CONFIG={init._OF_THE_IMAGE} " in (root / "deploy/Dockerfile").read_text()
    assert f"RELAY_CONFIG={init._OF_THE_UNIT}\n" in (root / "deploy/relay.service").read_text()
