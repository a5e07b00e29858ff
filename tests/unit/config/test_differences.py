"""Which settings differ: by their names only, because some of them are secrets."""

from pathlib import Path

from relay.config.loading import load
from relay.config.settings import differing_keys
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
