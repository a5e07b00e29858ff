"""What `.ci/run` says where the machine lacks something, before it runs a single test."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def run(python: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    told = {"PATH": os.environ["PATH"], "SYSTEM_PYTHON": str(python), **environment}
    return subprocess.run([ROOT / ".ci" / "run"], env=told, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (None, "There is no {path}: install it"),
        ('case "$*" in *version_info*) exit 1 ;; *) echo Python 3.9.2 ;; esac', "{path} is Python 3.9.2, and"),
        ('case "$*" in *ensurepip*) exit 1 ;; esac', "apt-get install python3-venv"),
    ],
    ids=["absent", "too old", "without venv"],
)
@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "/nowhere"}], ids=["no HOME", "empty", "missing"])
def test_a_system_python_that_will_not_do(
    program: str | None, told: str, environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "python3"
    if program is not None:
        path.write_text(f"#!/bin/sh\n{program}\n")
        path.chmod(0o755)
    done = run(path, **environment)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert told.format(path=path) in line
