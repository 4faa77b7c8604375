"""The folders that are watched, and the names of these inboxes.

`uploads` is built in: the review app writes uploaded files there, and they are processed like all others. It is in the
data folder, or where PNEUMOWATCH_INBOXES says. The latter is required where workers run on other machines.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

DEFAULT_INBOX: Final = Path("inbox")
STAT_TIMEOUT_SECONDS: Final = 5.0  # a slower folder is on a share that does not answer
UPLOADS: Final = "uploads"  # the only inbox that pneumowatch writes to
INBOX_FOLDER_MODE: Final = 0o750  # patients' images: no other user may list them
NO_KNOWN_INBOXES: Final[Mapping[str, Path]] = MappingProxyType({})


def uploads_folder(settings: Settings) -> Path:
    """Return the folder that the review app writes uploads to; it may not exist yet."""
    return settings.inboxes.get(UPLOADS) or (settings.data_dir / UPLOADS).absolute()


def configured(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """Return {name: folder}: the one named on the command line, else the configured ones, else ./inbox.

    `uploads` is among them where its folder exists.
    """
    own = uploads_folder(settings)
    return _configured_folders(settings, inbox) | ({UPLOADS: own} if own.is_dir() else {})


def validated(
    settings: Settings, inbox: Path | None = None, known: Mapping[str, Path] = NO_KNOWN_INBOXES
) -> dict[str, Path]:
    """Return the inboxes of `configured` for a worker, always with `uploads`: its folder may be created at any time.

    An inbox that is unavailable now is used once it is back, and delays no other.

    Args:
        known: inboxes that were available before (`db.health.inbox_presence.known_roots`): they are expected back.

    Raises SettingsError where no inbox is or was available, or where PNEUMOWATCH_WATCH_MODES names an unknown one.
    """
    inboxes = _configured_folders(settings, inbox)
    unknown = settings.watch_modes.keys() - inboxes.keys() - {UPLOADS}
    if unknown:
        raise SettingsError(
            f"PNEUMOWATCH_WATCH_MODES names '{min(unknown)}', which is not an inbox here: {', '.join(inboxes)}."
        )
    others = {name: folder for name, folder in inboxes.items() if name != UPLOADS}
    if others and not any(known.get(name) == at or is_folder(at) is not False for name, at in others.items()):
        name, folder = next(iter(others.items()))
        raise SettingsError(f"The inbox '{name}' is not there: {folder} is not a folder. Create it, or name another.")
    return inboxes | {UPLOADS: uploads_folder(settings)}


def watched(
    settings: Settings, inbox: Path | None = None, known: Mapping[str, Path] = NO_KNOWN_INBOXES
) -> dict[str, Path]:
    """Return the inboxes of `validated` for a watcher: create `uploads`, or leave it out where that fails."""
    inboxes = validated(settings, inbox, known)
    try:
        inboxes[UPLOADS].mkdir(INBOX_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError:
        del inboxes[UPLOADS]
    return inboxes


def is_folder(folder: Path) -> bool | None:
    """Tell whether this is a folder; return None where its share does not answer in time, so that no caller hangs."""
    found: list[bool] = []
    probe = threading.Thread(target=lambda: found.append(os.path.isdir(folder)), name="look", daemon=True)  # noqa: PTH112 - no OSError
    probe.start()
    probe.join(STAT_TIMEOUT_SECONDS)
    return found[0] if found else None


def _configured_folders(settings: Settings, inbox: Path | None) -> dict[str, Path]:
    if inbox is not None:
        return {"inbox": inbox.absolute()}
    return settings.inboxes or {"inbox": DEFAULT_INBOX.absolute()}
