"""Failures in the pipeline: images that kill or fail their worker, and a worker that can read none."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update
from support import fault_injection
from support.waiting import eventually
from support.worker_harness import BATCH, IMAGES, WorkerHarness, stored_predictions

from db.ledger import transitions
from db.models import Scan, ScanEvent
from db.states import State
from pneumowatch.errors import DeviceOutOfMemory, ShuttingDown
from pneumowatch.imaging import reader
from worker import circuit_breaker, decode, pipeline
from worker.decode import DecoderPool
from worker.inference.classifier import Classifier
from worker.inference.serving import ServedModel
from worker.pipeline import ScanProcessor


def quarantine(harness: WorkerHarness, ids: list[int]) -> None:
    """Quarantine scans as after a worker died while it held them."""
    harness.database.write(lambda c: c.execute(update(Scan).where(Scan.id.in_(ids)).values(lost_leases=1)))


def test_quarantined_scans_are_read_one_by_one_and_exclusively(harness: WorkerHarness, monkeypatch: Any) -> None:
    ids = harness.announce(*IMAGES)
    quarantine(harness, ids[::3])
    lock = threading.Lock()
    inside: dict[int, set[int]] = {}
    met: list[tuple[set[int], set[int]]] = []
    real = ScanProcessor._process_monitored

    def watched(processor: ScanProcessor, claim: Any, serving: ServedModel) -> None:
        mine = {scan.id for scan in claim.scans}
        with lock:
            met.extend((mine, other) for other in inside.values())
            inside[threading.get_ident()] = mine
        assert harness.scan(claim.scans[0].id).exclusive == claim.quarantined
        real(processor, claim, serving)
        with lock:
            del inside[threading.get_ident()]

    monkeypatch.setattr(ScanProcessor, "_process_monitored", watched)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(harness.read, 3) for _ in range(4)]:
            future.result(60)
    harness.read()
    quarantined = set(ids[::3])
    assert {scan.state for scan in harness.scans()} == {State.CLASSIFIED}
    assert not [pair for pair in met if (pair[0] | pair[1]) & quarantined]


def test_an_image_that_kills_its_decoder_is_rejected_and_its_neighbours_are_read(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "read_and_decode", fault_injection.read_and_decode)
    (harness.inbox / "bad.jpeg").write_bytes(fault_injection.KILL)
    ids = harness.announce("bad.jpeg", *IMAGES[:5])
    harness.read()
    assert [harness.scan(scan_id).state for scan_id in ids] == [State.REJECTED] + [State.CLASSIFIED] * 5
    assert harness.scan(ids[0]).reason == "unreadable"


# errors in a living worker


class Moody:
    """A model that raises where it is given certain images, or as many, or any at all."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.bad: list[np.ndarray] = []  # images on which it raises
        self.ill: Exception | None = None  # what it raises on every image
        self.calls: list[int] = []  # images of each

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, images: Any) -> Any:
        self.calls.append(len(images))
        if self.ill is not None:
            raise self.ill
        if any((one == bad).all() for one in images for bad in self.bad):
            raise ZeroDivisionError("on one image")
        return self._model.predict(images)


@pytest.fixture
def moody(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> Moody:
    model = Moody(harness.serving.model)
    monkeypatch.setattr(harness.serving._batcher, "_predictor", model)
    monkeypatch.setattr(pipeline, "ERROR_RETRY_DELAY", timedelta(0))  # what waits is due at once
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE_DELAY", 0.01)
    return model


def pixels_of(harness: WorkerHarness, name: str) -> np.ndarray:
    return reader.read_pixels((harness.inbox / name).read_bytes(), harness.serving.side)


def test_an_image_over_which_the_model_raises_is_found_and_failed_and_the_others_are_classified(
    harness: WorkerHarness, moody: Moody
) -> None:
    ids = harness.announce(*IMAGES)
    moody.bad.append(pixels_of(harness, IMAGES[3]))
    harness.read(8)  # the bad one's batch
    scans = harness.scans()
    assert {scan.state for scan in scans} == {State.QUEUED}
    assert [scan.lost_leases for scan in scans] == [1] * 8 + [0] * 4
    for _ in range(14):
        harness.read(1)
    states = {scan.id: scan.state for scan in harness.scans()}
    assert states == dict.fromkeys(ids, State.CLASSIFIED) | {ids[3]: State.FAILED}
    bad = harness.scan(ids[3])
    assert (bad.lost_leases, bad.lost_leases_exclusive, bad.probability) == (4, 3, None)
    assert "3 times" in bad.detail
    assert "ZeroDivisionError" in bad.detail
    assert bad.claim_token is None
    assert harness.events(ids[3])[1:] == [("queued", "running"), ("running", "queued")] * 3 + [
        ("queued", "running"),
        ("running", "failed"),
    ]
    harness.read()
    assert len(stored_predictions(harness)) == len(IMAGES) - 1


def test_an_image_that_raises_alone_is_not_read_again_at_once(
    harness: WorkerHarness, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "ERROR_RETRY_DELAY", timedelta(seconds=30))
    (scan_id,) = harness.announce(IMAGES[0])
    moody.bad.append(pixels_of(harness, IMAGES[0]))
    harness.read(1)
    harness.read(5)
    scan = harness.scan(scan_id)
    assert (scan.state, scan.lost_leases, scan.lost_leases_exclusive) == (State.QUEUED, 2, 1)
    assert scan.not_before > transitions.utc_now() + timedelta(seconds=20)
    harness.read(5)
    assert harness.scan(scan_id).lost_leases == 2


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused worker tries again within a second."""
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE_DELAY", 0.1)
    monkeypatch.setattr(circuit_breaker, "LAST_PROBE_DELAY", 0.8)


@contextmanager
def healed_at_last(moody: Moody) -> Iterator[None]:
    """Let the model work again at the end, also where the test fails: its threads would wait for that."""
    try:
        yield
    finally:
        moody.ill = None


@pytest.mark.usefixtures("soon")
def test_a_worker_that_cannot_read_at_all_fails_no_image_and_waits(harness: WorkerHarness, moody: Moody) -> None:
    """As with a full or broken GPU: scans go back uncounted, and no more are claimed until it works."""
    ids = harness.announce(*IMAGES)
    moody.ill = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
    with ThreadPoolExecutor(4) as pool, healed_at_last(moody):
        reading = [pool.submit(harness.read, 12) for _ in range(4)]
        eventually(lambda: len(moody.calls) >= 12)
        rows = eventually(lambda: all_queued(harness))  # a thread may come late
        assert {(scan.lost_leases, scan.lost_leases_exclusive) for scan in rows} == {(0, 0)}
        moves = sum(len(harness.events(scan_id)) for scan_id in ids)
        moody.ill = None
        for future in reading:
            future.result(60)
    assert moves <= 12 + 2 * 4 * BATCH  # one claim of each thread, given back
    harness.read()
    assert {scan.state for scan in harness.scans()} == {State.CLASSIFIED}
    assert {scan.lost_leases for scan in harness.scans()} == {0}


@pytest.mark.usefixtures("soon")
def test_a_card_that_does_not_hold_one_image_costs_no_image_an_attempt(harness: WorkerHarness, moody: Moody) -> None:
    (scan_id,) = harness.announce(IMAGES[0])
    quarantine(harness, [scan_id])  # read alone, and still not blamed
    moody.ill = DeviceOutOfMemory("full")
    with ThreadPoolExecutor(1) as pool, healed_at_last(moody):
        reading = pool.submit(harness.read, 5)
        eventually(lambda: len(moody.calls) >= 5)
        assert (harness.scan(scan_id).state, harness.scan(scan_id).lost_leases_exclusive) == (State.QUEUED, 0)
        moody.ill = None
        reading.result(60)
    harness.read()
    assert (harness.scan(scan_id).state, harness.scan(scan_id).lost_leases_exclusive) == (State.CLASSIFIED, 0)


def test_an_error_of_the_ledger_is_held_against_no_image_where_all_end_in_it(
    harness: WorkerHarness, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the database was restored from before this model was registered."""
    ids = harness.announce(*IMAGES)
    monkeypatch.setattr(harness.serving.model, "version", "unheard-of")
    harness.read(12)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [harness.read(5) for _ in range(4)])
        eventually(lambda: any("could not process" in (event or "") for event in details(harness)))
        monkeypatch.undo()
        reading.result(60)
    for _ in range(12):
        harness.read(1)
    assert [harness.scan(scan_id).state for scan_id in ids] == [State.CLASSIFIED] * 12


def all_queued(harness: WorkerHarness) -> list[Any]:
    """Return its scans once all of them wait; else none."""
    rows = harness.scans()
    return rows if all(scan.state == State.QUEUED for scan in rows) else []


def details(harness: WorkerHarness) -> list[str | None]:
    return list(harness.database.read(lambda c: c.execute(select(ScanEvent.detail)).scalars().all()))


class Killed(BaseException):
    """Stands for the death of the process in a thread; nothing in a worker catches it."""


class Mortal:
    """A worker process that dies on certain images: none of its threads writes anything from then on."""

    def __init__(
        self, harness: WorkerHarness, classifier: Classifier, decoders: DecoderPool, number: int, killers: set[int]
    ) -> None:
        self.dead, self.by, self._database, self._killers = False, f"worker@test:{number}", harness.database, killers
        self.serving = ServedModel(classifier, BATCH)
        inboxes = {"inbox": harness.inbox}
        self.processor = ScanProcessor(harness.settings, inboxes, self, self.serving, decoders, self.by)  # type: ignore[arg-type]
        self._fetch = self.processor._fetch
        self.processor._fetch = self.fetch  # type: ignore[method-assign]

    def write(self, work: Any) -> Any:
        if self.dead:
            raise Killed
        return self._database.write(work)

    def fetch(self, claim: Any, side: int) -> Any:
        if self._killers & {scan.id for scan in claim.scans}:
            self.dead = True
        return self._fetch(claim, side)

    def live(self) -> None:
        """Run four threads until nothing is left to claim, or the worker dies."""
        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(self.processor.process, 1000) for _ in range(4)]:
                with suppress(Killed):
                    one.result(60)
        self.serving.close()

    def bury(self) -> None:
        """Release its scans as the sweep does after a lease."""
        held = select(Scan.id, Scan.claim_token).where(Scan.state == State.RUNNING, Scan.claimed_by == self.by)
        pairs = [(row.id, row.claim_token) for row in self._database.read(lambda c: c.execute(held).all())]
        self._database.write(lambda c: transitions.expire_claims(c, pairs, 3, "sweep"))


def test_an_image_that_kills_workers_is_found_among_two_of_four_threads_each_and_its_mates_are_read(
    harness: WorkerHarness, classifier: Classifier, decoders: DecoderPool
) -> None:
    for copy in range(4):
        for number, name in enumerate(IMAGES):
            data = (harness.inbox / name).read_bytes()
            (harness.inbox / f"copy-{copy}-{number}.jpeg").write_bytes(data + bytes(copy + 1))
    ids = harness.announce(*sorted(path.name for path in harness.inbox.iterdir()))
    killers = {ids[11], ids[40]}
    lost_leases = 0
    for generation in range(20):
        pair = [Mortal(harness, classifier, decoders, 2 * generation + one, killers) for one in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for living in [pool.submit(mortal.live) for mortal in pair]:
                living.result(90)
        for mortal in pair:
            mortal.bury()
        harness.sweep()
        lost_leases += sum(mortal.dead for mortal in pair)
        if not harness.database.read(lambda c: c.scalar(select(func.count()).where(Scan.state == State.QUEUED))):
            break
    failed = {scan.id: scan for scan in harness.scans() if scan.state == State.FAILED}
    assert set(failed) == killers
    assert {scan.lost_leases_exclusive for scan in failed.values()} == {3}
    assert lost_leases >= 6
    innocent = [scan for scan in harness.scans() if scan.id not in killers]
    assert {scan.state for scan in innocent} <= {State.CLASSIFIED, State.DUPLICATE}
    assert {scan.lost_leases_exclusive for scan in innocent} == {0}


def test_no_file_is_named_where_an_error_quotes_one(
    harness: WorkerHarness, moody: Moody, logged: Callable[[], str]
) -> None:
    harness.announce(*IMAGES[:2])
    moody.ill = FileNotFoundError(2, "No such file", f"/images/{IMAGES[0]}")
    harness.processor._circuit_breaker._stop.set()
    with pytest.raises(ShuttingDown):
        harness.read(12)
    assert {scan.state for scan in harness.scans()} == {State.QUEUED}
    said = logged()
    assert "FileNotFoundError" in said
    assert "phantom-" not in said + repr(details(harness))
