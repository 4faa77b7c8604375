"""The pipeline: images are read, kept or deferred, by one model or its successor."""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select, text, update
from support.tiny_models import tiny_network, write_model
from support.worker_harness import BATCH, IMAGES, WorkerHarness, stored_predictions

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


def test_images_are_classified_as_the_model_says(harness: WorkerHarness, classifier: Classifier) -> None:
    ids = harness.announce(*IMAGES)
    harness.read()
    for scan_id, name in zip(ids, IMAGES, strict=True):
        scan = harness.scan(scan_id)
        pixels = reader.read_pixels((harness.inbox / name).read_bytes(), classifier.side)
        expected = float(classifier.predict(pixels[None]).probability[0])
        assert scan.state == State.CLASSIFIED
        assert scan.probability == pytest.approx(expected, abs=1e-5)
        assert scan.flagged == (scan.probability >= 0.5)
        assert (scan.model_version, scan.threshold) == (classifier.version, 0.5)
        assert scan.claim_token is None
        assert harness.events(scan_id) == [(None, "queued"), ("queued", "running"), ("running", "classified")]
    made = harness.database.read(lambda c: c.execute(select(Prediction.scan_id, Prediction.current)).all())
    assert sorted(made) == [(scan_id, True) for scan_id in sorted(ids)]


def test_permits_bound_what_is_read_and_more_of_them_find_nothing(harness: WorkerHarness) -> None:
    harness.announce(*IMAGES)
    harness.read(10)  # more than a batch
    states = [scan.state for scan in harness.scans()]
    assert states == [State.CLASSIFIED] * 10 + [State.QUEUED] * 2
    harness.read(10)
    harness.read(10)
    assert [len(harness.events(scan.id)) for scan in harness.scans()] == [3] * 12


def test_bad_files_get_their_reason_and_cost_nobody_else(harness: WorkerHarness) -> None:
    good = (harness.inbox / IMAGES[0]).read_bytes()
    bad = {
        "empty.jpeg": (b"", "empty"),
        "letter.jpeg": (b"Dear colleague,\n", "unsupported"),
        "cut.jpeg": (good[: len(good) // 2], "unreadable"),
        "big.jpeg": (bytes(2_000_001), "too_large"),
    }
    for name, (data, _) in bad.items():
        (harness.inbox / name).write_bytes(data)
    ids = harness.announce(*bad, IMAGES[0], "gone.jpeg")
    harness.read_when_due()
    assert [harness.scan(scan_id).reason for scan_id in ids] == [
        *(reason for _, reason in bad.values()),
        None,
        "vanished",
    ]
    assert [harness.scan(scan_id).state for scan_id in ids[-2:]] == [State.CLASSIFIED, State.REJECTED]
    assert all(harness.scan(scan_id).detail.endswith(".") for scan_id in ids if harness.scan(scan_id).reason)


def test_duplicates_in_one_batch_and_later(harness: WorkerHarness) -> None:
    for name in ("twin-1.jpeg", "twin-2.jpeg"):
        shutil.copy(harness.inbox / IMAGES[0], harness.inbox / name)
    first, twin, later = *harness.announce(IMAGES[0], "twin-1.jpeg"), None
    harness.read()
    (later,) = harness.announce("twin-2.jpeg")
    harness.read()
    assert harness.scan(first).state == State.CLASSIFIED
    for scan_id in (twin, later):
        assert (harness.scan(scan_id).state, harness.scan(scan_id).duplicate_of) == (State.DUPLICATE, first)
    shown = harness.database.read(lambda c: c.execute(text("SELECT probability FROM scan_ledger")).scalars().all())
    assert len(set(shown)) == 1


def test_a_file_that_changed_waits_under_its_new_identity_and_is_read_then(harness: WorkerHarness) -> None:
    (scan_id,) = harness.announce(IMAGES[0])
    path = harness.inbox / IMAGES[0]
    path.write_bytes((harness.inbox / IMAGES[1]).read_bytes())
    harness.read()
    scan = harness.scan(scan_id)
    assert (scan.state, scan.size, scan.mtime_ns) == (State.QUEUED, path.stat().st_size, path.stat().st_mtime_ns)
    assert scan.announced_at is None  # for the sweep to announce
    harness.read()
    assert harness.scan(scan_id).state == State.QUEUED  # not due yet
    harness.read_when_due()
    assert harness.scan(scan_id).state == State.CLASSIFIED
    assert scan.lost_leases == 0


def test_a_half_written_image_is_read_once_it_is_complete(harness: WorkerHarness) -> None:
    whole = (harness.inbox / IMAGES[0]).read_bytes()
    path = harness.inbox / "slow.jpeg"
    path.write_bytes(whole[:5000])
    (scan_id,) = harness.announce("slow.jpeg")
    harness.read()
    assert (harness.scan(scan_id).state, harness.scan(scan_id).reason) == (State.QUEUED, None)
    path.write_bytes(whole)
    harness.read_when_due()  # it has changed: waits again
    assert harness.scan(scan_id).state == State.QUEUED
    harness.read_when_due()
    assert harness.scan(scan_id).state == State.CLASSIFIED


def test_an_image_that_stays_half_is_rejected_once_it_has_settled(harness: WorkerHarness) -> None:
    (harness.inbox / "half.jpeg").write_bytes((harness.inbox / IMAGES[0]).read_bytes()[:5000])
    (scan_id,) = harness.announce("half.jpeg")
    harness.read()
    harness.read_when_due()
    assert (harness.scan(scan_id).state, harness.scan(scan_id).reason) == (State.REJECTED, "unreadable")


def test_a_share_that_is_away_costs_its_images_nothing(harness: WorkerHarness) -> None:
    ids = harness.announce(*IMAGES[:3])
    harness.inbox.rename(harness.inbox.with_name("unmounted"))
    harness.read()
    for scan_id in ids:
        scan = harness.scan(scan_id)
        assert (scan.state, scan.lost_leases, scan.lost_leases_exclusive) == (State.QUEUED, 0, 0)
        assert scan.not_before > transitions.utc_now()
    harness.inbox.with_name("unmounted").rename(harness.inbox)
    for _ in range(2):  # the first image finds out that it is back
        harness.database.write(lambda c: c.execute(update(Scan).values(not_before=transitions.utc_now())))
        harness.read()
    assert {scan.state for scan in harness.scans()} == {State.CLASSIFIED}


def test_an_inbox_unknown_here_is_left_to_others(harness: WorkerHarness) -> None:
    (scan_id,) = harness.announce(IMAGES[0], inbox="other")
    harness.read()
    assert (harness.scan(scan_id).state, harness.scan(scan_id).lost_leases) == (State.QUEUED, 0)


def test_names_that_are_no_utf_8(harness: WorkerHarness) -> None:
    names = [b"M\xfcller.jpeg", "Übel ☢.jpeg".encode(), b"two\nlines.jpeg", b"sub/deep/er.jpeg"]
    (harness.inbox / "sub" / "deep").mkdir(parents=True)
    for number, name in enumerate(names):
        shutil.copy(harness.inbox / IMAGES[number], harness.inbox / os.fsdecode(name))
    ids = harness.announce(*names)
    harness.read()
    assert [harness.scan(scan_id).state for scan_id in ids] == [State.CLASSIFIED] * 4


def test_a_claim_that_was_taken_back_writes_nothing(harness: WorkerHarness, monkeypatch: Any) -> None:
    (scan_id,) = harness.announce(IMAGES[0])
    real = ScanProcessor._fetch

    def overtaken(processor: ScanProcessor, claim: Any, side: int) -> Any:
        harness.database.write(lambda c: transitions.expire_claims(c, [(scan_id, claim.token)], 3, "sweep"))
        return real(processor, claim, side)

    monkeypatch.setattr(ScanProcessor, "_fetch", overtaken)
    harness.read(1)
    assert (harness.scan(scan_id).state, harness.scan(scan_id).probability) == (State.QUEUED, None)
    monkeypatch.undo()
    harness.read(1)
    assert harness.scan(scan_id).state == State.CLASSIFIED
    assert [after for _, after in harness.events(scan_id)].count("classified") == 1


def test_many_threads_read_each_image_once(harness: WorkerHarness) -> None:
    for copy in range(4):
        for number, name in enumerate(IMAGES):
            data = (harness.inbox / name).read_bytes()
            (harness.inbox / f"copy-{copy}-{number}.jpeg").write_bytes(data + bytes(copy))  # bytes of its own
    names = [path.name for path in harness.inbox.iterdir()]
    harness.announce(*names)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(harness.read, permits) for permits in (1, 7, 8, 3, 20, 12, 9)]:
            future.result(60)
    assert {scan.state for scan in harness.scans()} <= {State.CLASSIFIED, State.DUPLICATE}
    assert all(len(harness.events(scan.id)) == 3 for scan in harness.scans())
    assert np.unique([scan.probability for scan in harness.scans() if scan.probability is not None]).size >= 10


def test_what_is_no_chest_image_is_rejected_and_nobody_has_read_it(
    harness: WorkerHarness, gated_model: ModelFolder
) -> None:
    model_cache.register_folder(harness.database, gated_model, "test")
    harness.processor._slot.swap(load_served_model(gated_model, harness.settings))
    page = Image.new("L", (300, 200), 255)
    page.putpixel((9, 9), 0)
    page.save(harness.inbox / "page.png")
    image_id, page_id = harness.announce(IMAGES[0], "page.png")
    harness.read()
    scan = harness.scan(page_id)
    assert (scan.state, scan.reason, scan.probability, scan.flagged) == (State.REJECTED, "not_chest_xray", None, None)
    assert scan.detail.endswith(".")
    assert scan.sha256 == hashlib.sha256((harness.inbox / "page.png").read_bytes()).hexdigest()
    assert harness.scan(image_id).state == State.CLASSIFIED
    unscored = harness.database.read(lambda c: c.execute(text("SELECT scan_id FROM unscored_cases")).scalars().all())
    assert unscored == [page_id]


def test_a_claim_is_read_by_one_model_and_the_next_by_its_successor(
    harness: WorkerHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models with other image sizes and thresholds are swapped in again and again while four
    threads read; each result must be wholly one model's."""
    folders = {}
    for side in (48, 80):
        at = tmp_path / f"model-{side}"
        folder = write_model(at, tiny_network(side), side, version=f"side-{side}", threshold={"value": side / 100})
        model_cache.register_folder(harness.database, folder, "test")
        folders[folder.version] = folder
    for copy in range(8):
        for number, name in enumerate(IMAGES):
            data = (harness.inbox / name).read_bytes()
            (harness.inbox / f"copy-{copy}-{number}.jpeg").write_bytes(data + bytes(copy))
    harness.announce(*(path.name for path in harness.inbox.iterdir()))
    one_by_one = harness.settings.model_copy(update={"batch_size": 3})
    monkeypatch.setattr(harness.processor, "_settings", one_by_one)
    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(harness.read, 30) for _ in range(4)]
        while not all(future.done() for future in reading):
            for folder in folders.values():
                harness.processor._slot.swap(load_served_model(folder, harness.settings))
        for future in reading:
            future.result()
    scans = harness.scans()
    assert {scan.state for scan in scans} <= {State.CLASSIFIED, State.DUPLICATE}
    assert all(len(harness.events(scan.id)) == 3 for scan in scans)
    read = [scan for scan in scans if scan.state == State.CLASSIFIED]
    assert len(stored_predictions(harness)) == len(read)
    assert {scan.model_version for scan in read} >= set(folders)
    models = {version: Classifier(folder, BATCH, "cpu") for version, folder in folders.items()}
    models[harness.serving.version] = harness.serving.model
    for scan in read:
        model = models[scan.model_version]
        pixels = reader.read_pixels((harness.inbox / scan.path).read_bytes(), model.side)
        assert scan.probability == pytest.approx(float(model.predict(pixels[None]).probability[0]), abs=1e-5)
        assert scan.threshold == model.threshold
    assert len(harness.processor._slot._users) == 1  # those that were relieved are gone


def test_a_relieved_model_is_ended_once_nothing_is_read_by_it(harness: WorkerHarness, classifier: Classifier) -> None:
    slot, old, new = harness.processor._slot, harness.serving, ServedModel(classifier, BATCH)
    with slot.use() as held:
        assert held is old
        slot.swap(new)
        found = old.predict([decode.DecodedFile(1, np.zeros((classifier.side,) * 2, np.uint8), "", 1, 1)])
        assert len(found.probability) == 1
        with slot.use() as next_one:
            assert next_one is new
    assert not old._batcher._thread.is_alive()
    assert new._batcher._thread.is_alive()


# images kept


def swap_model(harness: WorkerHarness, folder: ModelFolder) -> None:
    model_cache.register_folder(harness.database, folder, "test")
    harness.processor._slot.swap(load_served_model(folder, harness.settings))


@pytest.mark.parametrize("keep_images", ["judged", "flagged", "all"])
def test_images_are_kept_as_the_setting_says(
    harness: WorkerHarness, gated_model: ModelFolder, monkeypatch: pytest.MonkeyPatch, keep_images: str
) -> None:
    settings = harness.settings.model_copy(update={"keep_images": keep_images})
    monkeypatch.setattr(harness.processor, "_image_keeper", ImageKeeper(settings))
    swap_model(harness, gated_model)
    (harness.inbox / "letter.jpeg").write_text("Dear colleague")
    harness.announce(*IMAGES, "letter.jpeg")
    harness.read_when_due()
    scans = [scan for scan in harness.scans() if scan.state == State.CLASSIFIED]
    assert {scan.flagged for scan in scans} == {True, False}  # or this would show nothing
    model = Classifier(gated_model, BATCH, "cpu")
    for scan in scans:
        pixels = image_store.load_image(settings.data_dir, scan.sha256)
        if not (keep_images == "all" or (keep_images == "flagged" and scan.flagged)):
            assert pixels is None
            continue
        expected = reader.read_pixels((harness.inbox / scan.path).read_bytes(), gated_model.side)
        np.testing.assert_array_equal(pixels, expected)
        logits = model.predict(expected[None]).maps[0]
        shades = image_store.load_activation_map(settings.data_dir, scan.sha256)
        np.testing.assert_allclose(shades, 255 / (1 + np.exp(-logits)), atol=1)
    folder = settings.data_dir / image_store.IMAGES_FOLDER
    count = len(list(folder.iterdir())) if folder.exists() else 0
    assert count == sum(image_store.image_path(settings.data_dir, scan.sha256).exists() for scan in scans)


def test_a_full_disk_costs_the_images_and_not_their_outcomes(
    harness: WorkerHarness, gated_model: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (harness.settings.data_dir / image_store.IMAGES_FOLDER).write_text("no folder can be made here")
    swap_model(harness, gated_model)
    harness.announce(*IMAGES)
    harness.read()
    assert {scan.state for scan in harness.scans()} == {State.CLASSIFIED}
    assert not [name for name in IMAGES if name in caplog.text]
