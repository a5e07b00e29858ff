"""Communities on one sandbox and one homeserver, each a tenant, and the processes that serve them."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.stack import Daemon, eventually


@dataclass(slots=True)
class Community:
    """One of them: a server with a channel, and a room."""

    name: str
    sandbox: SandboxServer
    token: str
    channel: str
    ada: str
    room: str
    mia: Person
    config: str
    said: list[str] = field(default_factory=list)

    def say(self, words: str) -> None:
        """Ada says something."""
        self.said.append(words)
        self.sandbox.control.say(self.channel, self.ada, words)

    async def crossed(self) -> bool:
        """Whether everything that Ada said is in the room, once and in order."""
        seen = [message.body.rpartition(": ")[2] for message in await self.mia.messages(self.room)]
        assert len(seen) <= len(self.said), (self.name, seen)
        return seen == self.said


@dataclass(slots=True)
class World:
    """All of them, and the processes."""

    folder: Path
    communities: dict[str, Community]
    processes: list[Daemon] = field(default_factory=list)

    def write(self, name: str, change: str = "") -> Path:
        """Write the file of a tenant."""
        path = self.folder / "tenants.d" / f"{name}.toml"
        path.write_text(change or self.communities[name].config)
        return path

    async def start(self) -> Daemon:
        """Another process on the same configuration."""
        made = Daemon(self.folder / "relay.toml", self.folder / f"{len(self.processes)}.log")
        self.processes.append(made)
        await made.start(ready=False)
        return made

    async def until_served(self, by: Sequence[Daemon], counts: Sequence[int]) -> None:
        """Wait until these processes serve so many each, all of them ready."""

        async def served() -> list[int]:
            return [await serves(one) for one in by]

        def words() -> str:
            return "\n".join(one.log(200) for one in self.processes)

        await eventually(served, lambda found: sorted(found) == sorted(counts), what=words)

    async def all_cross(self, words: str) -> None:
        """Something is said in each community, and crosses there alone."""
        for one in self.communities.values():
            one.say(f"{words} in {one.name}")
        for one in self.communities.values():
            await eventually(one.crossed, bool, what=lambda: "\n".join(it.log(100) for it in self.processes))


async def serves(process: Daemon) -> int:
    """How many tenants a process serves, whose two sides are ready; -1 if it does not answer.

    `/metrics` would say so too, but describes each pair, which takes a look into the store of each tenant.
    """
    try:
        _, text = await process.get("/readyz")
    except (aiohttp.ClientError, TimeoutError, KeyError):  # it has not begun to answer, or ends
        return -1
    sides: dict[str, Any] = json.loads(text)
    ready = [name for name, side in sides.items() if ": " in name and side["state"] == "ready"]
    return min(sum(name.endswith(f": {side}") for name in ready) for side in ("discord", "matrix"))


@asynccontextmanager
async def world(folder: Path, homeserver: Homeserver, store_url: str, names: Sequence[str]) -> AsyncIterator[World]:
    """A community for each name; their files are written, and nothing is started."""
    tag = os.urandom(4).hex()
    (folder / "tenants.d").mkdir()
    (folder / "relay.toml").write_text(
        f'tenants = "tenants.d"\n[store]\nurl = "{store_url}"\n[web]\nlisten = "127.0.0.1:0"\n'
    )
    async with AsyncExitStack() as exits:
        sandbox = await exits.enter_async_context(SandboxServer(limits=Limits(identify_every=0)))
        mia_token = await homeserver.register(f"mia-{tag}", displayname="Mia")
        mia_user = f"@mia-{tag}:{homeserver.server_name}"
        mia = await exits.enter_async_context(Person(homeserver.url, mia_user, mia_token))
        made = World(folder, {})
        for name in names:
            token = await homeserver.register(f"relay-{name}-{tag}")
            await homeserver.lift_limits(f"relay-{name}-{tag}")
            user = f"@relay-{name}-{tag}:{homeserver.server_name}"
            guild = sandbox.control.bootstrap(channels=["help"], people=["Ada"], guild=name, bot=f"relay-{name}")
            room = await mia.create_room(name, invite=[user])
            config = (
                f'[discord]\ntoken = "{guild["token"]}"\napi_url = "{sandbox.api_url}"\n[matrix]\n'
                f'homeserver_url = "{homeserver.url}"\nuser_id = "{user}"\naccess_token = "{token}"\n[[pairs]]\n'
                f'name = "help"\ndiscord_channel = {guild["channels"]["help"]}\nmatrix_room = "{room}"\n'
            )
            made.communities[name] = Community(
                name, sandbox, guild["token"], guild["channels"]["help"], guild["people"]["Ada"], room, mia, config
            )
            made.write(name)
        try:
            yield made
            for process in made.processes:
                assert not [one for one in made.communities.values() if one.token in process.log(1_000_000)]
        finally:
            for process in made.processes:
                if process.running:
                    await process.kill()
