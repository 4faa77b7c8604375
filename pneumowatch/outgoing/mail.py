"""E-mail: one message for all scans that were flagged since the last, with their ids and links to the desk."""

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

from pneumowatch.errors import SettingsError, Undelivered
from pneumowatch.logs import get
from pneumowatch.outgoing.notice import Notice, link
from pneumowatch.settings import Settings

log = get("mail")

PORTS: Final = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


class Mail:
    """Raises SettingsError where server, sender or recipients are missing or cannot be so."""

    kind: Final = "mail"

    def __init__(self, settings: Settings) -> None:
        self._scheme, self._host, self._port, self._user = _server(settings.mail_url)
        self._password = settings.mail_password
        self._from = settings.mail_from.strip()
        self._to = [address.strip() for address in settings.mail_to.split(",") if address.strip()]
        for name, addresses in (("MAIL_FROM", [self._from]), ("MAIL_TO", self._to)):
            if not addresses or not all(_is_address(address) for address in addresses):
                raise SettingsError(f"PNEUMOWATCH_{name} holds no e-mail address like name@hospital.example.")
        if self._user and not self._password:
            raise SettingsError("PNEUMOWATCH_MAIL_PASSWORD (or PNEUMOWATCH_MAIL_PASSWORD_FILE) is missing.")
        self._desk = settings.desk_url
        self._seconds = settings.send_seconds

    def deliver(self, notices: Sequence[Notice]) -> None:
        letter = message(notices, self._desk, self._from, self._to)
        try:
            refused = self._send(letter)
        except smtplib.SMTPResponseException as error:
            raise Undelivered(f"smtp_{error.smtp_code}") from None
        except smtplib.SMTPRecipientsRefused:
            raise Undelivered("smtp_recipients_refused") from None
        except TimeoutError:
            raise Undelivered("timeout") from None
        except smtplib.SMTPNotSupportedError:
            raise Undelivered("smtp_not_supported") from None  # no STARTTLS, or no login: nothing is sent in the open
        except ssl.SSLError:
            raise Undelivered("tls_failed") from None
        except smtplib.SMTPException:
            raise Undelivered("broken_connection") from None
        except OSError:
            raise Undelivered("no_connection") from None
        if refused:  # the others have it: sent again, they would have it twice
            log.warning("the mail server refused some of the recipients; see PNEUMOWATCH_MAIL_TO", refused=len(refused))

    def _send(self, letter: EmailMessage) -> Mapping[str, object]:
        """The recipients that were refused, if not all were."""
        server = self._connected()
        try:
            if self._user:
                server.login(self._user, self._password)
            return server.send_message(letter)
        finally:
            with suppress(OSError):  # a farewell that goes wrong takes nothing back; smtplib's errors are of this kind
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


def message(notices: Sequence[Notice], desk_url: str, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """A letter that says nothing of a patient. About the same scans it has the same Message-ID."""
    count = len(notices)
    films = "1 film was" if count == 1 else f"{count} films were"
    letter = EmailMessage()
    letter["Subject"] = f"pneumowatch: {films} newly flagged"
    letter["From"] = sender
    letter["To"] = ", ".join(recipients)
    letter["Date"] = format_datetime(datetime.now(UTC))
    scans = ",".join(str(notice.name("mail")) for notice in sorted(notices, key=lambda notice: notice.scan_id))
    letter["Message-ID"] = f"<{uuid5(notices[0].deployment, scans)}@{sender.partition('@')[2]}>"
    letter["Auto-Submitted"] = "auto-generated"
    lines = [f"{films} newly flagged for pneumonia:", ""]
    for notice in notices:
        at = link(desk_url, notice.scan_id)
        lines.append(f"  scan {notice.scan_id}" + (f"  {at}" if at else ""))
    lines += ["", "Research and triage only; no medical device. What is not flagged is not cleared.", ""]
    letter.set_content("\n".join(lines))
    return letter


def _server(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and user."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        scheme, host, port = "", None, 0
    if not host:
        raise SettingsError(
            "PNEUMOWATCH_MAIL_URL is no smtp://USER@HOST:587 (STARTTLS), smtps://USER@HOST:465 (TLS) or "
            "smtp+plain://HOST:25."
        )
    if parts.password:
        raise SettingsError("PNEUMOWATCH_MAIL_URL holds a password; put it into PNEUMOWATCH_MAIL_PASSWORD_FILE.")
    return scheme, host, port, unquote(parts.username or "")


def _is_address(text: str) -> bool:
    name, at, host = text.rpartition("@")
    return bool(name and at and host) and text.isprintable() and not set(text) & set(' ,;<>"')
