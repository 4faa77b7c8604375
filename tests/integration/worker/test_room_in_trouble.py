"""The reading room in trouble: films that kill or make their reader fail, and a worker that can read none."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sabotage
from practice import BATCH, FILMS, Place, predicted
from sqlalchemy import func, select, update
from support.waiting import eventually

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


def make_suspects(place: Place, ids: list[int]) -> None:
    """As after a worker died with them in its hands."""
    place.database.write(lambda c: c.execute(update(Scan).where(Scan.id.in_(ids)).values(lost_leases=1)))


def test_suspects_are_read_one_by_one_with_nobody_else_in_the_room(place: Place, monkeypatch: Any) -> None:
    ids = place.announce(*FILMS)
    make_suspects(place, ids[::3])
    lock = threading.Lock()
    inside: dict[int, set[int]] = {}
    met: list[tuple[set[int], set[int]]] = []
    real = ScanProcessor._process_monitored

    def watched(room: ScanProcessor, claim: Any, serving: ServedModel) -> None:
        mine = {scan.id for scan in claim.scans}
        with lock:
            met.extend((mine, other) for other in inside.values())
            inside[threading.get_ident()] = mine
        assert place.scan(claim.scans[0].id).exclusive == claim.quarantined
        real(room, claim, serving)
        with lock:
            del inside[threading.get_ident()]

    monkeypatch.setattr(ScanProcessor, "_process_monitored", watched)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(place.read, 3) for _ in range(4)]:
            future.result(60)
    place.read()
    suspects = set(ids[::3])
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}
    assert not [pair for pair in met if (pair[0] | pair[1]) & suspects]


def test_a_film_that_kills_its_decoder_is_rejected_and_its_neighbours_are_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "read_and_decode", sabotage.fetch)
    (place.inbox / "bad.jpeg").write_bytes(sabotage.KILL)
    ids = place.announce("bad.jpeg", *FILMS[:5])
    place.read()
    assert [place.scan(scan_id).state for scan_id in ids] == [State.REJECTED] + [State.CLASSIFIED] * 5
    assert place.scan(ids[0]).reason == "unreadable"


# errors in a living worker


class Moody:
    """A model that raises where it is given certain films, or as many, or any at all."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.bad: list[np.ndarray] = []  # films over which it raises
        self.ill: Exception | None = None  # what it raises over every film
        self.calls: list[int] = []  # films of each

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, films: Any) -> Any:
        self.calls.append(len(films))
        if self.ill is not None:
            raise self.ill
        if any((one == bad).all() for one in films for bad in self.bad):
            raise ZeroDivisionError("over one film")
        return self._model.predict(films)


@pytest.fixture
def moody(place: Place, monkeypatch: pytest.MonkeyPatch) -> Moody:
    model = Moody(place.serving.model)
    monkeypatch.setattr(place.serving._batcher, "_predictor", model)
    monkeypatch.setattr(pipeline, "ERROR_RETRY_DELAY", timedelta(0))  # what waits is due at once
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE_DELAY", 0.01)
    return model


def pixels_of(place: Place, name: str) -> np.ndarray:
    return reader.read_pixels((place.inbox / name).read_bytes(), place.serving.side)


def test_a_film_over_which_the_model_raises_is_found_and_failed_and_the_others_are_classified(
    place: Place, moody: Moody
) -> None:
    ids = place.announce(*FILMS)
    moody.bad.append(pixels_of(place, FILMS[3]))
    place.read(8)  # the bad one's batch
    scans = place.scans()
    assert {scan.state for scan in scans} == {State.QUEUED}
    assert [scan.lost_leases for scan in scans] == [1] * 8 + [0] * 4
    for _ in range(14):
        place.read(1)
    states = {scan.id: scan.state for scan in place.scans()}
    assert states == dict.fromkeys(ids, State.CLASSIFIED) | {ids[3]: State.FAILED}
    bad = place.scan(ids[3])
    assert (bad.lost_leases, bad.lost_leases_exclusive, bad.probability) == (4, 3, None)
    assert "3 times" in bad.detail
    assert "ZeroDivisionError" in bad.detail
    assert bad.claim_token is None
    assert place.events(ids[3])[1:] == [("queued", "running"), ("running", "queued")] * 3 + [
        ("queued", "running"),
        ("running", "failed"),
    ]
    place.read()
    assert len(predicted(place)) == len(FILMS) - 1


def test_a_film_that_raises_alone_is_not_read_again_at_once(
    place: Place, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "ERROR_RETRY_DELAY", timedelta(seconds=30))
    (scan_id,) = place.announce(FILMS[0])
    moody.bad.append(pixels_of(place, FILMS[0]))
    place.read(1)
    place.read(5)
    scan = place.scan(scan_id)
    assert (scan.state, scan.lost_leases, scan.lost_leases_exclusive) == (State.QUEUED, 2, 1)
    assert scan.not_before > transitions.utc_now() + timedelta(seconds=20)
    place.read(5)
    assert place.scan(scan_id).lost_leases == 2


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is not fit tries again within a second."""
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE_DELAY", 0.1)
    monkeypatch.setattr(circuit_breaker, "LAST_PROBE_DELAY", 0.8)


@contextmanager
def healed_at_last(moody: Moody) -> Iterator[None]:
    """Its threads end, also where the test fails: they would wait for it to be well."""
    try:
        yield
    finally:
        moody.ill = None


@pytest.mark.usefixtures("soon")
def test_a_worker_that_cannot_read_at_all_blames_no_film_and_waits(place: Place, moody: Moody) -> None:
    """As with a card that is full or broken: films go back uncounted, and not one more is claimed until it reads."""
    ids = place.announce(*FILMS)
    moody.ill = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
    with ThreadPoolExecutor(4) as pool, healed_at_last(moody):
        reading = [pool.submit(place.read, 12) for _ in range(4)]
        eventually(lambda: len(moody.calls) >= 12)
        rows = eventually(lambda: all_queued(place))  # a thread may come late
        assert {(scan.lost_leases, scan.lost_leases_exclusive) for scan in rows} == {(0, 0)}
        moves = sum(len(place.events(scan_id)) for scan_id in ids)
        moody.ill = None
        for future in reading:
            future.result(60)
    assert moves <= 12 + 2 * 4 * BATCH  # one claim of each thread, given back
    place.read()
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}
    assert {scan.lost_leases for scan in place.scans()} == {0}


@pytest.mark.usefixtures("soon")
def test_a_card_that_does_not_hold_one_film_costs_no_film_an_attempt(place: Place, moody: Moody) -> None:
    (scan_id,) = place.announce(FILMS[0])
    make_suspects(place, [scan_id])  # read alone, and still not blamed
    moody.ill = DeviceOutOfMemory("full")
    with ThreadPoolExecutor(1) as pool, healed_at_last(moody):
        reading = pool.submit(place.read, 5)
        eventually(lambda: len(moody.calls) >= 5)
        assert (place.scan(scan_id).state, place.scan(scan_id).lost_leases_exclusive) == (State.QUEUED, 0)
        moody.ill = None
        reading.result(60)
    place.read()
    assert (place.scan(scan_id).state, place.scan(scan_id).lost_leases_exclusive) == (State.CLASSIFIED, 0)


def test_an_error_of_the_ledger_is_held_against_no_film_where_all_end_in_it(
    place: Place, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the database was restored from before this model was registered."""
    ids = place.announce(*FILMS)
    monkeypatch.setattr(place.serving.model, "version", "unheard-of")
    place.read(12)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [place.read(5) for _ in range(4)])
        eventually(lambda: any("could not process" in (event or "") for event in details(place)))
        monkeypatch.undo()
        reading.result(60)
    for _ in range(12):
        place.read(1)
    assert [place.scan(scan_id).state for scan_id in ids] == [State.CLASSIFIED] * 12


def all_queued(place: Place) -> list[Any]:
    """Its scans, once all of them wait; else none."""
    rows = place.scans()
    return rows if all(scan.state == State.QUEUED for scan in rows) else []


def details(place: Place) -> list[str | None]:
    return list(place.database.read(lambda c: c.execute(select(ScanEvent.detail)).scalars().all()))


class Killed(BaseException):
    """What a thread sees of its process' death here; nothing in a worker catches it."""


class Mortal:
    """A worker process that dies over certain films: none of its threads writes anything from then on."""

    def __init__(
        self, place: Place, classifier: Classifier, decoders: DecoderPool, number: int, killers: set[int]
    ) -> None:
        self.dead, self.by, self._database, self._killers = False, f"worker@test:{number}", place.database, killers
        self.serving = ServedModel(classifier, BATCH)
        inboxes = {"inbox": place.inbox}
        self.room = ScanProcessor(place.settings, inboxes, self, self.serving, decoders, self.by)  # type: ignore[arg-type]
        self._fetch = self.room._fetch
        self.room._fetch = self.fetch  # type: ignore[method-assign]

    def write(self, work: Any) -> Any:
        if self.dead:
            raise Killed
        return self._database.write(work)

    def fetch(self, claim: Any, side: int) -> Any:
        if self._killers & {scan.id for scan in claim.scans}:
            self.dead = True
        return self._fetch(claim, side)

    def live(self) -> None:
        """Four threads read until nothing is left to claim, or it dies."""
        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(self.room.process, 1000) for _ in range(4)]:
                with suppress(Killed):
                    one.result(60)
        self.serving.close()

    def bury(self) -> None:
        """What the sweep does after a lease."""
        held = select(Scan.id, Scan.claim_token).where(Scan.state == State.RUNNING, Scan.claimed_by == self.by)
        pairs = [(row.id, row.claim_token) for row in self._database.read(lambda c: c.execute(held).all())]
        self._database.write(lambda c: transitions.expire_claims(c, pairs, 3, "sweep"))


def test_a_film_that_kills_workers_is_found_among_two_of_four_threads_each_and_its_mates_are_read(
    place: Place, classifier: Classifier, decoders: DecoderPool
) -> None:
    for copy in range(4):
        for number, name in enumerate(FILMS):
            data = (place.inbox / name).read_bytes()
            (place.inbox / f"copy-{copy}-{number}.jpeg").write_bytes(data + bytes(copy + 1))
    ids = place.announce(*sorted(path.name for path in place.inbox.iterdir()))
    killers = {ids[11], ids[40]}
    deaths = 0
    for generation in range(20):
        pair = [Mortal(place, classifier, decoders, 2 * generation + one, killers) for one in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for living in [pool.submit(mortal.live) for mortal in pair]:
                living.result(90)
        for mortal in pair:
            mortal.bury()
        place.sweep()
        deaths += sum(mortal.dead for mortal in pair)
        if not place.database.read(lambda c: c.scalar(select(func.count()).where(Scan.state == State.QUEUED))):
            break
    failed = {scan.id: scan for scan in place.scans() if scan.state == State.FAILED}
    assert set(failed) == killers
    assert {scan.lost_leases_exclusive for scan in failed.values()} == {3}
    assert deaths >= 6
    innocent = [scan for scan in place.scans() if scan.id not in killers]
    assert {scan.state for scan in innocent} <= {State.CLASSIFIED, State.DUPLICATE}
    assert {scan.lost_leases_exclusive for scan in innocent} == {0}


def test_no_file_is_named_where_an_error_quotes_one(
    place: Place, moody: Moody, capsys: pytest.CaptureFixture[str]
) -> None:
    place.announce(*FILMS[:2])
    moody.ill = FileNotFoundError(2, "No such file", f"/films/{FILMS[0]}")
    place.room._circuit_breaker._stop.set()
    with pytest.raises(ShuttingDown):
        place.read(12)
    assert {scan.state for scan in place.scans()} == {State.QUEUED}
    said = capsys.readouterr().out
    assert "FileNotFoundError" in said
    assert "phantom-" not in said + repr(details(place))
