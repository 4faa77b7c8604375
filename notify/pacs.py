"""Send a structured report of each flagged DICOM image to the PACS and, where there is a map, a secondary capture."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from notify import source_instance
from pneumowatch.errors import SettingsError
from pneumowatch.imaging import image_store
from pneumowatch.notification import Notification
from pneumowatch.settings import Settings

REQUIRED_PACKAGES: Final = ("highdicom", "pynetdicom")


class DicomStore(Protocol):
    """A client that stores DICOM objects in a PACS."""

    def send(self, datasets: Sequence[Any]) -> None:
        """Store these data sets. Raises DeliveryFailed where not all of them are stored."""


class Pacs:
    """The PACS channel. Raises SettingsError where its URL is invalid, or the extra `pacs` is not installed."""

    kind: Final = "pacs"

    def __init__(self, settings: Settings, inboxes: Mapping[str, Path]) -> None:
        missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise SettingsError(
                f"PNEUMOWATCH_PACS_URL is set, but {' and '.join(missing)} is not installed: pip install "
                "'pneumowatch[pacs]', or unset it."
            )
        self._store = _make_store(settings)
        self._inboxes = inboxes
        self._settings = settings

    def deliver(self, notifications: Sequence[Notification]) -> None:
        for notification in notifications:
            source = source_instance.find_source_instance(notification, self._inboxes, self._settings.max_bytes)
            with source_instance.pydicom_warnings_ignored():
                self._store.send(self._build_datasets(notification, source))

    def _build_datasets(self, notification: Notification, source: source_instance.SourceInstance) -> list[Any]:
        from notify import secondary_capture, structured_report

        datasets = [structured_report.build_report(notification, source)]
        pixels, heatmap = (
            load(self._settings.data_dir, notification.sha256)
            for load in (image_store.load_image, image_store.load_activation_map)
        )
        if pixels is not None and heatmap is not None:
            datasets.append(secondary_capture.build_capture(notification, source, pixels, heatmap))
        return datasets


def _make_store(settings: Settings) -> DicomStore:
    parts = urlsplit(settings.pacs_url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme in ("dicom", "dicoms") and parts.username and parts.hostname and port:
        from notify.association import Association

        return Association(settings, parts.username, parts.hostname, port, parts.scheme == "dicoms")
    if parts.scheme in ("http", "https") and parts.hostname:
        from notify.stow import StowClient

        return StowClient(settings)
    raise SettingsError(
        "PNEUMOWATCH_PACS_URL must be dicom://AET@HOST:PORT, dicoms://AET@HOST:PORT or https://HOST/dicom-web."
    )
