"""Several communities in one process, and several processes that share them."""

import json
from functools import partial
from pathlib import Path

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.postgresql import server
from tests.support.stack import eventually
from tests.support.tenants import world

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
            _, out = await eventually(partial(first.relay, "status"), lambda told: told[0] == 0, what=first.log)
            assert {line.partition(":")[0] for line in out.splitlines()} == {"one", "two", "three"}
            assert "1 pairs" not in out, out
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
        look = partial(process.relay, "status")
        await eventually(look, lambda told: told[0] == 1 and "is not valid TOML" in told[1], what=process.log)
        place.write("broken")
        place.write("refused")
        await place.until_served([process], [3])
        for one in (broken, refused):
            one.say("late, but here")
            await eventually(one.crossed, bool, what=process.log)
        (tmp_path / "tenants.d" / "broken.toml").unlink()
        await place.until_served([process], [2])
        assert await process.stop() == 0
