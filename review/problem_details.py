"""Error responses: problem+json (RFC 9457) for programs, a page for people.

No response repeats what was sent, because it may name a patient.
"""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from db.worklist.worklist import BadCursor
from pneumowatch.errors import (
    AccountRefused,
    DatabaseUnavailable,
    ModelError,
    PneumowatchError,
    ReviewRefused,
    ShuttingDown,
)
from review import templating

MEDIA_TYPE: Final = "application/problem+json"
# the error's own sentence says what to do
STATUS_OF_ERROR: Final[dict[type[PneumowatchError], int]] = {
    BadCursor: 400,
    ReviewRefused: 409,
    AccountRefused: 409,
    ModelError: 409,
    DatabaseUnavailable: 503,
    ShuttingDown: 503,
}
DEFAULT_SENTENCES: Final = {
    400: "The request cannot be understood.",
    401: "Sign in first.",
    403: "You do not have permission to do this.",
    404: "There is no such page.",
    405: "This method is not allowed here.",
    413: "The request is too large.",
    422: "The request contains a value that cannot be used.",
    500: "Something went wrong; the log says what. Try again, or tell the administrator of pneumowatch.",
    503: "A service that is needed does not answer. Try again in a moment.",
}


class NotSignedIn(Exception):
    """No user is signed in."""


class RequestRefused(HTTPException):
    """The request cannot be served: an HTTP status, and one sentence that says why."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, sentence, headers)


def add_exception_handlers(app: FastAPI) -> None:
    # plain functions, which run in threads: an error page may query the database and must not block the event loop
    app.add_exception_handler(NotSignedIn, _not_signed_in)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(PneumowatchError, _application_error)


def problem_response(
    request: Request, status: int, sentence: str = "", headers: dict[str, str] | None = None, **members: Any
) -> Response:
    """Return the response for an error, as problem+json or as a page, whichever the client accepts.

    Args:
        members: extension members of RFC 9457, for programs only.
    """
    sentence_or_default = sentence or DEFAULT_SENTENCES.get(status, HTTPStatus(status).phrase)
    if wants_json(request):
        body = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": sentence_or_default,
            **members,
        }
        return JSONResponse(body, status, headers, MEDIA_TYPE)
    return templating.render_error_page(request, status, HTTPStatus(status).phrase, sentence_or_default, headers)


def wants_json(request: Request) -> bool:
    path = request.url.path
    if path.startswith(("/api/", "/healthz", "/readyz", "/metrics")):
        return True
    return "text/html" not in request.headers.get("accept", "*/*") and "*/*" not in request.headers.get("accept", "*/*")


def _not_signed_in(request: Request, error: Exception) -> Response:
    if wants_json(request):
        return problem_response(request, 401, headers={"WWW-Authenticate": "Bearer"})
    if "text/html" not in request.headers.get("accept", ""):
        return problem_response(request, 401)  # an image request cannot use the sign-in page
    return RedirectResponse(templating.sign_in_url(request), 303)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = error.detail if isinstance(error, RequestRefused) else ""
    return problem_response(request, error.status_code, sentence, dict(error.headers or {}))


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # omit the values and pydantic's context: both may name a patient
    faults = [{"where": ".".join(str(part) for part in one["loc"]), "what": one["msg"]} for one in error.errors()]
    return problem_response(request, 422, errors=faults)


def _application_error(request: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS_OF_ERROR.items() if isinstance(error, kind)), 500)
    return problem_response(request, status, str(error))
