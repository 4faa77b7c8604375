"""Pages: the Jinja environment, what every page shows, and the files that pages load."""

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
THEMES: Final = ("dark", "light")  # else the browser's own preference
YEAR_SECONDS: Final = 365 * 24 * 3600
AGE_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))

router = APIRouter(include_in_schema=False)


def render_page(request: Request, name: str, status: int = 200, /, **context: Any) -> HTMLResponse:
    """A page from `templates/<name>`, for a function that FastAPI runs in a thread: it asks the database.

    Each knows `user` (None where nobody is signed in), `csrf` for its forms, `unscored`, `path` and `theme`.
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
    """Asks nothing of the database, as that may be what does not answer."""
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
    """Where to sign in, and come back from to the page that was asked for."""
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
    """How long ago, roughly: `3 d`, `5 h`, `12 min`, `now`."""
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
    """In the server's own time zone, which is the department's."""
    return "" if at is None else at.astimezone().strftime(form)


def iso(at: datetime | None) -> str:
    """For the `datetime` of a <time> element."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def static(name: str) -> str:
    """The URL of a file in `static/`. It holds the hash of them all, so that browsers may keep each for ever, and
    modules find each other by relative names."""
    files = _files()
    if name not in files:
        raise KeyError(f"no such static file: {name}")
    return f"/static/{_digest()}/{name}"


@router.get("/static/{digest}/{name}")
def _static(digest: str, name: str) -> Response:
    """From memory, by name: no path is put together from what is asked for."""
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
