"""The webhook's payload, signed as by Standard Webhooks, and each way in which a receiver can fail."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from support.http_receiver import Receiver, receiving
from support.services import HOST, free_port

from notify.webhook import Webhook, signed_headers, webhook_payload
from pneumowatch.errors import DeliveryFailed, SettingsError
from pneumowatch.notification import Notification
from pneumowatch.settings import Settings

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
NOTIFICATION = Notification(
    UUID(int=7), 12, "a" * 64, "ward", 0.91, 0.276, "compact-1", "age", AT, AT, (("ward", b"DOE/JANE.dcm"),)
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("receiver")) as receiver:
        yield receiver


def webhook(url: str, seconds: float = 30, **more: Any) -> Webhook:
    given = {"webhook_url": url, "webhook_secret": "s3cret", "send_seconds": seconds, **more}
    return Webhook(Settings(**given))


def failure(channel: Webhook, notification: Notification = NOTIFICATION) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        channel.deliver([notification])
    return caught.value


def test_the_document_says_the_result_and_nothing_of_the_patient() -> None:
    said = webhook_payload(NOTIFICATION, "https://review.example/")
    assert json.loads(said) == {
        "id": str(NOTIFICATION.uuid("webhook")),
        "type": "scan.flagged",
        "scan_id": 12,
        "source": "ward",
        "flagged": True,
        "probability": 0.91,
        "threshold": 0.276,
        "model_version": "compact-1",
        "caution": "age",
        "received_at": "2026-05-04T03:02:01+00:00",
        "finished_at": "2026-05-04T03:02:01+00:00",
        "url": "https://review.example/scans/12",
    }
    assert b"DOE" not in said
    assert json.loads(webhook_payload(NOTIFICATION, ""))["url"] is None


def test_its_id_is_of_this_image_in_this_deployment_alone() -> None:
    others = [
        replace(NOTIFICATION, scan_id=13),
        replace(NOTIFICATION, sha256="b" * 64),  # as after a restore, when ids are given out again
        replace(NOTIFICATION, deployment=UUID(int=8)),
    ]
    assert len({notification.uuid("webhook") for notification in (NOTIFICATION, *others)}) == 4
    assert NOTIFICATION.uuid("webhook") == replace(NOTIFICATION, probability=0.5, caution=None).uuid("webhook")
    assert NOTIFICATION.uuid("webhook") != NOTIFICATION.uuid("mail")


def test_signed_as_the_example_of_standard_webhooks() -> None:
    """https://github.com/standard-webhooks/standard-webhooks, the libraries' own test vector."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("secret", "key"), [("whsec_MfKQ9r8GKYqr", base64.b64decode("MfKQ9r8GKYqr")), ("some words", b"some words")]
)
def test_a_receiver_can_tell_that_it_is_ours(receiver: Receiver, secret: str, key: bytes) -> None:
    receiver.does("take")
    webhook(receiver.url, webhook_secret=secret).deliver([NOTIFICATION])
    request = receiver.requests()[-1]
    headers, body = request["headers"], request["body"].encode("latin-1")
    assert (request["path"], headers["content-type"]) == ("/hook", "application/json")
    assert body == webhook_payload(NOTIFICATION, "")
    assert headers["webhook-id"] == json.loads(body)["id"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize(
    ("mode", "kind", "away", "final", "wait"),
    [
        ("fail", "http_500", True, False, 0),
        ("busy", "http_503", True, False, 7),
        ("unknown", "http_404", False, False, 0),
        ("gone", "http_410", False, True, 0),
    ],
)
def test_what_an_answer_means(receiver: Receiver, mode: str, kind: str, away: bool, final: bool, wait: float) -> None:
    receiver.does(mode)
    found = failure(webhook(receiver.url))
    assert (found.kind, found.unavailable, found.permanent, found.retry_after) == (kind, away, final, wait)


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.does("moved")
    assert failure(webhook(receiver.url)).kind == "http_302"
    assert receiver.requests()[-1]["path"] == "/hook"


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_receiver_that_hangs_is_left_after_the_bound(receiver: Receiver, mode: str) -> None:
    receiver.does(mode)
    assert failure(webhook(receiver.url, seconds=0.5)).kind == "timeout"
    receiver.does("take")


def test_a_receiver_that_is_not_there() -> None:
    found = failure(webhook(f"http://{HOST}:{free_port()}/"))
    assert (found.kind, found.unavailable) == ("no_connection", True)


def test_a_receiver_that_hangs_up(receiver: Receiver) -> None:
    receiver.does("drop")
    assert failure(webhook(receiver.url)).kind == "broken_connection"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"webhook_url": "ftp://host/x"}, "PNEUMOWATCH_WEBHOOK_URL"),
        ({"webhook_url": "https:///x"}, "PNEUMOWATCH_WEBHOOK_URL"),
        ({"webhook_secret": ""}, "PNEUMOWATCH_WEBHOOK_SECRET_FILE"),
        ({"webhook_secret": "whsec_?"}, "not base64"),
    ],
)
def test_settings_that_cannot_be_used(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Webhook(Settings(**{"webhook_url": "http://host/", "webhook_secret": "s3cret", **given}))
