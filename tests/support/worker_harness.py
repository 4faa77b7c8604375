"""An inbox, its ledger and a worker's pipeline, for tests of what happens to images."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select, update

from db.ledger import registration, transitions
from db.ledger.file_version import FileVersion
from db.models import Prediction, Scan, ScanEvent
from db.session import Database
from pneumowatch.settings import Settings
from worker.inference.serving import ServedModel
from worker.pipeline import ScanProcessor

BATCH = 8
SETTLE = 60.0  # seconds, which tests let pass in the rows (`settle`), and never wait for
KEY = b"\xa5" * 32
IMAGES = [f"phantom-{number:04}-{('pneumonia', 'normal')[number % 2]}.jpeg" for number in range(1, 13)]


@dataclass
class WorkerHarness:
    """An inbox, its ledger, and a worker's pipeline."""

    inbox: Path
    database: Database
    processor: ScanProcessor
    serving: ServedModel
    settings: Settings

    def announce(self, *names: str | bytes, inbox: str = "inbox") -> list[int]:
        """Register and announce files as the watcher does; return the scans' ids in the order of their names.

        Files that are not there are announced as if they had been.
        """
        files = []
        for name in names:
            raw = os.fsencode(name)
            path = self.inbox / os.fsdecode(raw)
            size, mtime_ns = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (1000, 1)
            files.append(FileVersion(inbox, raw, size, mtime_ns))
        self.database.write(lambda c: registration.register_files(c, files, "watcher"))
        rows = self.database.read(lambda c: c.execute(select(Scan.path_bytes, Scan.id).order_by(Scan.id)).all())
        ids = {row.path_bytes: row.id for row in rows}
        return [ids[file.path] for file in files]

    def scan(self, scan_id: int) -> Row[Any]:
        return self.database.read(lambda c: c.execute(select(Scan.__table__).where(Scan.id == scan_id)).one())

    def scans(self) -> list[Row[Any]]:
        return list(self.database.read(lambda c: c.execute(select(Scan.__table__).order_by(Scan.id)).all()))

    def events(self, scan_id: int) -> list[tuple[str | None, str]]:
        statement = select(ScanEvent.from_state, ScanEvent.to_state).where(ScanEvent.scan_id == scan_id)
        rows = self.database.read(lambda c: c.execute(statement.order_by(ScanEvent.id)).all())
        return [(before, after) for before, after in rows]

    def read(self, permits: int = 100) -> None:
        """Announce what is due as the sweep does, and process it as a worker does."""
        self.sweep()
        self.processor.process(permits)

    def sweep(self) -> list[int]:
        return self.database.write(lambda c: transitions.mark_announced(c, Scan.announced_at.is_(None), 1000))

    def settle(self) -> None:
        """Make it so long ago that files changed and that scans were put off, that the files have settled and the
        scans are due."""
        passed = timedelta(seconds=SETTLE)

        def work(connection: Connection) -> None:
            for row in connection.execute(select(Scan.id, Scan.changed_at, Scan.not_before)).all():
                earlier = {"changed_at": row.changed_at - passed, "not_before": row.not_before - passed}
                connection.execute(update(Scan).where(Scan.id == row.id).values(earlier))

        self.database.write(work)

    def read_when_due(self) -> None:
        self.settle()
        self.read()


def stored_predictions(harness: WorkerHarness) -> list[tuple[int, str, float]]:
    rows = harness.database.read(
        lambda c: c.execute(select(Prediction.scan_id, Prediction.model_version, Prediction.probability)).all()
    )
    return sorted((row.scan_id, row.model_version, row.probability) for row in rows)
