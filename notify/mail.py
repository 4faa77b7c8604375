"""E-mail: one message for all scans flagged since the last one, with their ids and links to the review app."""

import smtplib
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import uuid5

from pneumowatch.errors import DeliveryFailed, SettingsError
from pneumowatch.logs import get_logger
from pneumowatch.notification import Notification, review_link
from pneumowatch.settings import Settings

log = get_logger("mail")

DEFAULT_PORTS: Final = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


class Mail:
    """The e-mail channel. Raises SettingsError where server, sender or recipients are missing or invalid."""

    kind: Final = "mail"

    def __init__(self, settings: Settings) -> None:
        self._scheme, self._host, self._port, self._user = _parse_server_url(settings.mail_url)
        self._password = settings.mail_password
        self._from = settings.mail_from.strip()
        self._to = [address.strip() for address in settings.mail_to.split(",") if address.strip()]
        for name, addresses in (("MAIL_FROM", [self._from]), ("MAIL_TO", self._to)):
            if not addresses or not all(_is_address(address) for address in addresses):
                raise SettingsError(f"PNEUMOWATCH_{name} must hold e-mail addresses like name@hospital.example.")
        if self._user and not self._password:
            raise SettingsError("PNEUMOWATCH_MAIL_PASSWORD (or PNEUMOWATCH_MAIL_PASSWORD_FILE) is missing.")
        self._review_url = settings.review_url
        self._seconds = settings.send_seconds

    def deliver(self, notifications: Sequence[Notification]) -> None:
        email = compose_email(notifications, self._review_url, self._from, self._to)
        try:
            refused = self._send(email)
        except smtplib.SMTPResponseException as error:
            raise DeliveryFailed(f"smtp_{error.smtp_code}") from None
        except smtplib.SMTPRecipientsRefused:
            raise DeliveryFailed("smtp_recipients_refused") from None
        except TimeoutError:
            raise DeliveryFailed("timeout") from None
        except smtplib.SMTPNotSupportedError:
            # no STARTTLS or no login: nothing is sent unencrypted
            raise DeliveryFailed("smtp_not_supported") from None
        except ssl.SSLError:
            raise DeliveryFailed("tls_failed") from None
        except smtplib.SMTPException:
            raise DeliveryFailed("broken_connection") from None
        except OSError:
            raise DeliveryFailed("no_connection") from None
        if refused:  # not retried: the other recipients would get it twice
            log.warning("the mail server refused some recipients; check PNEUMOWATCH_MAIL_TO", refused=len(refused))

    def _send(self, email: EmailMessage) -> Mapping[str, object]:
        """Send an e-mail and return the refused recipients; smtplib raises where all are refused."""
        server = self._connected()
        try:
            if self._user:
                server.login(self._user, self._password)
            return server.send_message(email)
        finally:
            with suppress(OSError):  # the message is sent already; errors of smtplib are OSErrors
                server.quit()

    def _connected(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self._scheme == "smtps":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._seconds, context=context)
        server = smtplib.SMTP(self._host, self._port, timeout=self._seconds)
        try:
            if self._scheme == "smtp":
                server.starttls(context=context)
        except BaseException:
            server.close()
            raise
        return server


def compose_email(
    notifications: Sequence[Notification], review_url: str, sender: str, recipients: Sequence[str]
) -> EmailMessage:
    """Compose an e-mail that contains nothing of a patient. The same scans give the same Message-ID."""
    count = len(notifications)
    images_were = "1 image was" if count == 1 else f"{count} images were"
    email = EmailMessage()
    email["Subject"] = f"pneumowatch: {images_were} newly flagged"
    email["From"] = sender
    email["To"] = ", ".join(recipients)
    email["Date"] = format_datetime(datetime.now(UTC))
    scans = ",".join(
        str(notification.uuid("mail"))
        for notification in sorted(notifications, key=lambda notification: notification.scan_id)
    )
    email["Message-ID"] = f"<{uuid5(notifications[0].deployment, scans)}@{sender.partition('@')[2]}>"
    email["Auto-Submitted"] = "auto-generated"
    lines = [f"{images_were} newly flagged for pneumonia:", ""]
    for notification in notifications:
        url = review_link(review_url, notification.scan_id)
        lines.append(f"  scan {notification.scan_id}" + (f"  {url}" if url else ""))
    lines += ["", "Research and triage only; no medical device. An image that is not flagged is not cleared.", ""]
    email.set_content("\n".join(lines))
    return email


def _parse_server_url(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and user. Raises SettingsError where the URL cannot be used."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        scheme, host, port = "", None, 0
    if not host:
        raise SettingsError(
            "PNEUMOWATCH_MAIL_URL must be smtp://USER@HOST:587 (STARTTLS), smtps://USER@HOST:465 (TLS) or "
            "smtp+plain://HOST:25."
        )
    if parts.password:
        raise SettingsError("PNEUMOWATCH_MAIL_URL holds a password; put it into PNEUMOWATCH_MAIL_PASSWORD_FILE.")
    return scheme, host, port, unquote(parts.username or "")


def _is_address(text: str) -> bool:
    name, at, host = text.rpartition("@")
    return bool(name and at and host) and text.isprintable() and not set(text) & set(' ,;<>"')
