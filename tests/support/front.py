"""A reverse proxy in front of the daemon, as README says: nginx where there is one, else one that does the same.

`NGINX` names the program where it is not on the PATH.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tests.support.patience import PATIENCE

NAME = "relay.test"
_README = Path(__file__).parents[2] / "README.md"
_NGINX = os.environ.get("NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"})


class _Here(AbstractResolver):
    """Every name leads here."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        return None


def plain_client() -> aiohttp.ClientSession:
    """A client without any account, for which the proxy's name leads to it."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=_Here()), cookie_jar=aiohttp.DummyCookieJar())


@asynccontextmanager
async def front(folder: Path, port: int, daemon: str) -> AsyncIterator[str]:
    """What listens on a port in front of the daemon at the address `daemon`; what it is."""
    if _NGINX is None:
        async with _stand_in(port, daemon):
            yield "stand-in"
    else:
        async with _nginx(_NGINX, folder, port, daemon):
            yield "nginx"


@asynccontextmanager
async def _nginx(program: str, folder: Path, port: int, daemon: str) -> AsyncIterator[None]:
    place = folder / "nginx"
    place.mkdir(exist_ok=True)
    block = _README.read_text(encoding="utf-8").partition("```nginx\n")[2].partition("```")[0]
    own = {"listen 443 ssl": f"listen 127.0.0.1:{port}", "relay.example.org": NAME, "http://127.0.0.1:9464": daemon}
    for theirs, ours in own.items():
        assert theirs in block
        block = block.replace(theirs, ours)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {place / kind};" for kind in kinds)
    http = f"events {{}}\nhttp {{\naccess_log off;\n{paths}\n{block}}}\n"
    config = place / "nginx.conf"
    config.write_text(f"daemon off;\nmaster_process off;\npid {place / 'pid'};\n{http}")
    process = await asyncio.create_subprocess_exec(program, "-p", place, "-e", place / "log", "-c", config)
    try:
        async with asyncio.timeout(PATIENCE):
            while process.returncode is None and not await _listens(port):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        assert process.returncode is None, (place / "log").read_text()
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _stand_in(port: int, daemon: str) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            headers |= {"Host": NAME, "X-Forwarded-For": request.remote or ""}
            url = URL(daemon + request.raw_path, encoded=True)
            async with session.request(request.method, url, headers=headers, allow_redirects=False) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response

        application = web.Application()
        application.router.add_get("/media/{rest:.*}", pass_on)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()
