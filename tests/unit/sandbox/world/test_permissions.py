"""Who may do what in a channel."""

import pytest

from relay.sandbox.world import permissions
from relay.sandbox.world.models import Overwrite
from relay.sandbox.world.permissions import Permission
from relay.sandbox.world.state import State


def test_overwrites_are_applied_from_everyone_to_roles_to_the_member() -> None:
    state = State()
    guild = state.add_guild("G", state.add_user("owner"))
    channel = state.add_channel(guild, "general")
    ada = state.add_user("ada")
    state.add_member(guild, ada)
    role = state.add_role(guild, "helpers", permissions.NONE)
    guild.members[ada.id].roles.append(role.id)
    view, send = Permission.VIEW_CHANNEL, Permission.SEND_MESSAGES
    assert state.permissions(ada.id, channel) == permissions.EVERYONE
    state.set_overwrite(channel, Overwrite(guild.id, 0, deny=view))
    assert state.permissions(ada.id, channel) == permissions.NONE
    state.set_overwrite(channel, Overwrite(role.id, 0, allow=view, deny=send))
    assert state.permissions(ada.id, channel) & (view | send) == view
    # Who may not send may not attach either.
    assert not state.permissions(ada.id, channel) & Permission.ATTACH_FILES
    state.set_overwrite(channel, Overwrite(ada.id, 1, allow=send))
    assert state.permissions(ada.id, channel) & (view | send) == view | send
    assert state.permissions(guild.owner_id, channel) == Permission.ALL
    assert state.permissions(state.add_user("stranger").id, channel) == permissions.NONE


def test_administrators_pass_every_overwrite() -> None:
    state = State()
    guild = state.add_guild("G", state.add_user("owner"))
    channel = state.add_channel(guild, "general")
    bot = state.add_application("bot")
    state.add_bot(guild, bot, Permission.ADMINISTRATOR)
    state.set_overwrite(channel, Overwrite(bot.user.id, 1, deny=Permission.ALL))
    assert state.permissions(bot.user.id, channel) == Permission.ALL


def test_a_permission_that_does_not_exist() -> None:
    assert permissions.parse(["VIEW_CHANNEL", "SEND_MESSAGES"]) == Permission.VIEW_CHANNEL | Permission.SEND_MESSAGES
    with pytest.raises(KeyError):
        permissions.parse(["FLY"])
