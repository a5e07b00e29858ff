"""Events to the core, in bites; one that the core stumbles over is left out by name."""

import traceback
from collections.abc import Sequence

import structlog

from relay.adapters.matrix.sync.retrying_inbox import PatientInbox
from relay.core.ports import Batch, Cursor
from relay.domain.events import Event, FeatureUsed, HistorySkipped
from relay.errors import RelayError

_log = structlog.get_logger(__name__)

_BATCH = 500


async def hand_over(events: Sequence[Event], cursors: tuple[Cursor, ...], inbox: PatientInbox) -> None:
    """Returns once all is on disk; the cursors are written with the last bite.

    Raises `StoreError` where the store cannot be used any more.
    """
    for start in range(0, max(len(events), 1), _BATCH):
        bite = tuple(events[start : start + _BATCH])
        behind = cursors if start + _BATCH >= len(events) else ()
        if not bite and not behind:
            continue
        try:
            await inbox.receive(Batch(bite, behind))
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - the top of a worker: a bug, see below
            # Nothing of a batch that fails is written. Tried again as it is, it would stop every room for ever.
            _complain("bug while receiving a batch; event by event now", error, events=len(bite))
            for event in bite:
                await _hand_over_alone(event, inbox)
            await inbox.receive(Batch((), behind))


async def _hand_over_alone(event: Event, inbox: PatientInbox) -> None:
    try:
        await inbox.receive(Batch((event,)))
    except RelayError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        if isinstance(event, FeatureUsed | HistorySkipped):
            channel, event_id = event.channel, ""
        else:
            # As ASCII: an ID that no text can hold may be what is wrong with it.
            channel, event_id = event.ref.channel, ascii(event.ref.id)
        _complain("bug while receiving an event; it is left out", error, kind=type(event).__name__, event_id=event_id)
        await inbox.receive(Batch((FeatureUsed(channel, "unreadable"),)))


def _complain(what: str, error: Exception, **facts: object) -> None:
    """Where it happened, but not what the error says: that may quote a message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [f"{frame.name}:{frame.lineno}" for frame in frames[-4:]]
    _log.error(what, error=type(error).__name__, place=" > ".join(place), **facts)
