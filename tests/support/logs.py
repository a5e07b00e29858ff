"""What the relay logs, for tests: caught, or kept quiet."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from relay.logs import Line


class _Catcher(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        message: object = record.msg
        if isinstance(message, Line):
            self.lines.append({"event": message.event, "level": record.levelname.lower(), **message.facts})


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """The lines that the relay logs in this block, at any level; they go nowhere else."""
    ours, catcher = logging.getLogger("relay"), _Catcher()
    before = (ours.level, ours.propagate)
    ours.addHandler(catcher)
    ours.setLevel(logging.DEBUG)
    ours.propagate = False
    try:
        yield catcher.lines
    finally:
        ours.removeHandler(catcher)
        ours.setLevel(before[0])
        ours.propagate = before[1]


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Nothing that is logged in this block is even formatted."""
    ours = logging.getLogger("relay")
    before = ours.level
    ours.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ours.setLevel(before)
