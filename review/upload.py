"""Films handed in at the desk, by a page or a script. Each goes the way of all films; here its result is waited for."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy import Connection, select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, RedirectResponse, Response

from db import LARGEST_ID, audit, cases
from db.audit import Act
from db.cases import Case
from db.models import Scan
from db.states import WAITING
from pneumowatch import images, inboxes
from pneumowatch.errors import UploadRefused
from pneumowatch.queue import part_name
from review import deliveries
from review.auth import Reader
from review.deliveries import Delivery
from review.problems import Refused
from review.templating import page, percent

router = APIRouter()

FILES: Final = 50  # of one request; a page sends each by itself
OVERHEAD: Final = 2**20  # bytes of a form around its files
CHUNK: Final = 2**20  # bytes written at a time
LONGEST_WAIT: Final = 30.0  # seconds
LOOK_SECONDS: Final = 0.1  # how often it is looked whether a film is read
FILE_NAME: Final = "X-File-Name"  # of a film that is the whole body; percent-encoded UTF-8
DESCRIPTION: Final = (
    "Films as files of a form (`multipart/form-data`), or one film as the whole body, with its name, percent-encoded, "
    "in the header X-File-Name. Each is read as any other film. With `wait`, the answer comes when all are read, or "
    "after so many seconds: 200 where all are, else 202."
)
BODY: Final = {
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["film"],
                "properties": {"film": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
    "required": True,
}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "All films are read"},
    400: {"description": "No film was sent"},
    401: {"description": "Nobody is signed in"},
    403: {"description": "The form is not one of this session"},
    413: {"description": "A film is larger than may be"},
    422: {"description": "A value cannot be used"},
    503: {"description": "Films cannot be taken in at present"},
    507: {"description": "There is no room for films"},
}

ScanIds = Annotated[list[Annotated[int, Query(ge=1, le=LARGEST_ID)]], Query(max_length=FILES)]


class Result(BaseModel):
    """What became of a film so far. `done`: nothing more is to come. `flagged` and `probability` are missing where
    there is none, or where it is shown after the verdict (`hidden`)."""

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


class Results(BaseModel):
    films: list[Result]


@router.get("/upload", include_in_schema=False)
def upload_page(request: Request, user: Reader, scan: ScanIds = []) -> Response:  # noqa: B006 - FastAPI copies it
    """`scan`: films that were handed in, whose results are shown."""
    state = request.app.state
    return page(
        request,
        "upload.html",
        films=state.database.read(lambda connection: results(connection, scan, user.name)),
        kinds=images.KINDS,
        max_bytes=state.settings.max_bytes,
        most_files=FILES,
    )


@router.post("/upload", include_in_schema=False)
async def upload(request: Request, user: Reader) -> Response:
    """A form without JavaScript."""
    ids = await _take_form(request, user.name)
    return RedirectResponse("/upload?" + "&".join(f"scan={scan_id}" for scan_id in ids), 303)


@router.get("/upload/results", include_in_schema=False)
def upload_results(request: Request, user: Reader, scan: ScanIds) -> Results:
    found = request.app.state.database.read(lambda connection: results(connection, scan, user.name))
    return Results(films=found)


@router.post(
    "/api/scans",
    summary="Hand in films",
    description=DESCRIPTION,
    status_code=202,
    response_model=Results,
    responses=PROBLEMS,
    openapi_extra={"requestBody": BODY},
    tags=["scans"],
)
async def hand_in(
    request: Request, user: Reader, wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT, allow_inf_nan=False)] = 0
) -> Response:
    as_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    ids = await (_take_form(request, user.name) if as_form else _take_body(request, user.name))
    database, until = request.app.state.database, time.monotonic() + wait
    while True:
        found = await run_in_threadpool(database.read, lambda connection: results(connection, ids, user.name))
        read = all(film.done for film in found)
        if read or time.monotonic() >= until:
            break
        await asyncio.sleep(LOOK_SECONDS)
    body = Results(films=found).model_dump(mode="json")
    return JSONResponse(body, 200 if read else 202, {"Location": f"/api/scans/{ids[0]}"})


def results(connection: Connection, ids: Sequence[int], reader: str) -> list[Result]:
    """What became of these scans, in this order; those that do not exist are left out."""
    waiting = dict(
        connection.execute(select(Scan.id, Scan.state).where(Scan.id.in_(ids), Scan.state.in_(WAITING))).all()
    )
    found = (
        Result(scan_id=scan_id, state=waiting[scan_id], done=False, sentence="Waiting to be read.")
        if scan_id in waiting
        else _result(cases.case(connection, scan_id), reader)
        for scan_id in ids
    )
    return [result for result in found if result is not None]


def _result(case: Case | None, reader: str) -> Result | None:
    if case is None:
        return None
    scan, shown = case.scan, case.result
    known = {"scan_id": scan["id"], "state": scan["state"], "done": True, "duplicate_of": scan["duplicate_of"]}
    again = f" The same film as scan {scan['duplicate_of']}." if scan["duplicate_of"] else ""
    if not case.scored:
        return Result(**known, sentence=scan["detail"] or "It has no result.")
    if not case.open_to(reader):
        return Result(**known, hidden=True, sentence=f"Read; its result is shown after your verdict.{again}")
    said = "Flagged" if shown["flagged"] else "Not flagged"
    result = {name: shown[name] for name in ("flagged", "probability", "threshold", "model_version")}
    return Result(**known, **result, sentence=f"{said}: probability {percent(shown['probability'], 1)}.{again}")


async def _take_form(request: Request, who: str) -> list[int]:
    """The scans of a form's files. A form that is cut off never gets here: its files were nobody's yet."""
    form = await request.form(max_files=FILES)
    try:
        files = [file for _, file in form.multi_items() if isinstance(file, UploadFile) and file.filename]
        if not files:
            raise Refused(400, "No film was sent: choose one first.")
        if len(files) > FILES:
            raise Refused(413, f"At most {FILES} films can be sent at once.")
        largest = request.app.state.settings.max_bytes
        if any((file.size or 0) > largest for file in files):  # before the first of them is taken in
            raise Refused(413, f"A film has more than {largest:,} bytes; none of them was taken in.")
        return [await run_in_threadpool(_take_file, request, file, who) for file in files]
    finally:
        await form.close()


def _take_file(request: Request, file: UploadFile, who: str) -> int:
    source: BinaryIO = file.file
    try:
        with _delivery(request, file.filename or "") as delivery:
            while chunk := source.read(CHUNK):
                delivery.write(chunk)
            return _announce(request, delivery, who)
    except UploadRefused as fault:
        raise Refused(fault.status, str(fault)) from None


async def _take_body(request: Request, who: str) -> list[int]:
    """The scan of a film that is the whole body; what is cut off leaves nothing."""
    try:
        delivery = await run_in_threadpool(_delivery, request, unquote(request.headers.get(FILE_NAME, "")))
        with delivery:
            async for chunk in _chunks(request):
                await run_in_threadpool(delivery.write, chunk)
            return [await run_in_threadpool(_announce, request, delivery, who)]
    except UploadRefused as fault:
        raise Refused(fault.status, str(fault)) from None


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a thread's while. Raises ClientDisconnect where it is cut off."""
    gathered = bytearray()
    async for piece in request.stream():
        gathered += piece
        if len(gathered) >= CHUNK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _delivery(request: Request, name: str) -> Delivery:
    settings = request.app.state.settings
    return Delivery(inboxes.uploads(settings), name, settings.max_bytes)


def _announce(request: Request, delivery: Delivery, who: str) -> int:
    state = request.app.state
    scan_id = deliveries.announce(state.database, state.doorbell, delivery.finish(), part_name("desk"))
    state.database.write(lambda connection: audit.record(connection, who, Act.UPLOAD, scan_id))
    return scan_id
