"""Holding the folders against the table: is there a file that nobody has counted?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from db import arrivals, presence
from db.session import Database
from watcher import rescan

CHUNK: Final = 1000  # files of one query


@dataclass(frozen=True)
class Unlisted:
    """A file without a row: the rule that ignores it, or why nobody can say whether it should have one."""

    source: str
    path: bytes
    rule: str


@dataclass
class Report:
    files: int = 0  # with a row
    unlisted: list[Unlisted] = field(default_factory=list)

    @property
    def rules(self) -> dict[str, int]:
        return dict(Counter(one.rule for one in self.unlisted))

    @property
    def closed(self) -> bool:
        """Every file has a row or a rule, and nothing is there of which that cannot be said."""
        return not any(one.rule in OPEN for one in self.unlisted)


MISSING: Final = "missing"
OPEN: Final = (MISSING, rescan.UNREACHABLE, rescan.UNLISTABLE)


def reconcile(database: Database, inboxes: dict[str, Path]) -> Report:
    """Raises ShareAway where an inbox is away, or cannot be listed: that proves nothing."""
    report = Report()
    for inbox, root in inboxes.items():
        presence.require(database, inbox, root)
        for entries in _chunks(rescan.walk(inbox, root)):
            files = [entry.file for entry in entries if entry.file is not None]
            missing = database.read(partial(arrivals.unknown, files=files))
            report.files += len(files) - len(missing)
            report.unlisted += [Unlisted(inbox, file.path, MISSING) for file in missing]
            report.unlisted += [Unlisted(inbox, e.path, e.rule) for e in entries if e.rule not in (None, rescan.GONE)]
    return report


def _chunks(entries: Iterator[rescan.Entry]) -> Iterator[list[rescan.Entry]]:
    chunk: list[rescan.Entry] = []
    for entry in entries:
        chunk.append(entry)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
