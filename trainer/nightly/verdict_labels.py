"""Readers' verdicts as labelled films: which of them teach, and what they say."""

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
    """A film on which all its readers agree."""

    sha256: str
    label: int
    patient: str
    review_id: int  # of the newest of its reviews
    keyed: bool = False  # the patient is told by a header


@dataclass(frozen=True, eq=False)
class VerdictDataset:
    """What the verdicts teach."""

    dataset: Dataset
    reviews: dict[str, int]  # SHA-256 of a film -> its newest review
    left_out: dict[str, int]  # films that teach nothing, by why
    last_review_id: int  # of all that were looked at; 0 where there is none

    def judged_after(self, review_id: int) -> Dataset:
        """The films that were judged after this review."""
        images = tuple(image for image in self.dataset.images if self.reviews[image.sha256] > review_id)
        return Dataset(images, (), self.dataset.side)


def consensus_labels(
    reviews: Iterable[ReviewRecord], patient_rule: PatientIdRule = KERMANY_RULE
) -> tuple[list[ConsensusLabel], Counter[str]]:
    """The films that teach, and how many do not, by why.

    A reader's last word counts. A film teaches where all its readers say `pneumonia`, or all `no_pneumonia`: where one
    of them says another thing, be it `unsure`, somebody has yet to look again. Drawn films never teach.
    """
    of_film: dict[str, dict[str, ReviewRecord]] = {}
    for review in reviews:  # a scan that was judged as another one's twin before shares its film by the hash
        of_film.setdefault(review.sha256 or f"scan {review.scan_id}", {})[review.reviewer] = review
    images: list[ConsensusLabel] = []
    left_out: Counter[str] = Counter()
    for latest_reviews in of_film.values():
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
    """The films of the verdicts that teach, as they were kept, `side` pixels large."""
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
    """How many films that teach were judged after this review."""
    return sum(judgement.review_id > review_id for judgement in judgements)


def oversampling_factor(images: int, among: int, share: float, at_most: int) -> int:
    """How often each film of the verdicts is to be learned from, so that of all lessons they are about this share:
    1 to `at_most` times.

    Args:
        images: of the verdicts.
        among: films of the base dataset.
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
    """By the header; else by the file's name, else by its path; else a patient of its own."""
    if review.patient_key:
        return review.patient_key
    name = PurePosixPath(review.path).name
    for pattern in patient_rule.patterns:
        for text in (name, review.path):
            if pattern.search(text):
                return patient_of(text, pattern)
    return str(PurePosixPath(review.path).with_suffix("")) if name else review.path


def _sized(pixels: Pixels, side: int) -> Pixels:
    """Films are kept as they were reduced for the model of their day; another one may take another size."""
    if pixels.shape == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
