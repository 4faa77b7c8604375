"""Store DICOM objects in a PACS by C-STORE: one association per delivery, with TLS where configured (PS3.4 B)."""

import logging
import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from pneumowatch.errors import DeliveryFailed, SettingsError
from pneumowatch.settings import Settings

EXPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"

SUCCESS: Final = 0x0000
WARNING_STATUSES: Final = (0xB000, 0xB006, 0xB007)  # stored, with values changed or dropped
DUPLICATE_STATUS: Final = 0x0111  # already stored by an earlier attempt whose answer was lost
OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)

# Its log lines may quote what is sent, including the patient.
_pynetdicom_log = logging.getLogger("pynetdicom")
_pynetdicom_log.propagate = False
_pynetdicom_log.addHandler(logging.NullHandler())


class Association:
    """A C-STORE client for one PACS. Raises SettingsError where the AE title or the certificate cannot be used."""

    def __init__(self, settings: Settings, ae_title: str, host: str, port: int, tls: bool) -> None:
        self._called_ae_title = unquote(ae_title)
        if not 1 <= len(self._called_ae_title) <= 16:
            raise SettingsError("PNEUMOWATCH_PACS_URL: an AE title has 1 to 16 characters.")
        self._calling_ae_title = settings.pacs_calling_ae_title
        self._host = host
        self._port = port
        self._seconds = settings.send_seconds
        self._tls = _tls_context(settings) if tls else None

    def send(self, datasets: Sequence[Any]) -> None:
        """Store these data sets.

        Raises DeliveryFailed: `pacs_unreachable`, `pacs_rejects_us`, `pacs_refuses_class`, `timeout`, `pacs_STATUS`.
        """
        association = self._associate(datasets)
        try:
            for dataset in datasets:
                _check_status(_store_instance(association, dataset))
        finally:
            if association.is_established:
                association.release()

    def _associate(self, datasets: Sequence[Any]) -> Any:
        from pynetdicom import AE

        application_entity = AE(self._calling_ae_title)
        application_entity.connection_timeout = application_entity.acse_timeout = application_entity.dimse_timeout = (
            self._seconds
        )
        application_entity.network_timeout = self._seconds
        for dataset in datasets:
            # every PACS accepts implicit little-endian
            application_entity.add_requested_context(
                dataset.SOPClassUID, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN]
            )
        tls = (self._tls, self._host) if self._tls else None
        association = application_entity.associate(self._host, self._port, ae_title=self._called_ae_title, tls_args=tls)
        if not association.is_established:
            raise DeliveryFailed("pacs_rejects_us" if association.is_rejected else "pacs_unreachable")
        return association


def _store_instance(association: Any, dataset: Any) -> int | None:
    """Store one data set and return the status in the answer of the PACS; None where there is no answer."""
    try:
        status = association.send_c_store(dataset).get("Status")
    except ValueError:  # the PACS accepted no presentation context for this class
        raise DeliveryFailed("pacs_refuses_class", unavailable=False) from None
    except RuntimeError:  # the association was closed
        return None
    return None if status is None else int(status)


def _check_status(status: int | None) -> None:
    if status is None:
        raise DeliveryFailed("timeout")
    if status not in (SUCCESS, DUPLICATE_STATUS, *WARNING_STATUSES):
        raise DeliveryFailed(f"pacs_{status:04x}", unavailable=status in OUT_OF_RESOURCES)


def _tls_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.pacs_cert_file:
        try:
            context.load_cert_chain(settings.pacs_cert_file)
        except (OSError, ssl.SSLError):
            raise SettingsError(
                "PNEUMOWATCH_PACS_CERT_FILE is not a readable file with a certificate and its key (PEM)."
            ) from None
    return context
