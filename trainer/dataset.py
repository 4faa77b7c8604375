"""Read a labelled folder of images: the patient of each image, the split of each patient, and the pixels."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch import patient_hashing
from pneumowatch.errors import ImageRejected, TrainingError
from pneumowatch.imaging import reader
from pneumowatch.imaging.reader import Pixels
from pneumowatch.settings import Settings
from trainer import near_duplicates

CLASSES: Final = ("NORMAL", "PNEUMONIA")  # sub-folders; an image's label is the index of its class
SPLITS: Final = ("train", "validation", "test")
SPLIT_RULE: Final = (
    "int(sha256('pneumowatch-1:' + patient).hexdigest(), 16) % 10: 0 test, 1 validation, the rest train; patients with "
    "the same picture all get the one of their splits that is held out furthest (test, then validation)"
)

# The classes' folders may be plain, may have the suffix of the original notebook, or may lie in the set's own splits.
# Those splits are merged, because they were drawn by image: the split here is by patient.
CLASS_FOLDER_SUFFIXES: Final = ("", "_ALL")
SET_SPLITS: Final = ("train", "val", "test")

KERMANY_PATTERN: Final = re.compile(r"^(person\d+|(?:NORMAL2-)?IM-\d+)[-_]")
# Hashes the patient IDs of DICOM images where the deployment has no key of its own.
DEFAULT_PATIENT_KEY: Final = b"pneumowatch: no patient key"

_HELD_OUT: Final = {split: rank for rank, split in enumerate(SPLITS)}  # a higher rank is held out further


@dataclass(frozen=True)
class PatientIdRule:
    """How the patient of a file is identified.

    By the first of the patterns that matches the file's name; DICOM images by the patient ID of their header, hashed
    under the key. Under another rule the same patients fall into other splits.
    """

    patterns: tuple[re.Pattern[str], ...] = (KERMANY_PATTERN,)
    key: bytes = DEFAULT_PATIENT_KEY

    @classmethod
    def from_settings(cls, settings: Settings, *patterns: str) -> "PatientIdRule":
        """Build the rule of this deployment: its key, where it has one; `patterns` first, then the Kermany set's."""
        file = settings.patient_key_path
        every = dict.fromkeys(pattern for pattern in (*patterns, KERMANY_PATTERN.pattern) if pattern)
        return cls(
            tuple(map(re.compile, every)), patient_hashing.read_key(file) if file.exists() else DEFAULT_PATIENT_KEY
        )

    @classmethod
    def from_card(cls, card: dict[str, Any], settings: Settings, *patterns: str) -> "PatientIdRule":
        """Build the rule for images that a model was trained on: the patterns of its card come first."""
        return cls.from_settings(settings, *_patient_rule_of(card)["patterns"], *patterns)

    def patient(self, name: str) -> str:
        return patient_of(name, *self.patterns)

    def card_entry(self, keyed: bool) -> dict[str, Any]:
        """Return the entry for a card. `keyed`: some patients are identified by DICOM headers."""
        key = patient_hashing.key_fingerprint(self.key) if keyed else None
        return {"patterns": [pattern.pattern for pattern in self.patterns], "key": key}


KERMANY_RULE: Final = PatientIdRule()


@dataclass(frozen=True, eq=False)
class LabelledImage:
    patient: str
    label: int
    sha256: str  # of the file, in hex
    pixels: Pixels  # (side, side)
    path: Path | None = None  # None where it does not come from a folder
    keyed: bool = False  # a DICOM header identifies its patient


@dataclass(frozen=True)
class LeftOut:
    """A file of the folder that cannot be used for training: the image reader's reason and sentence."""

    path: Path
    reason: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of one split as arrays, in one order."""

    pixels: Pixels  # (n, side, side, 1)
    labels: NDArray[np.float32]  # (n,), 1 for pneumonia
    patients: NDArray[np.str_]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels. `+` adds the images of another dataset."""

    images: tuple[LabelledImage, ...]
    left_out: tuple[LeftOut, ...]
    side: int
    patient_rule: PatientIdRule = KERMANY_RULE

    def __add__(self, other: "Dataset") -> "Dataset":
        if self.side != other.side:
            raise TrainingError(f"Images of {self.side} and of {other.side} pixels cannot be trained on together.")
        return Dataset(self.images + other.images, self.left_out + other.left_out, self.side, self.patient_rule)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted file hashes and labels: the same images under other names are the same data."""
        lines = sorted(f"{image.sha256} {CLASSES[image.label]}\n" for image in self.images)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def duplicate_pairs(self) -> near_duplicates.DuplicatePairs:
        return near_duplicates.find_near_duplicates(
            [image.sha256 for image in self.images], [image.pixels for image in self.images]
        )

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Split of each image.

        Patients with the same picture may be one person. They all get the split that is held out furthest, so nobody
        who is held out is ever trained on.
        """
        whose = [image.patient for image in self.images]
        ranks = near_duplicates.propagate_ranks(
            whose, self.duplicate_pairs.pairs, [_HELD_OUT[split_of(patient)] for patient in whose]
        )
        return tuple(SPLITS[rank] for rank in ranks)

    def in_split(self, split: str) -> tuple[LabelledImage, ...]:
        """Return the images of a split, or of `all`."""
        return tuple(image for image, its in zip(self.images, self.splits, strict=True) if split in (its, "all"))

    def examples(self, split: str, among: "Dataset | None" = None) -> Examples:
        """Return the images of a split as arrays.

        With `among`, return only the images of that dataset, which was added to this one.
        """
        own = set(among.images if among else self.images)
        images = [image for image in self.in_split(split) if image in own]
        pixels = np.array([image.pixels for image in images], np.uint8).reshape(-1, self.side, self.side, 1)
        labels = np.array([image.label for image in images], np.float32)
        return Examples(pixels, labels, np.array([image.patient for image in images], np.str_))

    @property
    def keyed(self) -> bool:
        """Whether DICOM headers identify some of the patients."""
        return any(image.keyed for image in self.images)

    def split_mismatch(self, card: dict[str, Any]) -> bool:
        """Tell whether patients were identified by another rule when this card's model was trained.

        The model may then have been trained on patients that are held out here.
        """
        stated = _patient_rule_of(card)
        if self.keyed and stated["key"] not in (None, patient_hashing.key_fingerprint(self.patient_rule.key)):
            return True
        then = tuple(re.compile(pattern) for pattern in stated["patterns"])
        names = [image.path.name for image in self.images if image.path and not image.keyed]
        if "patients" not in card.get("data", {}):  # an old card: only the Kermany set is known to be in it
            names = [name for name in names if KERMANY_PATTERN.search(name)]
        return any(patient_of(name, *then) != self.patient_rule.patient(name) for name in names)

    def counts(self) -> dict[str, Any]:
        """Count images and patients by split and class."""
        return {split: {name: self._count(split, label) for label, name in enumerate(CLASSES)} for split in SPLITS}

    def duplicates(self) -> dict[str, int]:
        """Count the pairs of images of the same picture: exact, near, across patients and across classes."""
        images = self.images
        return {
            "exact": len(self.duplicate_pairs.exact),
            "near": len(self.duplicate_pairs.near),
            "across_patients": sum(images[a].patient != images[b].patient for a, b in self.duplicate_pairs.pairs),
            "across_classes": sum(images[a].label != images[b].label for a, b in self.duplicate_pairs.pairs),
        }

    def _count(self, split: str, label: int) -> dict[str, int]:
        images = Counter(image.patient for image in self.in_split(split) if image.label == label)
        return {"images": images.total(), "patients": len(images)}


def patient_of(name: str, *patterns: re.Pattern[str]) -> str:
    """Return the patient named in a file's name.

    That is the first group of the first pattern that matches, or the whole match. A name that no pattern matches is a
    patient of its own. Without patterns, the Kermany set's pattern applies.
    """
    for pattern in patterns or (KERMANY_PATTERN,):
        if match := pattern.search(name):
            return match[1 if pattern.groups else 0] or Path(name).stem
    return Path(name).stem


def split_of(patient: str) -> str:
    """Return the split of a patient. It depends on the patient alone: nobody moves when images are added."""
    digest = hashlib.sha256(f"pneumowatch-1:{patient}".encode("utf-8", "surrogateescape")).hexdigest()
    return {0: "test", 1: "validation"}.get(int(digest, 16) % 10, "train")


def read_dataset(
    folder: Path,
    side: int,
    patient_rule: PatientIdRule = KERMANY_RULE,
    require_both_classes: bool = True,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Dataset:
    """Read every image of a labelled folder, reduced to `side` pixels.

    A file that cannot be read is listed in `left_out`; hidden files are ignored.

    Args:
        folder: holds NORMAL and PNEUMONIA, or NORMAL_ALL and PNEUMONIA_ALL, or any of train, val and test with those.
        patient_rule: how patients are identified.
        require_both_classes: both classes must have images; otherwise one is enough.
        on_progress: called with the number of files read, and of all files.

    Raises:
        TrainingError: a class has no folder, or no image that can be read.
    """
    files = [
        (path, label) for of_class, label in _class_folders(folder, require_both_classes) for path in _files(of_class)
    ]
    images: list[LabelledImage] = []
    left_out: list[LeftOut] = []
    for number, (path, label) in enumerate(files, start=1):
        try:
            images.append(_read_image(path, label, side, patient_rule))
        except ImageRejected as rejected:
            left_out.append(LeftOut(path, rejected.reason, rejected.sentence))
        on_progress(number, len(files))
    found = {image.label for image in images}
    for label, name in enumerate(CLASSES):
        if label not in found and (require_both_classes or not found):
            raise TrainingError(f"{folder} cannot be used: {name} holds no image that can be read.")
    return Dataset(tuple(images), tuple(left_out), side, patient_rule)


def _patient_rule_of(card: dict[str, Any]) -> dict[str, Any]:
    """Return a card's patient rule. Old cards state none: they used the Kermany set's pattern."""
    default: dict[str, Any] = {"patterns": [KERMANY_PATTERN.pattern], "key": None}
    stated = default | card.get("data", {}).get("patients", {})
    try:
        for pattern in stated["patterns"]:
            re.compile(pattern)
    except (re.error, TypeError) as error:
        sentence = f"The model's card holds a patient pattern that is not a regular expression: {error}."
        raise TrainingError(sentence) from None
    return stated


def _class_folders(folder: Path, require_both_classes: bool) -> list[tuple[Path, int]]:
    """Return the class folders with their labels. Raises TrainingError where one is missing."""
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder that can be read.")
    here = list(_with_classes(folder))
    within = [found for part in SET_SPLITS for found in _with_classes(folder / part)]
    found = sorted(here or within, key=lambda pair: pair[1])
    if len({label for _, label in found}) < (len(CLASSES) if require_both_classes else 1):
        raise TrainingError(
            f"{folder} cannot be read as labelled images: it needs sub-folders {' and '.join(CLASSES)}, with or "
            f"without {CLASS_FOLDER_SUFFIXES[1]} at the end of their names, directly or within {', '.join(SET_SPLITS)}."
        )
    return found


def _with_classes(folder: Path) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(CLASSES):
        yield from (
            (folder / f"{name}{end}", label) for end in CLASS_FOLDER_SUFFIXES if (folder / f"{name}{end}").is_dir()
        )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise TrainingError(f"{folder} cannot be read ({error.strerror}).") from error


def _read_image(path: Path, label: int, side: int, patient_rule: PatientIdRule) -> LabelledImage:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageRejected("unreadable", f"The file cannot be read ({error.strerror}).") from error
    image = reader.read_image(data, side, patient_key=patient_rule.key)
    from_header = image.header.patient_key if image.header else None
    patient, sha256 = from_header or patient_rule.patient(path.name), hashlib.sha256(data).hexdigest()
    return LabelledImage(patient, label, sha256, image.pixels, path, keyed=bool(from_header))
