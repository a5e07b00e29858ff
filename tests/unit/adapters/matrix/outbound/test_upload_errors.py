"""Why a homeserver takes no file, and what that means for the message."""

import pytest

from relay.adapters.matrix.api.client import Refused
from relay.adapters.matrix.media import upload_error
from relay.domain.content import Attachment
from relay.domain.ids import MediaRef, Platform
from relay.errors import DeliveryError, FileRejected, RateLimited, Transient

FILE = Attachment("1", "a.png", "image", MediaRef(Platform.DISCORD, "https://cdn.example.org/a.png"))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (413, "", FileRejected),
        (413, "M_TOO_LARGE", FileRejected),
        (403, "M_FORBIDDEN", FileRejected),
        (400, "M_USER_LIMIT_EXCEEDED", FileRejected),
        (507, "", FileRejected),
        (429, "M_LIMIT_EXCEEDED", RateLimited),
        (401, "M_UNKNOWN_TOKEN", Transient),
        (500, "M_UNKNOWN", Transient),
        (502, "", Transient),
    ],
)
def test_what_a_refused_upload_means(status: int, code: str, kind: type[DeliveryError]) -> None:
    """What no try changes leaves the words to cross without the file."""
    assert type(upload_error(Refused(status, code, "no"), FILE)) is kind
