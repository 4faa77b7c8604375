"""Security for every request: response headers, limits on request bodies, and the origin check.

The access log has the route, scan, status and duration of each request, and never its URL, which may name a patient.
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
    # not `no-referrer`: browsers would then hide the origin of our own forms, which `is_same_site` checks
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",  # nearly every response holds patient data
}
HSTS: Final = "max-age=31536000"


class BodyTooLarge(problem_details.RequestRefused):
    """The request body is over its limit, by its declared length or while it is read."""

    def __init__(self) -> None:
        super().__init__(413, problem_details.DEFAULT_SENTENCES[413])


class SecurityMiddleware:
    """Checks each request before it reaches the review app, adds headers to each response, and logs it.

    Args:
        body_limits: {path: maximum bytes} for the routes that take more than a form.
        secure: whether browsers connect by TLS.
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
            pass  # there is no client left to answer
        except Exception:
            # one failing request must not affect others; the request is not logged, as it may name a patient
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
    """Adds the headers that a response has not set itself, and stores its status."""

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
    """Tell whether a state-changing request comes from a page of the review app or from a program.

    Browsers name the site in Sec-Fetch-Site or Origin. A request without either comes from a program.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host", "")
    except ValueError:  # Origin is not a URL
        return False


def csrf_token(key: bytes, holder: str) -> str:
    """Return the CSRF token for the forms of one session. It cannot be guessed, and is invalid in other sessions.

    Args:
        key: the deployment's signing key.
        holder: the hash of the session token, or `proxy:` and the user name that a proxy sent.
    """
    return hmac.new(key, f"csrf:{holder}".encode(), hashlib.sha256).hexdigest()


async def has_csrf_token(request: Request, expected: str) -> bool:
    """Tell whether a request has the expected CSRF token, in the header X-CSRF-Token or in the form field `csrf`."""
    given = request.headers.get("x-csrf-token")
    if given is None:
        form = await request.form()
        field = form.get("csrf")
        given = field if isinstance(field, str) else ""
        if not hmac.compare_digest(given.encode(), expected.encode()):
            await form.close()  # no route will close its uploaded files
            return False
    return hmac.compare_digest(given.encode(), expected.encode())


def _limit_body(receive: Receive, limit: int) -> Callable[[], Any]:
    """Wrap `receive` so that it raises BodyTooLarge beyond `limit` bytes.

    Content-Length does not suffice: chunked requests have none, and a client can send a wrong one.
    """
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
    """Return the path template of the route, or `none`. An unmatched path is not logged: it may hold a file name."""
    return str(getattr(scope.get("route"), "path", "none"))


def _scan_field(scope: Scope) -> dict[str, str]:
    scan_id = str(scope.get("path_params", {}).get("scan_id", ""))
    return {"scan": scan_id} if scan_id.isdecimal() else {}
