"""The forms in which `relay directory` prints the page, and what it says beside it."""

import json
from pathlib import Path

import pytest

from relay.cli import main
from relay.core.ports import ChannelInfo
from relay.domain.ids import ChannelRef, Platform
from tests.support.settings import SIDES, pair, write
from tests.support.store import store_that_knows


def printed(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    write(folder, SIDES + pair(1, "#a:example.org", 'purpose = "All"'))
    with pytest.raises(SystemExit) as ended:
        main(["directory", *arguments, "--config", str(folder / "relay.toml")])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


def test_three_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markdown = printed(tmp_path, capsys)
    assert (markdown[0], markdown[1].splitlines()[0], markdown[2]) == (0, "# Rooms", "")
    assert printed(tmp_path, capsys, "--markdown") == printed(tmp_path, capsys, "--format", "markdown") == markdown
    html = printed(tmp_path, capsys, "--html")
    assert html[1].startswith("<!doctype html>")
    assert printed(tmp_path, capsys, "--format", "html") == html
    found = printed(tmp_path, capsys, "--json")
    assert json.loads(found[1])["sections"][0]["rooms"][0]["address"] == "#a:example.org"
    assert printed(tmp_path, capsys, "--format", "json", "--json") == found


def test_one_form_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--html", "--json"), ("--format", "html", "--json"), ("--format", "pdf")):
        assert printed(tmp_path, capsys, *arguments)[0] == 2


def test_what_is_left_out_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rooms = "".join(pair(10 + number, f"!room{number}:example.org", f'name = "p{number}"') for number in range(5))
    write(tmp_path, SIDES + rooms)
    channels = (ChannelRef(Platform.DISCORD, str(10 + number)) for number in range(5))
    store_that_knows(tmp_path, {channel: ChannelInfo("#staff") for channel in channels})
    with pytest.raises(SystemExit):
        main(["directory", "--config", str(tmp_path / "relay.toml")])
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("note: 5 rooms (p0, p1, p2 and more) are left out: only invited people may enter; give each")
