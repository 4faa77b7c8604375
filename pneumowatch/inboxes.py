"""Which folders are watched, under which names.

`uploads` is built in: what is handed in at the desk is written there, and comes the same way as everything else. It
lies in the data folder, or where PNEUMOWATCH_INBOXES says so, as it must where workers run on other machines.
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
STAT_TIMEOUT_SECONDS: Final = 5.0  # a folder that takes longer is one on a share that does not answer
UPLOADS: Final = "uploads"  # the only inbox that is ever written to
INBOX_FOLDER_MODE: Final = 0o750  # patients' films: nobody else's to list
NO_KNOWN_INBOXES: Final[Mapping[str, Path]] = MappingProxyType({})


def uploads_folder(settings: Settings) -> Path:
    """Where the desk writes; it need not be there."""
    return settings.inboxes.get(UPLOADS) or (settings.data_dir / UPLOADS).absolute()


def configured(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """{name: folder}: the one named on the command line, else the configured ones, else ./inbox; and `uploads`, where
    that is there."""
    own = uploads_folder(settings)
    return _configured_folders(settings, inbox) | ({UPLOADS: own} if own.is_dir() else {})


def validated(
    settings: Settings, inbox: Path | None = None, known: Mapping[str, Path] = NO_KNOWN_INBOXES
) -> dict[str, Path]:
    """Those of `configured`, for a worker: and `uploads`, which may be made at any time. One that is away is taken up when
    it comes, and keeps no other waiting.

    Args:
        known: inboxes that were there before (`db.health.inbox_presence.known_roots`): they will be again.

    Raises SettingsError where none is there or was, or where PNEUMOWATCH_WATCH_MODES names another.
    """
    inboxes = _configured_folders(settings, inbox)
    unknown = settings.watch_modes.keys() - inboxes.keys() - {UPLOADS}
    if unknown:
        raise SettingsError(
            f"PNEUMOWATCH_WATCH_MODES says how to watch '{min(unknown)}', which is no inbox here: {', '.join(inboxes)}."
        )
    others = {name: folder for name, folder in inboxes.items() if name != UPLOADS}
    if others and not any(known.get(name) == at or is_folder(at) is not False for name, at in others.items()):
        name, folder = next(iter(others.items()))
        raise SettingsError(f"The inbox '{name}' is not there: {folder} is no folder. Create it, or name another.")
    return inboxes | {UPLOADS: uploads_folder(settings)}


def watched(
    settings: Settings, inbox: Path | None = None, known: Mapping[str, Path] = NO_KNOWN_INBOXES
) -> dict[str, Path]:
    """Those of `validated`, for whoever lists them: `uploads` is made, or left out where it cannot be."""
    inboxes = validated(settings, inbox, known)
    try:
        inboxes[UPLOADS].mkdir(INBOX_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError:
        del inboxes[UPLOADS]
    return inboxes


def is_folder(folder: Path) -> bool | None:
    """None where a share that hangs cannot say: nobody must wait for it."""
    found: list[bool] = []
    probe = threading.Thread(target=lambda: found.append(os.path.isdir(folder)), name="look", daemon=True)  # noqa: PTH112 - no OSError
    probe.start()
    probe.join(STAT_TIMEOUT_SECONDS)
    return found[0] if found else None


def _configured_folders(settings: Settings, inbox: Path | None) -> dict[str, Path]:
    if inbox is not None:
        return {"inbox": inbox.absolute()}
    return settings.inboxes or {"inbox": DEFAULT_INBOX.absolute()}
