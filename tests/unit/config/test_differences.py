"""Which settings differ: by their names only, because some of them are secrets."""

from pathlib import Path

from relay.config.loading import load
from relay.config.settings import changed_values, differing_keys
from relay.reload import log_difference
from tests.support.logs import captured_logs
from tests.support.settings import SIDES, write


def test_the_keys_that_changed_are_named_as_the_file_calls_them(tmp_path: Path) -> None:
    before = load(write(tmp_path, SIDES), {})
    more = (
        '[web]\nlisten = "127.0.0.1:1"\n[log]\nlevel = "debug"\n[matrix.appservice]\nas_token = "a-new-secret-token"\n'
    )
    after = load(write(tmp_path, f"{SIDES}\n{more}"), {"RELAY_DISCORD__TOKEN": "another-secret"})
    changed = differing_keys(before, after)
    assert set(changed.split(", ")) == {"[discord] token", "[matrix] appservice", "[web] listen", "[log] level"}
    assert "secret" not in changed
    assert differing_keys(before, before) == ""


def test_what_changed_in_a_pair_is_called_as_in_the_file(tmp_path: Path) -> None:
    """The log of a reload said `follow_bans: False -> True` and `name_templates: () -> ((<Platform.DISCORD…`."""
    pair = '[[pairs]]\ndiscord_channel = 1234567890123456789\nmatrix_room = "#a:example.org"\n'
    (before,) = load(write(tmp_path, SIDES + pair), {}).pairs
    more = (
        'name_template = "{name} (M)"\nmax_parts = 7\nbatch_when_behind = "60s"\nnsfw = true\n'
        'moderation = { bans = true, ban_removes = "24h", blocked = "@a:b, 123456789012345678" }\n'
    )
    (after,) = load(write(tmp_path, SIDES + pair + more), {}).pairs
    assert changed_values(before, after) == {
        "max_parts": ("5", "7"),
        "batch_when_behind": ("20s", "60s"),
        "name_template": ("{name}", "{name} (M)"),
        "nsfw": ("false", "true"),
        "moderation.bans": ("false", "true"),
        "moderation.ban_removes": ("0s", "86400s"),
        "moderation.blocked": ('""', "@a:b, 123456789012345678"),
    }
    assert changed_values(after, after) == {}


def test_a_pair_with_another_room_is_told_with_both_rooms(tmp_path: Path) -> None:
    """Two lines said that a pair of that name was added and removed, in this order, and not what it had been."""
    pair = '[[pairs]]\nname = "help"\ndiscord_channel = 1234567890123456789\nmatrix_room = "#a:example.org"\n'
    before = load(write(tmp_path, SIDES + pair), {}).pairs
    after = load(write(tmp_path, SIDES + pair.replace("#a:", "#b:")), {}).pairs
    with captured_logs() as lines:
        log_difference(before, after)
    assert [(line["event"], line["pair"], line["channel"], line["room"]) for line in lines] == [
        ("pair removed", "help", "1234567890123456789", "#a:example.org"),
        ("pair added", "help", "1234567890123456789", "#b:example.org"),
    ]
