"""Is the inbox there? What a machine has registered of each, held against the folder that is at its place now.

A dropped mount is an empty folder, and a tree that was moved away may have one in its place. So a film that is not
there has vanished only where the folder that it is not in is the inbox: the one whose place (`pneumowatch.place`) this
machine has registered, for machines of one deployment mount an inbox at different places.

A folder of another place stands there for good, too: an inbox made anew, a share on another server. It is taken for the
inbox, and registered, as soon as that costs no film that waits:

- none waits; or
- it holds a film that was registered before the inbox went away; or
- it has been there for PNEUMOWATCH_PATIENCE_SECONDS. Not so where a mount is missing: however long that takes, the
  films wait.
"""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from db import ledger
from db.dialect import insert_new, name
from db.models import InboxThere, Scan
from db.session import Database
from db.statements import in_state
from db.states import WAITING
from pneumowatch import place, share
from pneumowatch.errors import ShareAway
from pneumowatch.logs import get
from pneumowatch.place import Place

log = get("inboxes")

INBOXES: Final[Any] = InboxThere.__table__
WITNESSES: Final = 200  # films that are looked for in a doubtful folder, of the waiting and of the latest each
LATEST: Final = 20_000  # scans among which the latter are looked for
SEEN_SECONDS: Final = 60.0  # how often a row says that its machine still looks
FORGOTTEN: Final = timedelta(days=30)  # machines that have not looked for so long
CANNOT_BE_OPENED: Final = "its folder cannot be opened"
DOES_NOT_ANSWER: Final = "it does not answer"

Asking = Callable[[], AbstractContextManager[None]]


class Standing(StrEnum):
    HERE = "here"
    AWAY = "away"


@dataclass(frozen=True)
class Rescan:
    """How a rescan of an inbox went: how it is watched, seconds it took, files that it saw."""

    watching: str
    seconds: float
    files: int


class Presence:
    """What this machine knows of its inboxes. Used by every part that would say that a film is gone.

    Args:
        patience_seconds: how long a folder that stands in an inbox's place is doubted.
        machine: under whose name the inboxes are registered.
    """

    def __init__(self, database: Database, patience_seconds: float, machine: str | None = None) -> None:
        self._database = database
        self._patience = timedelta(seconds=patience_seconds)
        self._machine = machine or socket.gethostname()

    def look(self, inbox: str, root: Path, asking: Asking = nullcontext) -> bool:
        """Whether the inbox is there now. Raises ShareAway where its folder cannot be opened at all.

        `asking`: entered while the file system is asked, and not while the database is.
        """
        try:
            with asking():
                found = place.at(root)
        except OSError as error:
            self.miss(inbox, root, f"{CANNOT_BE_OPENED}: {error.strerror}")
            raise ShareAway(f"The inbox '{inbox}' cannot be opened: {error.strerror}.") from error
        return self.vouch(inbox, root, found, asking)

    def vouch(self, inbox: str, root: Path, found: Place, asking: Asking = nullcontext) -> bool:
        """Whether the folder at `found` is the inbox, so that what is not in it is gone. `asking`: as in `look`."""
        known = self._database.read(lambda c: _find(c, inbox, self._machine))
        if known is not None and (known.identity, known.state) == (found.identity, Standing.HERE):
            if (ledger.now() - known.seen_at).total_seconds() > SEEN_SECONDS:
                self._database.write(lambda c: _change(c, inbox, self._machine, seen_at=ledger.now()))
            return True
        doubt = self._doubt(inbox, root, known, found, asking)
        if doubt is None:
            self._register(inbox, root, known, found)
        else:
            self._leave(inbox, root, known, doubt)
        return doubt is None

    def miss(self, inbox: str, root: Path, why: str) -> None:
        """The inbox is not there: `why`, in words that name no path."""
        self._leave(inbox, root, self._database.read(lambda c: _find(c, inbox, self._machine)), why)

    def rescanned(self, inbox: str, rescan: Rescan) -> None:
        """A rescan has ended."""
        at = ledger.now()
        values = {"watching": rescan.watching, "rescan_seconds": rescan.seconds, "files": rescan.files}
        self._database.write(lambda c: _change(c, inbox, self._machine, rescanned_at=at, seen_at=at, **values))

    def _doubt(self, inbox: str, root: Path, known: Row[Any] | None, found: Place, asking: Asking) -> str | None:
        """Why the folder is not taken for the inbox; None where it is."""
        if known is not None and known.identity == found.identity:
            return None
        patience = True
        if known is None or known.identity is None:
            kinds = self._database.read(lambda c: _kinds(c, inbox, self._machine))
            if not kinds or found.kind in kinds:
                return None
            doubt = f"its folder is on {found.kind} here, and on {' or '.join(sorted(kinds))} on other machines"
        elif known.root == _text(root) and found.beneath(known.mount_point):
            doubt, patience = f"nothing is mounted where it was ({known.kind})", False
        elif not self._database.read(lambda c: _waits(c, inbox)):
            return None
        else:
            doubt = "another folder stands in its place"
        last = None if known is None else known.last_scan_id
        witnesses = self._database.read(lambda c: _witnesses(c, inbox, last))
        with asking():
            stands = any(share.stands(root, *film) for film in witnesses)
        if stands:
            return None
        doubted = known is not None and (known.state, known.detail) == (Standing.AWAY, doubt)
        if patience and doubted and ledger.now() - known.since >= self._patience:  # type: ignore[union-attr]
            return None
        return doubt

    def _register(self, inbox: str, root: Path, known: Row[Any] | None, found: Place) -> None:
        at = ledger.now()
        values = {
            "root": _text(root),
            "kind": found.kind,
            "mount_point": found.mount_point,
            "identity": found.identity,
            "state": Standing.HERE,
            "since": at,
            "detail": None,
            "last_scan_id": None,
            "seen_at": at,
        }

        def work(connection: Connection) -> None:
            _put(connection, inbox, self._machine, values)
            connection.execute(delete(InboxThere).where(InboxThere.seen_at < at - FORGOTTEN))
            ledger.wake(connection, inbox)

        self._database.write(work)
        if known is None:
            log.info("an inbox is watched or read for the first time here", inbox=inbox, filesystem=found.kind)
        elif known.state == Standing.AWAY:
            seconds = round((at - known.since).total_seconds())
            log.info("an inbox is there again", inbox=inbox, filesystem=found.kind, after_seconds=seconds)
        else:
            log.info("another folder is the inbox from now on", inbox=inbox, filesystem=found.kind)

    def _leave(self, inbox: str, root: Path, known: Row[Any] | None, why: str) -> None:
        if known is not None and (known.state, known.detail) == (Standing.AWAY, why):
            return
        at = ledger.now()

        def work(connection: Connection) -> None:
            values: dict[str, Any] = {"state": Standing.AWAY, "since": at, "detail": why, "seen_at": at}
            if known is None or known.state != Standing.AWAY:
                values["last_scan_id"] = connection.scalar(select(func.max(Scan.id))) or 0
            if known is None:
                values["root"] = _text(root)
            _put(connection, inbox, self._machine, values)

        self._database.write(work)
        log.warning("an inbox is away; its films wait", inbox=inbox, why=why)


def require(database: Database, inbox: str, root: Path, machine: str | None = None) -> None:
    """Raises ShareAway where this machine's watcher or worker has reported the inbox as away, and it still is."""
    known = database.read(lambda c: _find(c, inbox, machine or socket.gethostname()))
    if known is None or known.state == Standing.HERE:
        return
    try:
        back = place.at(root).identity == known.identity
    except OSError:
        back = False
    if not back:
        raise ShareAway(f"The inbox '{inbox}' is away: {known.detail}.")


def known_here(connection: Connection, machine: str | None = None) -> dict[str, Path]:
    """{name: folder} of the inboxes that were once there on this machine."""
    mine = InboxThere.machine == (machine or socket.gethostname()), InboxThere.identity.is_not(None)
    found = connection.execute(select(InboxThere.inbox, InboxThere.root).where(*mine))
    return {row.inbox: Path(row.root) for row in found}


def standings(connection: Connection) -> Sequence[dict[str, Any]]:
    """Every inbox as every machine sees it, for `status` and `doctor`: the columns of `db.models.InboxThere`."""
    found = connection.execute(select(INBOXES).order_by(InboxThere.inbox, InboxThere.machine))
    return [dict(row) for row in found.mappings()]


def _find(connection: Connection, inbox: str, machine: str) -> Row[Any] | None:
    return connection.execute(
        select(INBOXES).where(InboxThere.inbox == inbox, InboxThere.machine == machine)
    ).one_or_none()


def _put(connection: Connection, inbox: str, machine: str, values: dict[str, Any]) -> None:
    new = {"root": "", "state": Standing.AWAY, "since": ledger.now(), "seen_at": ledger.now(), **values}
    connection.execute(insert_new(name(connection), INBOXES).values(inbox=inbox, machine=machine, **new))
    _change(connection, inbox, machine, **values)


def _change(connection: Connection, inbox: str, machine: str, **values: Any) -> None:
    connection.execute(
        update(InboxThere).where(InboxThere.inbox == inbox, InboxThere.machine == machine).values(**values)
    )


def _kinds(connection: Connection, inbox: str, machine: str) -> set[str]:
    """On which types of file system other machines have it."""
    others = InboxThere.inbox == inbox, InboxThere.machine != machine, InboxThere.kind.is_not(None)
    return {kind for kind in connection.scalars(select(InboxThere.kind).where(*others)) if kind is not None}


def _waits(connection: Connection, inbox: str) -> bool:
    found = connection.scalar(select(Scan.id).where(in_state(*WAITING), Scan.inbox == inbox).limit(1))
    return found is not None


def _witnesses(connection: Connection, inbox: str, last: int | None) -> list[tuple[bytes, int, int]]:
    """Films by which the inbox would be known: of those registered up to scan `last`, some that wait, some others."""
    film = (
        select(Scan.path_bytes, Scan.size, Scan.mtime_ns)
        .where(Scan.inbox == inbox, Scan.path_bytes != b"")
        .limit(WITNESSES)
    )
    last = (connection.scalar(select(func.max(Scan.id))) or 0) if last is None else last
    waiting = film.where(in_state(*WAITING), Scan.id <= last)
    latest = film.where(Scan.id <= last, Scan.id > last - LATEST).order_by(Scan.id.desc())
    rows = [row for statement in (waiting, latest) for row in connection.execute(statement)]
    return [(row.path_bytes, row.size, row.mtime_ns) for row in rows]


def _text(root: Path) -> str:
    return place.printable(os.fspath(root))
