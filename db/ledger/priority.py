"""Find the files that go first: those in a folder of a certain name, anywhere on their path."""

import unicodedata
from collections.abc import Collection
from dataclasses import replace

from db.ledger.file_version import FileVersion
from db.models import STAT


def urgent_folder_names(setting: str) -> frozenset[str]:
    """Parse the setting, such as `STAT, er`, into names to compare with."""
    return frozenset(_folded(name.strip()) for name in setting.split(",") if name.strip())


def with_priority(file: FileVersion, urgent_folders: Collection[str]) -> FileVersion:
    """Return the file, with priority STAT if its inbox or a component of its path is in `urgent_folders`."""
    parts = (file.inbox, *file.path.decode("utf-8", "surrogateescape").split("/"))
    return replace(file, priority=STAT) if any(_folded(part) in urgent_folders for part in parts) else file


def _folded(name: str) -> str:
    """Normalise a name: machines may differ in capitals and in how they compose accents."""
    return unicodedata.normalize("NFC", name.casefold())
