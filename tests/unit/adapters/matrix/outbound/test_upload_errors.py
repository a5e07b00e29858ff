"""Why a homeserver takes no file, and what that means for the message."""

from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from relay.adapters.matrix.api.client import Api, Refused
from relay.adapters.matrix.media import MediaRepository, upload_error
from relay.core.clock import SystemClock
from relay.domain.content import Attachment
from relay.domain.ids import MediaRef, Platform
from relay.errors import DeliveryError, FileRejected, RateLimited, Transient
from relay.media.library import Library
from relay.store.unit_of_work import open_store
from tests.support.store import new_store

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


@pytest.mark.parametrize("refuses_all", [True, False])
async def test_a_file_that_a_firewall_refuses_leaves_the_words_to_cross(tmp_path: Path, *, refuses_all: bool) -> None:
    async def answer(request: web.Request) -> web.Response:
        if refuses_all or request.path.endswith("/upload"):
            return web.Response(status=403, text="<html>Blocked</html>", content_type="text/html")
        return web.json_response({"filter_id": "1"})

    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = Api(f"http://127.0.0.1:{runner.addresses[0][1]}", "@relay:example.org")
    store, clock = await open_store(new_store(tmp_path)), SystemClock()
    media = MediaRepository(api, Library(store=store, clock=clock), clock)
    try:
        for _ in range(2):
            with pytest.raises(Transient):
                await media.upload(replace(FILE, text="<?php"), "k1", None)
        with pytest.raises(Transient if refuses_all else FileRejected):
            await media.upload(replace(FILE, text="<?php"), "k1", None)
    finally:
        await store.close()
        await api.close()
        await runner.cleanup()
