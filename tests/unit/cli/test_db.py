"""`relay db`: what its arguments mean. What it does to a store is in tests/unit/store."""

from pathlib import Path

import pytest

from relay.cli import main
from tests.support.settings import SIDES, write


def ended_with(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_a_folder_that_is_not_there_becomes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write(tmp_path, SIDES))
    assert ended_with("db", "upgrade", "--config", config) == 0
    assert ended_with("db", "backup", f"{tmp_path}/backups/", "--config", config) == 2
    assert f"error: {tmp_path}/backups: there is no such folder" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "backups").exists()
    (tmp_path / "backups").mkdir()
    assert ended_with("db", "backup", f"{tmp_path}/backups/", "--config", config) == 0
    assert [one.suffix for one in (tmp_path / "backups").iterdir()] == [".db"]


def test_what_keeps_a_backup_from_being_written_is_said_of_the_file_that_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was said of x.part, which the operator had never heard of."""
    config = str(write(tmp_path, SIDES))
    assert ended_with("db", "upgrade", "--config", config) == 0
    assert ended_with("db", "backup", f"{tmp_path}/backups/x", "--config", config) == 2
    assert f"error: {tmp_path}/backups: there is no such folder; make it" in capsys.readouterr().err
    # Not even root may write there.
    assert ended_with("db", "backup", "/proc/x", "--config", config) == 1
    told = capsys.readouterr().err
    assert "error: /proc/x cannot be written: " in told
    assert ".part" not in told


def test_what_is_no_backup_is_no_matter_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The remedy was to set another file in [store] url, or to restore a backup, which was what somebody tried."""
    config = str(write(tmp_path, SIDES))
    assert ended_with("db", "upgrade", "--config", config) == 0
    assert ended_with("db", "backup", f"{tmp_path}/whole.db", "--config", config) == 0
    assert ended_with("db", "restore", "postgresql://host/relay", "--config", config) == 2
    assert "FILE: is an address, and a backup is a file; name a file" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "half.db").write_bytes((tmp_path / "whole.db").read_bytes()[:3000])
    for name, words in (("half.db", "the file is damaged"), ("relay.toml", "it is not a store"), ("", "is a folder")):
        capsys.readouterr()
        assert ended_with("db", "restore", str(tmp_path / name), "--config", config) != 0
        told = " ".join(capsys.readouterr().err.split())
        assert f"error: {tmp_path / name}: {words}" in told
        assert told.endswith("; name a file that `relay db backup` made")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("mysql://host/relay", "TO: is neither a file nor the address of a store; write sqlite:///…"),
        ("postgresql://relay:se/cret@host/relay", "TO: has a / in its password; write %2F for it"),
        (".", "TO: is a folder; name a file in it"),
        ("none/new.db", "none: there is no such folder; make it: mkdir"),
        ("/proc/new.db", "/proc/new.db cannot be written: "),
    ],
)
def test_where_no_store_can_be_copied_to_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, words: str
) -> None:
    """mysql://host/relay was taken for a file."""
    assert ended_with("db", "upgrade", "--config", str(write(tmp_path, SIDES))) == 0
    assert ended_with("db", "copy", "relay.db", target) != 0
    assert words in " ".join(capsys.readouterr().err.split())
