"""The desk's application: every room of it, behind one guard."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from db.session import Database
from db.worklist import accounts, unscored
from pneumowatch import __version__
from pneumowatch import inboxes as inbox_folders
from pneumowatch.queue import Announcer
from pneumowatch.settings import Settings
from review import health, images, problem_details, templating, upload
from review.access import account as account_pages
from review.access import sign_in
from review.access.one_time_sign_in import OneTimeLink
from review.api import docs_page, scans
from review.pages import models, overview, scan, worklist
from review.renderer import Renderer
from review.security import SecurityMiddleware

# each room brings its routes; one line a room
ROUTERS: Final = (
    templating.router,
    health.router,
    sign_in.router,
    account_pages.router,
    worklist.router,
    images.router,
    scan.router,
    upload.router,
    models.router,
    overview.router,
    scans.router,
    docs_page.router,
)

UNSCORED_COUNT_SECONDS: Final = 2.0  # how old the number of unscored films may be that a page shows
MAX_UNSCORED_COUNTED: Final = 10_000


def create_app(
    settings: Settings,
    database: Database,
    *,
    inboxes: Mapping[str, Path] | None = None,
    announcer: Announcer | None = None,
    behind_proxy: bool = False,
    tls: bool = False,
    one_time_link: OneTimeLink | None = None,
) -> FastAPI:
    """The desk on a database that is at this version's revision.

    Args:
        database: one that raises DatabaseUnavailable during an outage: a reader is told, and tries again.
        inboxes: {name: folder} where films are found again (default: as configured).
        announcer: announces uploaded films at once; without it the sweep does.
        behind_proxy, tls: browsers reach it by TLS, so cookies are for TLS alone.
        one_time_link: the link by which whoever started `up` signs in.
    """
    app = FastAPI(
        title="pneumowatch",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.database = database
    given = inboxes if inboxes is not None else inbox_folders.configured(settings)
    app.state.inboxes = {
        **given,
        inbox_folders.UPLOADS: inbox_folders.uploads_folder(settings),
    }  # made with the first film
    app.state.announcer = announcer
    app.state.secure = tls or behind_proxy
    app.state.one_time_link = one_time_link
    app.state.signing_key = database.write(accounts.signing_key)
    app.state.unscored = _UnscoredCount(database)
    app.state.renderer = Renderer(settings)
    app.state.ledger_metrics = health.ledger_metrics_registry(database, settings)
    for router in ROUTERS:
        app.include_router(router)
    problem_details.add_exception_handlers(app)
    app.add_middleware(SecurityMiddleware, body_limits=_body_limits(settings), secure=app.state.secure)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(app.state.renderer.close)


def _body_limits(settings: Settings) -> dict[str, int]:
    """{path: most bytes of a request} where it is more than a form."""
    limit = settings.max_bytes + upload.FORM_OVERHEAD_BYTES
    return {"/upload": limit, "/api/scans": limit}


class _UnscoredCount:
    """How many films nobody has read, as every page shows it; counted now and then, and not beyond MAX_UNSCORED_COUNTED."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._count, self._at = 0, float("-inf")

    def __call__(self) -> int:
        with self._lock:
            if time.monotonic() - self._at > UNSCORED_COUNT_SECONDS:
                self._count = self._database.read(lambda c: unscored.count_up_to(c, MAX_UNSCORED_COUNTED))
                self._at = time.monotonic()
            return self._count
