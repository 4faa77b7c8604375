"""Survey a labelled dataset: classes, patients, splits, sizes, gray values and duplicates."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from PIL import Image

from trainer.dataset import CLASSES, SPLITS, Dataset, LabelledImage

SURVEY_SIDE: Final = 160  # pixels, to which images are reduced for their gray values and to find duplicates
GRAY_BINS: Final = 32  # bins of the histogram of gray values
SPLIT_COLUMNS: Final = ("split", "class", "images", "patients")
RANGE_COLUMNS: Final = ("what", "class", "least", "median", "most")
RANGES: Final = {
    "width": "width, pixels",
    "height": "height, pixels",
    "kilobytes": "file size, kB",
    "mean_gray": "mean gray, 0-255",
    "contrast": "contrast (deviation of gray)",
    "images_per_patient": "images per patient",
}


def survey_dataset(data: Dataset) -> dict[str, Any]:
    """Describe a dataset for JSON, by class where it matters; `sentences` states the notable facts in words."""
    by_class = {name: [image for image in data.images if image.label == label] for label, name in enumerate(CLASSES)}
    facts = {
        "images": len(data.images),
        "patients": len({image.patient for image in data.images}),
        "left_out": dict(Counter(str(one.reason) for one in data.left_out)),
        "splits": data.counts(),
        "ranges": {name: _ranges(images) for name, images in by_class.items()},
        "images_per_patient": _images_per_patient(data.images),
        "gray_histogram": {name: _gray_histogram(images) for name, images in by_class.items()},
        "duplicates": data.duplicates(),
        "patients_of_both_classes": _patients_of_both(by_class.values()),
        "fingerprint": data.fingerprint,
    }
    return facts | {"sentences": _sentences(facts)}


def split_rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"split": split, "class": name, **facts["splits"][split][name]} for split in SPLITS for name in CLASSES]


def range_rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"what": title, "class": name, **facts["ranges"][name][key]}
        for key, title in RANGES.items()
        for name in CLASSES
        if facts["ranges"][name][key]
    ]


def _ranges(images: Sequence[LabelledImage]) -> dict[str, dict[str, float] | None]:
    sizes = [size for image in images if image.path and (size := _size(image.path))]
    return {
        "width": _range([width for width, _ in sizes]),
        "height": _range([height for _, height in sizes]),
        "kilobytes": _range([image.path.stat().st_size / 1000 for image in images if image.path]),
        "mean_gray": _range([float(image.pixels.mean()) for image in images]),
        "contrast": _range([float(image.pixels.std()) for image in images]),
        "images_per_patient": _range(list(Counter(image.patient for image in images).values())),
    }


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    least, median, most = np.quantile(values, [0, 0.5, 1])
    return {"least": round(float(least), 1), "median": round(float(median), 1), "most": round(float(most), 1)}


def _size(path: Path) -> tuple[int, int] | None:
    """Return width and height from the file's header; None for the few formats that only their decoder can measure."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, Image.DecompressionBombError):
        pass
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Columns", "Rows"])
        return int(header.Columns), int(header.Rows)
    except (OSError, AttributeError, pydicom.errors.InvalidDicomError):
        return None


def _images_per_patient(images: Sequence[LabelledImage]) -> dict[str, int]:
    """Count the patients with 1 image, 2 images, ..."""
    counts = Counter(Counter(image.patient for image in images).values())
    return {str(number): counts[number] for number in sorted(counts)}


def _gray_histogram(images: Sequence[LabelledImage]) -> list[float]:
    """Return the share of pixels in each of 32 equally wide bins from black to white."""
    counts = np.zeros(GRAY_BINS)
    for image in images:
        counts += np.bincount(image.pixels.ravel() // (256 // GRAY_BINS), minlength=GRAY_BINS)
    return [round(float(share), 5) for share in counts / max(counts.sum(), 1)]


def _patients_of_both(by_class: Any) -> int:
    normal, ill = ({image.patient for image in images} for images in by_class)
    return len(normal & ill)


def _sentences(facts: dict[str, Any]) -> list[str]:
    duplicates, sentences = facts["duplicates"], []
    sentences.append(
        f"{facts['images']} images of {facts['patients']} patients; "
        f"{duplicates['exact']} exact copies, {duplicates['near']} pairs of one picture in another size or encoding."
    )
    if duplicates["across_patients"]:
        sentences.append(f"{duplicates['across_patients']} of these are of two patients, who therefore share a split.")
    if duplicates["across_classes"]:
        sentences.append(f"{duplicates['across_classes']} of these are labelled both ways: one of the labels is wrong.")
    if facts["patients_of_both_classes"]:
        sentences.append(f"{facts['patients_of_both_classes']} patients have images of both classes.")
    if facts["left_out"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["left_out"].items())
        sentences.append(f"Files that cannot be used as images and are left out: {reasons}.")
    return sentences
