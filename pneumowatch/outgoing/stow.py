"""STOW-RS: DICOM objects into a PACS by HTTP (PS3.18 10.5)."""

import io
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

from pneumowatch.errors import Undelivered
from pneumowatch.outgoing import post
from pneumowatch.settings import Settings

FAILED: Final = "00081198"  # Failed SOP Sequence
REASON: Final = "00081197"  # Failure Reason
DUPLICATE: Final = 0x0111  # it is there: an earlier attempt of ours, whose answer was lost
NONE_STORED: Final = 409


class Stow:
    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings.pacs_url.rstrip('/')}/studies"  # without the study's UID: URLs are logged everywhere
        self._token = settings.pacs_token
        self._seconds = settings.send_seconds

    def send(self, made: Sequence[Any]) -> None:
        """Raises Undelivered, as `post.post` and `stow_REASON`, the reason being DICOM's."""
        boundary = secrets.token_hex(16)
        headers = {
            "content-type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "accept": "application/dicom+json",
        }
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        body = _parts(made, boundary)
        answer = post.post(self._url, body, headers, self._seconds, read=True, also=(NONE_STORED,))
        failures = _failures(answer.body)
        if answer.status == NONE_STORED and not failures:
            raise Undelivered(f"http_{NONE_STORED}", away=False)
        for reason in failures:
            if reason != DUPLICATE:
                raise Undelivered(f"stow_{reason:04x}", away=False)


def _parts(made: Sequence[Any], boundary: str) -> bytes:
    body = bytearray()
    for dataset in made:
        body += f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + _file(dataset) + b"\r\n"
    return bytes(body + f"--{boundary}--\r\n".encode())


def _file(dataset: Any) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _failures(answer: bytes) -> list[int]:
    """DICOM's reasons for which objects were not stored; none where the answer names none, as that of a 200 must."""
    try:
        said = json.loads(answer or b"{}")
        said = said[0] if isinstance(said, list) else said
        return [int(item[REASON]["Value"][0]) for item in said.get(FAILED, {}).get("Value", [])]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
