"""Which films go first: those that lie in a folder of a certain name, wherever it stands on their path."""

import unicodedata
from collections.abc import Collection
from dataclasses import replace

from db.ledger.file_version import FileVersion
from db.models import STAT


def urgent_folder_names(setting: str) -> frozenset[str]:
    """`STAT, er` as the names to compare with."""
    return frozenset(_folded(name.strip()) for name in setting.split(",") if name.strip())


def with_priority(file: FileVersion, urgent_folders: Collection[str]) -> FileVersion:
    """The file, with priority STAT where its inbox or any component of its path bears one of the names of `urgent_folder_names`."""
    parts = (file.inbox, *file.path.decode("utf-8", "surrogateescape").split("/"))
    return replace(file, priority=STAT) if any(_folded(part) in urgent_folders for part in parts) else file


def _folded(name: str) -> str:
    """As two machines may write it: in capitals or not, its accents composed or not."""
    return unicodedata.normalize("NFC", name.casefold())
