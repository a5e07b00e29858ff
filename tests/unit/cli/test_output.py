"""Where the output of a command goes may be full, closed, or in an encoding without most letters: that is no bug."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli.common import wrapped
from tests.support.settings import SIDES, pair, write

pytestmark = pytest.mark.slow


def relay(folder: Path, shell: str, **environ: str) -> tuple[int, str, str]:
    """A command as a shell runs it; `relay` in it is ours."""
    write(folder, SIDES + pair(room="#a:example.org", more='name = "generäl-漢字"'))
    ended = subprocess.run(
        ["sh", "-c", shell.replace("relay ", f"{sys.executable} -m relay ")],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode()


@pytest.mark.parametrize("command", ["pairs list", "pairs list --json", "--help"])
def test_a_disk_that_is_full(command: str, tmp_path: Path) -> None:
    status, _, errors = relay(tmp_path, f"relay {command} > /dev/full")
    last = errors.splitlines()[-1]
    told = "error: the output cannot be written: no space left on device; make room, or send it somewhere else"
    assert (status, last) == (1, told)
    assert "Traceback" not in errors


def test_an_output_that_nobody_reads(tmp_path: Path) -> None:
    assert relay(tmp_path, "relay pairs list >&-") == (0, "", "")
    # `true` may end before or after something is written.
    assert relay(tmp_path, "relay pairs list --json | true")[2] == ""


def test_an_encoding_without_most_letters(tmp_path: Path) -> None:
    status, output, errors = relay(tmp_path, "relay pairs list; relay pairs list --json", PYTHONIOENCODING="latin-1")
    assert (status, errors) == (0, "")
    assert "l-\\u6f22\\u5b57" in output.splitlines()[0]
    assert '"name": "gener\\u00e4l-\\u6f22\\u5b57"' in output


def test_errors_that_cannot_be_written_leave_the_exit_status_as_it_is(tmp_path: Path) -> None:
    assert relay(tmp_path, "relay run --config none 2> /dev/full")[0] == 2


def test_a_command_is_not_broken_where_it_may_be_on_a_line_of_its_own() -> None:
    """`relay run --take-over` stood on two lines: whoever copied the first one got the other command."""
    assert wrapped("stop that one, or start this one with `relay run --take-over`.", 50) == [
        "stop that one, or start this one with",
        "`relay run --take-over`.",
    ]
    long = f"with `{'relay outbox discard --channels ' * 2}`"
    assert max(map(len, wrapped(long, 40))) <= 40
