"""Build the review app: all routers behind the security middleware."""

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

UNSCORED_COUNT_SECONDS: Final = 2.0  # how long the number that pages show is cached
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
    """Return the review app on a database that is at this version's revision.

    Args:
        database: raises DatabaseUnavailable during an outage, so that the reader is told to try again.
        inboxes: {name: folder} to read image files from (default: as configured).
        announcer: announces uploaded images at once; without it, the sweep announces them later.
        behind_proxy, tls: if either is true, browsers connect by TLS, so cookies are marked Secure.
        one_time_link: the link that `up` prints for signing in.
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
    # the first upload creates the folder
    app.state.inboxes = {**given, inbox_folders.UPLOADS: inbox_folders.uploads_folder(settings)}
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
    """Return {path: maximum bytes of a request} for the routes that take more than a form."""
    limit = settings.max_bytes + upload.FORM_OVERHEAD_BYTES
    return {"/upload": limit, "/api/scans": limit}


class _UnscoredCount:
    """Counts unscored scans for the header of every page.

    To keep pages fast, the number is cached for UNSCORED_COUNT_SECONDS, and counting stops at MAX_UNSCORED_COUNTED.
    """

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
