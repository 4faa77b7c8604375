"""Which folders are watched, under which names."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

DEFAULT: Final = Path("inbox")
ANSWER_SECONDS: Final = 5.0  # a folder that takes longer is one on a share that does not answer


def named(settings: Settings, inbox: Path | None = None) -> dict[str, Path]:
    """{name: folder}: the one named on the command line, else the configured ones, else ./inbox."""
    if inbox is not None:
        return {"inbox": inbox.absolute()}
    return settings.inboxes or {"inbox": DEFAULT.absolute()}


def choose(
    settings: Settings, inbox: Path | None = None, known: Mapping[str, Path] = MappingProxyType({})
) -> dict[str, Path]:
    """Those of `named`. One that is away is taken up when it comes, and keeps no other waiting.

    Args:
        known: inboxes that were there before (`db.presence.known_here`): they will be again.

    Raises SettingsError where none is there or was, or where PNEUMOWATCH_WATCHING names another.
    """
    inboxes = named(settings, inbox)
    unknown = settings.watching.keys() - inboxes.keys()
    if unknown:
        raise SettingsError(
            f"PNEUMOWATCH_WATCHING says how to watch '{min(unknown)}', which is no inbox here: {', '.join(inboxes)}."
        )
    if not any(known.get(name) == folder or is_folder(folder) is not False for name, folder in inboxes.items()):
        name, folder = next(iter(inboxes.items()))
        raise SettingsError(f"The inbox '{name}' is not there: {folder} is no folder. Create it, or name another.")
    return inboxes


def is_folder(folder: Path) -> bool | None:
    """None where a share that hangs cannot say: nobody must wait for it."""
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(os.path.isdir(folder)), name="look", daemon=True)  # noqa: PTH112 - no OSError
    asking.start()
    asking.join(ANSWER_SECONDS)
    return found[0] if found else None
