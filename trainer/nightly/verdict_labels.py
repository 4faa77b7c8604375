"""Turn readers' verdicts into labelled images: which images become training labels, and which label they get."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from db.states import Verdict
from db.worklist.verdicts import ReviewRecord
from pneumowatch.imaging import image_store
from pneumowatch.imaging.phantom import PHANTOM_SOURCE
from pneumowatch.imaging.reader import Pixels
from trainer.dataset import CLASSES, KERMANY_RULE, Dataset, LabelledImage, PatientIdRule, patient_of

LABEL_OF_VERDICT: Final = {Verdict.NO_PNEUMONIA: CLASSES.index("NORMAL"), Verdict.PNEUMONIA: CLASSES.index("PNEUMONIA")}


@dataclass(frozen=True)
class ConsensusLabel:
    """The label of an image on which all its readers agree."""

    sha256: str
    label: int
    patient: str
    review_id: int  # of the newest of its reviews
    keyed: bool = False  # a DICOM header identifies the patient


@dataclass(frozen=True, eq=False)
class VerdictDataset:
    """The labelled images that the verdicts give."""

    dataset: Dataset
    reviews: dict[str, int]  # SHA-256 of an image -> its newest review
    left_out: dict[str, int]  # images that give no label, by reason
    last_review_id: int  # of all reviews, used or not; 0 where there is none

    def judged_after(self, review_id: int) -> Dataset:
        """Return the images that were judged after this review."""
        images = tuple(image for image in self.dataset.images if self.reviews[image.sha256] > review_id)
        return Dataset(images, (), self.dataset.side)


def consensus_labels(
    reviews: Iterable[ReviewRecord], patient_rule: PatientIdRule = KERMANY_RULE
) -> tuple[list[ConsensusLabel], Counter[str]]:
    """Return the images that give a label, and count those that do not, by reason.

    A reader's last verdict counts. An image gives a label where all its readers say `pneumonia`, or all `no_pneumonia`.
    Where one of them says anything else, even `unsure`, the image needs another review. Drawn images never give a
    label.
    """
    of_image: dict[str, dict[str, ReviewRecord]] = {}
    for review in reviews:  # scans with the same bytes, known as duplicates or not, are one image
        of_image.setdefault(review.sha256 or f"scan {review.scan_id}", {})[review.reviewer] = review
    images: list[ConsensusLabel] = []
    left_out: Counter[str] = Counter()
    for latest_reviews in of_image.values():
        newest = max(latest_reviews.values())
        why = _exclusion_reason(latest_reviews.values())
        if why:
            left_out[why] += 1
        else:
            patient = _patient(newest, patient_rule)
            label = LABEL_OF_VERDICT[Verdict(newest.verdict)]
            images.append(
                ConsensusLabel(newest.sha256 or "", label, patient, newest.review_id, bool(newest.patient_key))
            )
    return images, left_out


def read_verdict_dataset(
    data_dir: Path, reviews: Sequence[ReviewRecord], side: int, patient_rule: PatientIdRule = KERMANY_RULE
) -> VerdictDataset:
    """Read the stored images of the verdicts that give a label, at `side` pixels."""
    judgements, left_out = consensus_labels(reviews, patient_rule)
    images = []
    for judgement in judgements:
        pixels = image_store.load_image(data_dir, judgement.sha256)
        if pixels is None:
            left_out["not_kept"] += 1
        else:
            sized = _sized(pixels, side)
            images.append(
                LabelledImage(judgement.patient, judgement.label, judgement.sha256, sized, keyed=judgement.keyed)
            )
    newest = {judgement.sha256: judgement.review_id for judgement in judgements}
    last = max((review.review_id for review in reviews), default=0)
    return VerdictDataset(Dataset(tuple(images), (), side), newest, dict(left_out), last)


def count_newer(judgements: Iterable[ConsensusLabel], review_id: int) -> int:
    """Count the labelled images that were judged after this review."""
    return sum(judgement.review_id > review_id for judgement in judgements)


def oversampling_factor(images: int, among: int, share: float, at_most: int) -> int:
    """Return how often each image of a verdict is trained on, so that they make up about this share of all.

    1 to `at_most` times.

    Args:
        images: number of images of the verdicts.
        among: number of images of the base dataset.
    """
    return int(np.clip(round(share / (1 - share) * among / max(images, 1)), 1, at_most))


def _exclusion_reason(latest_reviews: Iterable[ReviewRecord]) -> str | None:
    verdicts, sources = ({getattr(review, name) for review in latest_reviews} for name in ("verdict", "source"))
    if PHANTOM_SOURCE in sources:
        return "synthetic"
    if any(review.sha256 is None for review in latest_reviews):
        return "never_read"
    if len(verdicts) > 1:
        return "conflicting"
    (verdict,) = verdicts
    return None if verdict in LABEL_OF_VERDICT else str(verdict)


def _patient(review: ReviewRecord, patient_rule: PatientIdRule) -> str:
    """Identify the patient by the header; else by the file's name, then its path; else as a patient of its own."""
    if review.patient_key:
        return review.patient_key
    name = PurePosixPath(review.path).name
    for pattern in patient_rule.patterns:
        for text in (name, review.path):
            if pattern.search(text):
                return patient_of(text, pattern)
    return str(PurePosixPath(review.path).with_suffix("")) if name else review.path


def _sized(pixels: Pixels, side: int) -> Pixels:
    """Resize an image where needed: it was stored in the size of the model of its day."""
    if pixels.shape == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
