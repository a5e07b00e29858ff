"""Which of the core's errors each error of a homeserver becomes."""

import pytest

from relay.adapters.matrix.api.client import Refused
from relay.adapters.matrix.outbound.sender import delivery_error
from relay.errors import ActionNeeded, DeliveryError, Permanent, RateLimited, TargetGone, Transient


@pytest.mark.parametrize(
    ("status", "code", "reason", "kind", "ambiguous"),
    [
        (429, "M_LIMIT_EXCEEDED", "Too Many Requests", RateLimited, False),
        (401, "M_UNKNOWN_TOKEN", "Invalid access token", Transient, False),
        (403, "M_FORBIDDEN", "not in room", ActionNeeded, False),
        (404, "M_NOT_FOUND", "Could not find event", TargetGone, False),
        (400, "M_UNKNOWN", "Can't send relation to unknown event", TargetGone, False),
        (404, "M_UNRECOGNIZED", "Unrecognized request", Transient, False),
        (413, "", "", Permanent, False),
        (413, "M_TOO_LARGE", "event too large", Permanent, False),
        (400, "M_BAD_JSON", "Bad JSON value: float", Permanent, False),
        (400, "M_INVALID_PARAM", "no", Permanent, False),
        (500, "M_UNKNOWN", "Internal server error", Transient, True),
        (502, "", "", Transient, True),
    ],
)
def test_each_refusal_becomes_an_error_of_the_core(
    status: int, code: str, reason: str, kind: type[DeliveryError], *, ambiguous: bool
) -> None:
    error = delivery_error(Refused(status, code, reason, 2.5 if status == 429 else None), "@relay:example.org")
    assert type(error) is kind
    if isinstance(error, Transient):
        assert error.ambiguous == ambiguous
        assert error.failed == (status >= 500 or code == "M_UNRECOGNIZED")
        assert error.retry_after == (2.5 if status == 429 else None)
    if isinstance(error, ActionNeeded):
        assert "@relay:example.org" in str(error)
