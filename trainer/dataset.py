"""A labelled folder of films: who is on them, which split they belong to, and their pixels."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import FilmRejected, TrainingError
from pneumowatch.film import Pixels, decode

CLASSES: Final = ("NORMAL", "PNEUMONIA")  # sub-folders; a film's label is the index of its class
SPLITS: Final = ("train", "validation", "test")
SPLIT_RULE: Final = "int(sha256('pneumowatch-1:' + patient).hexdigest(), 16) % 10: 0 test, 1 validation, the rest train"

_PATIENT: Final = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[-_]")


@dataclass(frozen=True, eq=False)
class LabelledFilm:
    patient: str
    label: int
    sha256: str  # of the file, in hex
    pixels: Pixels  # (side, side)

    @cached_property
    def split(self) -> str:
        return split_of(self.patient)


@dataclass(frozen=True)
class LeftOut:
    """A file of the folder that is no film for training, and the reader's sentence about it."""

    path: Path
    reason: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Examples:
    """Films of one split as arrays, in one order."""

    pixels: Pixels  # (n, side, side, 1)
    labels: NDArray[np.float32]  # (n,), 1 where ill
    patients: NDArray[np.str_]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    films: tuple[LabelledFilm, ...]
    left_out: tuple[LeftOut, ...]
    side: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted file hashes and labels: the same films under other names are the same data."""
        lines = sorted(f"{film.sha256} {CLASSES[film.label]}\n" for film in self.films)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def examples(self, split: str) -> Examples:
        films = [film for film in self.films if film.split == split]
        pixels = np.array([film.pixels for film in films], np.uint8).reshape(-1, self.side, self.side, 1)
        labels = np.array([film.label for film in films], np.float32)
        return Examples(pixels, labels, np.array([film.patient for film in films], np.str_))

    def counts(self) -> dict[str, Any]:
        """Films and patients by split and class."""
        return {split: {name: self._count(split, label) for label, name in enumerate(CLASSES)} for split in SPLITS}

    def _count(self, split: str, label: int) -> dict[str, int]:
        patients = Counter(film.patient for film in self.films if (film.split, film.label) == (split, label))
        return {"films": patients.total(), "patients": len(patients)}


def patient_of(name: str) -> str:
    """The patient in a file's name, as the Kermany set writes it; a name of another kind is a patient of its own."""
    match = _PATIENT.match(name)
    return match[1] if match else Path(name).stem


def split_of(patient: str) -> str:
    """Where a patient belongs, today and every night: nobody moves when films are added."""
    digest = hashlib.sha256(f"pneumowatch-1:{patient}".encode("utf-8", "surrogateescape")).hexdigest()
    return {0: "test", 1: "validation"}.get(int(digest, 16) % 10, "train")


def read(folder: Path, side: int) -> Dataset:
    """Read every film under `folder`/NORMAL and `folder`/PNEUMONIA, reduced to `side` pixels.

    A file that cannot be read is left out and stands in `left_out`; hidden files are not looked at.

    Raises:
        TrainingError: one of the two folders is missing, or holds no film that can be read.
    """
    films: list[LabelledFilm] = []
    left_out: list[LeftOut] = []
    for label, name in enumerate(CLASSES):
        before = len(films)
        for path in _files(folder / name):
            try:
                films.append(_read_film(path, label, side))
            except FilmRejected as rejected:
                left_out.append(LeftOut(path, rejected.reason, rejected.sentence))
        if len(films) == before:
            raise TrainingError(f"{folder / name} holds no film that can be read.")
    return Dataset(tuple(films), tuple(left_out), side)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be read ({error.strerror}); a training folder holds {' and '.join(CLASSES)}."
        ) from error


def _read_film(path: Path, label: int, side: int) -> LabelledFilm:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FilmRejected("unreadable", f"The file cannot be read ({error.strerror}).") from error
    return LabelledFilm(patient_of(path.name), label, hashlib.sha256(data).hexdigest(), decode(data, side))
