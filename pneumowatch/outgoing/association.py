"""C-STORE: DICOM objects into a PACS over an association of its own, in TLS where that is asked for (PS3.4 B)."""

import logging
import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from pneumowatch.errors import SettingsError, Undelivered
from pneumowatch.settings import Settings

EXPLICIT: Final = "1.2.840.10008.1.2.1"  # transfer syntaxes, both little-endian
IMPLICIT: Final = "1.2.840.10008.1.2"

SUCCESS: Final = 0x0000
WARNINGS: Final = (0xB000, 0xB006, 0xB007)  # stored, with values changed or left out
DUPLICATE: Final = 0x0111  # it is there: an earlier attempt of ours, whose answer was lost
OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)

# Its lines may quote what is sent, patients among it.
_talk = logging.getLogger("pynetdicom")
_talk.propagate = False
_talk.addHandler(logging.NullHandler())


class Association:
    """Raises SettingsError where the certificate cannot be read."""

    def __init__(self, settings: Settings, title: str, host: str, port: int, tls: bool) -> None:
        self._called = unquote(title)
        if not 1 <= len(self._called) <= 16:
            raise SettingsError("PNEUMOWATCH_PACS_URL: an AE title has 1 to 16 characters.")
        self._calling = settings.pacs_calling
        self._host = host
        self._port = port
        self._seconds = settings.send_seconds
        self._tls = _tls(settings) if tls else None

    def send(self, made: Sequence[Any]) -> None:
        """Raises Undelivered: `pacs_unreachable`, `pacs_rejects_us`, `pacs_refuses_class`, `timeout`, `pacs_STATUS`."""
        association = self._associate(made)
        try:
            for dataset in made:
                _judge(_stored(association, dataset))
        finally:
            if association.is_established:
                association.release()

    def _associate(self, made: Sequence[Any]) -> Any:
        from pynetdicom import AE

        entity = AE(self._calling)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = self._seconds
        entity.network_timeout = self._seconds
        for dataset in made:
            entity.add_requested_context(dataset.SOPClassUID, [EXPLICIT, IMPLICIT])  # the latter everybody knows
        tls = (self._tls, self._host) if self._tls else None
        association = entity.associate(self._host, self._port, ae_title=self._called, tls_args=tls)
        if not association.is_established:
            raise Undelivered("pacs_rejects_us" if association.is_rejected else "pacs_unreachable")
        return association


def _stored(association: Any, dataset: Any) -> int | None:
    """The status with which the PACS answered; None where it did not."""
    try:
        status = association.send_c_store(dataset).get("Status")
    except ValueError:  # it accepted no presentation context for this class
        raise Undelivered("pacs_refuses_class", away=False) from None
    except RuntimeError:  # the association is gone
        return None
    return None if status is None else int(status)


def _judge(status: int | None) -> None:
    if status is None:
        raise Undelivered("timeout")
    if status not in (SUCCESS, DUPLICATE, *WARNINGS):
        raise Undelivered(f"pacs_{status:04x}", away=status in OUT_OF_RESOURCES)


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.pacs_cert_file:
        try:
            context.load_cert_chain(settings.pacs_cert_file)
        except (OSError, ssl.SSLError):
            raise SettingsError(
                "PNEUMOWATCH_PACS_CERT_FILE is no file with a certificate and its key (PEM) that can be read."
            ) from None
    return context
