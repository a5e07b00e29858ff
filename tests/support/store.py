"""New stores for tests that are not about the migrations: these take longer than most tests do."""

import tempfile
from functools import cache
from pathlib import Path

from relay.store.migrate import upgrade
from relay.store.sqlite.engine import database_path


def new_store(folder: Path) -> str:
    """The URL of a new, migrated store in `folder`."""
    url = f"sqlite:///{folder / 'relay.db'}"
    path = database_path(url)
    path.touch(0o600)
    path.write_bytes(_migrated())
    return url


@cache
def _migrated() -> bytes:
    """What the migrations make: made once, copied for each test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        upgrade(f"sqlite:///{path}")
        # The last connection that closes takes everything out of the log beside it.
        return path.read_bytes()
