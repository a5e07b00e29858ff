"""`relay run` before the daemon has begun."""

import subprocess
import sys
from pathlib import Path

# A library that swallows every exception while it is imported, of which there are some, and SIGTERM comes just then.
SWALLOWS = """
import os, signal, sys

class Swallows:
    def find_spec(self, name, *_):
        if name == "relay.app":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000):
                    pass
            except BaseException:
                pass
            print("survived")
            raise SystemExit(9)

sys.meta_path.insert(0, Swallows())
from relay.cli import main
sys.argv[1:] = ["run", "--config", "relay.toml"]
main()
"""
CONFIG = """
[discord]
token = "abc.def.ghi"
[matrix]
homeserver_url = "https://matrix.example.org"
user_id = "@relay:example.org"
access_token = "syt"
[[pairs]]
discord_channel = 1234567890123456789
matrix_room = "#help:example.org"
"""


def test_sigterm_ends_it_whatever_is_just_being_imported(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(CONFIG)
    done = subprocess.run([sys.executable, "-c", SWALLOWS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
