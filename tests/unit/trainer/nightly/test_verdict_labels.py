"""Which verdicts become training labels, and which labels."""

import re
from pathlib import Path

import numpy as np
import pytest

from db.worklist.verdicts import ReviewRecord
from pneumowatch.imaging import image_store
from trainer.dataset import PatientIdRule, split_of
from trainer.nightly import verdict_labels

ILL, WELL = "pneumonia", "no_pneumonia"


def review(
    number: int, verdict: str = ILL, reviewer: str = "ada", scan: int | None = None, **more: str | None
) -> ReviewRecord:
    scan = scan or number
    facts = {"source": "ward", "sha256": f"{scan:064x}", "patient_key": None, "path": f"person{scan}_virus_1.jpeg"}
    return ReviewRecord(number, scan, reviewer, verdict, **{**facts, **more})  # type: ignore[arg-type]


def labels(*reviews: ReviewRecord) -> dict[int, int]:
    """Return {scan: the label of its image}."""
    return {int(one.sha256, 16): one.label for one in verdict_labels.consensus_labels(reviews)[0]}


def why(*reviews: ReviewRecord) -> dict[str, int]:
    images, left_out = verdict_labels.consensus_labels(reviews)
    assert images == []
    return dict(left_out)


def test_two_verdicts_teach() -> None:
    assert labels(review(1, ILL), review(2, WELL)) == {1: 1, 2: 0}


@pytest.mark.parametrize("verdict", ["unsure", "unusable"])
def test_the_others_do_not(verdict: str) -> None:
    assert why(review(1, verdict)) == {verdict: 1}


def test_a_readers_last_word_counts() -> None:
    assert labels(review(1, ILL, scan=7), review(2, WELL, scan=7)) == {7: 0}
    assert why(review(1, ILL, scan=7), review(2, "unsure", scan=7)) == {"unsure": 1}


@pytest.mark.parametrize("other", [WELL, "unsure", "unusable"])
def test_where_readers_disagree_nothing_is_taught(other: str) -> None:
    assert why(review(1, ILL, "ada", 7), review(2, other, "bob", 7)) == {"conflicting": 1}


def test_where_they_agree_it_is_one_image() -> None:
    (image,) = verdict_labels.consensus_labels([review(1, ILL, "ada", 7), review(4, ILL, "bob", 7)])[0]
    assert (image.label, image.review_id) == (1, 4)


def test_two_scans_of_one_content_are_one_image() -> None:
    assert labels(review(1, scan=7), review(2, scan=8, sha256=f"{7:064x}")) == {7: 1}
    assert why(review(1, scan=7), review(2, WELL, "bob", 8, sha256=f"{7:064x}")) == {"conflicting": 1}


def test_drawn_images_and_those_never_read_teach_nothing() -> None:
    assert why(review(1, source="synthetic"), review(2, sha256=None)) == {"synthetic": 1, "never_read": 1}


@pytest.mark.parametrize(
    ("facts", "patient"),
    [
        ({"patient_key": "k1"}, "k1"),
        ({"path": "2026/person63_virus_7.jpeg"}, "person63"),
        ({"path": "2026/IMG_0001.dcm"}, "2026/IMG_0001"),
    ],
)
def test_the_patient_is_told_by_header_name_or_path(facts: dict[str, str], patient: str) -> None:
    (image,) = verdict_labels.consensus_labels([review(1, **facts)])[0]
    assert image.patient == patient
    by_folder = PatientIdRule((re.compile(r"^(\d{4})/"),))
    (image,) = verdict_labels.consensus_labels([review(1, path="2026/a.dcm")], by_folder)[0]
    assert image.patient == "2026"


def test_images_are_those_that_were_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for scan, side in ((1, 64), (2, 32)):
        image_store.store_image(tmp_path, f"{scan:064x}", rng.integers(0, 256, (side, side), np.uint8))
    found = verdict_labels.read_verdict_dataset(
        tmp_path, [review(1), review(2, WELL), review(3), review(5, "unsure")], 64
    )
    assert [(image.label, image.patient, image.pixels.shape) for image in found.dataset.images] == [
        (1, "person1", (64, 64)),
        (0, "person2", (64, 64)),
    ]
    assert np.array_equal(found.dataset.images[0].pixels, image_store.load_image(tmp_path, f"{1:064x}"))
    assert found.left_out == {"not_kept": 1, "unsure": 1}
    assert found.last_review_id == 5
    assert [image.patient for image in found.judged_after(1).images] == ["person2"]
    assert set(found.dataset.splits) == {split_of("person1"), split_of("person2")}


def test_none_at_all(tmp_path: Path) -> None:
    found = verdict_labels.read_verdict_dataset(tmp_path, [], 64)
    assert (found.dataset.images, found.last_review_id, found.left_out) == ((), 0, {})


def test_what_is_new() -> None:
    images, _ = verdict_labels.consensus_labels([review(1), review(2), review(3, scan=1), review(4, "unsure")])
    assert [verdict_labels.count_newer(images, used) for used in (0, 1, 2, 3)] == [2, 2, 1, 0]


@pytest.mark.parametrize(
    ("images", "among", "times"), [(160, 3700, 8), (400, 3700, 3), (5000, 3700, 1), (3, 3700, 8), (0, 3700, 8)]
)
def test_few_images_are_learned_from_more_often(images: int, among: int, times: int) -> None:
    assert verdict_labels.oversampling_factor(images, among, 0.25, 8) == times
