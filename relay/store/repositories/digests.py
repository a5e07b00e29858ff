"""What stands in the copies that several originals share: an edit of one has to say the others again."""

from sqlalchemy import and_, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert

from relay.domain.commands import Digest
from relay.domain.ids import MessageRef
from relay.store import codec
from relay.store.sqlite.transactions import Session
from relay.store.tables import batch, channel_id

_b = batch.c
_is = and_(_b.channel_id == channel_id("of_"), _b.native_id == bindparam("of_id"))
_GET = select(_b.command).where(_is)
_FORGET = delete(batch).where(_is)
_PUT = (
    insert(batch)
    .prefix_with("OR REPLACE")
    .values(channel_id=channel_id("of_"), native_id=bindparam("of_id"), command=bindparam("command"))
    .inline()
)


class SqlDigests:
    """`core.storage.Digests`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, copy: MessageRef) -> Digest | None:
        """The messages of a shared copy; None for a copy of one original. Raises ValueError if it cannot be read."""
        row = await self._session.first(_GET, _of(copy))
        if row is None:
            return None
        command = codec.decode(row.command)
        if not isinstance(command, Digest):
            raise ValueError(f"no shared copy: {command.kind}")
        return command

    async def put(self, copy: MessageRef, batch: Digest) -> None:
        """Remember what stands in a shared copy now."""
        await self._session.record_channel(copy.channel)
        await self._session.later(_PUT, {**_of(copy), "command": codec.encode(batch)})

    async def forget(self, copy: MessageRef) -> None:
        """The copy is gone."""
        await self._session.later(_FORGET, _of(copy))


def _of(copy: MessageRef) -> dict[str, str]:
    return {"of_platform": copy.platform, "of_channel": copy.channel.id, "of_id": copy.id}
