"""A configuration for tests, and what is said of its mistakes."""

import json
from pathlib import Path

import pytest

from relay.config.loading import load
from relay.errors import ConfigurationError

TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.secret-discord-token"
ACCESS = "syt_cmVsYXk_secretaccesstoken_1x2y3z"
PASSWORD = "correct horse battery staple"

SIDES = f"""
[discord]
token = "{TOKEN}"
[matrix]
homeserver_url = "https://matrix.example.org/"
user_id = "@relay:example.org"
access_token = "{ACCESS}"
"""
PAIRS = """
[defaults]
thread_messages = "flatten"
max_parts = 3
[[pairs]]
name = "help"
discord_channel = 1234567890123456789
matrix_room = "#stash-help:unredacted.org"
max_parts = 7
[[pairs]]
discord_channel = "1234567890123456790"
matrix_room = "#old:unredacted.org"
archived = true
[[pairs]]
discord_channel = 1234567890123456791
matrix_room = "!Sm6dzhCfj3GGxrSMPWbrFu0nVvvyf5KGUFUvCV2CC0Y"
direction = "to_matrix"
[[rooms]]
matrix_room = "#general:unredacted.org"
purpose = "Discussions outside of Discord"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "relay.toml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(write(folder, text), environ)
    return [str(mistake) for mistake in caught.value.mistakes]


def only(folder: Path, text: str, **environ: str) -> str:
    found = mistakes(folder, text, **environ)
    assert len(found) == 1, found
    return found[0].replace(f"{folder}/", "")


def pair(channel: object = 1234567890123456789, room: str = "#a:example.org", more: str = "") -> str:
    return f'[[pairs]]\ndiscord_channel = {json.dumps(channel)}\nmatrix_room = "{room}"\n{more}\n'
