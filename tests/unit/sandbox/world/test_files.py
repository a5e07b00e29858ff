"""Signed URLs of attachments."""

from pathlib import Path

from relay.sandbox.world.files import UrlSigner
from relay.sandbox.world.models import Attachment, StoredFile


def _query(url: str) -> tuple[str, dict[str, str]]:
    path, _, query = url.removeprefix("http://sandbox").partition("?")
    return path, dict(item.split("=") for item in query.split("&") if item)


def test_a_url_lives_as_long_as_it_says_and_can_be_renewed() -> None:
    now = [1000.0]
    signer = UrlSigner(lambda: now[0], 60)
    signer.origin = "http://sandbox"
    file = Attachment(7, 5, "a_b.png", StoredFile(Path("x"), 1), None)
    path, query = _query(signer.url(file))
    assert (path, int(query["is"], 16), int(query["ex"], 16)) == ("/attachments/5/7/a_b.png", 1000, 1060)
    assert signer.valid(path, query)
    assert not signer.valid(path, {})
    assert not signer.valid(path, query | {"ex": "ffffffff"})
    assert not signer.valid("/attachments/5/8/a_b.png", query)
    now[0] += 61
    assert not signer.valid(path, query)
    renewed = signer.renew(signer.origin + path + "?ex=1")
    assert renewed is not None
    assert signer.valid(*_query(renewed))
    signer.expire_all()
    assert not signer.valid(*_query(renewed))
    assert signer.renew("http://elsewhere/attachments/5/7/a_b.png") is None
