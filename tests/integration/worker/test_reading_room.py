"""What becomes of films in the reading room: read, kept, put off, by one model or the next."""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from practice import BATCH, FILMS, Place, predicted
from sqlalchemy import select, text, update
from standin import tiny_network, write_model

from db.ledger import transitions
from db.models import Prediction, Scan
from db.registry import model_cache
from db.states import State
from pneumowatch.imaging import image_store, reader
from pneumowatch.model_folder import ModelFolder
from worker import decode
from worker.image_keeper import ImageKeeper
from worker.inference.classifier import Classifier
from worker.inference.serving import ServedModel, load_served_model
from worker.pipeline import ScanProcessor


def test_films_are_classified_as_the_model_says(place: Place, classifier: Classifier) -> None:
    ids = place.announce(*FILMS)
    place.read()
    for scan_id, name in zip(ids, FILMS, strict=True):
        scan = place.scan(scan_id)
        pixels = reader.read_pixels((place.inbox / name).read_bytes(), classifier.side)
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
    place.read_when_due()
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
    assert scan.announced_at is None  # for the sweep to announce
    place.read()
    assert place.scan(scan_id).state == State.QUEUED  # not due yet
    place.read_when_due()
    assert place.scan(scan_id).state == State.CLASSIFIED
    assert scan.lost_leases == 0


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
        assert (scan.state, scan.lost_leases, scan.lost_leases_exclusive) == (State.QUEUED, 0, 0)
        assert scan.not_before > transitions.utc_now()
    place.inbox.with_name("unmounted").rename(place.inbox)
    for _ in range(2):  # the first film finds out that it is back
        place.database.write(lambda c: c.execute(update(Scan).values(not_before=transitions.utc_now())))
        place.read()
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}


def test_an_inbox_unknown_here_is_left_to_others(place: Place) -> None:
    (scan_id,) = place.announce(FILMS[0], inbox="other")
    place.read()
    assert (place.scan(scan_id).state, place.scan(scan_id).lost_leases) == (State.QUEUED, 0)


def test_names_that_are_no_utf_8(place: Place) -> None:
    names = [b"M\xfcller.jpeg", "Übel ☢.jpeg".encode(), b"two\nlines.jpeg", b"sub/deep/er.jpeg"]
    (place.inbox / "sub" / "deep").mkdir(parents=True)
    for number, name in enumerate(names):
        shutil.copy(place.inbox / FILMS[number], place.inbox / os.fsdecode(name))
    ids = place.announce(*names)
    place.read()
    assert [place.scan(scan_id).state for scan_id in ids] == [State.CLASSIFIED] * 4


def test_a_claim_that_was_taken_back_writes_nothing(place: Place, monkeypatch: Any) -> None:
    (scan_id,) = place.announce(FILMS[0])
    real = ScanProcessor._fetch

    def overtaken(room: ScanProcessor, claim: Any, side: int) -> Any:
        place.database.write(lambda c: transitions.expire_claims(c, [(scan_id, claim.token)], 3, "sweep"))
        return real(room, claim, side)

    monkeypatch.setattr(ScanProcessor, "_fetch", overtaken)
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
        for future in [pool.submit(place.read, permits) for permits in (1, 7, 8, 3, 20, 12, 9)]:
            future.result(60)
    assert {scan.state for scan in place.scans()} <= {State.CLASSIFIED, State.DUPLICATE}
    assert all(len(place.events(scan.id)) == 3 for scan in place.scans())
    assert np.unique([scan.probability for scan in place.scans() if scan.probability is not None]).size >= 10


def test_what_is_no_chest_film_is_rejected_and_nobody_has_read_it(place: Place, gated_model: ModelFolder) -> None:
    model_cache.register_folder(place.database, gated_model, "test")
    place.room._slot.swap(load_served_model(gated_model, place.settings))
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
        model_cache.register_folder(place.database, folder, "test")
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
                place.room._slot.swap(load_served_model(folder, place.settings))
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
        pixels = reader.read_pixels((place.inbox / scan.path).read_bytes(), model.side)
        assert scan.probability == pytest.approx(float(model.predict(pixels[None]).probability[0]), abs=1e-5)
        assert scan.threshold == model.threshold
    assert len(place.room._slot._users) == 1  # those that were relieved are gone


def test_a_relieved_model_is_ended_once_nothing_is_read_by_it(place: Place, classifier: Classifier) -> None:
    post, old, new = place.room._slot, place.serving, ServedModel(classifier, BATCH)
    with post.use() as held:
        assert held is old
        post.swap(new)
        found = old.predict([decode.DecodedFile(1, np.zeros((classifier.side,) * 2, np.uint8), "", 1, 1)])
        assert len(found.probability) == 1
        with post.use() as next_one:
            assert next_one is new
    assert not old._batcher._thread.is_alive()
    assert new._batcher._thread.is_alive()


# films kept


def relieve_by(place: Place, folder: ModelFolder) -> None:
    model_cache.register_folder(place.database, folder, "test")
    place.room._slot.swap(load_served_model(folder, place.settings))


@pytest.mark.parametrize("keep_images", ["judged", "flagged", "all"])
def test_films_are_kept_as_the_setting_says(
    place: Place, gated_model: ModelFolder, monkeypatch: pytest.MonkeyPatch, keep_images: str
) -> None:
    settings = place.settings.model_copy(update={"keep_images": keep_images})
    monkeypatch.setattr(place.room, "_image_keeper", ImageKeeper(settings))
    relieve_by(place, gated_model)
    (place.inbox / "letter.jpeg").write_text("Dear colleague")
    place.announce(*FILMS, "letter.jpeg")
    place.read_when_due()
    scans = [scan for scan in place.scans() if scan.state == State.CLASSIFIED]
    assert {scan.flagged for scan in scans} == {True, False}  # or this would show nothing
    model = Classifier(gated_model, BATCH, "cpu")
    for scan in scans:
        pixels = image_store.load_image(settings.data_dir, scan.sha256)
        if not (keep_images == "all" or (keep_images == "flagged" and scan.flagged)):
            assert pixels is None
            continue
        expected = reader.read_pixels((place.inbox / scan.path).read_bytes(), gated_model.side)
        np.testing.assert_array_equal(pixels, expected)
        logits = model.predict(expected[None]).maps[0]
        shades = image_store.load_activation_map(settings.data_dir, scan.sha256)
        np.testing.assert_allclose(shades, 255 / (1 + np.exp(-logits)), atol=1)
    folder = settings.data_dir / image_store.IMAGES_FOLDER
    count = len(list(folder.iterdir())) if folder.exists() else 0
    assert count == sum(image_store.image_path(settings.data_dir, scan.sha256).exists() for scan in scans)


def test_a_full_disk_costs_the_films_and_not_their_outcomes(
    place: Place, gated_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (place.settings.data_dir / image_store.IMAGES_FOLDER).write_text("no folder can be made here")
    relieve_by(place, gated_model)
    place.announce(*FILMS)
    place.read()
    assert {scan.state for scan in place.scans()} == {State.CLASSIFIED}
    assert not [name for name in FILMS if name in caplog.text]
