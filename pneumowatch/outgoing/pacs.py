"""Back to the PACS: of each flagged DICOM film a structured report and, where there is a map, a secondary capture."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from pneumowatch import kept
from pneumowatch.errors import SettingsError
from pneumowatch.outgoing import original
from pneumowatch.outgoing.notice import Notice
from pneumowatch.settings import Settings

EXTRA: Final = ("highdicom", "pynetdicom")


class Store(Protocol):
    """Where DICOM objects are stored."""

    def send(self, made: Sequence[Any]) -> None:
        """Raises Undelivered where not all of these data sets are stored there now."""


class Pacs:
    """Raises SettingsError where its URL cannot be so, or the extra `pacs` is not installed."""

    kind: Final = "pacs"

    def __init__(self, settings: Settings, inboxes: Mapping[str, Path]) -> None:
        missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
        if missing:
            raise SettingsError(
                f"PNEUMOWATCH_PACS_URL is set, but {' and '.join(missing)} is not installed: pip install "
                "'pneumowatch[pacs]', or unset it."
            )
        self._store = _store(settings)
        self._inboxes = inboxes
        self._settings = settings

    def deliver(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            film = original.find(notice, self._inboxes, self._settings.max_bytes)
            with original.quiet():
                self._store.send(self._made(notice, film))

    def _made(self, notice: Notice, film: original.Original) -> list[Any]:
        from pneumowatch.outgoing import capture, report

        made = [report.made(notice, film)]
        pixels, heat = (read(self._settings.data_dir, notice.sha256) for read in (kept.read, kept.read_map))
        if pixels is not None and heat is not None:
            made.append(capture.made(notice, film, pixels, heat))
        return made


def _store(settings: Settings) -> Store:
    parts = urlsplit(settings.pacs_url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme in ("dicom", "dicoms") and parts.username and parts.hostname and port:
        from pneumowatch.outgoing.association import Association

        return Association(settings, parts.username, parts.hostname, port, parts.scheme == "dicoms")
    if parts.scheme in ("http", "https") and parts.hostname:
        from pneumowatch.outgoing.stow import Stow

        return Stow(settings)
    raise SettingsError(
        "PNEUMOWATCH_PACS_URL is none of dicom://AET@HOST:PORT, dicoms://AET@HOST:PORT and https://HOST/dicom-web."
    )
