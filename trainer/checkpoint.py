"""An unfinished run on disk, from which the same command goes on as if it had never been killed."""

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
    """One file, replaced at once at the end of each epoch: whole, or as it was.

    `run_fingerprint`: of what the run is made of; one that was made of anything else is not taken up.
    """

    path: Path
    fingerprint: str

    def write(self, epochs: Sequence[dict[str, Any]], arrays: Sequence[Array]) -> None:
        """Raises TrainingError where it cannot be written."""
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
            raise TrainingError(f"The unfinished run cannot be kept in {self.path}: {error.strerror}.") from error

    def read(self) -> tuple[list[dict[str, Any]], list[Array]] | None:
        """What `write` was given last; None where there is nothing, or nothing of this run."""
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header["fingerprint"] != self.fingerprint:
                    return None
                return header["epochs"], [file[_key(number)] for number in range(len(file.files) - 1)]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # what cannot be read is begun anew


def run_fingerprint(training_set: Examples, validation: Examples, hyperparameters: Hyperparameters, start: Any) -> str:
    """SHA-256, in hex, over films, labels, knobs, first weights and versions: runs that have it in common do the
    same."""
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
