"""E-mail through an SMTP server: the message, and each way in which sending can fail."""

import email
import email.policy
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.certificates import make_certificate
from support.services import HOST, free_port

from notify.mail import Mail, compose_email
from pneumowatch.errors import DeliveryFailed, SettingsError
from pneumowatch.notification import Notification
from pneumowatch.settings import Settings

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
NOTIFICATION = Notification(
    UUID(int=7), 12, "a" * 64, "ward", 0.91, 0.276, "compact-1", None, AT, AT, (("ward", b"DOE/JANE.dcm"),)
)
OTHER = replace(NOTIFICATION, scan_id=13, sha256="b" * 64)


class SentMail(socketserver.ThreadingTCPServer):
    """A mail server: its answers can be changed by command, and what it accepts is in `letters`."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that does not trust our certificate ends in the middle

    def __init__(self) -> None:
        super().__init__((HOST, 0), Talk)
        self.answers: dict[str, str] = {}
        self.offers = ["AUTH PLAIN"]
        self.letters: list[tuple[list[str], bytes]] = []
        self.said: list[str] = []
        self.tls: ssl.SSLContext | None = None


class Talk(socketserver.StreamRequestHandler):
    server: SentMail

    def handle(self) -> None:
        recipients: list[str] = []
        if self.server.tls is not None and "STARTTLS" not in self.server.offers:
            self._wrap()
        self._say("220 here")
        while line := self.rfile.readline():
            words = line.decode().strip()
            self.server.said.append(words)
            command, address = words.split(":")[0].split(" ")[0].upper(), words.partition("<")[2].rstrip(">")
            usual = {
                "EHLO": "250-here",
                "QUIT": "221 bye",
                "STARTTLS": "220 go on",
                "DATA": "354 go on",
                "AUTH": "235 known",
            }.get(command, "250 ok")
            answer = self.server.answers.get(address, self.server.answers.get(command, usual))
            if answer == "hang up":
                return
            self._say(answer)
            if command == "EHLO":
                for offer in self.server.offers:
                    self._say(f"250-{offer}")
                self._say("250 8BITMIME")
            if command == "RCPT" and answer.startswith("250"):
                recipients.append(address)
            if command == "STARTTLS":
                self._wrap()
            if answer.startswith("354"):
                self.server.letters.append((recipients, b"".join(iter(self.rfile.readline, b".\r\n"))))
                self._say(self.server.answers.get("letter", "250 taken"))

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def _wrap(self) -> None:
        assert self.server.tls is not None
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.setup()

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")


@pytest.fixture
def post() -> Iterator[SentMail]:
    with SentMail() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def mail(post: SentMail, scheme: str = "smtp+plain", user: str = "", **more: Any) -> Mail:
    url = f"{scheme}://{user}{HOST}:{post.server_address[1]}"
    given = {"mail_url": url, "mail_from": "watch@clinic.example", "mail_to": "a@clinic.example, b@clinic.example"}
    return Mail(Settings(**{**given, "review_url": "https://review.example", "send_seconds": 30, **more}))


def failure(channel: Mail) -> str:
    with pytest.raises(DeliveryFailed) as caught:
        channel.deliver([NOTIFICATION])
    return caught.value.kind


def test_one_letter_with_scan_ids_and_links(post: SentMail) -> None:
    mail(post, user="ada@", mail_password="s3cret").deliver([NOTIFICATION, OTHER])
    ((recipients, data),) = post.letters
    assert recipients == ["a@clinic.example", "b@clinic.example"]
    letter = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(letter, EmailMessage)
    assert letter["Subject"] == "pneumowatch: 2 images were newly flagged"
    text = letter.get_content()
    for scan_id in (12, 13):
        assert f"scan {scan_id}  https://review.example/scans/{scan_id}" in text
    assert "no medical device" in text
    for secret in (b"DOE", b"JANE", b"0.91", b"s3cret"):
        assert secret not in data
    assert any(line.startswith("AUTH PLAIN") for line in post.said)


def test_the_same_images_make_the_same_letter() -> None:
    def id_(*notifications: Notification) -> str:
        return str(compose_email(notifications, "", "watch@clinic.example", ["a@clinic.example"])["Message-ID"])

    assert id_(NOTIFICATION, OTHER) == id_(OTHER, NOTIFICATION)
    assert len({id_(NOTIFICATION), id_(OTHER), id_(NOTIFICATION, OTHER)}) == 3
    assert id_(NOTIFICATION).endswith("@clinic.example>")


def test_some_recipients_are_better_than_none(post: SentMail) -> None:
    post.answers = {"a@clinic.example": "550 who"}
    mail(post).deliver([NOTIFICATION])
    assert [recipients for recipients, _ in post.letters] == [["b@clinic.example"]]


def test_a_rude_farewell_is_no_failure(post: SentMail) -> None:
    post.answers = {"QUIT": "500 what"}
    mail(post).deliver([NOTIFICATION])
    assert len(post.letters) == 1


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"RCPT": "550 who"}, "smtp_recipients_refused"),
        ({"MAIL": "451 later"}, "smtp_451"),
        ({"letter": "554 no"}, "smtp_554"),
        ({"AUTH": "535 wrong"}, "smtp_535"),
        ({"DATA": "hang up"}, "broken_connection"),
    ],
)
def test_what_can_go_wrong(post: SentMail, answers: dict[str, str], kind: str) -> None:
    post.answers = answers
    assert failure(mail(post, user="ada@", mail_password="s3cret")) == kind


def test_nothing_is_sent_in_the_open_where_that_was_not_asked_for(post: SentMail) -> None:
    assert failure(mail(post, scheme="smtp", user="ada@", mail_password="s3cret")) == "smtp_not_supported"
    assert not [line for line in post.said if not line.startswith(("EHLO", "ehlo", "QUIT", "quit"))]
    assert post.letters == []


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_in_tls(post: SentMail, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = make_certificate(tmp_path)
    post.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    post.tls.load_cert_chain(pem)
    post.offers += ["STARTTLS"] if scheme == "smtp" else []
    channel = mail(post, scheme, "ada@", mail_password="s3cret")
    assert failure(channel) == "tls_failed"  # nobody vouches for it
    assert post.letters == []
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    channel.deliver([NOTIFICATION])
    assert len(post.letters) == 1


def test_a_server_that_is_not_there(post: SentMail) -> None:
    nowhere = f"smtp+plain://{HOST}:{free_port()}"
    assert failure(mail(post, mail_url=nowhere)) == "no_connection"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mail_url": "http://host"}, "PNEUMOWATCH_MAIL_URL"),
        ({"mail_url": "smtp://host:port"}, "PNEUMOWATCH_MAIL_URL"),
        ({"mail_url": "smtp://ada:s3cret@host"}, "PNEUMOWATCH_MAIL_PASSWORD_FILE"),
        ({"mail_url": "smtp://ada@host"}, "PNEUMOWATCH_MAIL_PASSWORD"),
        ({"mail_from": ""}, "PNEUMOWATCH_MAIL_FROM"),
        ({"mail_to": " , "}, "PNEUMOWATCH_MAIL_TO"),
        ({"mail_to": "a@b.example,nobody"}, "PNEUMOWATCH_MAIL_TO"),
        ({"mail_from": "a@b.example\nBcc: c@d.example"}, "PNEUMOWATCH_MAIL_FROM"),
    ],
)
def test_settings_that_cannot_be_used(post: SentMail, given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        mail(post, **given)
    assert "s3cret" not in str(caught.value)
