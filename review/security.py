"""What holds for every request: headers, bounds on what is sent, and where it may be sent from.

Of a request the access log tells the route, the scan, the status and the time; never what was asked for by name.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumowatch.logs import get_logger
from review import problem_details

log = get_logger("review")

MAX_BODY_BYTES: Final = 2**20  # of a form or a JSON document
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not `no-referrer`: with it, browsers hide the origin of our own forms, which is looked at below
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",  # nearly everything here is a patient's
}
HSTS: Final = "max-age=31536000"


class BodyTooLarge(problem_details.RequestRefused):
    """More was sent than may be. Also where it is raised while somebody reads what is sent."""

    def __init__(self) -> None:
        super().__init__(413, problem_details.DEFAULT_SENTENCES[413])


class SecurityMiddleware:
    """The outermost layer of the desk.

    Args:
        body_limits: {path: most bytes} of the routes that take more than a form.
        secure: whether browsers reach the desk by TLS.
    """

    def __init__(self, app: ASGIApp, body_limits: Mapping[str, int], secure: bool) -> None:
        self._app = app
        self._body_limits = body_limits
        self._headers = SECURITY_HEADERS | ({"Strict-Transport-Security": HSTS} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        answer = _GuardedSend(send, self._headers)
        limit = self._body_limits.get(scope["path"], MAX_BODY_BYTES)
        try:
            await self._pass_on(scope, _limit_body(receive, limit), answer, limit)
        except BodyTooLarge:
            await self._refuse(scope, receive, answer, 413)
        except ClientDisconnect:
            pass  # nobody is left to be answered
        except Exception:
            # whatever it was, the others go on being served; without the request, which may name a patient
            log.exception("a request failed", route=_route(scope))
            await self._refuse(scope, receive, answer, 500)
        seconds = time.monotonic() - started
        log.info(
            "request",
            method=scope["method"],
            route=_route(scope),
            **_scan_field(scope),
            status=answer.status,
            ms=round(seconds * 1000),
        )

    async def _pass_on(self, scope: Scope, receive: Receive, answer: "_GuardedSend", limit: int) -> None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise BodyTooLarge
        if scope["method"] not in SAFE_METHODS and not is_same_site(headers):
            return await self._refuse(scope, receive, answer, 403, "The request comes from another site.")
        return await self._app(scope, receive, answer)

    async def _refuse(
        self, scope: Scope, receive: Receive, answer: "_GuardedSend", status: int, sentence: str = ""
    ) -> None:
        if answer.status is None:
            await problem_details.problem_response(Request(scope), status, sentence)(scope, receive, answer)


class _GuardedSend:
    """Adds the headers that a response has not set itself, and remembers its status."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)


def is_same_site(headers: Headers) -> bool:
    """Whether a state-changing request may come from a page of ours, or from a program: browsers say where from."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host", "")
    except ValueError:  # it is no address
        return False


def csrf_token(key: bytes, holder: str) -> str:
    """What forms of one session must bear: nobody else can make it up, and another session's is of no use.

    Args:
        key: the deployment's.
        holder: the session's hash, or the name that a proxy signs on.
    """
    return hmac.new(key, f"csrf:{holder}".encode(), hashlib.sha256).hexdigest()


async def has_csrf_token(request: Request, expected: str) -> bool:
    """Whether a request bears it: in the header X-CSRF-Token, or in a form's field `csrf`."""
    given = request.headers.get("x-csrf-token")
    if given is None:
        form = await request.form()
        field = form.get("csrf")
        given = field if isinstance(field, str) else ""
        if not hmac.compare_digest(given.encode(), expected.encode()):
            await form.close()  # nobody else will: it may hold files
            return False
    return hmac.compare_digest(given.encode(), expected.encode())


def _limit_body(receive: Receive, limit: int) -> Callable[[], Any]:
    """Chunked requests say no length beforehand, and those that do may lie."""
    got = 0

    async def bounded() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > limit:
            raise BodyTooLarge
        return message

    return bounded


def _route(scope: Scope) -> str:
    """As it is written in the code. What fits none may be anything, a file's name too."""
    return str(getattr(scope.get("route"), "path", "none"))


def _scan_field(scope: Scope) -> dict[str, str]:
    scan_id = str(scope.get("path_params", {}).get("scan_id", ""))
    return {"scan": scan_id} if scan_id.isdecimal() else {}
