"""What `relay explain` takes for a message, and what it prints."""

import json
from pathlib import Path

import pytest

from relay.cli import main
from relay.cli.explain import _read
from relay.domain.ids import ChannelRef, Platform
from tests.support.settings import SIDES, pair, write
from tests.support.store import new_store

CHANNEL = "1234567890123456789"
MESSAGE = "1234567890123456790"
EVENT = "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"
ROOM = "!room:example.org"


@pytest.mark.parametrize(
    ("written", "message", "channel"),
    [
        (MESSAGE, MESSAGE, None),
        (f"https://discord.com/channels/1/{CHANNEL}/{MESSAGE}", MESSAGE, CHANNEL),
        (f"https://ptb.discord.com/channels/1/{CHANNEL}/{MESSAGE}/", MESSAGE, CHANNEL),
        (f"https://chat.example.org/channels/1/{CHANNEL}/{MESSAGE}", MESSAGE, CHANNEL),
        (f"{CHANNEL}-{MESSAGE}", MESSAGE, CHANNEL),
        (EVENT, EVENT, None),
        (f"https://matrix.to/#/{ROOM}/{EVENT}?via=example.org", EVENT, ROOM),
        (f"https://matrix.to/#/%23help:example.org/{EVENT}", EVENT, None),
        (f"matrix:roomid/{ROOM[1:]}/e/{EVENT[1:]}", EVENT, ROOM),
        (f"https://app.element.io/#/room/{ROOM}/{EVENT}", EVENT, ROOM),
        (f"https://chat.example.org/element/#/room/%23help:example.org/{EVENT}?via=example.org", EVENT, None),
    ],
)
def test_links_and_ids_of_either_side(written: str, message: str, channel: str | None) -> None:
    asked = _read(written)
    assert asked is not None
    assert asked.message == message
    platform = Platform.MATRIX if message == EVENT else Platform.DISCORD
    assert asked.channel == (None if channel is None else ChannelRef(platform, channel))


@pytest.mark.parametrize(
    "written",
    [
        "",
        "hello",
        "#help:example.org",
        ROOM,
        "https://example.org",
        f"https://matrix.to/#/{ROOM}",
        f"https://app.element.io/#/room/{ROOM}",
        f"https://app.element.io/#/room/{ROOM}/",
        f"https://discord.com/channels/1/{CHANNEL}",
        "1" * 21,
        "$",
        "\x1b[31m",
    ],
)
def test_anything_else_is_a_mistake_on_the_command_line(written: str) -> None:
    assert _read(written) is None


def ended(folder: Path, *arguments: str) -> int:
    write(folder, SIDES + pair())
    with pytest.raises(SystemExit) as exit_:
        main(["explain", *arguments, "--config", str(folder / "relay.toml")])
    return int(exit_.value.code or 0)


def test_nothing_on_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(tmp_path, MESSAGE) == 1
    assert "it does not exist yet; start the daemon once" in capsys.readouterr().err
    new_store(tmp_path)
    assert ended(tmp_path, f"https://discord.com/channels/1/7/{MESSAGE}") == 1
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Nothing is on record of that message.\nIts channel, or thread, is in no pair of relay.toml"
    )
    assert "thread" in printed
    assert ended(tmp_path, MESSAGE, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["messages"], found["reason"].partition(",")[0]) == ([], "The message was not received")
    assert ended(tmp_path, "hello") == 2
