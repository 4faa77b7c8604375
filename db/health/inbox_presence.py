"""Tell whether an inbox is there: compare what this machine has registered with the folder that is there now.

A dropped mount leaves an empty folder, and a moved tree may be replaced by one. So a missing file has vanished only if
the folder in which it is missing is the inbox. This machine registers the inbox's identity
(`pneumowatch.mount_identity`) for itself, as machines of one deployment may mount an inbox at different places.

A folder with another identity may also be there for good: an inbox that was recreated, or a share on another server. It
is accepted as the inbox, and registered, as soon as no waiting scan can be lost by that:

- no scan waits; or
- it holds a file that was registered before the inbox became unavailable; or
- it has been there for PNEUMOWATCH_MOUNT_GRACE_SECONDS. This does not apply where a mount is missing: the scans wait,
  however long that takes.
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

from db.dialect import dialect_name, insert_or_ignore
from db.ledger import transitions
from db.ledger.statements import in_state
from db.models import Inbox, Scan
from db.session import Database
from db.states import WAITING
from pneumowatch import mount_identity, shared_files
from pneumowatch.errors import ShareUnavailable
from pneumowatch.logs import get_logger
from pneumowatch.mount_identity import MountedFolder

log = get_logger("inboxes")

INBOXES: Final[Any] = Inbox.__table__
MOUNT_SAMPLE_SIZE: Final = 200  # files to look for in a changed folder: waiting and latest ones, each
RECENT_SCANS: Final = 20_000  # the newest scans, from which the latest are taken
SEEN_AT_INTERVAL_SECONDS: Final = 60.0  # how often `seen_at` of a row is updated
MACHINE_EXPIRY: Final = timedelta(days=30)  # rows of machines that have not updated them for longer are deleted
CANNOT_BE_OPENED: Final = "its folder cannot be opened"
DOES_NOT_ANSWER: Final = "it does not answer"

IoContext = Callable[[], AbstractContextManager[None]]


class InboxState(StrEnum):
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class RescanReport:
    """The result of a rescan: how the inbox is watched, seconds it took, files that it saw."""

    watch_mode: str
    seconds: float
    files: int


class InboxPresence:
    """The availability of this machine's inboxes. Every component that may report a file as vanished uses it.

    Args:
        accept_after_seconds: how long a changed folder must be there before it is accepted as the inbox.
        machine: the name under which the inboxes are registered.
    """

    def __init__(self, database: Database, accept_after_seconds: float, machine: str | None = None) -> None:
        self._database = database
        self._accept_after = timedelta(seconds=accept_after_seconds)
        self._machine = machine or socket.gethostname()

    def check(self, inbox: str, root: Path, io_context: IoContext = nullcontext) -> bool:
        """Tell whether the inbox is there now. Raises ShareUnavailable if its folder cannot be opened at all.

        `io_context`: entered during file system calls, and not during database queries.
        """
        try:
            with io_context():
                found = mount_identity.identify_folder(root)
        except OSError as error:
            self.report_unavailable(inbox, root, f"{CANNOT_BE_OPENED}: {error.strerror}")
            raise ShareUnavailable(f"The inbox '{inbox}' cannot be opened: {error.strerror}.") from error
        return self.verify_mount(inbox, root, found, io_context)

    def verify_mount(self, inbox: str, root: Path, found: MountedFolder, io_context: IoContext = nullcontext) -> bool:
        """Tell whether the folder `found` is the inbox, so that a file missing in it has vanished.

        `io_context`: as in `check`.
        """
        known = self._database.read(lambda c: _select_row(c, inbox, self._machine))
        if known is not None and (known.identity, known.state) == (found.identity, InboxState.AVAILABLE):
            if (transitions.utc_now() - known.seen_at).total_seconds() > SEEN_AT_INTERVAL_SECONDS:
                self._database.write(lambda c: _update_row(c, inbox, self._machine, seen_at=transitions.utc_now()))
            return True
        mismatch = self._mismatch(inbox, root, known, found, io_context)
        if mismatch is None:
            self._mark_available(inbox, root, known, found)
        else:
            self._mark_unavailable(inbox, root, known, mismatch)
        return mismatch is None

    def report_unavailable(self, inbox: str, root: Path, why: str) -> None:
        """Report that the inbox is unavailable: `why`, in words without a path."""
        self._mark_unavailable(inbox, root, self._database.read(lambda c: _select_row(c, inbox, self._machine)), why)

    def record_rescan(self, inbox: str, rescan: RescanReport) -> None:
        """Record a finished rescan."""
        at = transitions.utc_now()
        values = {"watch_mode": rescan.watch_mode, "rescan_seconds": rescan.seconds, "files": rescan.files}
        self._database.write(lambda c: _update_row(c, inbox, self._machine, rescanned_at=at, seen_at=at, **values))

    def _mismatch(
        self, inbox: str, root: Path, known: Row[Any] | None, found: MountedFolder, io_context: IoContext
    ) -> str | None:
        """Return why the folder is not accepted as the inbox, or None if it is."""
        if known is not None and known.identity == found.identity:
            return None
        may_be_accepted = True
        if known is None or known.identity is None:
            filesystem_types = self._database.read(lambda c: _filesystem_types(c, inbox, self._machine))
            if not filesystem_types or found.kind in filesystem_types:
                return None
            mismatch = (
                f"its folder is on {found.kind} here, and on {' or '.join(sorted(filesystem_types))} on other machines"
            )
        elif known.root == _text(root) and found.beneath(known.mount_point):
            mismatch, may_be_accepted = f"nothing is mounted where it was ({known.kind})", False
        elif not self._database.read(lambda c: _has_waiting_scans(c, inbox)):
            return None
        else:
            mismatch = "another folder is in its place"
        last_scan_id = None if known is None else known.last_scan_id
        samples = self._database.read(lambda c: _sample_files(c, inbox, last_scan_id))
        with io_context():
            is_same = any(shared_files.is_unchanged(root, *sample) for sample in samples)
        if is_same:
            return None
        already_reported = known is not None and (known.state, known.detail) == (InboxState.UNAVAILABLE, mismatch)
        if may_be_accepted and already_reported and transitions.utc_now() - known.since >= self._accept_after:  # type: ignore[union-attr]
            return None
        return mismatch

    def _mark_available(self, inbox: str, root: Path, known: Row[Any] | None, found: MountedFolder) -> None:
        at = transitions.utc_now()
        values = {
            "root": _text(root),
            "kind": found.kind,
            "mount_point": found.mount_point,
            "identity": found.identity,
            "state": InboxState.AVAILABLE,
            "since": at,
            "detail": None,
            "last_scan_id": None,
            "seen_at": at,
        }

        def work(connection: Connection) -> None:
            _upsert(connection, inbox, self._machine, values)
            connection.execute(delete(Inbox).where(Inbox.seen_at < at - MACHINE_EXPIRY))
            transitions.make_due(connection, inbox)

        self._database.write(work)
        if known is None:
            log.info("an inbox is used for the first time on this machine", inbox=inbox, filesystem=found.kind)
        elif known.state == InboxState.UNAVAILABLE:
            seconds = round((at - known.since).total_seconds())
            log.info("an inbox is available again", inbox=inbox, filesystem=found.kind, after_seconds=seconds)
        else:
            log.info("another folder was accepted as the inbox", inbox=inbox, filesystem=found.kind)

    def _mark_unavailable(self, inbox: str, root: Path, known: Row[Any] | None, why: str) -> None:
        if known is not None and (known.state, known.detail) == (InboxState.UNAVAILABLE, why):
            return
        at = transitions.utc_now()

        def work(connection: Connection) -> None:
            values: dict[str, Any] = {"state": InboxState.UNAVAILABLE, "since": at, "detail": why, "seen_at": at}
            if known is None or known.state != InboxState.UNAVAILABLE:
                values["last_scan_id"] = connection.scalar(select(func.max(Scan.id))) or 0
            if known is None:
                values["root"] = _text(root)
            _upsert(connection, inbox, self._machine, values)

        self._database.write(work)
        log.warning("an inbox is unavailable; its scans wait until it is mounted again", inbox=inbox, why=why)


def require_available(database: Database, inbox: str, root: Path, machine: str | None = None) -> None:
    """Raise ShareUnavailable if this machine has reported the inbox as unavailable and it still is."""
    known = database.read(lambda c: _select_row(c, inbox, machine or socket.gethostname()))
    if known is None or known.state == InboxState.AVAILABLE:
        return
    try:
        is_back = mount_identity.identify_folder(root).identity == known.identity
    except OSError:
        is_back = False
    if not is_back:
        raise ShareUnavailable(f"The inbox '{inbox}' is unavailable: {known.detail}.")


def known_roots(connection: Connection, machine: str | None = None) -> dict[str, Path]:
    """Return {name: folder} of the inboxes that were available once on this machine."""
    on_this_machine = Inbox.machine == (machine or socket.gethostname()), Inbox.identity.is_not(None)
    found = connection.execute(select(Inbox.inbox, Inbox.root).where(*on_this_machine))
    return {row.inbox: Path(row.root) for row in found}


def inbox_states(connection: Connection) -> Sequence[dict[str, Any]]:
    """Return every inbox as every machine sees it, for `status` and `doctor`: the columns of `db.models.Inbox`."""
    found = connection.execute(select(INBOXES).order_by(Inbox.inbox, Inbox.machine))
    return [dict(row) for row in found.mappings()]


def _select_row(connection: Connection, inbox: str, machine: str) -> Row[Any] | None:
    return connection.execute(select(INBOXES).where(Inbox.inbox == inbox, Inbox.machine == machine)).one_or_none()


def _upsert(connection: Connection, inbox: str, machine: str, values: dict[str, Any]) -> None:
    new = {
        "root": "",
        "state": InboxState.UNAVAILABLE,
        "since": transitions.utc_now(),
        "seen_at": transitions.utc_now(),
        **values,
    }
    connection.execute(insert_or_ignore(dialect_name(connection), INBOXES).values(inbox=inbox, machine=machine, **new))
    _update_row(connection, inbox, machine, **values)


def _update_row(connection: Connection, inbox: str, machine: str, **values: Any) -> None:
    connection.execute(update(Inbox).where(Inbox.inbox == inbox, Inbox.machine == machine).values(**values))


def _filesystem_types(connection: Connection, inbox: str, machine: str) -> set[str]:
    """Return the file system types of the inbox on other machines."""
    on_other_machines = Inbox.inbox == inbox, Inbox.machine != machine, Inbox.kind.is_not(None)
    return {kind for kind in connection.scalars(select(Inbox.kind).where(*on_other_machines)) if kind is not None}


def _has_waiting_scans(connection: Connection, inbox: str) -> bool:
    found = connection.scalar(select(Scan.id).where(in_state(*WAITING), Scan.inbox == inbox).limit(1))
    return found is not None


def _sample_files(connection: Connection, inbox: str, last_scan_id: int | None) -> list[tuple[bytes, int, int]]:
    """Return files by which the inbox can be recognised: some that wait, and some others.

    Only those registered up to scan `last_scan_id` are taken.
    """
    sample = (
        select(Scan.path_bytes, Scan.size, Scan.mtime_ns)
        .where(Scan.inbox == inbox, Scan.path_bytes != b"")
        .limit(MOUNT_SAMPLE_SIZE)
    )
    last_scan_id = (connection.scalar(select(func.max(Scan.id))) or 0) if last_scan_id is None else last_scan_id
    waiting = sample.where(in_state(*WAITING), Scan.id <= last_scan_id)
    latest = sample.where(Scan.id <= last_scan_id, Scan.id > last_scan_id - RECENT_SCANS).order_by(Scan.id.desc())
    rows = [row for statement in (waiting, latest) for row in connection.execute(statement)]
    return [(row.path_bytes, row.size, row.mtime_ns) for row in rows]


def _text(root: Path) -> str:
    return mount_identity.escape_non_utf8(os.fspath(root))
