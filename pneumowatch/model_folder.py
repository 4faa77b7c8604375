"""Read and verify a model folder: `model.keras`, `card.json` and `reference.npz`, as the trainer writes them.

Nothing here imports TensorFlow: a folder is read, verified and refused without it. A model file may contain only the
classes of an allow-list, Keras' own layers. They are checked in the file's JSON before Keras loads it, so that no model
can run code of its own (Keras' safe mode alone has been bypassed before).
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pneumowatch.errors import ModelError

SHIPPED_DIR: Final = Path(__file__).parent / "shipped"  # one folder inside: the model that comes with the project
WEIGHTS: Final = "model.keras"
CARD: Final = "card.json"
CHAMPION_LINK: Final = "champion"  # in the model store: a link to the model that was verified here last
REFERENCE: Final = "reference.npz"  # `images` uint8 (n, side, side, 1) and `probabilities` float32 (n,)

ALLOWED_LAYERS: Final = frozenset(
    {
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Dense",
        "DepthwiseConv2D", "Dropout", "Flatten", "Functional", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
        "InputLayer", "LayerNormalization", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "ReLU", "Rescaling",
        "Reshape", "Resizing", "SeparableConv2D", "Sequential", "SpatialDropout2D", "Subtract", "ZeroPadding2D",
    }
)  # fmt: skip
# Other classes that Keras serialises; none of these can carry code.
ALLOWED_CLASSES: Final = ALLOWED_LAYERS | {
    "DTypePolicy", "GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "Zeros", "Ones", "L2",
    "__keras_tensor__", "__tensor__",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk. `read` loads its card; call `verify` before its weights are used."""

    path: Path
    card: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Read a folder and its card. Raises ModelError where the card cannot be read or used."""
        try:
            card = json.loads((path / CARD).read_text("utf-8"))
            folder = cls(path, card)
            _ = folder.version, folder.sha256, folder.ages
            if folder.side < 1:
                raise ValueError(f"a side of {folder.side} pixels")
            if not 0 <= folder.threshold <= 1:  # with NaN, above all, nothing would ever be flagged
                raise ValueError(f"a threshold of {folder.threshold}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not a model folder: its {CARD} cannot be read ({error}).") from error
        return folder

    @property
    def version(self) -> str:
        return str(self.card["version"])

    @property
    def side(self) -> int:
        """Edge of the network's square input, in pixels."""
        return int(self.card["input"]["side"])

    @property
    def threshold(self) -> float:
        """An image is flagged where its probability is at or above this."""
        return float(self.card["threshold"]["value"])

    @property
    def sha256(self) -> str:
        """SHA-256 of `model.keras`, in hex, as the card states it."""
        return str(self.card["sha256"])

    @property
    def ages(self) -> tuple[int, int] | None:
        """Youngest and oldest age of the training set, in completed years; None where the card does not say."""
        if self.card.get("ages_years") is None:
            return None
        youngest, oldest = self.card["ages_years"]
        if not 0 <= youngest <= oldest:
            raise ValueError(f"ages from {youngest} to {oldest}")
        return int(youngest), int(oldest)

    @cached_property
    def weights(self) -> Path:
        return self.path / WEIGHTS

    def verify(self) -> None:
        """Verify the weights. Raises ModelError where their hash is not the card's, or where a class is not allowed."""
        try:
            with self.weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{self.weights} cannot be read: {error}.") from error
        if digest != self.sha256:
            raise ModelError(f"{self.weights} is not the file its card describes (its SHA-256 differs).")
        try:
            with zipfile.ZipFile(self.weights) as archive:
                config = json.loads(archive.read("config.json"))
        except Exception as error:  # a damaged archive raises zlib.error, NotImplementedError, ... beside its own
            raise ModelError(f"{self.weights} cannot be read: {error}.") from error
        foreign = sorted(set(_class_names(config)) - ALLOWED_CLASSES)
        if foreign:
            raise ModelError(f"{self.weights} holds classes that are not allowed in a model: {', '.join(foreign)}.")


def shipped_folder() -> ModelFolder:
    """Return the model that comes with the project. Raises ModelError where there is not exactly one."""
    folders = sorted(path.parent for path in SHIPPED_DIR.glob(f"*/{CARD}"))
    if len(folders) != 1:
        raise ModelError(f"{SHIPPED_DIR} holds {len(folders)} models instead of one; install pneumowatch again.")
    return ModelFolder.read(folders[0])


def champion_folder(store: Path) -> ModelFolder:
    """Return the model to serve: the last one verified in the store, or the shipped one where there is none yet."""
    last = store / CHAMPION_LINK
    # resolved once: the link may be replaced while the folder is read
    return ModelFolder.read(last.resolve()) if (last / CARD).exists() else shipped_folder()


def _class_names(config: object) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config["class_name"]
        for value in config.values():
            yield from _class_names(value)
    elif isinstance(config, list):
        for value in config:
            yield from _class_names(value)
