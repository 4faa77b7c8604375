"""Compare the inbox folders with the table and list the files without a row."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from db.health import inbox_presence
from db.ledger import registration
from db.session import Database
from watcher import directory

ENTRIES_PER_QUERY: Final = 1000


@dataclass(frozen=True)
class UnregisteredFile:
    """A file without a row: with the rule that ignores it, or why it cannot be told whether it needs a row."""

    source: str
    path: bytes
    rule: str


@dataclass
class ReconcileReport:
    files: int = 0  # with a row
    unregistered: list[UnregisteredFile] = field(default_factory=list)

    @property
    def rules(self) -> dict[str, int]:
        return dict(Counter(one.rule for one in self.unregistered))

    @property
    def closed(self) -> bool:
        """Whether every file has a row or a rule, and every folder and name could be examined."""
        return not any(one.rule in OPEN_RULES for one in self.unregistered)


MISSING: Final = "missing"
OPEN_RULES: Final = (MISSING, directory.UNREACHABLE, directory.UNLISTABLE)


def reconcile_inboxes(database: Database, inboxes: dict[str, Path]) -> ReconcileReport:
    """Compare all inboxes with the table and return the report.

    Raises ShareUnavailable where an inbox is away or cannot be listed: its files cannot be compared then.
    """
    report = ReconcileReport()
    for inbox, root in inboxes.items():
        inbox_presence.require_available(database, inbox, root)
        for entries in _chunks(directory.walk(inbox, root)):
            files = [entry.file for entry in entries if entry.file is not None]
            missing = database.read(partial(registration.unregistered_files, files=files))
            report.files += len(files) - len(missing)
            report.unregistered += [UnregisteredFile(inbox, file.path, MISSING) for file in missing]
            report.unregistered += [
                UnregisteredFile(inbox, e.path, e.rule) for e in entries if e.rule not in (None, directory.DISAPPEARED)
            ]
    return report


def _chunks(entries: Iterator[directory.InboxEntry]) -> Iterator[list[directory.InboxEntry]]:
    chunk: list[directory.InboxEntry] = []
    for entry in entries:
        chunk.append(entry)
        if len(chunk) == ENTRIES_PER_QUERY:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
