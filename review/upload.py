"""Routes for uploads from the page and from scripts. An upload is processed like any other image."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, RedirectResponse, Response

from db import LARGEST_ID
from db.ledger import queries
from db.worklist import audit, cases
from db.worklist.audit import AuditAction
from db.worklist.cases import Case
from pneumowatch import inboxes
from pneumowatch.errors import UploadRefused
from pneumowatch.imaging import common_formats
from pneumowatch.queue import component_name
from review import upload_files
from review.access.auth import Reader
from review.problem_details import RequestRefused
from review.templating import percent, render_page
from review.upload_files import IncomingFile

router = APIRouter()

MAX_FILES_PER_REQUEST: Final = 50  # the upload page sends one per request
FORM_OVERHEAD_BYTES: Final = 2**20  # of a form besides its files
WRITE_CHUNK_BYTES: Final = 2**20
MAX_WAIT_SECONDS: Final = 30.0
RESULT_POLL_SECONDS: Final = 0.1  # between two queries while waiting for results
FILE_NAME_HEADER: Final = "X-File-Name"  # name of an image sent as the whole body; percent-encoded UTF-8
UPLOAD_DESCRIPTION: Final = (
    "Send images as files of a form (`multipart/form-data`), or one image as the whole body with its percent-encoded "
    "name in the header X-File-Name. Each is processed like any other image. With `wait`, the response comes when all "
    "are processed or after that many seconds: 200 if all are processed, otherwise 202."
)
UPLOAD_BODY: Final = {
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
    "required": True,
}
UPLOAD_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "All images are processed."},
    400: {"description": "No image was sent."},
    401: {"description": "Nobody is signed in, or the token is not valid."},
    403: {"description": "The CSRF token is missing or belongs to another session."},
    413: {"description": "An image is too large, or there are too many images."},
    422: {"description": "A value is not valid."},
    503: {"description": "Images cannot be accepted at present; try again."},
    507: {"description": "The disk of the review app is full."},
}

ScanIds = Annotated[list[Annotated[int, Query(ge=1, le=LARGEST_ID)]], Query(max_length=MAX_FILES_PER_REQUEST)]


class UploadResult(BaseModel):
    """Result of one uploaded image so far.

    `done`: processing has finished. `flagged` and `probability` are null if there is no result, or while the result is
    hidden until the reader's verdict (`hidden`).
    """

    scan_id: int
    state: str
    done: bool
    sentence: str
    flagged: bool | None = None
    probability: float | None = None
    threshold: float | None = None
    model_version: str | None = None
    hidden: bool = False
    duplicate_of: int | None = None


class UploadResults(BaseModel):
    scans: list[UploadResult]


@router.get("/upload", include_in_schema=False)
def upload_page(request: Request, user: Reader, scan: ScanIds = []) -> Response:  # noqa: B006 - FastAPI copies it
    """Show the upload form, and the results of the uploaded scans that `scan` names."""
    state = request.app.state
    return render_page(
        request,
        "upload.html",
        scans=state.database.read(lambda connection: results_of(connection, scan, user.name)),
        kinds=common_formats.SUPPORTED_FORMATS,
        max_bytes=state.settings.max_bytes,
        most_files=MAX_FILES_PER_REQUEST,
    )


@router.post("/upload", include_in_schema=False)
async def upload_form(request: Request, user: Reader) -> Response:
    """Receive the form of the upload page from a browser without JavaScript."""
    ids = await _receive_form(request, user.name)
    return RedirectResponse("/upload?" + "&".join(f"scan={scan_id}" for scan_id in ids), 303)


@router.get("/upload/results", include_in_schema=False)
def upload_results(request: Request, user: Reader, scan: ScanIds) -> UploadResults:
    results = request.app.state.database.read(lambda connection: results_of(connection, scan, user.name))
    return UploadResults(scans=results)


@router.post(
    "/api/scans",
    summary="Upload images",
    description=UPLOAD_DESCRIPTION,
    status_code=202,
    response_model=UploadResults,
    responses=UPLOAD_RESPONSES,
    openapi_extra={"requestBody": UPLOAD_BODY},
    tags=["scans"],
)
async def upload_images(
    request: Request, user: Reader, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)] = 0
) -> Response:
    as_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    ids = await (_receive_form(request, user.name) if as_form else _receive_body(request, user.name))
    database, until = request.app.state.database, time.monotonic() + wait
    while True:
        results = await run_in_threadpool(database.read, lambda connection: results_of(connection, ids, user.name))
        read = all(result.done for result in results)
        if read or time.monotonic() >= until:
            break
        await asyncio.sleep(RESULT_POLL_SECONDS)
    body = UploadResults(scans=results).model_dump(mode="json")
    return JSONResponse(body, 200 if read else 202, {"Location": f"/api/scans/{ids[0]}"})


def results_of(connection: Connection, ids: Sequence[int], reader: str) -> list[UploadResult]:
    """Return the results so far of these scans, in the same order; scans that do not exist are left out."""
    waiting = queries.waiting_states(connection, ids)
    results = (
        UploadResult(scan_id=scan_id, state=waiting[scan_id], done=False, sentence="Waiting to be read.")
        if scan_id in waiting
        else _result(cases.get_case(connection, scan_id), reader)
        for scan_id in ids
    )
    return [result for result in results if result is not None]


def _result(case: Case | None, reader: str) -> UploadResult | None:
    if case is None:
        return None
    scan, shown = case.scan, case.result
    known = {"scan_id": scan["id"], "state": scan["state"], "done": True, "duplicate_of": scan["duplicate_of"]}
    again = f" The same image as scan {scan['duplicate_of']}." if scan["duplicate_of"] else ""
    if not case.scored:
        return UploadResult(**known, sentence=scan["detail"] or "It has no result.")
    if not case.result_visible_to(reader):
        return UploadResult(**known, hidden=True, sentence=f"Processed. Its result is shown after your verdict.{again}")
    said = "Flagged" if shown["flagged"] else "Not flagged"
    result = {name: shown[name] for name in ("flagged", "probability", "threshold", "model_version")}
    return UploadResult(**known, **result, sentence=f"{said}: probability {percent(shown['probability'], 1)}.{again}")


async def _receive_form(request: Request, who: str) -> list[int]:
    """Store and register the files of a form; return their scan ids.

    A form whose transfer is cut off raises before any of its files is stored.
    """
    form = await request.form(max_files=MAX_FILES_PER_REQUEST)
    try:
        files = [file for _, file in form.multi_items() if isinstance(file, UploadFile) and file.filename]
        if not files:
            raise RequestRefused(400, "No image was sent: choose one first.")
        if len(files) > MAX_FILES_PER_REQUEST:
            raise RequestRefused(413, f"At most {MAX_FILES_PER_REQUEST} images can be sent at once.")
        largest = request.app.state.settings.max_bytes
        if any((file.size or 0) > largest for file in files):  # before the first one is stored
            raise RequestRefused(413, f"An image has more than {largest:,} bytes; none of them was accepted.")
        return [await run_in_threadpool(_receive_file, request, file, who) for file in files]
    finally:
        await form.close()


def _receive_file(request: Request, file: UploadFile, who: str) -> int:
    source: BinaryIO = file.file
    try:
        with _incoming_file(request, file.filename or "") as incoming:
            while chunk := source.read(WRITE_CHUNK_BYTES):
                incoming.write(chunk)
            return _register(request, incoming, who)
    except UploadRefused as fault:
        raise RequestRefused(fault.status, str(fault)) from None


async def _receive_body(request: Request, who: str) -> list[int]:
    """Store and register an image sent as the whole body; return its scan id in a list.

    A transfer that is cut off leaves nothing behind.
    """
    try:
        incoming = await run_in_threadpool(_incoming_file, request, unquote(request.headers.get(FILE_NAME_HEADER, "")))
        with incoming:
            async for chunk in _chunks(request):
                await run_in_threadpool(incoming.write, chunk)
            return [await run_in_threadpool(_register, request, incoming, who)]
    except UploadRefused as fault:
        raise RequestRefused(fault.status, str(fault)) from None


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in chunks large enough to be worth a thread switch. Raises ClientDisconnect if it is cut off."""
    gathered = bytearray()
    async for piece in request.stream():
        gathered += piece
        if len(gathered) >= WRITE_CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _incoming_file(request: Request, name: str) -> IncomingFile:
    settings = request.app.state.settings
    return IncomingFile(inboxes.uploads_folder(settings), name, settings.max_bytes)


def _register(request: Request, incoming: IncomingFile, who: str) -> int:
    state = request.app.state
    scan_id = upload_files.register_upload(state.database, state.announcer, incoming.finish(), component_name("review"))
    state.database.write(lambda connection: audit.record_action(connection, who, AuditAction.UPLOAD, scan_id))
    return scan_id
