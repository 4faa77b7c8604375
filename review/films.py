"""Pictures of films, and of what moved the model: to whoever is signed in, and with a row in the audit for each."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path as File
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from db import LARGEST_ID, audit, cases, registry, reviews
from db.audit import Act
from db.cases import Case
from db.reviews import Judged
from pneumowatch import kept
from pneumowatch.errors import FilmRejected, PneumowatchError
from pneumowatch.film import Pixels
from pneumowatch.logs import get
from pneumowatch.model import shipped
from pneumowatch.originals import Copy
from review.auth import Reader
from review.problems import Refused

log = get("desk")
router = APIRouter(include_in_schema=False)

ScanId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
SOURCE: Final = "X-Film-Source"  # where the picture is from: `file`, or `kept`
NOWHERE: Final = "The film's file is no longer where it was read, and no reduced film of it was kept."
UNREAD: Final = "The film has not been read: there is no picture of it."
NO_MAP: Final = "No map was kept of this film."
Read = Callable[[File, str], Pixels | None]
HIDDEN: Final = "The map is shown with the result, after your verdict."


@router.get("/films/{scan_id:int}.png")
def film(request: Request, scan_id: ScanId, user: Reader) -> Response:
    """The film of a scan, large, from its file; reduced, as it was kept, where the file is gone."""
    picture, source = _picture(request, scan_id)
    _audit(request, user.name, scan_id, "picture")
    return _png(picture, {SOURCE: source})


@router.head("/films/{scan_id:int}.png", status_code=204)
def film_ahead(request: Request, scan_id: ScanId, user: Reader) -> None:
    """Makes the picture of a film that is about to be opened. Nobody has seen it yet, nor what is wrong with it."""
    with suppress(Refused):
        _picture(request, scan_id)


@router.get("/films/{scan_id:int}/map.png")
def activation_map(request: Request, scan_id: ScanId, user: Reader) -> Response:
    """The probability of each place, 8-bit gray, a few pixels wide, to be laid over the film."""
    state = request.app.state
    case = state.database.read(lambda connection: cases.case(connection, scan_id))
    if case is None:
        raise Refused(404, f"There is no scan {scan_id}.")
    if not case.open_to(user.name):
        raise Refused(403, HIDDEN)
    found = _kept(kept.read_map, state.settings.data_dir, case.result["sha256"])
    if found is None:
        raise Refused(404, NO_MAP)
    _audit(request, user.name, scan_id, "map")
    return _png(found)


def has_map(state: Any, case: Case) -> bool:
    sha256 = case.result["sha256"]
    return sha256 is not None and kept.read_map(state.settings.data_dir, sha256) is not None


def keep(state: Any, scan_id: int) -> None:
    """Keep the reduced film of a scan that was judged, for the trainer, where it can still be read.

    To be called when the verdict is committed and answered: it takes a while, and is no reason to lose a verdict.
    """
    try:
        places: Sequence[Judged] = state.database.read(lambda connection: reviews.places(connection, scan_id))
        sha256 = places[0].sha256 if places else None
        if sha256 is None or kept.read(state.settings.data_dir, sha256) is not None:
            return
        side = state.database.read(registry.side) or shipped().side
        pixels = state.darkroom.reduced(sha256, _copies(state, places, sha256), side)
        if pixels is not None:
            kept.write(state.settings.data_dir, sha256, pixels)
    except (PneumowatchError, OSError) as error:
        log.warning("a judged film is not kept; its verdict stands", scan=scan_id, error=type(error).__name__)


def _picture(request: Request, scan_id: int) -> tuple[bytes, str]:
    """PNG, and where it is from. Raises Refused."""
    state = request.app.state
    places = state.database.read(lambda connection: reviews.places(connection, scan_id))
    if not places:
        raise Refused(404, f"There is no scan {scan_id}.")
    sha256 = places[0].sha256
    if sha256 is None:
        raise Refused(404, UNREAD)
    try:
        made = state.darkroom.picture(sha256, _copies(state, places, sha256))
    except FilmRejected as fault:
        raise Refused(422, fault.sentence) from None
    if made is not None:
        return made, "file"
    found = _kept(kept.read, state.settings.data_dir, sha256)
    if found is None:
        raise Refused(404, NOWHERE)
    return found, "kept"


def _copies(state: Any, places: Sequence[Judged], sha256: str) -> list[Copy]:
    return [
        (state.inboxes[place.inbox], place.path_bytes)
        for place in places
        if place.sha256 == sha256 and place.inbox in state.inboxes
    ]


def _kept(read: Read, data_dir: File, sha256: str | None) -> bytes | None:
    """The film or its map as a PNG of its own: a reader from whom the result is hidden gets nothing of the other."""
    gray = None if sha256 is None else read(data_dir, sha256)
    return None if gray is None else kept.png(gray)


def _audit(request: Request, who: str, scan_id: int, detail: str) -> None:
    request.app.state.database.write(lambda connection: audit.record(connection, who, Act.FILM_OPENED, scan_id, detail))


def _png(picture: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(picture, media_type="image/png", headers=headers)
