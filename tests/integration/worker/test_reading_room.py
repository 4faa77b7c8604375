"""The reading room on a real ledger, with real files and decoding children, and a tiny network."""

import hashlib
import hmac
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dicoms
import numpy as np
import pytest
import sabotage
from PIL import Image
from sqlalchemy import Row, func, select, text, update
from standin import tiny_network, write_model

from db import arrivals, cache, ledger, schema
from db.models import Prediction, Scan, ScanEvent
from db.seen import SeenFile
from db.session import Database
from db.states import State
from pneumowatch import film, kept
from pneumowatch.errors import DeviceFull, ShuttingDown
from pneumowatch.model import ModelFolder
from pneumowatch.settings import Settings
from worker import decode, fitness, room
from worker.classifier import Classifier
from worker.decode import Bounds, Decoders
from worker.findings import AgeRule
from worker.keeper import Keeper
from worker.room import ReadingRoom
from worker.serving import Serving, open_serving

BATCH = 8
SETTLE = 0.4  # seconds
KEY = b"\xa5" * 32


@pytest.fixture(scope="module")
def classifier(tiny_model: ModelFolder) -> Classifier:
    return Classifier(tiny_model, BATCH, "cpu")


@pytest.fixture(scope="module")
def decoders(classifier: Classifier) -> Iterator[Decoders]:
    made = Decoders(2, Bounds(2_000_000, 4_000_000, 30.0))
    made.warm()
    yield made
    made.close()


@dataclass
class Place:
    """An inbox, its ledger, and a worker's reading room."""

    inbox: Path
    database: Database
    room: ReadingRoom
    serving: Serving
    settings: Settings

    def announce(self, *names: str | bytes, inbox: str = "inbox") -> list[int]:
        """What the watcher does with complete files: the scans' ids, in the order of their names. Files that are not
        there are announced as if they had been."""
        files = []
        for name in names:
            raw = os.fsencode(name)
            path = self.inbox / os.fsdecode(raw)
            size, mtime_ns = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (1000, 1)
            files.append(SeenFile(inbox, raw, size, mtime_ns))
        self.database.write(lambda c: arrivals.arrive(c, files, "watcher"))
        rows = self.database.read(lambda c: c.execute(select(Scan.path_bytes, Scan.id).order_by(Scan.id)).all())
        ids = {row.path_bytes: row.id for row in rows}
        return [ids[file.path] for file in files]

    def scan(self, scan_id: int) -> Row[Any]:
        return self.database.read(lambda c: c.execute(select(Scan.__table__).where(Scan.id == scan_id)).one())

    def scans(self) -> list[Row[Any]]:
        return list(self.database.read(lambda c: c.execute(select(Scan.__table__).order_by(Scan.id)).all()))

    def events(self, scan_id: int) -> list[tuple[str | None, str]]:
        statement = select(ScanEvent.from_state, ScanEvent.to_state).where(ScanEvent.scan_id == scan_id)
        rows = self.database.read(lambda c: c.execute(statement.order_by(ScanEvent.id)).all())
        return [(before, after) for before, after in rows]

    def read(self, licence: int = 100) -> None:
        """What a worker does whom the sweep has told of what is due."""
        self.sweep()
        self.room.read(licence)

    def sweep(self) -> list[int]:
        return self.database.write(lambda c: ledger.ring(c, Scan.rung_at.is_(None), 1000))

    def read_when_due(self) -> None:
        time.sleep(SETTLE + 0.05)
        self.read()


@pytest.fixture
def place(
    tmp_path: Path, phantoms: Path, tiny_model: ModelFolder, classifier: Classifier, decoders: Decoders
) -> Iterator[Place]:
    inbox = Path(shutil.copytree(phantoms, tmp_path / "inbox"))
    settings = Settings(data_dir=tmp_path, batch_size=BATCH, settle_seconds=SETTLE)
    database = Database(settings.database, threading.Event())
    schema.upgrade(database)
    cache.add(database, tiny_model, "test")
    serving = Serving(classifier, BATCH, AgeRule((1, 5)))
    made = ReadingRoom(settings, {"inbox": inbox}, database, serving, decoders, "worker@test:1", KEY)
    yield Place(inbox, database, made, serving, settings)
    made._post.close()
    database.close()


FILMS = [f"phantom-{number:04}-{('pneumonia', 'normal')[number % 2]}.jpeg" for number in range(1, 13)]


def test_films_are_classified_as_the_model_says(place: Place, classifier: Classifier) -> None:
    ids = place.announce(*FILMS)
    place.read()
    for scan_id, name in zip(ids, FILMS, strict=True):
        scan = place.scan(scan_id)
        pixels = film.decode((place.inbox / name).read_bytes(), classifier.side)
        expected = float(classifier.predict(pixels[None]).probability[0])
        assert scan.state == State.CLASSIFIED
        assert scan.probability == pytest.approx(expected, abs=1e-5)
        assert scan.flagged == (scan.probability >= 0.5)
        assert (scan.model_version, scan.threshold) == (classifier.version, 0.5)
        assert scan.claim_token is None
        assert place.events(scan_id) == [(None, "queued"), ("queued", "running"), ("running", "classified")]
    made = place.database.read(lambda c: c.execute(select(Prediction.scan_id, Prediction.current)).all())
    assert sorted(made) == [(scan_id, True) for scan_id in sorted(ids)]


def test_a_licence_bounds_what_is_read_and_a_second_one_finds_nothing(place: Place) -> None:
    place.announce(*FILMS)
    place.read(10)  # more than a batch
    states = [scan.state for scan in place.scans()]
    assert states == [State.CLASSIFIED] * 10 + [State.QUEUED] * 2
    place.read(10)
    place.read(10)
    assert [len(place.events(scan.id)) for scan in place.scans()] == [3] * 12


def test_bad_files_get_their_reason_and_cost_nobody_else(place: Place) -> None:
    good = (place.inbox / FILMS[0]).read_bytes()
    bad = {
        "empty.jpeg": (b"", "empty"),
        "letter.jpeg": (b"Dear colleague,\n", "unsupported"),
        "cut.jpeg": (good[: len(good) // 2], "unreadable"),
        "big.jpeg": (bytes(2_000_001), "too_large"),
    }
    for name, (data, _) in bad.items():
        (place.inbox / name).write_bytes(data)
    ids = place.announce(*bad, FILMS[0], "gone.jpeg")
    time.sleep(SETTLE)
    place.read()
    assert [place.scan(scan_id).reason for scan_id in ids] == [
        *(reason for _, reason in bad.values()),
        None,
        "vanished",
    ]
    assert [place.scan(scan_id).state for scan_id in ids[-2:]] == [State.CLASSIFIED, State.REJECTED]
    assert all(place.scan(scan_id).detail.endswith(".") for scan_id in ids if place.scan(scan_id).reason)


def test_twins_in_one_batch_and_later(place: Place) -> None:
    for name in ("twin-1.jpeg", "twin-2.jpeg"):
        shutil.copy(place.inbox / FILMS[0], place.inbox / name)
    first, twin, later = *place.announce(FILMS[0], "twin-1.jpeg"), None
    place.read()
    (later,) = place.announce("twin-2.jpeg")
    place.read()
    assert place.scan(first).state == State.CLASSIFIED
    for scan_id in (twin, later):
        assert (place.scan(scan_id).state, place.scan(scan_id).duplicate_of) == (State.DUPLICATE, first)
    shown = place.database.read(lambda c: c.execute(text("SELECT probability FROM scan_ledger")).scalars().all())
    assert len(set(shown)) == 1


def test_a_file_that_changed_waits_under_its_new_identity_and_is_read_then(place: Place) -> None:
    (scan_id,) = place.announce(FILMS[0])
    path = place.inbox / FILMS[0]
    path.write_bytes((place.inbox / FILMS[1]).read_bytes())
    place.read()
    scan = place.scan(scan_id)
    assert (scan.state, scan.size, scan.mtime_ns) == (State.QUEUED, path.stat().st_size, path.stat().st_mtime_ns)
    assert scan.rung_at is None  # for the sweep to announce
    place.read()
    assert place.scan(scan_id).state == State.QUEUED  # not due yet
    place.read_when_due()
    assert place.scan(scan_id).state == State.CLASSIFIED
    assert scan.deaths == 0


def test_a_half_written_film_is_read_once_it_is_complete(place: Place) -> None:
    whole = (place.inbox / FILMS[0]).read_bytes()
    path = place.inbox / "slow.jpeg"
    path.write_bytes(whole[:5000])
    (scan_id,) = place.announce("slow.jpeg")
    place.read()
    assert (place.scan(scan_id).state, place.scan(scan_id).reason) == (State.QUEUED, None)
    path.write_bytes(whole)
    place.read_when_due()  # it has changed: waits again
    assert place.scan(scan_id).state == State.QUEUED
    place.read_when_due()
    assert place.scan(scan_id).state == State.CLASSIFIED


def test_a_film_that_stays_half_is_rejected_once_it_has_settled(place: Place) -> None:
    (place.inbox / "half.jpeg").write_bytes((place.inbox / FILMS[0]).read_bytes()[:5000])
    (scan_id,) = place.announce("half.jpeg")
    place.read()
    place.read_when_due()
    assert (place.scan(scan_id).state, place.scan(scan_id).reason) == (State.REJECTED, "unreadable")


def test_a_share_that_is_away_costs_its_films_nothing(place: Place) -> None:
    ids = place.announce(*FILMS[:3])
    place.inbox.rename(place.inbox.with_name("unmounted"))
    place.read()
    for scan_id in ids:
        scan = place.scan(scan_id)
        assert (scan.state, scan.deaths, scan.deaths_alone) == (State.QUEUED, 0, 0)
        assert scan.not_before > ledger.now()
    place.inbox.with_name("unmounted").rename(place.inbox)
    for _ in range(2):  # the first film finds out that it is back
        place.database.write(lambda c: c.execute(update(Scan).values(not_before=ledger.now())))
        place.read()
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}


def test_an_inbox_unknown_here_is_left_to_others(place: Place) -> None:
    (scan_id,) = place.announce(FILMS[0], inbox="other")
    place.read()
    assert (place.scan(scan_id).state, place.scan(scan_id).deaths) == (State.QUEUED, 0)


def test_names_that_are_no_utf_8(place: Place) -> None:
    names = [b"M\xfcller.jpeg", "Übel ☢.jpeg".encode(), b"two\nlines.jpeg", b"sub/deep/er.jpeg"]
    (place.inbox / "sub" / "deep").mkdir(parents=True)
    for number, name in enumerate(names):
        shutil.copy(place.inbox / FILMS[number], place.inbox / os.fsdecode(name))
    ids = place.announce(*names)
    place.read()
    assert [place.scan(scan_id).state for scan_id in ids] == [State.CLASSIFIED] * 4


def make_suspects(place: Place, ids: list[int]) -> None:
    """As after a worker died with them in its hands."""
    place.database.write(lambda c: c.execute(update(Scan).where(Scan.id.in_(ids)).values(deaths=1)))


def test_suspects_are_read_one_by_one_with_nobody_else_in_the_room(place: Place, monkeypatch: Any) -> None:
    ids = place.announce(*FILMS)
    make_suspects(place, ids[::3])
    lock = threading.Lock()
    inside: dict[int, set[int]] = {}
    met: list[tuple[set[int], set[int]]] = []
    real = ReadingRoom._read_claim

    def watched(room: ReadingRoom, claim: Any, serving: Serving) -> None:
        mine = {scan.id for scan in claim.scans}
        with lock:
            met.extend((mine, other) for other in inside.values())
            inside[threading.get_ident()] = mine
        assert place.scan(claim.scans[0].id).alone == claim.suspect
        real(room, claim, serving)
        with lock:
            del inside[threading.get_ident()]

    monkeypatch.setattr(ReadingRoom, "_read_claim", watched)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(place.read, 3) for _ in range(4)]:
            future.result(30)
    place.read()
    suspects = set(ids[::3])
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}
    assert not [pair for pair in met if (pair[0] | pair[1]) & suspects]


def test_a_film_that_kills_its_decoder_is_rejected_and_its_neighbours_are_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "fetch", sabotage.fetch)
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
    monkeypatch.setattr(room, "PAUSE", timedelta(0))  # what waits is due at once
    monkeypatch.setattr(fitness, "FIRST_DELAY", 0.01)
    return model


def pixels_of(place: Place, name: str) -> np.ndarray:
    return film.decode((place.inbox / name).read_bytes(), place.serving.side)


def test_a_film_over_which_the_model_raises_is_found_and_failed_and_the_others_are_classified(
    place: Place, moody: Moody
) -> None:
    ids = place.announce(*FILMS)
    moody.bad.append(pixels_of(place, FILMS[3]))
    place.read(8)  # the bad one's batch
    scans = place.scans()
    assert {scan.state for scan in scans} == {State.QUEUED}
    assert [scan.deaths for scan in scans] == [1] * 8 + [0] * 4
    for _ in range(14):
        place.read(1)
    states = {scan.id: scan.state for scan in place.scans()}
    assert states == dict.fromkeys(ids, State.CLASSIFIED) | {ids[3]: State.FAILED}
    bad = place.scan(ids[3])
    assert (bad.deaths, bad.deaths_alone, bad.probability) == (4, 3, None)
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
    monkeypatch.setattr(room, "PAUSE", timedelta(seconds=30))
    (scan_id,) = place.announce(FILMS[0])
    moody.bad.append(pixels_of(place, FILMS[0]))
    place.read(1)
    place.read(5)
    scan = place.scan(scan_id)
    assert (scan.state, scan.deaths, scan.deaths_alone) == (State.QUEUED, 2, 1)
    assert scan.not_before > ledger.now() + timedelta(seconds=20)
    place.read(5)
    assert place.scan(scan_id).deaths == 2


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is not fit tries again within a second."""
    monkeypatch.setattr(fitness, "FIRST_DELAY", 0.1)
    monkeypatch.setattr(fitness, "LAST_DELAY", 0.8)


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
        deadline = time.monotonic() + 20
        while len(moody.calls) < 12:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rows = place.scans()
        while any(scan.state != State.QUEUED for scan in rows):  # a thread may come late
            assert time.monotonic() < deadline
            time.sleep(0.01)
            rows = place.scans()
        assert {(scan.deaths, scan.deaths_alone) for scan in rows} == {(0, 0)}
        moves = sum(len(place.events(scan_id)) for scan_id in ids)
        moody.ill = None
        for future in reading:
            future.result(30)
    assert moves <= 12 + 2 * 4 * BATCH  # one claim of each thread, given back
    place.read()
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}
    assert {scan.deaths for scan in place.scans()} == {0}


@pytest.mark.usefixtures("soon")
def test_a_card_that_does_not_hold_one_film_costs_no_film_an_attempt(place: Place, moody: Moody) -> None:
    (scan_id,) = place.announce(FILMS[0])
    make_suspects(place, [scan_id])  # read alone, and still not blamed
    moody.ill = DeviceFull("full")
    with ThreadPoolExecutor(1) as pool, healed_at_last(moody):
        reading = pool.submit(place.read, 5)
        deadline = time.monotonic() + 20
        while len(moody.calls) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (place.scan(scan_id).state, place.scan(scan_id).deaths_alone) == (State.QUEUED, 0)
        moody.ill = None
        reading.result(30)
    place.read()
    assert (place.scan(scan_id).state, place.scan(scan_id).deaths_alone) == (State.CLASSIFIED, 0)


def test_an_error_of_the_ledger_is_held_against_no_film_where_all_end_in_it(
    place: Place, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the database was restored from before this model was registered."""
    ids = place.announce(*FILMS)
    monkeypatch.setattr(place.serving.model, "version", "unheard-of")
    place.read(12)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [place.read(5) for _ in range(4)])
        deadline = time.monotonic() + 20
        while not any("could not read" in (event or "") for event in details(place)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        monkeypatch.undo()
        reading.result(30)
    for _ in range(12):
        place.read(1)
    assert [place.scan(scan_id).state for scan_id in ids] == [State.CLASSIFIED] * 12


def details(place: Place) -> list[str | None]:
    return list(place.database.read(lambda c: c.execute(select(ScanEvent.detail)).scalars().all()))


class Killed(BaseException):
    """What a thread sees of its process' death here; nothing in a worker catches it."""


class Mortal:
    """A worker process that dies over certain films: none of its threads writes anything from then on."""

    def __init__(
        self, place: Place, classifier: Classifier, decoders: Decoders, number: int, killers: set[int]
    ) -> None:
        self.dead, self.by, self._database, self._killers = False, f"worker@test:{number}", place.database, killers
        self.serving = Serving(classifier, BATCH)
        inboxes = {"inbox": place.inbox}
        self.room = ReadingRoom(place.settings, inboxes, self, self.serving, decoders, self.by)  # type: ignore[arg-type]
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
            for one in [pool.submit(self.room.read, 1000) for _ in range(4)]:
                with suppress(Killed):
                    one.result(60)
        self.serving.close()

    def bury(self) -> None:
        """What the sweep does after a lease."""
        held = select(Scan.id, Scan.claim_token).where(Scan.state == State.RUNNING, Scan.claimed_by == self.by)
        pairs = [(row.id, row.claim_token) for row in self._database.read(lambda c: c.execute(held).all())]
        self._database.write(lambda c: ledger.expire(c, pairs, 3, "sweep"))


def test_a_film_that_kills_workers_is_found_among_two_of_four_threads_each_and_its_mates_are_read(
    place: Place, classifier: Classifier, decoders: Decoders
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
    assert {scan.deaths_alone for scan in failed.values()} == {3}
    assert deaths >= 6
    innocent = [scan for scan in place.scans() if scan.id not in killers]
    assert {scan.state for scan in innocent} <= {State.CLASSIFIED, State.DUPLICATE}
    assert {scan.deaths_alone for scan in innocent} == {0}


def test_no_file_is_named_where_an_error_quotes_one(
    place: Place, moody: Moody, capsys: pytest.CaptureFixture[str]
) -> None:
    place.announce(*FILMS[:2])
    moody.ill = FileNotFoundError(2, "No such file", f"/films/{FILMS[0]}")
    place.room._fitness._stop.set()
    with pytest.raises(ShuttingDown):
        place.read(12)
    assert {scan.state for scan in place.scans()} == {State.QUEUED}
    said = capsys.readouterr().out
    assert "FileNotFoundError" in said
    assert "phantom-" not in said + repr(details(place))


def test_a_claim_that_was_taken_back_writes_nothing(place: Place, monkeypatch: Any) -> None:
    (scan_id,) = place.announce(FILMS[0])
    real = ReadingRoom._fetch

    def overtaken(room: ReadingRoom, claim: Any, side: int) -> Any:
        place.database.write(lambda c: ledger.expire(c, [(scan_id, claim.token)], 3, "sweep"))
        return real(room, claim, side)

    monkeypatch.setattr(ReadingRoom, "_fetch", overtaken)
    place.read(1)
    assert (place.scan(scan_id).state, place.scan(scan_id).probability) == (State.QUEUED, None)
    monkeypatch.undo()
    place.read(1)
    assert place.scan(scan_id).state == State.CLASSIFIED
    assert [after for _, after in place.events(scan_id)].count("classified") == 1


def test_many_threads_read_each_film_once(place: Place) -> None:
    for copy in range(4):
        for number, name in enumerate(FILMS):
            data = (place.inbox / name).read_bytes()
            (place.inbox / f"copy-{copy}-{number}.jpeg").write_bytes(data + bytes(copy))  # bytes of its own
    names = [path.name for path in place.inbox.iterdir()]
    place.announce(*names)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(place.read, licence) for licence in (1, 7, 8, 3, 20, 12, 9)]:
            future.result(60)
    assert {scan.state for scan in place.scans()} <= {State.CLASSIFIED, State.DUPLICATE}
    assert all(len(place.events(scan.id)) == 3 for scan in place.scans())
    assert np.unique([scan.probability for scan in place.scans() if scan.probability is not None]).size >= 10


def send(place: Place, number: int, name: str, film: int = 0, **tags: Any) -> int:
    """A DICOM film put into the inbox and announced: instance `number`, with the pixels of one of the drawn films."""
    with Image.open(place.inbox / FILMS[film]) as picture:
        pixels = np.asarray(picture.convert("L"))
    path = place.inbox / name
    path.write_bytes(dicoms.film(pixels, number=number, **tags))
    (scan_id,) = place.announce(name)
    return scan_id


def test_what_a_dicom_header_says_stands_in_the_row(place: Place) -> None:
    scan_id = send(place, 7, "film", PatientAge="004Y", PatientID="4711", IssuerOfPatientID="WARD")
    (plain,) = place.announce(FILMS[0])
    place.read()
    scan, other = place.scan(scan_id), place.scan(plain)
    assert scan.state == State.CLASSIFIED
    assert (scan.study_uid, scan.series_uid, scan.sop_uid) == tuple(f"{dicoms.ROOT}.{level}.7" for level in (1, 2, 3))
    assert (scan.accession_number, scan.modality, scan.view_position) == ("A7", "DX", "AP")
    assert (scan.age_years, scan.sex, scan.caution) == (4, "F", None)
    assert scan.patient_key == hmac.new(KEY, b"WARD\x004711", hashlib.sha256).hexdigest()
    assert (other.sop_uid, other.modality, other.patient_key) == (None, None, None)


def test_a_film_sent_again_under_another_header_is_a_duplicate(place: Place) -> None:
    first = send(place, 1, "first")
    place.read()
    corrected = send(place, 1, "corrected", AccessionNumber="CORRECTED")
    compressed = send(place, 1, "compressed", syntax="1.2.840.10008.1.2.5")
    other_instance, other_pixels = send(place, 2, "instance"), send(place, 1, "pixels", film=1)
    place.read()
    for scan_id in (corrected, compressed):
        assert (place.scan(scan_id).state, place.scan(scan_id).duplicate_of) == (State.DUPLICATE, first)
    assert place.scan(corrected).accession_number == "CORRECTED"
    assert {place.scan(scan_id).state for scan_id in (first, other_instance, other_pixels)} == {State.CLASSIFIED}


def test_a_film_of_an_age_that_the_model_does_not_know_bears_a_caution(place: Place) -> None:
    ids = [send(place, n, f"{age}", n, PatientAge=age) for n, age in enumerate(["042Y", "006Y", "005Y", "011M", None])]
    place.read()
    assert [place.scan(scan_id).caution for scan_id in ids] == ["age", "age", None, "age", None]
    assert {place.scan(scan_id).state for scan_id in ids} == {State.CLASSIFIED}
    shown = place.database.read(lambda c: c.execute(text("SELECT caution FROM scan_ledger ORDER BY scan_id")).scalars())
    assert list(shown) == ["age", "age", None, "age", None]


def test_a_film_of_an_age_that_the_model_does_not_know_is_rejected_where_that_is_set(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.serving, "age_rule", AgeRule((1, 5), reject=True))
    adult, child = send(place, 1, "adult", PatientAge="042Y"), send(place, 2, "child", 1)
    time.sleep(SETTLE)
    place.read()
    scan = place.scan(adult)
    assert (scan.state, scan.reason, scan.probability) == (State.REJECTED, "outside_age", None)
    assert (scan.age_years, scan.sop_uid) == (42, f"{dicoms.ROOT}.3.1")  # so that its study can be found
    assert place.scan(child).state == State.CLASSIFIED


def test_a_rejected_film_can_be_found_by_its_study(place: Place) -> None:
    scan_id = send(place, 3, "lateral", ViewPosition="LL")
    time.sleep(SETTLE)
    place.read()
    scan = place.scan(scan_id)
    assert (scan.state, scan.reason) == (State.REJECTED, "not_frontal")
    assert (scan.study_uid, scan.accession_number, scan.view_position) == (f"{dicoms.ROOT}.1.3", "A3", "LL")
    (listed,) = place.database.read(lambda c: c.execute(text("SELECT study_uid FROM unscored_cases")).scalars().all())
    assert listed == scan.study_uid


def test_no_header_in_events_and_no_key_where_others_can_see_it(place: Place) -> None:
    send(place, 1, "film", PatientID="4711", PatientName="DOE^JANE", PatientBirthDate="20200102", PatientAge="042Y")
    place.read()
    rows = place.database.read(lambda c: c.execute(select(ScanEvent.__table__)).all())
    told = repr(rows)
    for secret in ("4711", "DOE", "20200102", dicoms.ROOT, "A1'", "42.0"):
        assert secret not in told
    everything = repr(place.scans())
    for secret in ("4711", "DOE", "20200102"):
        assert secret not in everything
    children = [child.pid for child in multiprocessing.active_children()]
    assert children
    for pid in children:
        for part in ("cmdline", "environ"):
            seen = Path(f"/proc/{pid}/{part}").read_bytes()
            assert KEY not in seen
            assert KEY.hex().encode() not in seen
    assert KEY.hex() not in repr(decode.Errand(1, place.inbox, b"film", KEY))
    assert repr(KEY) not in repr(decode.Errand(1, place.inbox, b"film", KEY))


# another model takes the post


def predicted(place: Place) -> list[tuple[int, str, float]]:
    rows = place.database.read(
        lambda c: c.execute(select(Prediction.scan_id, Prediction.model_version, Prediction.probability)).all()
    )
    return sorted((row.scan_id, row.model_version, row.probability) for row in rows)


def test_what_is_no_chest_film_is_rejected_and_nobody_has_read_it(place: Place, gated_model: ModelFolder) -> None:
    cache.add(place.database, gated_model, "test")
    place.room._post.relieve(open_serving(gated_model, place.settings))
    page = Image.new("L", (300, 200), 255)
    page.putpixel((9, 9), 0)
    page.save(place.inbox / "page.png")
    film_id, page_id = place.announce(FILMS[0], "page.png")
    place.read()
    scan = place.scan(page_id)
    assert (scan.state, scan.reason, scan.probability, scan.flagged) == (State.REJECTED, "not_chest_xray", None, None)
    assert scan.detail.endswith(".")
    assert scan.sha256 == hashlib.sha256((place.inbox / "page.png").read_bytes()).hexdigest()
    assert place.scan(film_id).state == State.CLASSIFIED
    unscored = place.database.read(lambda c: c.execute(text("SELECT scan_id FROM unscored_cases")).scalars().all())
    assert unscored == [page_id]


def test_a_claim_is_read_by_one_model_and_the_next_by_its_successor(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Successors that take films of other sizes and flag from other thresholds, put in again and again while four
    threads read; each result must be wholly one model's."""
    folders = {}
    for side in (48, 80):
        at = tmp_path / f"model-{side}"
        folder = write_model(at, tiny_network(side), side, version=f"side-{side}", threshold={"value": side / 100})
        cache.add(place.database, folder, "test")
        folders[folder.version] = folder
    for copy in range(8):
        for number, name in enumerate(FILMS):
            data = (place.inbox / name).read_bytes()
            (place.inbox / f"copy-{copy}-{number}.jpeg").write_bytes(data + bytes(copy))
    place.announce(*(path.name for path in place.inbox.iterdir()))
    one_by_one = place.settings.model_copy(update={"batch_size": 3})
    monkeypatch.setattr(place.room, "_settings", one_by_one)
    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(place.read, 30) for _ in range(4)]
        while not all(future.done() for future in reading):
            for folder in folders.values():
                place.room._post.relieve(open_serving(folder, place.settings))
        for future in reading:
            future.result()
    scans = place.scans()
    assert {scan.state for scan in scans} <= {State.CLASSIFIED, State.DUPLICATE}
    assert all(len(place.events(scan.id)) == 3 for scan in scans)
    read = [scan for scan in scans if scan.state == State.CLASSIFIED]
    assert len(predicted(place)) == len(read)
    assert {scan.model_version for scan in read} >= set(folders)
    models = {version: Classifier(folder, BATCH, "cpu") for version, folder in folders.items()}
    models[place.serving.version] = place.serving.model
    for scan in read:
        model = models[scan.model_version]
        pixels = film.decode((place.inbox / scan.path).read_bytes(), model.side)
        assert scan.probability == pytest.approx(float(model.predict(pixels[None]).probability[0]), abs=1e-5)
        assert scan.threshold == model.threshold
    assert len(place.room._post._held) == 1  # those that were relieved are gone


def test_a_relieved_model_is_ended_once_nothing_is_read_by_it(place: Place, classifier: Classifier) -> None:
    post, old, new = place.room._post, place.serving, Serving(classifier, BATCH)
    with post.held() as held:
        assert held is old
        post.relieve(new)
        found = old.predict([decode.Decoded(1, np.zeros((classifier.side,) * 2, np.uint8), "", 1, 1)])
        assert len(found.probability) == 1
        with post.held() as next_one:
            assert next_one is new
    assert not old._batcher._thread.is_alive()
    assert new._batcher._thread.is_alive()


# films kept


def relieve_by(place: Place, folder: ModelFolder) -> None:
    cache.add(place.database, folder, "test")
    place.room._post.relieve(open_serving(folder, place.settings))


@pytest.mark.parametrize("keep_films", ["judged", "flagged", "all"])
def test_films_are_kept_as_the_setting_says(
    place: Place, gated_model: ModelFolder, monkeypatch: pytest.MonkeyPatch, keep_films: str
) -> None:
    settings = place.settings.model_copy(update={"keep_films": keep_films})
    monkeypatch.setattr(place.room, "_keeper", Keeper(settings))
    relieve_by(place, gated_model)
    (place.inbox / "letter.jpeg").write_text("Dear colleague")
    place.announce(*FILMS, "letter.jpeg")
    time.sleep(SETTLE)
    place.read()
    scans = [scan for scan in place.scans() if scan.state == State.CLASSIFIED]
    assert {scan.flagged for scan in scans} == {True, False}  # or this would show nothing
    model = Classifier(gated_model, BATCH, "cpu")
    for scan in scans:
        pixels = kept.read(settings.data_dir, scan.sha256)
        if not (keep_films == "all" or (keep_films == "flagged" and scan.flagged)):
            assert pixels is None
            continue
        expected = film.decode((place.inbox / scan.path).read_bytes(), gated_model.side)
        np.testing.assert_array_equal(pixels, expected)
        logits = model.predict(expected[None]).maps[0]
        shades = kept.read_map(settings.data_dir, scan.sha256)
        np.testing.assert_allclose(shades, 255 / (1 + np.exp(-logits)), atol=1)
    folder = settings.data_dir / kept.FOLDER
    count = len(list(folder.iterdir())) if folder.exists() else 0
    assert count == sum(kept.path(settings.data_dir, scan.sha256).exists() for scan in scans)


def test_a_full_disk_costs_the_films_and_not_their_outcomes(
    place: Place, gated_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (place.settings.data_dir / kept.FOLDER).write_text("no folder can be made here")
    relieve_by(place, gated_model)
    place.announce(*FILMS)
    place.read()
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}
    assert not [name for name in FILMS if name in caplog.text]
