"""Changes to relay.toml: what is wanted happens, and all else stays as the operator wrote it."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from relay.config.editing import (
    Scalar,
    add_pairs,
    pair_table,
    read,
    remove_pair,
    replace_file,
    set_in_pair,
    write_private,
)
from relay.errors import ConfigurationError

WHOLE = '''\
# Ours.
[discord]
token = "x"  # of the bot

# All pairs are below.

# The room for help.
[[pairs]]
name = "help"
discord_channel = 1
matrix_room = "#help:example.org"  # public
  # Indented.

[[pairs]]
name = "news"
discord_channel = 2
matrix_room = "#news:example.org"
purpose = """
[[pairs]]
# no comment
"""
paused = false # for now
[pairs.moderation]
deletions = true

# A third one.
[[pairs]]
discord_channel = 3
matrix_room = "#third:example.org"

# Not bridged.
[[rooms]]
matrix_room = "#general:example.org"
'''
ONE_LINE = """\
# Ours.
pairs = [{ discord_channel = 1, matrix_room = "#a:b" }, { discord_channel = 2, matrix_room = "#c:d" }] # all
"""
NEW: Mapping[str, Scalar] = {"name": 'say "hi"', "discord_channel": 9, "matrix_room": "#new:example.org"}


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "# " in line]


def test_a_pair_is_added_behind_the_others() -> None:
    result = add_pairs(WHOLE, [NEW])
    before, after = WHOLE.split("\n# Not bridged.")
    assert result == f"{before}\n{pair_table(NEW)}\n\n# Not bridged.{after}"
    assert tomllib.loads(result)["pairs"][-1] == NEW


@pytest.mark.parametrize("text", ["", '[discord]\ntoken = "x"', '[discord]\ntoken = "x"\n\n\n'])
def test_the_first_pairs_come_at_the_end(text: str) -> None:
    result = add_pairs(text, [NEW, {**NEW, "name": "two"}])
    assert result.endswith(f"{pair_table(NEW)}\n\n{pair_table({**NEW, 'name': 'two'})}\n")
    assert result.startswith(text.rstrip("\n"))


def test_a_removed_pair_takes_its_comment_along_and_no_other() -> None:
    assert remove_pair(WHOLE, 2) == WHOLE.replace(
        '# A third one.\n[[pairs]]\ndiscord_channel = 3\nmatrix_room = "#third:example.org"\n\n', ""
    )
    assert comments(remove_pair(WHOLE, 1)) == [one for one in comments(WHOLE) if one not in (" for now", " no comment")]
    assert tomllib.loads(remove_pair(WHOLE, 1))["pairs"] == [tomllib.loads(WHOLE)["pairs"][n] for n in (0, 2)]


def test_what_stands_above_the_first_pair_stays_as_it_may_be_about_all() -> None:
    assert " The room for help." in comments(remove_pair(WHOLE, 0))


def test_all_pairs_are_removed() -> None:
    text = WHOLE
    for _ in range(3):
        text = remove_pair(text, 0)
    assert "pairs" not in tomllib.loads(text)
    assert tomllib.loads(text)["rooms"] == tomllib.loads(WHOLE)["rooms"]


@pytest.mark.parametrize(("number", "line"), [(0, 12), (2, 30)])
def test_a_key_is_set_below_the_others_of_its_pair_and_removed_again(number: int, line: int) -> None:
    result = set_in_pair(WHOLE, number, "paused", True)
    lines = result.splitlines()
    assert lines.pop(line - 1) == "paused = true"
    assert lines == WHOLE.splitlines()
    assert set_in_pair(result, number, "paused", None) == WHOLE


def test_a_value_that_is_there_is_replaced_in_its_place() -> None:
    assert set_in_pair(WHOLE, 1, "paused", True) == WHOLE.replace("paused = false # for now", "paused = true # for now")
    without = set_in_pair(WHOLE, 1, "paused", None)
    assert without == WHOLE.replace("paused = false # for now\n", "")
    again = set_in_pair(without, 1, "paused", True)
    assert tomllib.loads(again)["pairs"][1]["paused"] is True
    assert again.index("paused = true") < again.index("[pairs.moderation]")


def test_pairs_in_one_line_are_changed_too() -> None:
    assert [pair["discord_channel"] for pair in tomllib.loads(add_pairs(ONE_LINE, [NEW]))["pairs"]] == [1, 2, 9]
    for result in (remove_pair(ONE_LINE, 0), set_in_pair(ONE_LINE, 0, "paused", True), add_pairs(ONE_LINE, [NEW])):
        assert result.startswith("# Ours.\n")
        assert result.endswith(" # all\n")
    assert set_in_pair(set_in_pair(ONE_LINE, 0, "paused", True), 0, "paused", None).count("paused") == 0
    assert tomllib.loads(remove_pair(ONE_LINE, 1))["pairs"] == [{"discord_channel": 1, "matrix_room": "#a:b"}]


def test_the_file_keeps_its_mode_its_line_ends_and_the_link_that_leads_to_it(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "relay.toml"
    real.write_bytes(b"a = 1\r\nb = 2\r\n")
    real.chmod(0o640)
    link.symlink_to(real)
    assert read(link) == "a = 1\nb = 2\n"
    replace_file(link, "a = 1\nb = 3\n")
    assert real.read_bytes() == b"a = 1\r\nb = 3\r\n"
    assert real.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real.toml", "relay.toml"]


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        replace_file(tmp_path / "relay.toml", "")
    assert list(tmp_path.iterdir()) == []


def test_a_private_file_is_read_by_nobody_else_and_replaced_only_if_wanted(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "token"
    umask = os.umask(0)
    try:
        write_private(path, "one")
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            write_private(path, "two")
        path.chmod(0o644)
        write_private(path, "two", replace=True)
    finally:
        os.umask(umask)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
