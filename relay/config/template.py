"""The `relay.toml` that `relay init` writes: short, and with a comment for who reads it next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.config.editing import Scalar, pair_table, quoted

_HEAD = """\
# Written by `relay init`. Whatever else can be set is in deploy/relay.example.toml; relative paths start at this file.
# `relay check` says whether all of it works. A running daemon reads the pairs again whenever this file is saved.
"""
_TAIL = """\
# What the relay remembers is in this file.
# [store]
# url = "sqlite:///relay.db"

# The status page and the metrics. "" turns them off.
# [web]
# listen = "127.0.0.1:9464"

# Settings for every pair.
# [defaults]
# thread_messages = "drop"

# One [[pairs]] for each channel and its room. `relay pairs` lists, adds, pauses and removes them. `purpose` is what the
# page of rooms says of it (`relay directory`), also to those who may not enter; the topic is suggested.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How the relay is known on one platform."""

    # What people call it there.
    name: str
    # In the order of the file, without the secret.
    settings: Mapping[str, Scalar]
    # The key of its secret, or the key that names the file with it, and what to write there.
    secret_key: str
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredPair:
    """A pair, and what people call its two channels."""

    about: str
    settings: Mapping[str, Scalar]
    # What its room or channel says that it is for. Only suggested, because not everybody may know it.
    topic: str = ""


def relay_toml(discord: Account, matrix: Account, pairs: Sequence[DeclaredPair]) -> str:
    """The whole file."""
    lines = [
        _HEAD,
        "[discord]",
        f"# Of the bot {_plain(discord.name)}: https://discord.com/developers/applications",
        *_table(discord),
        "",
        "[matrix]",
        *_table(matrix, "# Of a device of its own; `relay login` makes another."),
        "",
        _TAIL,
    ]
    for pair in pairs:
        lines += [f"# {_plain(pair.about)}", pair_table(pair.settings)]
        lines += [f"# purpose = {quoted(_plain(pair.topic))}", ""] if pair.topic else [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(account: Account, *above_secret: str) -> list[str]:
    settings = [
        f"{key} = {quoted(value) if isinstance(value, str) else value}" for key, value in account.settings.items()
    ]
    return [*settings, *above_secret, f"{account.secret_key} = {quoted(account.secret)}"]


def _plain(text: str) -> str:
    """In one line, and printable: other people chose it."""
    return "".join(one if one.isprintable() else "?" for one in text)
