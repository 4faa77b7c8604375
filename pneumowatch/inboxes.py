"""Which folders are watched, under which names.

`uploads` is built in: what is handed in at the desk is written there, and comes the same way as everything else. It
lies in the data folder, or where PNEUMOWATCH_INBOXES says so, as it must where workers run on other machines.
"""

from pathlib import Path
from typing import Final

from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

DEFAULT: Final = Path("inbox")
UPLOADS: Final = "uploads"  # the only inbox that is ever written to
MODE: Final = 0o750  # patients' films: nobody else's to list


def uploads(settings: Settings) -> Path:
    """Where the desk writes; it need not be there."""
    return settings.inboxes.get(UPLOADS) or (settings.data_dir / UPLOADS).absolute()


def named(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """{name: folder}: the one named on the command line, else the configured ones, else ./inbox; and `uploads`, where
    that is there."""
    own = uploads(settings)
    return _given(settings, inbox) | ({UPLOADS: own} if own.is_dir() else {})


def choose(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """Those of `named`, for a worker: and `uploads`, which may be made at any time. Raises SettingsError where another
    one is not there."""
    inboxes = _given(settings, inbox)
    for name, folder in inboxes.items():
        if not folder.is_dir() and name != UPLOADS:
            raise SettingsError(f"The inbox '{name}' is not there: {folder} is no folder. Create it, or name another.")
    return inboxes | {UPLOADS: uploads(settings)}


def watched(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """Those of `choose`, for whoever lists them: `uploads` is made, or left out where it cannot be."""
    inboxes = choose(settings, inbox)
    try:
        inboxes[UPLOADS].mkdir(MODE, parents=True, exist_ok=True)
    except OSError:
        del inboxes[UPLOADS]
    return inboxes


def _given(settings: Settings, inbox: Path | None) -> dict[str, Path]:
    if inbox is not None:
        return {"inbox": inbox.absolute()}
    return settings.inboxes or {"inbox": DEFAULT.absolute()}
