"""Every flagged image is notified, though the receiver refuses, fails, hangs and comes back, and the sender is killed.

Once with `up`, once with the components of a deployment; the receiver is a web server in a process of its own.
"""

import base64
import hashlib
import hmac
import json
import os
import signal
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from support import dicom_files
from support.http_receiver import Receiver
from support.programs import RunningCommand, environment, run
from support.services import Server, connect

from pneumowatch.imaging.phantom import draw_phantom

SECRET: Final = "a secret of both sides"
PLANTED: Final = ("Zwiebelfisch", "ZWIEBELFISCH", "P471108", "A471108")  # of nobody: in names, headers and file names
FLAGGED: Final = "SELECT scan_id FROM flagged_cases"


@dataclass
class Deployment:
    """What runs, and what can be done to it. `sender` is the component that delivers, and is killed."""

    folder: Path
    env: dict[str, str]
    ask: Callable[[str], list[tuple[Any, ...]]]
    receiver: Receiver
    stack: ExitStack
    senders: tuple[str, ...]
    parts: list[RunningCommand] = field(default_factory=list)
    images: int = 0

    def start(self, *commands: str) -> RunningCommand:
        part = RunningCommand(commands, self.folder, self.folder / f"{len(self.parts)}-{commands[0]}.log", self.env)
        self.parts.append(self.stack.enter_context(part))
        return part

    def drop(self, count: int) -> None:
        """Drop images, most of which the model flags."""
        for number in range(self.images + 1, self.images + count + 1):
            pixels = np.asarray(draw_phantom(number, True, 300, 280), np.uint8)
            header = {"PatientName": f"{PLANTED[0]}^Ada", "PatientID": PLANTED[2], "AccessionNumber": PLANTED[3]}
            image = dicom_files.make_dicom(pixels, number=number, **header)
            outside = self.folder / "image"
            outside.write_bytes(image)
            outside.rename(self.folder / "inbox" / f"{PLANTED[1]}-{number}.dcm")
        self.images += count

    def read(self) -> bool:
        return len(self.ask("SELECT 1 FROM scan_ledger WHERE finished_at IS NOT NULL")) == self.images

    def sent(self) -> bool:
        states = {state for (state,) in self.ask("SELECT state FROM outbox")}
        return states == {"sent"} and len(self.ask(FLAGGED)) == len(self.ask("SELECT 1 FROM outbox"))


def environ(folder: Path, receiver: Receiver, **more: object) -> dict[str, str]:
    (folder / "inbox").mkdir()
    (folder / "secret").write_text(f"{SECRET}\n")
    usual: dict[str, object] = {
        "webhook_url": receiver.url,
        "webhook_secret_file": folder / "secret",
        "settle_seconds": 0.2,
        "sweep_seconds": 0.2,
        "decoders": 1,
        "lease_seconds": 5,
        "send_seconds": 0.8,
        "resend_seconds": 0.2,
        "resend_cap_seconds": 1,
    }
    return environment(**{**usual, **more})


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "receiver", "fail")
    yield receiver
    receiver.stop()


@pytest.fixture
def single(tmp_path: Path, receiver: Receiver) -> Iterator[Deployment]:
    """`up`."""

    def ask(statement: str) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"file:{tmp_path}/data/pneumowatch.db?mode=ro", uri=True)) as connection:
                return connection.execute(statement).fetchall()
        except sqlite3.OperationalError:  # it is not there yet
            return []

    with ExitStack() as stack:
        yield Deployment(tmp_path, environ(tmp_path, receiver), ask, receiver, stack, ("up",))


@pytest.fixture
def department(tmp_path: Path, receiver: Receiver, own_redis: Server, postgres_database: str) -> Iterator[Deployment]:
    """`watch`, `work`, and two of `schedule`."""

    def ask(statement: str) -> list[tuple[Any, ...]]:
        with connect(postgres_database) as connection:
            return connection.execute(statement).fetchall()

    env = environ(
        tmp_path,
        receiver,
        inboxes=f"ward={tmp_path / 'inbox'}",
        data_dir=tmp_path / "data",
        database_url=postgres_database,
        broker_url=own_redis.url,
    )
    assert run("db", "upgrade", cwd=tmp_path, env=env).code == 0
    with ExitStack() as stack:
        deployment = Deployment(tmp_path, env, ask, receiver, stack, ("schedule", "schedule"))
        deployment.start("watch")
        deployment.start("work")
        yield deployment


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "department"])
def test_none_is_lost_and_none_is_doubled(kind: str, request: pytest.FixtureRequest) -> None:
    deployment: Deployment = request.getfixturevalue(kind)
    receiver = deployment.receiver
    senders = [deployment.start(command) for command in deployment.senders]

    deployment.drop(5)  # the receiver is not there
    senders[0].wait_until(deployment.read)
    senders[0].wait_until(lambda: deployment.ask("SELECT 1 FROM outbox WHERE attempts > 1"))
    receiver.start()  # it is, and fails
    senders[0].wait_until(lambda: len(receiver.requests("fail")) >= 4)
    receiver.does("hang")  # it hangs, and images are read all the same
    deployment.drop(1)
    senders[0].wait_until(deployment.read)
    before = len(receiver.requests("hang"))
    senders[0].wait_until(lambda: len(receiver.requests("hang")) > before)
    for sender in senders:  # in mid-delivery, at least one of them
        os.kill(sender.process.pid, signal.SIGKILL)
        sender.process.wait()
    receiver.does("take")
    # on a busy machine, an answer within 0.8 seconds may come too late: then it would rightly be told again
    deployment.env["PNEUMOWATCH_SEND_SECONDS"] = "30"
    senders = [deployment.start(command) for command in deployment.senders]
    deployment.drop(1)
    senders[0].wait_until(lambda: deployment.read() and deployment.sent())

    assert_each_was_told_once(deployment)
    assert_all_say_the_same_and_are_signed(receiver)
    assert_status_says_so(deployment)
    assert_no_patient_is_named(deployment)
    for part in deployment.parts:
        if part.process.poll() is None:
            assert part.terminate() == 0, part.said()


def assert_each_was_told_once(deployment: Deployment) -> None:
    flagged = sorted(scan_id for (scan_id,) in deployment.ask(FLAGGED))
    assert len(flagged) >= 5
    taken = sorted(json.loads(one["body"])["scan_id"] for one in deployment.receiver.requests("take"))
    assert taken == flagged


def assert_all_say_the_same_and_are_signed(receiver: Receiver) -> None:
    said = defaultdict(set)
    for one in receiver.requests():
        headers, body = one["headers"], one["body"].encode("latin-1")
        said[json.loads(body)["scan_id"]].add((headers["webhook-id"], body))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
    assert all(len(repeats) == 1 for repeats in said.values()), said
    ids = [id_ for repeats in said.values() for id_, _ in repeats]
    assert len(set(ids)) == len(ids)
    assert len(receiver.requests()) > len(receiver.requests("take"))


def assert_status_says_so(deployment: Deployment) -> None:
    ended = run("status", "--json", cwd=deployment.folder, env=deployment.env)
    told = len(deployment.ask(FLAGGED))
    assert ended.json["outbox"] == {"webhook": {"waiting": 0, "sent": told, "given_up": 0}}
    assert run("outbox", "--json", cwd=deployment.folder, env=deployment.env).json["undelivered"] == []


def assert_no_patient_is_named(deployment: Deployment) -> None:
    said = [(deployment.folder / "receiver" / "log").read_text("utf-8"), *(part.said() for part in deployment.parts)]
    assert not [name for name in (*PLANTED, SECRET) for text in said if name in text]


@pytest.mark.slow
def test_once_tells_at_its_end_and_what_fails_is_told_by_the_next(tmp_path: Path, receiver: Receiver) -> None:
    with ExitStack() as stack:
        env = environ(tmp_path, receiver, send_seconds=30)
        deployment = Deployment(tmp_path, env, lambda _: [], receiver, stack, ())
        deployment.drop(6)
        first = run("up", "--once", cwd=tmp_path, env=env)
        assert first.code == 0, first.err
        told = len(run("flagged", "--json", "--limit", "100", cwd=tmp_path, env=env).json)
        assert told > 0
        assert f"webhook: 0 delivered, {told} wait" in first.out
        receiver.does("take")
        receiver.start()
        second = run("up", "--once", cwd=tmp_path, env=env)
        assert second.code == 0, second.err
        assert f"webhook: {told} delivered, 0 wait" in second.out
        assert len(receiver.requests()) == told


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"webhook_url": "https://host.example/"}, "PNEUMOWATCH_WEBHOOK_SECRET"),
        ({"mail_url": "smtp://host.example"}, "PNEUMOWATCH_MAIL_FROM"),
        ({"pacs_url": "pacs:104"}, "PNEUMOWATCH_PACS_URL"),
    ],
)
def test_a_way_out_that_is_set_wrong_is_a_sentence(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    (tmp_path / "inbox").mkdir()
    ended = run("up", "--once", cwd=tmp_path, env=environment(**settings))
    assert ended.code == 1
    assert named in ended.err
    assert "Traceback" not in ended.err
