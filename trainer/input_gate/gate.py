"""The input gate: recognise what is no frontal chest image by the network's own features, inside the served model.

Two detectors use the same features: the image itself, reduced, and the outputs of the network's last convolutions, by
place. A classifier head is trained to distinguish chest images from out-of-distribution samples that we can draw. A
Mahalanobis distance to the chest images, along the directions in which they vary most and in all others together,
catches what nobody thought of. Each is 1 at its limit, and the larger one is the model's `gate_score`: above 1, a
picture is no frontal chest image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.imaging.reader import Pixels
from trainer import networks
from trainer.augment import Augmentation, augment
from trainer.input_gate import ood_samples
from trainer.networks import load_keras

Floats = NDArray[np.float32]

IMAGE_CELLS: Final = 16  # the image enters as 16 x 16 means
CELLS: Final = (4, 3)  # cells along each edge for the outputs of the last two resolutions; the deepest last
CLIP: Final = 8.0  # standard deviations: beyond that, a feature's distance tells nothing more
DIRECTIONS: Final = 48  # in which chest images vary most
HIDDEN: Final = 64  # units of the head
FEATURE_BATCH: Final = 64  # images
FRAME: Final = 0.25  # of the side at most, around an image
# Accepted: images as a network learns them, but less strongly processed, or other pictures would be accepted as well;
SITE_AUGMENTATION: Final = replace(Augmentation(), gamma=0.6, contrast=0.35, brightness=0.15, detail=0.1, shading=0.1)
# and images of other hospitals, further from ours than any of ours: half of them look like this.
OTHER_SITE_AUGMENTATION: Final = replace(
    SITE_AUGMENTATION, zoom=0.25, aspect=0.22, gamma=0.75, contrast=0.5, brightness=0.2, borders=0.2, degrees=15
)


@dataclass(frozen=True)
class FitBudget:
    """How many samples are made for fitting: at most, as few images cannot say much, however often they are used."""

    images: int = 8000  # training images, changed in another way each time
    ood_samples: int = 10000
    repeats: int = 3  # uses of each image, and out-of-distribution samples made for it
    phantoms: int = 150
    epochs: int = 14
    false_rejections: float = 0.002  # share of validation images beyond a limit
    false_rejections_augmented: float = 0.005  # the same of validation images changed as by other scanners: the margin

    def scaled(self, images: int) -> "FitBudget":
        """Return the budget for a set of so many images."""
        most = max(images * self.repeats, FEATURE_BATCH)
        return replace(
            self,
            images=min(self.images, most),
            ood_samples=min(self.ood_samples, most),
            phantoms=min(self.phantoms, max(most // 10, 8)),
        )


@dataclass(frozen=True, eq=False)
class MahalanobisDistance:
    """Distance of features (n, d) from those of chest images, float32."""

    mean: Floats  # (d,) of chest images
    variance: Floats  # (d,)
    directions: Floats  # (d, k)
    weights: Floats  # (d + k, 1) of the squares: of the features themselves, and along the directions

    def standardize(self, features: Floats) -> Floats:
        standardised: Floats = np.clip((features - self.mean) / np.sqrt(self.variance), -CLIP, CLIP)
        return standardised

    def squared(self, standardized: Floats) -> Floats:
        """Compute squared distances, (n,), of standardised features."""
        far: Floats = (np.concatenate([standardized, standardized @ self.directions], axis=1) ** 2 @ self.weights)[:, 0]
        return far


@dataclass(frozen=True, eq=False)
class Head:
    """Two layers, kernel and bias each, float32: (d, h) and (h,), (h, 1) and (1,)."""

    hidden: tuple[Floats, Floats]
    outer: tuple[Floats, Floats]

    def logits(self, standardized: Floats) -> Floats:
        """Compute logits, (n,), of standardised features."""
        (kernel, bias), (outer_kernel, outer_bias) = self.hidden, self.outer
        logits: Floats = (np.tanh(standardized @ kernel + bias) @ outer_kernel + outer_bias)[:, 0]
        return logits

    def scaled(self, zero: float, one: float) -> "Head":
        """Return a head whose logits are 0 and 1 where they were `zero` and `one`."""
        kernel, bias = self.outer
        return Head(self.hidden, (kernel / (one - zero), (bias - zero) / (one - zero)))


@dataclass(frozen=True, eq=False)
class InputGate:
    distance: MahalanobisDistance  # 1 at its limit
    head: Head  # 0 for the median image, 1 at its limit


def fit_gate(
    network: Any, images: Pixels, validation: Pixels, seed: int = 1, budget: FitBudget | None = None
) -> InputGate | None:
    """Fit a gate to a trained network.

    Args:
        network: as `networks.build` builds it, trained.
        images: uint8 (n, side, side, 1) of training patients, in every form in which images arrive.
        validation: the same of other patients, on whom the limits are chosen.
        seed: of out-of-distribution samples, augmentation and the head.

    Returns:
        None where the network has no convolutions to take features from (`dense`).
    """
    if not _taps(load_keras(), network):
        return None
    budget = (budget or FitBudget()).scaled(len(images))
    rng = np.random.default_rng([seed, 2])
    extract = _feature_extractor(network)
    accepted = np.concatenate([extract(batch) for batch in _accepted_images(images, budget, rng)])
    rejected = extract(ood_samples.draw_mixture(budget.ood_samples, images, seed))
    plain = extract(validation)
    changed = np.concatenate(
        [extract(_augmented(validation, strength, rng)) for strength in (SITE_AUGMENTATION, OTHER_SITE_AUGMENTATION)]
    )

    distance = _distance(accepted)
    plain, changed = distance.standardize(plain), distance.standardize(changed)
    limit = _limit(distance.squared(plain), distance.squared(changed), budget)
    head = _head(distance.standardize(accepted), distance.standardize(rejected), seed, budget)
    median = float(np.median(head.logits(plain)))
    head_limit = max(_limit(head.logits(plain), head.logits(changed), budget), median + 1)
    return InputGate(replace(distance, weights=distance.weights / limit), head.scaled(median, head_limit))


def gated_inference_model(network: Any, gate: InputGate | None = None) -> Any:
    """Return the model to save of a trained network, with its gate.

    It is as `networks.inference_model` makes it; a gate adds the output `gate_score` (n, 1) beside `probability` and
    any map. The weights are the network's own.
    """
    plain = networks.inference_model(network)
    if gate is None:
        return plain
    keras = load_keras()
    outputs = plain.output if isinstance(plain.output, dict) else {"probability": plain.output}
    gate_score = _gate_score(keras, _features(keras, network), gate)
    return keras.Model(network.inputs, {**outputs, "gate_score": gate_score}, name=network.name)


# Features


def _taps(keras: ModuleType, network: Any) -> list[Any]:
    """Return the last ReLU output of each of the network's last two resolutions, deepest last."""
    kinds = keras.layers.ReLU, keras.layers.Activation, keras.layers.Conv2D
    last = {}
    for layer in network.layers:
        relu = isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu
        if isinstance(layer, kinds) and relu and len(layer.output.shape) == 4 and layer.output.shape[1] >= max(CELLS):
            last[layer.output.shape[1]] = layer.output
    return [last[side] for side in sorted(last, reverse=True)][-len(CELLS) :]


def _features(keras: ModuleType, network: Any) -> Any:
    """Build the features (n, d): means of the image, 0 to 1, and of the network's taps, in cells of a grid."""
    scaled = next((layer.output for layer in network.layers if isinstance(layer, keras.layers.Rescaling)), None)
    image = keras.layers.Rescaling(1 / 255, name="gate_image")(network.input) if scaled is None else scaled
    taps = _taps(keras, network)
    looks = [_cells(keras, image, IMAGE_CELLS, "gate_image_cells")]
    looks += [
        _cells(keras, tap, cells, f"gate_cells_{cells}") for tap, cells in zip(taps, CELLS[-len(taps) :], strict=True)
    ]
    return keras.layers.Concatenate(name="gate_features")(looks)


def _cells(keras: ModuleType, x: Any, cells: int, name: str) -> Any:
    """Average over `cells` x `cells` squares, which overlap where the edge is no multiple."""
    side = x.shape[1]
    size = -(-side // cells)
    stride = max((side - size) // (cells - 1), 1)
    return keras.layers.Flatten(name=f"{name}_flat")(keras.layers.AveragePooling2D(size, stride, name=name)(x))


def _feature_extractor(network: Any) -> Any:
    keras = load_keras()
    model = keras.Model(network.input, _features(keras, network))

    def extract(images: Pixels) -> Floats:
        features: Floats = model.predict(images, batch_size=FEATURE_BATCH, verbose=0)
        return features

    return extract


def _accepted_images(images: Pixels, budget: FitBudget, rng: np.random.Generator) -> Iterator[Pixels]:
    """Yield what the gate must accept, in batches: images as they are, images changed, phantoms."""
    side = images.shape[1]
    chosen = np.resize(rng.permutation(len(images)), budget.images)
    for number, part in enumerate(np.array_split(chosen, max(budget.images // FEATURE_BATCH, 1))):
        strength = (None, SITE_AUGMENTATION, SITE_AUGMENTATION, OTHER_SITE_AUGMENTATION, OTHER_SITE_AUGMENTATION)[
            number % 5
        ]
        yield _augmented(images[part], strength, rng) if strength else images[part]
    drawn = (Image.fromarray(draw_phantom(1000 + seed, bool(seed % 2))) for seed in range(budget.phantoms))
    yield np.array([image.resize((side, side), Image.Resampling.BILINEAR) for image in drawn], np.uint8)[
        ..., np.newaxis
    ]


def _augmented(images: Pixels, strength: Augmentation, rng: np.random.Generator) -> Pixels:
    """Change images as other scanners, positioning and screens do; a third get a frame of one gray."""
    changed = augment(images, strength, rng)
    side = images.shape[1]
    for image in changed:
        if rng.random() < 1 / 3:
            wide, high = (int(side * min(rng.uniform(1 - FRAME, 1.05), 1)) for _ in range(2))
            left, top = rng.integers(0, side - wide + 1), rng.integers(0, side - high + 1)
            small = Image.fromarray(image[..., 0]).resize((wide, high), Image.Resampling.BILINEAR)
            image[:] = (0, 255, rng.integers(256))[rng.integers(3)]
            image[top : top + high, left : left + wide, 0] = small
    return changed


# Detectors


def _distance(features: Floats) -> MahalanobisDistance:
    """Fit the distance, still without its limit.

    It uses the images' own spread and the directions in which they vary most. The covariance shares what is left among
    all other directions (Tipping and Bishop, 1999).
    """
    mean, variance = features.mean(axis=0), features.var(axis=0)
    # or a feature that is the same on all images would outweigh all others
    variance = variance + 1e-3 * variance.mean() + 1e-8
    bare = MahalanobisDistance(mean, variance, *(np.zeros((0, 0), np.float32),) * 2)
    standardized = bare.standardize(features)
    spread, axes = np.linalg.eigh(standardized.T @ standardized / len(standardized))
    count = min(DIRECTIONS, len(spread) - 1)
    rest = max(float(spread[:-count].mean()), 1e-3)
    weights = np.concatenate([np.full(len(mean), 1 / rest), 1 / np.maximum(spread[-count:], rest) - 1 / rest])
    return replace(bare, directions=axes[:, -count:], weights=weights.astype(np.float32)[:, np.newaxis])


def _head(images: Floats, others: Floats, seed: int, budget: FitBudget) -> Head:
    """Train the head on standardised features; chest images and other samples have the same total weight."""
    keras = load_keras()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = layers.Dense(HIDDEN, activation="tanh")  # bounded: the distance judges what is far off
    outer = layers.Dense(1)
    head = keras.Sequential(
        [
            keras.Input((images.shape[1],)),
            layers.GaussianNoise(0.3),
            layers.Dropout(0.3),
            hidden,
            layers.Dropout(0.2),
            outer,
        ]
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.02)
    head.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), loss)
    labels = np.concatenate([np.zeros(len(images)), np.ones(len(others))])
    weights = np.concatenate([np.full(len(images), 0.5 / len(images)), np.full(len(others), 0.5 / len(others))])
    head.fit(
        np.concatenate([images, others]),
        labels,
        sample_weight=weights * len(labels),
        batch_size=128,
        epochs=budget.epochs,
        verbose=0,
    )
    return Head(tuple(hidden.get_weights()), tuple(outer.get_weights()))


def _limit(plain: Floats, changed: Floats, budget: FitBudget) -> float:
    """Return the value that hardly any image exceeds, neither as it is nor changed as by other scanners."""
    return float(
        max(
            np.quantile(plain, 1 - budget.false_rejections), np.quantile(changed, 1 - budget.false_rejections_augmented)
        )
    )


# The same arithmetic in Keras' layers


def _gate_score(keras: ModuleType, features: Any, gate: InputGate) -> Any:
    layers = keras.layers
    standard = layers.BatchNormalization(scale=False, epsilon=0.0, name="gate_standard", trainable=False)
    hidden = layers.Dense(len(gate.head.hidden[1]), activation="tanh", name="gate_hidden")
    outer = layers.Dense(1, name="gate_head")
    directions = layers.Dense(gate.distance.directions.shape[1], use_bias=False, name="gate_directions")
    distance = layers.Dense(1, use_bias=False, name="gate_distance")
    # clipped by a ReLU, which starts at 0: hence the offset
    x = layers.ReLU(max_value=2 * CLIP, name="gate_clip")(standard(features))
    x = layers.Rescaling(1.0, offset=-CLIP, name="gate_centre")(x)
    both = layers.Concatenate(name="gate_all_directions")([x, directions(x)])
    far = distance(layers.Multiply(name="gate_squares")([both, both]))
    score = layers.Maximum(name="gate_score")([outer(hidden(x)), far])
    standard.set_weights([np.full_like(gate.distance.mean, CLIP), gate.distance.mean, gate.distance.variance])
    hidden.set_weights(gate.head.hidden)
    outer.set_weights(gate.head.outer)
    directions.set_weights([gate.distance.directions])
    distance.set_weights([gate.distance.weights])
    return score
