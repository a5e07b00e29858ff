"""`relay directory` and `/directory`: names and topics come from the rooms, also when no daemon runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.demo.homeserver import Homeserver
from tests.support.stack import eventually, stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_directory_of_a_running_daemon_and_of_one_that_has_ended(
    homeserver: Homeserver, tmp_path: Path
) -> None:
    async with stack(tmp_path, homeserver, ["help", "staff", "old"]) as made:
        mia = made.mia
        general = await mia.create_room("Outside")
        closed = await mia.create_room("Plans", public=False)
        staff = made.rooms["staff"]
        for room, topic in (
            (made.rooms["help"], "Ask <here>"),
            (general, "All else"),
            (closed, "secret"),
            (staff, "secret"),
        ):
            await mia.set_state(room, "m.room.topic", {"topic": topic})
        await mia.set_state(staff, "m.room.join_rules", {"join_rule": "invite"})
        made.pair_settings["old"] = "archived = true"
        made.write_config(extra='directory = "local"')
        with made.daemon.config.open("a") as file:
            for room in (general, closed):
                file.write(f'[[rooms]]\nmatrix_room = "{room}"\nsection = "Elsewhere"\n')
        await made.daemon.start()

        async def rooms() -> list[dict[str, Any]]:
            status, output = await made.daemon.relay("directory", "--json")
            assert status == 0, output
            found = json.loads(output[output.index("{") : output.rindex("}") + 1])
            return [room for section in found["sections"] for room in section["rooms"]]

        def shown(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
            return [(room["name"], room["purpose"], room["bridged"], room["archived"]) for room in found]

        wanted = [
            ("help", "Ask <here>", True, False),
            ("old", "", True, True),
            ("Outside", "All else", False, False),
            (None, "", False, False),
        ]
        found = await eventually(rooms, lambda found: shown(found) == wanted, what=made.daemon.log)
        assert found[0]["discord_channel"]["link"].endswith(f"/{made.guild}/{made.channels['help']}")
        status, page = await made.daemon.get("/directory")
        assert status == 200
        assert "Ask &lt;here&gt;" in page
        assert "secret" not in page
        assert staff not in page
        assert await made.daemon.stop() == 0
        assert await rooms() == found
