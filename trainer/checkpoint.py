"""An unfinished run on disk, from which the same command resumes as if it had never been killed."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumowatch import __version__
from pneumowatch.errors import TrainingError
from trainer.dataset import Examples
from trainer.hyperparameters import Hyperparameters
from trainer.networks import load_keras

Array = NDArray[Any]


@dataclass(frozen=True)
class Checkpoint:
    """One file, replaced atomically at the end of each epoch: complete, or as it was.

    `fingerprint` identifies what the run is made of; a file with another fingerprint is not resumed.
    """

    path: Path
    fingerprint: str

    def write(self, epochs: Sequence[dict[str, Any]], arrays: Sequence[Array]) -> None:
        """Write the checkpoint. Raises TrainingError where it cannot be written."""
        header = np.array(json.dumps({"fingerprint": self.fingerprint, "epochs": list(epochs)}))
        named: dict[str, Any] = {"header": header} | {_key(number): array for number, array in enumerate(arrays)}
        unfinished = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                np.savez(file, **named)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        except OSError as error:
            raise TrainingError(f"The unfinished run cannot be saved in {self.path}: {error.strerror}.") from error

    def read(self) -> tuple[list[dict[str, Any]], list[Array]] | None:
        """Return what `write` was given last; None where there is no file, or none of this run."""
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header["fingerprint"] != self.fingerprint:
                    return None
                return header["epochs"], [file[_key(number)] for number in range(len(file.files) - 1)]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # an unreadable file is no reason to fail: the run starts again


def run_fingerprint(training_set: Examples, validation: Examples, hyperparameters: Hyperparameters, start: Any) -> str:
    """Return the SHA-256, in hex, over images, labels, hyperparameters, initial weights and versions.

    Runs with the same fingerprint compute the same.
    """
    versions = {"pneumowatch": __version__, "keras": load_keras().__version__}
    digest = hashlib.sha256(json.dumps([asdict(hyperparameters), versions], sort_keys=True).encode())
    for examples in (training_set, validation):
        digest.update(np.ascontiguousarray(examples.pixels).data)
        digest.update(np.ascontiguousarray(examples.labels).data)
    for weights in start.get_weights() if start is not None else ():
        digest.update(np.ascontiguousarray(weights).data)
    return digest.hexdigest()


def _key(number: int) -> str:
    return f"array{number:04}"
