"""The webhook: one signed POST for each newly flagged scan, as Standard Webhooks specifies.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from notify import http_client
from pneumowatch import __version__
from pneumowatch.errors import DeliveryFailed, SettingsError
from pneumowatch.notification import Notification, review_link
from pneumowatch.settings import Settings

SECRET_PREFIX: Final = "whsec_"
RECEIVER_GONE: Final = "http_410"  # the receiver will never accept this message


class Webhook:
    """The webhook channel. Raises SettingsError where the URL is not http(s), or the signing secret is missing."""

    kind: Final = "webhook"

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        parts = urlsplit(settings.webhook_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("PNEUMOWATCH_WEBHOOK_URL must be an http:// or https:// URL.")
        if not settings.webhook_secret:
            raise SettingsError(
                "PNEUMOWATCH_WEBHOOK_SECRET (or PNEUMOWATCH_WEBHOOK_SECRET_FILE) is missing: receivers verify messages "
                "with it. Set the same secret on both sides."
            )
        self._url = settings.webhook_url
        self._secret = _signing_key(settings.webhook_secret)
        self._review_url = settings.review_url
        self._seconds = settings.send_seconds
        self._clock = clock

    def deliver(self, notifications: Sequence[Notification]) -> None:
        for notification in notifications:
            body = webhook_payload(notification, self._review_url)
            headers = signed_headers(self._secret, str(notification.uuid("webhook")), int(self._clock()), body)
            try:
                http_client.post(self._url, body, headers, self._seconds)
            except DeliveryFailed as failure:
                raise DeliveryFailed(
                    failure.kind, failure.unavailable, failure.kind == RECEIVER_GONE, failure.retry_after
                ) from None


def webhook_payload(notification: Notification, review_url: str) -> bytes:
    """Return the JSON document: the same bytes at every repeat, without patient, path or accession number."""
    payload = {
        "id": str(notification.uuid("webhook")),
        "type": "scan.flagged",
        "scan_id": notification.scan_id,
        "source": notification.source,
        "flagged": True,
        "probability": notification.probability,
        "threshold": notification.threshold,
        "model_version": notification.model_version,
        "caution": notification.caution,
        "received_at": notification.received_at.isoformat(),
        "finished_at": notification.finished_at.isoformat(),
        "url": review_link(review_url, notification.scan_id),
    }
    return json.dumps(payload).encode()


def signed_headers(secret: bytes, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message; `timestamp` is the time of the attempt, in seconds since 1970."""
    digest = hmac.new(secret, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": f"pneumowatch/{__version__}",
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _signing_key(secret: str) -> bytes:
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise SettingsError("PNEUMOWATCH_WEBHOOK_SECRET begins with whsec_, but the rest is not base64.") from None
