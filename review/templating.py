"""Pages: the Jinja environment, the context of every page, and static files."""

import hashlib
import mimetypes
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from pneumowatch import __version__
from review.address import safe_next

STATIC_FOLDER: Final = Path(__file__).parent / "static"
THEMES: Final = ("dark", "light")  # without the cookie, the browser's preference applies
YEAR_SECONDS: Final = 365 * 24 * 3600
AGE_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))

router = APIRouter(include_in_schema=False)


def render_page(request: Request, name: str, status: int = 200, /, **context: Any) -> HTMLResponse:
    """Return a page from `templates/<name>`.

    It queries the database, so call it from a function that FastAPI runs in a thread. Every page gets `user` (None if
    nobody is signed in), `csrf` for its forms, `unscored`, `path`, `theme` and `version`.
    """
    state = request.app.state
    user = getattr(request.state, "user", None)
    common = {
        "user": user,
        "csrf": user.csrf if user else "",
        "unscored": state.unscored() if user else None,
        "path": request.url.path,
        "theme": _theme(request),
        "version": __version__,
    }
    return HTMLResponse(jinja_environment().get_template(name).render({**common, **context}), status)


def render_error_page(
    request: Request, status: int, title: str, sentence: str, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """Return the error page. It never queries the database, which may be what failed."""
    user = getattr(request.state, "user", None)
    context = {
        "user": user,
        "csrf": user.csrf if user else "",
        "unscored": None,
        "path": request.url.path,
        "theme": _theme(request),
        "version": __version__,
        "status": status,
        "title": title,
        "sentence": sentence,
    }
    return HTMLResponse(jinja_environment().get_template("error.html").render(context), status, headers)


def sign_in_url(request: Request) -> str:
    """Return the URL of the sign-in page, with the requested page as the target after signing in."""
    wanted = request.url.path if request.method in ("GET", "HEAD") else "/"
    if request.url.query and wanted != "/":
        wanted += f"?{request.url.query}"
    return "/sign-in" if wanted == "/" else f"/sign-in?{urlencode({'next': safe_next(wanted)})}"


@cache
def jinja_environment() -> Environment:
    made = Environment(
        loader=PackageLoader("review"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"age": age, "percent": percent, "local": local, "iso": iso, "number": number}
    made.globals |= {"static": static}
    return made


def age(at: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago a time was, rounded down: `3 d`, `5 h`, `12 min`, `now`; empty for None."""
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    for size, unit in AGE_UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return "now"


def percent(share: float | None, places: int = 0) -> str:
    return "" if share is None else f"{100 * share:.{places}f} %"


def local(at: datetime | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """Format a time in the server's time zone, which is the department's; empty for None."""
    return "" if at is None else at.astimezone().strftime(form)


def iso(at: datetime | None) -> str:
    """Format a time in UTC for the `datetime` attribute of a <time> element; empty for None."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def static(name: str) -> str:
    """Return the URL of a file in `static/`.

    It contains one hash of all files, so that browsers may cache each file for ever and JavaScript modules can import
    each other by relative names. Raises KeyError if there is no such file.
    """
    files = _files()
    if name not in files:
        raise KeyError(f"no such static file: {name}")
    return f"/static/{_digest()}/{name}"


@router.get("/static/{digest}/{name}")
def _static(digest: str, name: str) -> Response:
    """Serve a static file from memory. No file system path is built from the request."""
    body = _files().get(name)
    if body is None:
        return Response(status_code=404)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    kept = f"public, max-age={YEAR_SECONDS}, immutable" if digest == _digest() else "no-cache"
    return Response(body, media_type=kind, headers={"Cache-Control": kept})


@router.get("/favicon.ico")
def _favicon() -> Response:
    return _static(_digest(), "mark.svg")


@cache
def _files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(STATIC_FOLDER.iterdir()) if file.is_file()}


@cache
def _digest() -> str:
    digest = hashlib.sha256()
    for name, body in _files().items():
        digest.update(name.encode() + b"\0" + body)
    return digest.hexdigest()[:12]


def _theme(request: Request) -> str:
    wanted = request.cookies.get("theme", "")
    return wanted if wanted in THEMES else ""
