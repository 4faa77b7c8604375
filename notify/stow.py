"""Store DICOM objects in a PACS by STOW-RS, over HTTP (PS3.18 10.5)."""

import io
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

from notify import http_client
from pneumowatch.errors import DeliveryFailed
from pneumowatch.settings import Settings

FAILED_SOP_SEQUENCE: Final = "00081198"
FAILURE_REASON: Final = "00081197"
DUPLICATE_REASON: Final = 0x0111  # already stored by an earlier attempt whose answer was lost
NONE_STORED: Final = 409


class StowClient:
    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings.pacs_url.rstrip('/')}/studies"  # without the study's UID: URLs are logged everywhere
        self._token = settings.pacs_token
        self._seconds = settings.send_seconds

    def send(self, datasets: Sequence[Any]) -> None:
        """Store these data sets. Raises DeliveryFailed as `http_client.post`, or `stow_REASON` with DICOM's reason."""
        boundary = secrets.token_hex(16)
        headers = {
            "content-type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "accept": "application/dicom+json",
        }
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        body = _multipart_body(datasets, boundary)
        answer = http_client.post(
            self._url, body, headers, self._seconds, read_body=True, accepted_statuses=(NONE_STORED,)
        )
        failures = _failure_reasons(answer.body)
        if answer.status == NONE_STORED and not failures:
            raise DeliveryFailed(f"http_{NONE_STORED}", unavailable=False)
        for reason in failures:
            if reason != DUPLICATE_REASON:
                raise DeliveryFailed(f"stow_{reason:04x}", unavailable=False)


def _multipart_body(datasets: Sequence[Any], boundary: str) -> bytes:
    body = bytearray()
    for dataset in datasets:
        body += f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + _encode(dataset) + b"\r\n"
    return bytes(body + f"--{boundary}--\r\n".encode())


def _encode(dataset: Any) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _failure_reasons(answer: bytes) -> list[int]:
    """Return DICOM's reasons why objects were not stored; none where the answer names none, as with status 200."""
    try:
        document = json.loads(answer or b"{}")
        document = document[0] if isinstance(document, list) else document
        return [
            int(item[FAILURE_REASON]["Value"][0]) for item in document.get(FAILED_SOP_SEQUENCE, {}).get("Value", [])
        ]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
