"""Readers' verdicts as labelled films: which of them teach, and what they say."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import numpy as np
from PIL import Image
from sqlalchemy import Connection, select

from db.models import Review, Scan
from db.reviews import STANDING
from db.states import Verdict
from pneumowatch import kept
from pneumowatch.film import Pixels
from pneumowatch.phantom import SOURCE
from trainer.dataset import CLASSES, OF_KERMANY, Dataset, LabelledFilm, Naming, patient_of

LABELS: Final = {Verdict.NO_PNEUMONIA: CLASSES.index("NORMAL"), Verdict.PNEUMONIA: CLASSES.index("PNEUMONIA")}


class Said(NamedTuple):
    """One review, and whose film it judges."""

    review_id: int
    scan_id: int
    reviewer: str
    verdict: str
    source: str
    sha256: str | None
    patient_key: str | None
    path: str


@dataclass(frozen=True)
class Judgement:
    """A film on which all its readers agree."""

    sha256: str
    label: int
    patient: str
    review_id: int  # of the newest of its reviews
    keyed: bool = False  # the patient is told by a header


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the verdicts teach."""

    films: Dataset
    reviews: dict[str, int]  # SHA-256 of a film -> its newest review
    left_out: dict[str, int]  # films that teach nothing, by why
    last_review_id: int  # of all that were looked at; 0 where there is none

    def since(self, review_id: int) -> Dataset:
        """The films that were judged after this review."""
        films = tuple(film for film in self.films.films if self.reviews[film.sha256] > review_id)
        return Dataset(films, (), self.films.side)


def said(connection: Connection) -> list[Said]:
    """All reviews that stand, of scans that are no duplicates, the oldest first; reviews of duplicates are recorded
    with their originals."""
    columns = (
        Review.id, Review.scan_id, Review.reviewer, Review.verdict, Scan.inbox, Scan.sha256, Scan.patient_key, Scan.path
    )  # fmt: skip
    standing = select(*columns).join(Scan, Scan.id == Review.scan_id).where(STANDING)
    rows = connection.execute(standing.order_by(Review.id))
    return [Said(*row) for row in rows]


def judge(reviews: Iterable[Said], naming: Naming = OF_KERMANY) -> tuple[list[Judgement], Counter[str]]:
    """The films that teach, and how many do not, by why.

    A reader's last word counts. A film teaches where all its readers say `pneumonia`, or all `no_pneumonia`: where one
    of them says another thing, be it `unsure`, somebody has yet to look again. Drawn films never teach.
    """
    of_film: dict[str, dict[str, Said]] = {}
    for review in reviews:  # a scan that was judged as another one's twin before shares its film by the hash
        of_film.setdefault(review.sha256 or f"scan {review.scan_id}", {})[review.reviewer] = review
    films: list[Judgement] = []
    left_out: Counter[str] = Counter()
    for last_words in of_film.values():
        newest = max(last_words.values())
        why = _teaches_not(last_words.values())
        if why:
            left_out[why] += 1
        else:
            patient = _patient(newest, naming)
            label = LABELS[Verdict(newest.verdict)]
            films.append(Judgement(newest.sha256 or "", label, patient, newest.review_id, bool(newest.patient_key)))
    return films, left_out


def read(data_dir: Path, reviews: Sequence[Said], side: int, naming: Naming = OF_KERMANY) -> Lessons:
    """The films of the verdicts that teach, as they were kept, `side` pixels large."""
    judgements, left_out = judge(reviews, naming)
    films = []
    for judgement in judgements:
        pixels = kept.read(data_dir, judgement.sha256)
        if pixels is None:
            left_out["not_kept"] += 1
        else:
            sized = _sized(pixels, side)
            films.append(
                LabelledFilm(judgement.patient, judgement.label, judgement.sha256, sized, keyed=judgement.keyed)
            )
    newest = {judgement.sha256: judgement.review_id for judgement in judgements}
    last = max((review.review_id for review in reviews), default=0)
    return Lessons(Dataset(tuple(films), (), side), newest, dict(left_out), last)


def new_since(judgements: Iterable[Judgement], review_id: int) -> int:
    """How many films that teach were judged after this review."""
    return sum(judgement.review_id > review_id for judgement in judgements)


def repeated(films: int, among: int, share: float, at_most: int) -> int:
    """How often each film of the verdicts is to be learned from, so that of all lessons they are about this share:
    1 to `at_most` times.

    Args:
        films: of the verdicts.
        among: films of the base dataset.
    """
    return int(np.clip(round(share / (1 - share) * among / max(films, 1)), 1, at_most))


def _teaches_not(last_words: Iterable[Said]) -> str | None:
    verdicts, sources = ({getattr(review, name) for review in last_words} for name in ("verdict", "source"))
    if SOURCE in sources:
        return "synthetic"
    if any(review.sha256 is None for review in last_words):
        return "never_read"
    if len(verdicts) > 1:
        return "conflicting"
    (verdict,) = verdicts
    return None if verdict in LABELS else str(verdict)


def _patient(review: Said, naming: Naming) -> str:
    """By the header; else by the file's name, else by its path; else a patient of its own."""
    if review.patient_key:
        return review.patient_key
    name = PurePosixPath(review.path).name
    for pattern in naming.patterns:
        for text in (name, review.path):
            if pattern.search(text):
                return patient_of(text, pattern)
    return str(PurePosixPath(review.path).with_suffix("")) if name else review.path


def _sized(pixels: Pixels, side: int) -> Pixels:
    """Films are kept as they were reduced for the model of their day; another one may take another size."""
    if pixels.shape == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
