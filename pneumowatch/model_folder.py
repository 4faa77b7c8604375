"""A model folder: `model.keras`, `card.json` and `reference.npz`, as the trainer writes and everyone else reads it.

Nothing here imports TensorFlow: a folder is read, verified and refused without it. What may stand in a model file is an
allow-list of Keras' own layer classes, checked in the file's JSON before Keras sees it, so that nothing in a model can
bring code of its own (Keras' safe mode alone has been got around before).
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
CHAMPION_LINK: Final = "champion"  # in the model store: a link to the last one that was verified here
REFERENCE: Final = "reference.npz"  # `films` uint8 (n, side, side, 1) and `probabilities` float32 (n,)

ALLOWED_LAYERS: Final = frozenset(
    {
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Dense",
        "DepthwiseConv2D", "Dropout", "Flatten", "Functional", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
        "InputLayer", "LayerNormalization", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "ReLU", "Rescaling",
        "Reshape", "Resizing", "SeparableConv2D", "Sequential", "SpatialDropout2D", "Subtract", "ZeroPadding2D",
    }
)  # fmt: skip
# What else Keras serialises as a class beside layers: none of these carries code.
ALLOWED_CLASSES: Final = ALLOWED_LAYERS | {
    "DTypePolicy", "GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "Zeros", "Ones", "L2",
    "__keras_tensor__", "__tensor__",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """One model on disk. Its card is read at once; `verify` is called before its weights are used."""

    path: Path
    card: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Raises ModelError where the folder has no readable card."""
        try:
            card = json.loads((path / CARD).read_text("utf-8"))
            folder = cls(path, card)
            _ = folder.version, folder.sha256, folder.ages
            if folder.side < 1:
                raise ValueError(f"a side of {folder.side} pixels")
            if not 0 <= folder.threshold <= 1:  # NaN, above all: nothing would ever be flagged
                raise ValueError(f"a threshold of {folder.threshold}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not a model folder: its {CARD} cannot be read ({error}).") from error
        return folder

    @property
    def version(self) -> str:
        return str(self.card["version"])

    @property
    def side(self) -> int:
        """Edge in pixels of the square that the network takes."""
        return int(self.card["input"]["side"])

    @property
    def threshold(self) -> float:
        """A film is flagged where its probability is at or above this."""
        return float(self.card["threshold"]["value"])

    @property
    def sha256(self) -> str:
        """Of `model.keras`, in hex, as the trainer wrote it."""
        return str(self.card["sha256"])

    @property
    def ages(self) -> tuple[int, int] | None:
        """Youngest and oldest, in completed years, that it was trained on; None where the card does not say."""
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
        """Raises ModelError where the weights are not those of the card, or hold a class that is not allowed."""
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
            raise ModelError(f"{self.weights} holds what no model here may hold: {', '.join(foreign)}.")


def shipped_folder() -> ModelFolder:
    """The model that comes with the project."""
    folders = sorted(path.parent for path in SHIPPED_DIR.glob(f"*/{CARD}"))
    if len(folders) != 1:
        raise ModelError(f"{SHIPPED_DIR} holds {len(folders)} models instead of one; install pneumowatch again.")
    return ModelFolder.read(folders[0])


def champion_folder(store: Path) -> ModelFolder:
    """The model to serve: the last one verified in the store, or the shipped one where there is none yet."""
    last = store / CHAMPION_LINK
    # the link is followed once: it may be replaced while the folder is read
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
