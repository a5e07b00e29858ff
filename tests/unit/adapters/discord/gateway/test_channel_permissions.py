"""Who may view a channel: judged by what discord.py computes for members of every kind."""

from typing import Any, cast

import discord
from hypothesis import given
from hypothesis import strategies as st

from relay.adapters.discord.gateway.channel_permissions import is_open, readers_see

GUILD = 1032000000000000001
ROLES = (301, 302, 303)
MEMBERS = (401, 402)
OVERWRITES = st.dictionaries(st.sampled_from((GUILD, *ROLES, *MEMBERS)), st.sampled_from(("allow", "deny", "both", "")))


def overwrites(rules: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(target),
            "type": int(target in MEMBERS),
            "allow": str(1024 if rule in {"allow", "both"} else 2048),
            "deny": str(1024 if rule in {"deny", "both"} else 2048),
        }
        for target, rule in rules.items()
    ]


def guild(granted: dict[int, int], *channels: dict[int, str]) -> discord.Guild:
    client = discord.Client(intents=discord.Intents.none())
    plain = {"hoist": False, "managed": False, "mentionable": False, "position": 1, "colors": {"primary_color": 0}}
    data = {
        "id": str(GUILD),
        "name": "The Guild",
        "owner_id": "1",
        "roles": [
            {"id": str(role), "name": str(role), "permissions": str(granted.get(role, 0))} | plain
            for role in (GUILD, *ROLES)
        ],
        "channels": [
            {"id": str(number), "name": str(number), "type": 0, "position": 0}
            | {"permission_overwrites": overwrites(rules)}
            for number, rules in enumerate(channels, start=11)
        ],
    }
    return discord.Guild(data=cast(Any, data), state=client._connection)


def member(where: discord.Guild, user: int, roles: list[int]) -> discord.Member:
    data = {
        "user": {"id": str(user), "username": "x", "discriminator": "0", "avatar": None},
        "roles": list(map(str, roles)),
        "flags": 0,
    }
    return discord.Member(data=cast(Any, data), guild=where, state=where._state)


@given(
    granted=st.dictionaries(st.sampled_from((GUILD, *ROLES)), st.sampled_from((0, 1024, 8))),
    here=OVERWRITES,
    there=OVERWRITES,
    roles=st.lists(st.sampled_from(ROLES), unique=True),
    user=st.sampled_from((*MEMBERS, 403)),
)
def test_whoever_reads_the_one_sees_the_other(
    granted: dict[int, int], here: dict[int, str], there: dict[int, str], roles: list[int], user: int
) -> None:
    where = guild(granted, here, there)
    source, channel = where.text_channels
    somebody = member(where, user, roles)
    if readers_see(source, channel) and not is_open(channel):
        assert source.permissions_for(somebody).view_channel <= channel.permissions_for(somebody).view_channel
    assert readers_see(source, source)


def test_what_everybody_may_view_is_open() -> None:
    assert [is_open(channel) for channel in guild({}, {}, {GUILD: "allow"}).text_channels] == [False, True]
    assert [is_open(channel) for channel in guild({GUILD: 1024}, {}, {GUILD: "deny"}).text_channels] == [True, False]
    assert [is_open(channel) for channel in guild({GUILD: 8}, {GUILD: "deny"}).text_channels] == [True]


def test_a_channel_for_more_roles_is_no_secret_and_one_for_others_is() -> None:
    members, more, staff = guild({}, {301: "allow"}, {301: "allow", 302: "allow"}, {302: "allow"}).text_channels
    assert (readers_see(members, more), readers_see(members, staff)) == (True, False)
    assert not readers_see(more, members)
