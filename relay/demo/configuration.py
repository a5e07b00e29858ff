"""The demo's `relay.toml`, as an operator writes it, and with ghosts the registration that the homeserver needs."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relay.domain.jsontext import Json
from relay.errors import FatalError

PAIR = "general"
GHOST_PREFIX = "_discord_"


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the operator's own settings, which must not leak into the demo."""
    return {name: value for name, value in environ.items() if not name.startswith("RELAY_")}


@dataclass(slots=True, kw_only=True)
class Configuration:
    """`relay.toml` in `directory`."""

    directory: Path
    user_id: str
    # Whether people of Discord can have accounts of their own on the homeserver.
    can_ghosts: bool
    discord: Json = field(default_factory=lambda: {"token": "unknown"})
    matrix: Json = field(default_factory=lambda: {"homeserver_url": "http://localhost", "access_token": "unknown"})
    web: Json = field(default_factory=lambda: {"listen": "127.0.0.1:0"})
    pair: Json = field(default_factory=dict)
    # Whether they do.
    ghosts: bool = True
    _as_token: str = field(init=False, default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.directory / "relay.toml"

    def write(self) -> None:
        """Save it. A daemon that runs takes what it says of pairs at once."""
        sections: dict[str, Json] = {
            "[discord]": self.discord,
            "[matrix]": {"user_id": self.user_id, **self.matrix},
            **({"[matrix.appservice]": {"as_token": self._as_token}} if self.can_ghosts else {}),
            "[web]": self.web,
            "[log]": {"format": "json"},
        }
        if self.pair:
            own = {"ghosts": self.ghosts} if self.can_ghosts else {}
            sections["[[pairs]]"] = {"name": PAIR, **self.pair, **own}
        lines: list[str] = []
        for section, values in sections.items():
            lines += [section, *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
        # In one step: a daemon that runs reads it at any moment.
        new = self.path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text("\n".join(lines), encoding="utf-8")
        new.replace(self.path)

    async def registration(self) -> Path:
        """The file that `relay registration` makes of it, for the homeserver."""
        await asyncio.to_thread(self.write)
        made = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "registration", "--config", str(self.path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=without_settings(os.environ),
        )
        output, words = await made.communicate()
        if made.returncode != 0:
            raise FatalError("`relay registration` failed", words.decode(errors="replace"))
        path = self.directory / "registration.yaml"
        path.write_bytes(output)
        return path
