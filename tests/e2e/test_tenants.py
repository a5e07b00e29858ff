"""Several communities in one process, and several processes that share them."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from relay.demo.matrix_client import Person
from relay.sandbox.rate_limits import Limits
from relay.sandbox.server import SandboxServer
from tests.support.postgresql import server
from tests.support.stack import Daemon, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
    """How many tenants a process serves, whose two sides are ready."""
    try:
        _, text = await process.get("/metrics")
    except (OSError, KeyError):
        return -1
    connected = [line for line in text.splitlines() if line.startswith("relay_connected{") and line.endswith(" 1.0")]
    return sum('platform="matrix"' in line for line in connected)


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


async def test_processes_share_the_tenants_and_go_on_where_another_one_ends(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    with server().database(migrated=False) as url:
        async with world(tmp_path, homeserver, url, ["one", "two", "three"]) as place:
            first = await place.start()
            await place.until_served([first], [3])
            await place.all_cross("alone")
            second = await place.start()
            await place.until_served([first, second], [1, 2])
            await place.all_cross("shared")
            _, text = await first.get("/metrics")
            assert 'relay_messages_total{direction="to_matrix",pair="help",tenant=' in text
            status, out = await first.relay("status")
            assert status == 0, out
            assert {line.partition(":")[0] for line in out.splitlines()} == {"one", "two", "three"}
            status, out = await first.relay("status", "--tenant", "two", "--json")
            assert status == 0, out
            assert [pair["name"] for pair in json.loads(out)["pairs"]] == ["help"]
            for arguments in (("dead", "list"), ("pairs", "list"), ("db", "check"), ("check",)):
                status, out = await first.relay(*arguments, "--tenant", "three")
                assert status == 0, (arguments, out)
            status, out = await first.relay("dead", "list")
            assert status == 2, out
            assert "name one with --tenant: one, three, two" in out

            await first.kill()
            await place.until_served([second], [3])
            await place.all_cross("after a crash")
            third = await place.start()
            await place.until_served([second, third], [1, 2])
            assert await second.stop() == 0
            await place.until_served([third], [3])
            await place.all_cross("after a stop")
            assert await third.stop() == 0


async def test_what_is_wrong_with_one_stops_that_one_alone(homeserver: Homeserver, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'relay.db'}"
    async with world(tmp_path, homeserver, store, ["good", "broken", "refused"]) as place:
        broken, refused = place.communities["broken"], place.communities["refused"]
        place.write("broken", "[discord\n")
        place.write("refused", refused.config.replace(refused.token, "MTIz.abc.def"))
        process = await place.start()
        await place.until_served([process], [1])
        place.communities["good"].say("hello")
        await eventually(place.communities["good"].crossed, bool, what=process.log)

        async def problems() -> list[float]:
            return [await process.metric("relay_tenant_problem", tenant=name) for name in ("good", "broken", "refused")]

        await eventually(problems, lambda found: found == [0, 1, 1], what=process.log)
        assert "Discord refused the bot&#x27;s token" in (await process.get("/"))[1]
        status, out = await process.relay("status")
        assert status == 1, out
        assert "is not valid TOML" in out
        place.write("broken")
        place.write("refused")
        await place.until_served([process], [3])
        for one in (broken, refused):
            one.say("late, but here")
            await eventually(one.crossed, bool, what=process.log)
        (tmp_path / "tenants.d" / "broken.toml").unlink()
        await place.until_served([process], [2])
        assert await process.stop() == 0
