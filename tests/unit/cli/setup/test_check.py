"""`relay check`: how its lines look. What it finds is in tests/e2e/test_check.py."""

from pathlib import Path

import pytest

from relay.cli import main
from relay.cli.setup.check import _out_of_sight, print_finding
from relay.core.operations.findings import Finding
from relay.doctor import clock_finding, disk_finding, is_in_memory
from tests.support.settings import PAIRS, SIDES, write


def test_a_pair_that_is_not_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, SIDES + PAIRS)
    with pytest.raises(SystemExit) as ended:
        main(["check", "--config", str(config), "--pair", "hlep"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --pair: there is no pair hlep; did you mean help?\n"


def test_a_finding_is_a_line_and_its_remedy_another(capsys: pytest.CaptureFixture[str]) -> None:
    print_finding(
        Finding("#help on Se\x1brver", "wrong", "the bot may not see it", "give its role View Channel", "help")
    )
    print_finding(Finding("!room:a", "ok", "joined", pair="help"))
    assert capsys.readouterr().out == (
        "✗ #help on Se\\x1brver: the bot may not see it\n  → give its role View Channel\n"
        "✓ !room:a (pair help): joined\n"
    )


def test_what_has_gone_off_the_screen_is_said_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 pairs two were in trouble, and their lines a hundred lines up."""
    monkeypatch.setenv("LINES", "24")
    wrong, well = (
        Finding("#help", "wrong", "gone", "mend it"),
        [Finding(f"#{number}", "ok", "here") for number in range(24)],
    )
    assert _out_of_sight([*well, wrong, *well]) == [wrong]
    assert _out_of_sight([*well, wrong, *well[:20]]) == []
    assert _out_of_sight(well) == []


@pytest.mark.parametrize(("skew", "state"), [(0.6, "ok"), (-4.0, "ok"), (20.0, "note"), (-3600.0, "wrong")])
def test_how_far_a_clock_may_be_off(skew: float, state: str) -> None:
    found = clock_finding("Discord's", skew)
    assert found.state == state
    assert state == "ok" or "timedatectl" in found.remedy
    assert ("behind" in found.words) is (skew < -5)


@pytest.mark.parametrize(("free", "state"), [(50 * 1024**2, "wrong"), (500 * 1024**2, "note"), (2 * 1024**3, "ok")])
def test_how_much_room_a_disk_needs(free: int, state: str) -> None:
    found = disk_finding("the disk of the store", Path("/var/lib/relay"), free)
    assert found.state == state
    assert state == "ok" or found.remedy == "make room on the disk of /var/lib/relay"


def test_a_folder_in_memory_has_no_disk_to_make_room_on(tmp_path: Path) -> None:
    found = disk_finding("the disk of files on their way", Path("/tmp"), 50 * 1024**2, in_memory=True)
    assert found.words == "only 50 MiB free: /tmp is in memory"
    assert "TMPDIR" in found.remedy
    assert "disk of" not in found.remedy
    store = disk_finding("the disk of the store", Path("/run/relay"), 50 * 1024**2, in_memory=True)
    assert ("[store] url" in store.remedy, "TMPDIR" in store.remedy) == (True, False)


@pytest.mark.parametrize(
    ("folder", "in_memory"), [("/a b/tmp/x", True), ("/a b", False), ("/srv", False), ("/srv/tmpfs", False)]
)
def test_what_the_kernel_says_of_mounts_tells_what_is_in_memory(tmp_path: Path, folder: str, in_memory: bool) -> None:
    mounts = tmp_path / "mounts"
    # What was mounted over another one counts.
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\ntmpfs /a\\040b/tmp tmpfs rw 0 0\ntmpfs /srv tmpfs rw 0 0\n/dev/b /srv xfs rw 0 0\n"
    )
    assert is_in_memory(Path(folder), mounts) is in_memory


def test_a_finding_survives_being_saved() -> None:
    found = Finding("the clock", "note", "it is 7 s ahead", "set it", "help")
    assert Finding.from_json(found.as_json()) == found
    assert Finding.from_json({"subject": "x", "state": "odd", "words": "y"}) is None
