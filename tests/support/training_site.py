"""A site for retraining: images whose classes a network learns within seconds, verdicts on them, and a champion."""

import csv
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from support.programs import environment, run
from trainer.dataset import patient_of, split_of
from trainer.hyperparameters import PRESETS
from trainer.train import train_model

SIDE: Final = 160
GRAINS: Final = {"NORMAL": 40, "PNEUMONIA": 10}  # grains a side: what is ill is coarse, as far as these images go
HARD: Final = 16
NAMES: Final = {"NORMAL": "IM-{:04}-0001.png", "PNEUMONIA": "person{}_virus_1.png"}
VERDICTS: Final = {"NORMAL": "no_pneumonia", "PNEUMONIA": "pneumonia"}


def write_image(path: Path, grains: int, seed: int, haze: float = 0.0) -> None:
    """Write an image; `haze` is how much of it the scanner covers with a shade of its own."""
    noise = np.random.default_rng([seed, grains]).integers(0, 256, (grains, grains), np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    shade = np.linspace(0, 255, SIDE, dtype=np.float32)
    Image.fromarray(((1 - haze) * image + haze * shade).clip(0, 255).astype(np.uint8)).save(path, "PNG")


def write_base(folder: Path, patients: range) -> Path:
    """Write an image of each class per number, each of its own patient.

    The ill images of validation patients are harder to tell: a threshold that flags them flags all others,
    where with a dozen images chance would decide.
    """
    for kind, name in NAMES.items():
        (folder / kind).mkdir(parents=True)
        for number in patients:
            hard = split_of(patient_of(name.format(number))) == "validation"
            write_image(
                folder / kind / name.format(number), HARD if hard and kind == "PNEUMONIA" else GRAINS[kind], number
            )
    return folder


def write_inbox(folder: Path, patients: range, haze: float) -> Path:
    folder.mkdir(parents=True)
    for kind, name in NAMES.items():
        for number in patients:
            write_image(folder / name.format(number), GRAINS[kind], number, haze)
    return folder


def write_verdicts(data: Path, file: Path, flipped: bool = False) -> Path:
    """Write the truth on every image of the ledger, or the contrary, as a file for `verdict --from`."""
    kinds = {True: "PNEUMONIA", False: "NORMAL"}
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["scan_id", "verdict", "reviewer"])
        for scan_id, path in query_ledger(data, "SELECT scan_id, path FROM scan_ledger WHERE state = 'classified'"):
            rows.writerow([scan_id, VERDICTS[kinds[path.startswith("person") != flipped]], "ada"])
    return file


def query_ledger(data: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(data / "pneumowatch.db") as ledger:
        rows = ledger.execute(sql).fetchall()
    ledger.close()
    return rows


def site_environment(folder: Path, **more: Any) -> dict[str, str]:
    return environment(**{"data_dir": folder / "data", "training_dir": folder / "base", **more})


def create_site(folder: Path, steps: int, patients: range, reviewed: range, haze: float = 0.0) -> Path:
    """Make a site in `folder`: a base dataset, a champion trained on it for some steps, and reviewed images.

    Its inbox has been emptied since.
    """
    base = write_base(folder / "base", patients)
    models = folder / "data" / "models"
    # without an input gate, which would refuse these images
    hyperparameters = replace(PRESETS["compact"], epochs=1, steps_per_epoch=steps, gated=False)
    (models / "champion").symlink_to(train_model(base, models, hyperparameters).folder.version)
    inbox = write_inbox(folder / "inbox", reviewed, haze)
    done = run(
        "up", "--once", "--inbox", inbox, cwd=folder, env=site_environment(folder, keep_images="all"), timeout=600
    )
    assert done.code == 0, done.err
    shutil.rmtree(inbox)
    return folder


def give_verdicts(folder: Path, flipped: bool = False) -> list[dict[str, Any]]:
    """Give a verdict on every image of the site; return the command's result."""
    file = write_verdicts(folder / "data", folder / "verdicts.csv", flipped)
    return _must("verdict", "--from", file, cwd=folder)


def _must(*words: object, cwd: Path) -> Any:
    done = run(*words, "--json", cwd=cwd, env=site_environment(cwd), timeout=600)
    assert done.code == 0, done.err
    return done.json


def champions(folder: Path) -> Iterable[str]:
    return [version for (version,) in query_ledger(folder / "data", "SELECT version FROM models WHERE champion")]
