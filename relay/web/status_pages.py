"""The status page's addresses: the page itself, signing in and out, and what its buttons do."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Protocol

from aiohttp import web

from relay.core.status.report import Report
from relay.core.storage import DeadLetter
from relay.errors import StoreError
from relay.logs import get_logger
from relay.web.access import COOKIE, FORM_TOKEN, SESSION_SECONDS, Access, is_from_here, is_over_tls
from relay.web.page import Dead, Visitor, render, render_sign_in

_log = get_logger(__name__)

_SHOWN_LETTERS = 50
_LONGEST_FORM = 8192

# The page has one style sheet and one script, both its own, and loads nothing from other sites.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# What everybody may have, so that the page for signing in can be shown.
OPEN = frozenset({"/page.css", "/page.js", "/sign-in"})


class LetterBox(Protocol):
    """`core.operations.dead_letters.DeadLetters` is one. Every call raises `StoreError`."""

    async def newest(self, limit: int | None = None) -> Sequence[DeadLetter]:
        """The dead letters, oldest first; the newest of them."""
        ...

    async def retry(self, entry: int) -> bool:
        """Put one back into its lane; False if there is none of that ID."""
        ...

    async def discard(self, entry: int) -> bool:
        """Delete one; False if there is none of that ID."""
        ...


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class StatusPages:
    """Serves the status page, and does what whoever has signed in asks for."""

    report: Callable[[], Awaitable[Report]]
    access: Access
    letters: LetterBox | None
    _style: str = field(init=False)
    _script: str = field(init=False)

    def __post_init__(self) -> None:
        folder = files("relay.web")
        self._style = folder.joinpath("page.css").read_text(encoding="utf-8")
        self._script = folder.joinpath("page.js").read_text(encoding="utf-8")

    def routes(self) -> Sequence[web.RouteDef]:
        """For the application."""
        return (
            web.get("/", self._page),
            web.get("/page.css", self._style_sheet),
            web.get("/page.js", self._page_script),
            web.get("/sign-in", self._again),
            web.post("/sign-in", self._sign_in),
            web.post("/sign-out", self._sign_out),
            web.post("/dead-letters", self._decide),
        )

    async def _page(self, request: web.Request) -> web.Response:
        session = self.access.session(request)
        report = await self.report()
        visitor = Visitor(self.access.form_token(session) if session is not None else None)
        return _html(render(report, await self._dead(report), visitor))

    async def _dead(self, report: Report) -> Dead:
        total = sum(direction.dead_letters for pair in report.pairs for direction in pair.directions.values())
        total += sum(lane.dead for lane in report.undeclared)
        if not total or self.letters is None:
            return Dead()
        try:
            return Dead(await self.letters.newest(_SHOWN_LETTERS), total)
        except StoreError:  # the report says so
            return Dead()

    async def _style_sheet(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._style, content_type="text/css")

    async def _page_script(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._script, content_type="text/javascript")

    async def _again(self, _request: web.Request) -> web.Response:
        """Somebody loads the page again that told of a wrong token."""
        return _back()

    # --- What changes something ---------------------------------------------------------------------------

    async def _sign_in(self, request: web.Request) -> web.Response:
        if self.access.token is None:
            raise web.HTTPNotFound
        form = await _form(request)
        session = self.access.sign_in(request, form.get("token", "").strip())
        if session is None:
            return _html(render_sign_in(wrong=True), status=403)
        _log.info("signed in to the status page", address=request.remote)
        answer = _back()
        answer.set_cookie(
            COOKIE,
            session,
            max_age=SESSION_SECONDS,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=is_over_tls(request),
        )
        return answer

    async def _sign_out(self, request: web.Request) -> web.Response:
        await self._own_form(request)
        self.access.sign_out(request)
        answer = _back()
        answer.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return answer

    async def _decide(self, request: web.Request) -> web.Response:
        """Try a dead letter again, or discard it. One that is gone by now is no mistake: somebody was quicker."""
        form = await self._own_form(request)
        number, act = form.get("id", ""), form.get("act", "")
        if not (number.isascii() and number.isdigit() and len(number) < 19) or act not in {"retry", "discard"}:
            raise web.HTTPBadRequest(text="There is no such button.")
        if self.letters is None:
            raise web.HTTPNotFound
        try:
            done = await (self.letters.retry(int(number)) if act == "retry" else self.letters.discard(int(number)))
        except StoreError as error:
            raise web.HTTPServiceUnavailable(text=f"Nothing was changed: {error}") from error
        _log.info("dead letter decided on the status page", entry=int(number), act=act, there=done)
        return _back("#dead-letters")

    async def _own_form(self, request: web.Request) -> Mapping[str, str]:
        """A form that whoever has signed in sent from the page itself. Raises 403."""
        session = self.access.session(request)
        if session is None:
            raise web.HTTPForbidden(text="Sign in first.")
        form = await _form(request)
        if not self.access.is_own_form(session, form.get(FORM_TOKEN, "")):
            raise web.HTTPForbidden(text="This did not come from the status page. Load it again.")
        return form


async def _form(request: web.Request) -> Mapping[str, str]:
    """What a form of ours sent. Raises an `HTTPException` for everything else."""
    if not is_from_here(request):
        raise web.HTTPForbidden(text="This came from another site.")
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    if request.content_length is None or request.content_length > _LONGEST_FORM:
        raise web.HTTPRequestEntityTooLarge(_LONGEST_FORM, request.content_length or 0)
    try:
        return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    except ValueError as error:
        raise web.HTTPBadRequest(text="This is no form.") from error


def sign_in_page() -> web.Response:
    """For a browser that has not signed in."""
    return _html(render_sign_in(), status=401)


def _html(text: str, status: int = 200) -> web.Response:
    headers = {"Content-Security-Policy": POLICY}
    if status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def _back(place: str = "") -> web.Response:
    """To the page, with a request that may be made again. Relative: a proxy may have put it below a path."""
    return web.Response(status=303, headers={"Location": f"./{place}"})
