"""What the bot may do in a channel, as operators are told of it."""

from dataclasses import replace

from relay.adapters.discord.gateway.channel_access import ChannelAccess


def test_what_the_bot_may_not_do_in_a_channel_is_a_note_with_the_remedy() -> None:
    access = ChannelAccess("1", may_use_webhooks=True, may_send=True, may_delete=True, max_file_size=1)
    assert access.notes(webhooks_full=False) == []
    [full] = access.notes(webhooks_full=True)
    assert full.startswith("The channel has as many webhooks as Discord allows")
    poor = replace(access, may_use_webhooks=False, may_attach=False, may_delete=False)
    wanted = ("Manage Webhooks", "Attach Files", "Manage Messages")
    for permission, note in zip(wanted, poor.notes(webhooks_full=False), strict=True):
        assert f"give the bot's role {permission} there" in note
