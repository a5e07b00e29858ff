"""Messages of other homeservers, which come late or only when they are asked for: between two real ones."""

from pathlib import Path

from relay.domain.jsontext import Json
from tests.support.federation import federating
from tests.support.matrix import SavedState, matrix_side, person

_MISSED = 25  # A homeserver asks another one for ten of them by itself.


async def test_what_was_said_elsewhere_while_the_homeserver_was_down_arrives_in_order(tmp_path: Path) -> None:
    """A server that was restarted as well tells of the newest event only. Those before it are fetched by who reads."""
    async with federating(tmp_path / "home") as home, federating(tmp_path / "other") as other:
        token = await home.register("bot")
        async with person(other, "ann") as ann:
            room, alias = await ann.create_room(), f"#town:{other.server_name}"
            await ann.set_alias(alias, room)
            saved, user = SavedState(), f"@bot:{home.server_name}"
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "before")
                await side.until_said("before")
            await home.stop()
            missed = [str(number) for number in range(_MISSED)]
            for line in missed:
                await ann.text(room, line)
            await other.stop()
            await other.start()
            await home.start()
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "after")
                await side.until(lambda: "after" in side.said)
                assert side.said == ["before", *missed, "after"]


async def test_what_one_homeserver_told_late_arrives_although_others_went_on_talking(tmp_path: Path) -> None:
    """It is older than what was told meanwhile."""
    settings: Json = {}
    async with federating(tmp_path / "home", settings) as home, federating(tmp_path / "other") as other:
        token = await home.register("bot")
        async with person(other, "ann") as ann, person(home, "ben") as ben:
            room, alias = await ann.create_room(), f"#town:{other.server_name}"
            await ann.set_alias(alias, room)
            await ben.join(alias)
            saved, user = SavedState(), f"@bot:{home.server_name}"
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "before")
                await side.until_said("before")
            settings["federation_domain_whitelist"] = []
            await home.stop()
            await home.start()
            missed = [str(number) for number in range(_MISSED)]
            for line in missed:
                await ann.text(room, line)
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ben.text(room, "here")
                await side.until_said("before", "here")
            settings["federation_domain_whitelist"] = None
            await other.stop()
            await home.stop()
            await other.start()
            await home.start()
            async with matrix_side(home, user, [alias], token=token, saved=saved) as side:
                await ann.text(room, "after")
                await side.until(lambda: "after" in side.said)
                assert side.said == ["before", "here", *missed, "after"]
