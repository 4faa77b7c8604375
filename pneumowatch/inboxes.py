"""Which folders are watched, under which names."""

from pathlib import Path
from typing import Final

from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

DEFAULT: Final = Path("inbox")


def named(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """{name: folder}: the one named on the command line, else the configured ones, else ./inbox."""
    if inbox is not None:
        return {"inbox": inbox.absolute()}
    return settings.inboxes or {"inbox": DEFAULT.absolute()}


def choose(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """Those of `named`. Raises SettingsError where one is not there."""
    inboxes = named(settings, inbox)
    for name, folder in inboxes.items():
        if not folder.is_dir():
            raise SettingsError(f"The inbox '{name}' is not there: {folder} is no folder. Create it, or name another.")
    return inboxes
