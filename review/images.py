"""Serve images and activation maps to signed-in users. Each one that is opened leaves an audit row."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path as File
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from db import LARGEST_ID
from db.ledger import queries
from db.ledger.queries import FileLocation
from db.registry import model_registry
from db.worklist import audit, cases
from db.worklist.audit import AuditAction
from db.worklist.cases import Case
from pneumowatch.errors import ImageRejected, PneumowatchError
from pneumowatch.imaging import image_store
from pneumowatch.imaging.reader import Pixels
from pneumowatch.logs import get_logger
from pneumowatch.model_folder import shipped_folder
from pneumowatch.source_files import FileCopy
from review.access.auth import Reader
from review.problem_details import RequestRefused

log = get_logger("review")
router = APIRouter(include_in_schema=False)

ScanId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
SOURCE_HEADER: Final = "X-Image-Source"  # `file`: rendered from the image file; `kept`: the stored reduced image
FILE_GONE: Final = "The image file is no longer where it was read, and no reduced image was stored."
NOT_DECODED: Final = "The image file has not been read, so there is nothing to show."
NO_MAP: Final = "No map was kept for this image."
ReadKept = Callable[[File, str], Pixels | None]
MAP_HIDDEN: Final = "The map is shown with the result, after your verdict."


@router.get("/images/{scan_id:int}.png")
def image(request: Request, scan_id: ScanId, user: Reader) -> Response:
    """Return a scan's image as PNG, rendered large from its file; the stored reduced image if the file is gone."""
    picture, source = _image_png(request, scan_id)
    _audit_opened(request, user.name, scan_id, "picture")
    return _png_response(picture, {SOURCE_HEADER: source})


@router.head("/images/{scan_id:int}.png", status_code=204)
def prefetch_image(request: Request, scan_id: ScanId, user: Reader) -> None:
    """Render the image of the next case, so that its page opens at once.

    Nothing is shown yet, so no audit row is written and errors are ignored: opening the page reports them.
    """
    with suppress(RequestRefused):
        _image_png(request, scan_id)


@router.get("/images/{scan_id:int}/map.png")
def activation_map(request: Request, scan_id: ScanId, user: Reader) -> Response:
    """Return a scan's activation map: the probability of each region, 8-bit gray, a few pixels wide, as an overlay.

    Raises RequestRefused: 404 if there is no scan or no map, 403 while the result is hidden from this reader.
    """
    state = request.app.state
    case = state.database.read(lambda connection: cases.get_case(connection, scan_id))
    if case is None:
        raise RequestRefused(404, f"There is no scan {scan_id}.")
    if not case.result_visible_to(user.name):
        raise RequestRefused(403, MAP_HIDDEN)
    found = _kept_png(image_store.load_activation_map, state.settings.data_dir, case.result["sha256"])
    if found is None:
        raise RequestRefused(404, NO_MAP)
    _audit_opened(request, user.name, scan_id, "map")
    return _png_response(found)


def has_map(state: Any, case: Case) -> bool:
    sha256 = case.result["sha256"]
    return sha256 is not None and image_store.load_activation_map(state.settings.data_dir, sha256) is not None


def keep_image(state: Any, scan_id: int) -> None:
    """Store the reduced image of a reviewed scan for the trainer, if its file can still be read.

    Call it after the verdict is committed and answered: it takes a while, and its failure must not lose a verdict.
    """
    try:
        places: Sequence[FileLocation] = state.database.read(
            lambda connection: queries.file_locations(connection, scan_id)
        )
        sha256 = places[0].sha256 if places else None
        if sha256 is None or image_store.load_image(state.settings.data_dir, sha256) is not None:
            return
        side = state.database.read(model_registry.champion_input_side) or shipped_folder().side
        pixels = state.renderer.render_reduced(sha256, _copies(state, places, sha256), side)
        if pixels is not None:
            image_store.store_image(state.settings.data_dir, sha256, pixels)
    except (PneumowatchError, OSError) as error:
        log.warning(
            "the image of a reviewed scan was not stored; its verdict was", scan=scan_id, error=type(error).__name__
        )


def _image_png(request: Request, scan_id: int) -> tuple[bytes, str]:
    """Return the PNG, and its origin for SOURCE_HEADER. Raises RequestRefused if there is nothing to show."""
    state = request.app.state
    places = state.database.read(lambda connection: queries.file_locations(connection, scan_id))
    if not places:
        raise RequestRefused(404, f"There is no scan {scan_id}.")
    sha256 = places[0].sha256
    if sha256 is None:
        raise RequestRefused(404, NOT_DECODED)
    try:
        made = state.renderer.render(sha256, _copies(state, places, sha256))
    except ImageRejected as fault:
        raise RequestRefused(422, fault.sentence) from None
    if made is not None:
        return made, "file"
    found = _kept_png(image_store.load_image, state.settings.data_dir, sha256)
    if found is None:
        raise RequestRefused(404, FILE_GONE)
    return found, "kept"


def _copies(state: Any, places: Sequence[FileLocation], sha256: str) -> list[FileCopy]:
    return [
        (state.inboxes[place.inbox], place.path_bytes)
        for place in places
        if place.sha256 == sha256 and place.inbox in state.inboxes
    ]


def _kept_png(read: ReadKept, data_dir: File, sha256: str | None) -> bytes | None:
    """Return the stored image or the stored map as PNG; None if it was not stored.

    They are separate files, so that a reader from whom the result is hidden gets the image without the map.
    """
    gray = None if sha256 is None else read(data_dir, sha256)
    return None if gray is None else image_store.encode_png(gray)


def _audit_opened(request: Request, who: str, scan_id: int, detail: str) -> None:
    request.app.state.database.write(
        lambda connection: audit.record_action(connection, who, AuditAction.IMAGE_OPENED, scan_id, detail)
    )


def _png_response(picture: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(picture, media_type="image/png", headers=headers)
