"""What the repositories need of one transaction. To support a database, implement this in a folder beside `sqlite/`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Executable, Row

from relay.domain.ids import ChannelRef, MessageRef

Chain = Callable[[], Sequence[Row[Any]]]
"""Tells the row that each statement of a chain has returned: to be asked once the transaction has ended."""


class Transaction(Protocol):
    """Runs statements in one transaction. Every method may raise `StoreError`."""

    async def all(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Every row."""
        ...

    async def first(self, statement: Executable, values: Mapping[str, Any]) -> Row[Any] | None:
        """The first row, None if there is none."""
        ...

    async def execute(self, statement: Executable, values: Mapping[str, Any]) -> int:
        """Change rows. Returns how many were changed."""
        ...

    async def execute_all(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that changes something once for each of `rows`, the values of its parameters."""
        ...

    async def defer(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Change something without waiting for the result: it runs with the next statement, or with the commit."""
        ...

    async def defer_chain(self, *statements: tuple[Executable, Mapping[str, Any]]) -> Chain:
        """Run these one after the other as long as each returns a row. Deferred."""
        ...

    async def record_channel(self, channel: ChannelRef) -> None:
        """Give a channel its row, if it has none yet. Deferred."""
        ...

    async def record_last_copy(self, message_id: int, copy: MessageRef) -> None:
        """Record the copy of an original as the last one in its channel and lane. Deferred."""
        ...


def one_less(looks: int) -> int:
    """How many statements a transaction may still run that may run so many. Raises `TypeError` where that is none."""
    if not looks:
        raise TypeError("a look is one question: ask more of them with `read`")
    return looks - 1
