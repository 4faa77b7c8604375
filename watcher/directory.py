"""Walk a shared folder: yield every file in it, or the rule that ignores it. No file is opened."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from db.ledger.file_version import FileVersion
from pneumowatch.errors import ShareUnavailable
from pneumowatch.logs import get_logger
from watcher.ignore_rules import ignore_rule

log = get_logger("watcher")

DISAPPEARED: Final = "gone"  # removed between listing and stat
UNREACHABLE: Final = "unreachable"  # listed, but stat fails
UNLISTABLE: Final = "unlistable"  # a folder that cannot be listed


@dataclass(frozen=True)
class InboxEntry:
    """A name found in an inbox: either a `file`, or the `rule` that says why it is not a scan."""

    path: bytes
    file: FileVersion | None
    rule: str | None


def walk(inbox: str, root: Path, below: bytes = b"") -> Iterator[InboxEntry]:
    """Yield everything beneath an inbox except folders. Links are not followed.

    A subfolder that cannot be listed is an entry too, because its content is unknown.

    Raises:
        ShareUnavailable: the inbox itself cannot be listed.
    """
    base = os.fsencode(root)
    folders = [below]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(base, folder)) as entries:
                for entry in entries:
                    path = os.path.join(folder, entry.name)
                    if ignore_rule(path) is None and _is_folder(entry):
                        folders.append(path)
                    else:
                        yield _inspect_entry(inbox, path, entry)
        except OSError as error:
            if folder == b"":
                raise ShareUnavailable(f"The inbox '{inbox}' cannot be listed: {error.strerror}.") from error
            if not isinstance(error, FileNotFoundError):  # a folder that was moved away meanwhile is no fault
                log.warning("a folder in an inbox cannot be listed", inbox=inbox, error=error.strerror)
                yield InboxEntry(folder, None, UNLISTABLE)


def inspect(inbox: str, root: Path, path: bytes) -> InboxEntry | None:
    """Return one path as `walk` would yield it; None where it does not exist or is a folder."""
    try:
        status = os.lstat(os.path.join(os.fsencode(root), path))
    except OSError:
        return None
    return None if stat.S_ISDIR(status.st_mode) else _make_entry(inbox, path, status)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # `_inspect_entry` meets the same fault and reports it


def _inspect_entry(inbox: str, path: bytes, entry: os.DirEntry[bytes]) -> InboxEntry:
    rule = ignore_rule(path)
    if rule is not None:
        return InboxEntry(path, None, rule)
    try:
        return _make_entry(inbox, path, entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return InboxEntry(path, None, DISAPPEARED)
    except OSError:
        return InboxEntry(path, None, UNREACHABLE)  # a stale NFS handle, say: it must not hide the names after it


def _make_entry(inbox: str, path: bytes, status: os.stat_result) -> InboxEntry:
    rule = ignore_rule(path)
    if rule is None and stat.S_ISLNK(status.st_mode):
        rule = "link"
    elif rule is None and not stat.S_ISREG(status.st_mode):
        rule = "not a file"
    if rule is not None:
        return InboxEntry(path, None, rule)
    return InboxEntry(path, FileVersion(inbox, path, status.st_size, status.st_mtime_ns), None)
