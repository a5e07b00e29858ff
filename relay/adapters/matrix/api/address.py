"""Where a homeserver is: found from the name of a server, and what an address is instead if it is none.

https://spec.matrix.org/latest/client-server-api/#server-discovery. No token is sent anywhere here.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp

from relay.core.clock import http_date
from relay.core.operations.findings import Finding
from relay.domain.jsontext import as_dict, as_string, loads
from relay.errors import reason_of

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_MOST_BYTES = 64 * 1024
_VERSIONS = "/_matrix/client/versions"
_WELL_KNOWN = "/.well-known/matrix/client"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """What answers at an address."""

    # The versions of the specification that a homeserver speaks; empty if it is no homeserver.
    versions: tuple[str, ...] = ()
    # Where it redirects to, "" for nowhere.
    redirect: str = ""
    # Why no homeserver answered, "" if something else did: `dns`, `tls`, `certificate`, `refused`, `silent`, `down`
    # (what stands before it says so), or another word.
    failure: str = ""
    detail: str = ""
    # What the server's clock shows, in whole seconds.
    date: datetime | None = None


async def look(url: str) -> Answer:
    """Ask whether a homeserver answers at an address."""
    try:
        async with _get(url + _VERSIONS, follow=False) as response:
            if response.status in _REDIRECTS:
                target = urljoin(url + _VERSIONS, response.headers.get("Location", ""))
                return Answer(redirect=target.partition("/_matrix/")[0].rstrip("/"))
            if response.status >= 500:
                return Answer(failure="down", detail=str(response.status))
            document, date = as_dict(await _json(response)), http_date(response.headers.get("Date"))
    except aiohttp.ClientConnectorCertificateError as error:
        return Answer(failure="certificate", detail=str(getattr(error.certificate_error, "verify_message", "") or ""))
    except aiohttp.ClientSSLError:
        return Answer(failure="tls")
    except aiohttp.ClientConnectorDNSError:
        return Answer(failure="dns")
    except aiohttp.ClientConnectorError as error:
        return Answer(failure="refused", detail=reason_of(error.os_error))
    except TimeoutError:
        return Answer(failure="silent")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(failure="broken", detail=type(error).__name__)
    listed = document.get("versions")
    versions = tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()
    return Answer(versions=versions, date=date)


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a server says of where its homeserver is."""

    # None: it says nothing, or nothing that can be read.
    homeserver: str | None = None
    # Why that cannot be read; "" where there is nothing to read.
    broken: str = ""


async def discover(server: str, *, scheme: str = "https") -> Discovery:
    """Ask a server for the address of its homeserver, which may be on another host."""
    try:
        async with _get(f"{scheme}://{server}{_WELL_KNOWN}", follow=True) as response:
            if response.status != 200:
                return Discovery() if response.status == 404 else Discovery(broken=f"HTTP {response.status}")
            document = as_dict(await _json(response))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return Discovery()
    base = as_string(as_dict(document.get("m.homeserver")).get("base_url")).rstrip("/")
    try:
        if urlsplit(base).scheme in {"http", "https"} and urlsplit(base).hostname:
            return Discovery(base)
    except ValueError:
        pass
    return Discovery(broken="an m.homeserver with a base_url is not in it")


async def well_known(server: str, *, scheme: str = "https") -> str | None:
    """The homeserver that a server names; None if it names none."""
    return (await discover(server, scheme=scheme)).homeserver


async def discovery_finding(url: str, server: str, *, scheme: str = "https") -> Finding:
    """Whether clients that know the server's name alone find the homeserver, which is at `url`."""
    subject, where = f".well-known of {server}", f"{scheme}://{server}{_WELL_KNOWN}"
    found = await discover(server, scheme=scheme)
    named = found.homeserver
    if named is None and (found.broken or not (await look(f"{scheme}://{server}")).versions):
        public = "https://…" if is_private(urlsplit(url).hostname or "") else url
        words = f"it cannot be read ({found.broken})" if found.broken else "there is none"
        remedy = f'let {where} answer {{"m.homeserver": {{"base_url": "{public}"}}}}'
        return Finding(subject, "note", f"{words}: nobody can log in there who knows only that name", remedy)
    if named is None:
        return Finding(subject, "ok", "none, and none is needed: the homeserver answers at that name")
    if named.casefold() == url.casefold():
        return Finding(subject, "ok", f"it names {named}")
    if not (await look(named)).versions:
        words = f"it names {named}, where no homeserver answers"
        return Finding(subject, "note", words, f"correct base_url in {where}")
    if is_private(urlsplit(url).hostname or ""):
        return Finding(subject, "ok", f"it names {named}, which the relay reaches at {url}")
    words = f"it names {named}, and [matrix] homeserver_url is {url}"
    return Finding(subject, "note", words, f"{_write(named)}, or correct base_url in {where}")


def is_private(host: str) -> bool:
    """Whether only this machine or its network can reach a host."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan"))


async def find(server: str) -> str | None:
    """The address of a server's homeserver, from its name ("example.org") or an address; None if none answers."""
    if "://" in server:
        url = without_matrix_path(server.rstrip("/"))
        candidates = [url, *await _named_by([urlsplit(url).netloc], urlsplit(url).scheme)]
    else:
        candidates = [*await _named_by([server], "https"), f"https://{server}", f"https://matrix.{server}"]
    return await _first_homeserver(candidates)


def without_matrix_path(url: str) -> str:
    """An address without what the client adds itself: `/_matrix` and what follows."""
    return url.partition("/_matrix")[0].rstrip("/")


async def correction(url: str, user_id: str, answer: Answer | None = None, *, typed: bool = False) -> str | None:
    """What is wrong with the address of a homeserver, and what to write instead; None if a homeserver answers there.

    Sentences for the operator: the reason, then the remedy. `answer`: what answers there, if that is known already.
    `typed`: somebody has just typed the address, so that there is no setting to change.
    """
    write = _type if typed else _write
    answer = answer or await look(url)
    if answer.versions:
        return None
    parts, server = urlsplit(url), user_id.partition(":")[2]
    if answer.redirect:
        return f"{url} redirects to {answer.redirect}; {write(answer.redirect)}"
    other = await _on_the_other_scheme(url)
    if other is not None:
        how = "without TLS" if other.startswith("http:") else "with TLS only"
        return f"the homeserver answers {how} there; {write(other)}"
    if answer.failure == "certificate":
        detail = f" ({answer.detail})" if answer.detail else ""
        or_name = "the host name" if typed else "the host name in [matrix] homeserver_url"
        return f"the certificate of {url} is not valid{detail}; correct it, or {or_name}"
    named = await _named_by([parts.netloc], parts.scheme) + await _named_by([server], "https")
    found = await _first_homeserver([*named, f"{parts.scheme}://matrix.{parts.netloc}", f"https://matrix.{server}"])
    wrong = _what(url, answer)
    if found is not None and found != url:
        return f"{wrong}, but the homeserver is at {found}; {write(found)}"
    correct = "write another address" if typed else "correct [matrix] homeserver_url"
    return f"{wrong}; {f'start it, or {correct}' if answer.failure == 'down' else correct}"


def _what(url: str, answer: Answer) -> str:
    match answer.failure:
        case "dns":
            return f"there is no server called {urlsplit(url).hostname}"
        case "refused":
            return f"nothing answers at {url}{f' ({answer.detail})' if answer.detail else ''}"
        case "silent":
            return f"{url} does not answer"
        case "down":
            return f"what stands before the homeserver at {url} answers {answer.detail}, as where that does not run"
        case "":
            return f"what answers at {url} is a website and no homeserver"
        case _:
            return f"no homeserver answers at {url}"


def _write(url: str) -> str:
    return f'write homeserver_url = "{url}"'


def _type(url: str) -> str:
    return f"write {url}"


async def _on_the_other_scheme(url: str) -> str | None:
    scheme, *rest = urlsplit(url)
    other = urlunsplit(("http" if scheme == "https" else "https", *rest))
    return other if (await look(other)).versions else None


async def _named_by(servers: Iterable[str], scheme: str) -> list[str]:
    named = await asyncio.gather(*(well_known(server, scheme=scheme) for server in servers if server))
    return [url for url in named if url is not None]


async def _first_homeserver(candidates: Iterable[str]) -> str | None:
    urls = list(dict.fromkeys(candidates))
    answers = await asyncio.gather(*map(look, urls))
    return next((url for url, answer in zip(urls, answers, strict=True) if answer.versions), None)


@asynccontextmanager
async def _get(url: str, *, follow: bool) -> AsyncIterator[aiohttp.ClientResponse]:
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT) as session,
        session.get(url, allow_redirects=follow) as response,
    ):
        yield response


async def _json(response: aiohttp.ClientResponse) -> Any:
    raw = bytearray()
    async for chunk in response.content.iter_chunked(_MOST_BYTES):
        raw += chunk
        if len(raw) > _MOST_BYTES:
            return None
    try:
        return loads(bytes(raw))
    except ValueError:
        return None
