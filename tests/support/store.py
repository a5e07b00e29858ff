"""New stores for tests that are not about the migrations: these take longer than most tests do."""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from relay.core.ports import ChannelInfo
from relay.core.status.report import CHANNELS_KEY
from relay.domain.ids import ChannelRef
from relay.store.migrate import upgrade
from relay.store.sqlite.engine import database_path
from relay.store.unit_of_work import open_store


def new_store(folder: Path) -> str:
    """The URL of a new, migrated store in `folder`."""
    url = f"sqlite:///{folder / 'relay.db'}"
    path = database_path(url)
    path.touch(0o600)
    path.write_bytes(_migrated())
    return url


def store_that_knows(folder: Path, channels: Mapping[ChannelRef, ChannelInfo]) -> str:
    """The URL of a new store whose daemon has told what people know these channels by."""
    url = new_store(folder)
    rows = [{"platform": one.platform, "id": one.id, **asdict(info)} for one, info in channels.items()]

    async def fill() -> None:
        store = await open_store(url)
        async with store.write() as unit:
            await unit.key_values.put(CHANNELS_KEY, json.dumps(rows))
        await store.close()

    asyncio.run(fill())
    return url


@cache
def _migrated() -> bytes:
    """What the migrations make: made once, copied for each test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        upgrade(f"sqlite:///{path}")
        # The last connection that closes takes everything out of the log beside it.
        return path.read_bytes()
