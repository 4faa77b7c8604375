"""What a set of labelled films holds: classes, patients, splits, sizes, gray values and duplicates."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from PIL import Image

from trainer.dataset import CLASSES, SPLITS, Dataset, LabelledFilm

SIDE: Final = 160  # pixels, to which films are reduced for their gray values and to find twins
GRAYS: Final = 32  # bins of the histogram of gray values
SPLIT_COLUMNS: Final = ("split", "class", "films", "patients")
RANGE_COLUMNS: Final = ("what", "class", "least", "median", "most")
RANGES: Final = {
    "width": "width, pixels",
    "height": "height, pixels",
    "kilobytes": "file size, kB",
    "mean_gray": "mean gray, 0-255",
    "contrast": "contrast (deviation of gray)",
    "films_per_patient": "films of one patient",
}


def survey(data: Dataset) -> dict[str, Any]:
    """Facts for JSON, by class where it matters; `sentences` tells the remarkable ones to people."""
    by_class = {name: [film for film in data.films if film.label == label] for label, name in enumerate(CLASSES)}
    facts = {
        "films": len(data.films),
        "patients": len({film.patient for film in data.films}),
        "left_out": dict(Counter(str(one.reason) for one in data.left_out)),
        "splits": data.counts(),
        "ranges": {name: _ranges(films) for name, films in by_class.items()},
        "films_per_patient": _films_per_patient(data.films),
        "gray_histogram": {name: _grays(films) for name, films in by_class.items()},
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


def _ranges(films: Sequence[LabelledFilm]) -> dict[str, dict[str, float] | None]:
    sizes = [size for film in films if film.path and (size := _size(film.path))]
    return {
        "width": _range([width for width, _ in sizes]),
        "height": _range([height for _, height in sizes]),
        "kilobytes": _range([film.path.stat().st_size / 1000 for film in films if film.path]),
        "mean_gray": _range([float(film.pixels.mean()) for film in films]),
        "contrast": _range([float(film.pixels.std()) for film in films]),
        "films_per_patient": _range(list(Counter(film.patient for film in films).values())),
    }


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    least, median, most = np.quantile(values, [0, 0.5, 1])
    return {"least": round(float(least), 1), "median": round(float(median), 1), "most": round(float(most), 1)}


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height from the file's header; None for the few kinds that only their decoder can measure."""
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


def _films_per_patient(films: Sequence[LabelledFilm]) -> dict[str, int]:
    """How many patients have 1 film, 2 films, ..."""
    counts = Counter(Counter(film.patient for film in films).values())
    return {str(number): counts[number] for number in sorted(counts)}


def _grays(films: Sequence[LabelledFilm]) -> list[float]:
    """Share of pixels in each of 32 equally wide bins from black to white."""
    counts = np.zeros(GRAYS)
    for film in films:
        counts += np.bincount(film.pixels.ravel() // (256 // GRAYS), minlength=GRAYS)
    return [round(float(share), 5) for share in counts / max(counts.sum(), 1)]


def _patients_of_both(by_class: Any) -> int:
    normal, ill = ({film.patient for film in films} for films in by_class)
    return len(normal & ill)


def _sentences(facts: dict[str, Any]) -> list[str]:
    twins, told = facts["duplicates"], []
    told.append(
        f"{facts['films']} films of {facts['patients']} patients; "
        f"{twins['exact']} copies byte for byte, {twins['near']} pairs of one picture in two forms."
    )
    if twins["across_patients"]:
        told.append(f"{twins['across_patients']} of these stand under two patients, who therefore share a split.")
    if twins["across_classes"]:
        told.append(f"{twins['across_classes']} of these are labelled both ways: one of the labels is wrong.")
    if facts["patients_of_both_classes"]:
        told.append(f"{facts['patients_of_both_classes']} patients have films of both classes.")
    if facts["left_out"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["left_out"].items())
        told.append(f"Files that are no films and are left out: {reasons}.")
    return told
