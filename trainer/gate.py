"""The gate: what is no frontal chest film is told by what the network sees in it, inside the served model.

Two judges look at the same features: the film itself, small, and what the network's last convolutions find in it, and
where. A head has learned to tell films from strangers that we can draw; a distance to the films (Mahalanobis, along the
directions in which films differ most, and in all others together) catches what nobody thought of. Each says 1 at its
limit, and the larger one is the model's `strangeness`: above 1, a picture is no chest film.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.film import Pixels
from pneumowatch.phantom import phantom
from trainer import networks, strangers
from trainer.augment import Augmentation, augment
from trainer.networks import load_keras

Floats = NDArray[np.float32]

FILM_CELLS: Final = 16  # the film is looked at as 16 x 16 means
CELLS: Final = (
    4,
    3,
)  # along each edge, in which the last two kinds of layers are looked at, by resolution; deepest last
CLIP: Final = 8.0  # standard deviations; how far off a feature is beyond that tells nothing more
DIRECTIONS: Final = 48  # in which films differ most
HIDDEN: Final = 64  # units of the head
PREDICT_BATCH: Final = 64  # films
FRAME: Final = 0.25  # of the side at most, around a film
# What is let through: films as a network learns them, though less strangely processed, or strangers would come along;
HERE: Final = replace(Augmentation(), gamma=0.6, contrast=0.35, brightness=0.15, detail=0.1, shading=0.1)
# and films of other hospitals, further from ours than any of ours: half of them look like this.
ELSEWHERE: Final = replace(
    HERE, zoom=0.25, aspect=0.22, gamma=0.75, contrast=0.5, brightness=0.2, borders=0.2, degrees=15
)


@dataclass(frozen=True)
class Effort:
    """How much is made for fitting: at most, as few films cannot say much, however often they are looked at."""

    films: int = 8000  # training films, each time changed in another way
    strangers: int = 10000
    times: int = 3  # a film is looked at, and as many strangers are made for it
    phantoms: int = 150
    epochs: int = 14
    false_alarms: float = 0.002  # share of validation films beyond a limit
    false_alarms_changed: float = 0.005  # the same of validation films changed as by other scanners: the margin

    def scaled(self, films: int) -> "Effort":
        """For a set of so many films."""
        most = max(films * self.times, PREDICT_BATCH)
        return replace(
            self,
            films=min(self.films, most),
            strangers=min(self.strangers, most),
            phantoms=min(self.phantoms, max(most // 10, 8)),
        )


@dataclass(frozen=True, eq=False)
class Distance:
    """How far features (n, d) lie from those of films, float32."""

    mean: Floats  # (d,) of films
    variance: Floats  # (d,)
    directions: Floats  # (d, k)
    weights: Floats  # (d + k, 1) of the squares: of the features themselves, and along the directions

    def standardised(self, features: Floats) -> Floats:
        standardised: Floats = np.clip((features - self.mean) / np.sqrt(self.variance), -CLIP, CLIP)
        return standardised

    def far(self, near: Floats) -> Floats:
        """(n,) of standardised features."""
        far: Floats = (np.concatenate([near, near @ self.directions], axis=1) ** 2 @ self.weights)[:, 0]
        return far


@dataclass(frozen=True, eq=False)
class Head:
    """Two layers, kernel and bias each, float32: (d, h) and (h,), (h, 1) and (1,)."""

    hidden: tuple[Floats, Floats]
    outer: tuple[Floats, Floats]

    def logits(self, near: Floats) -> Floats:
        """(n,) of standardised features."""
        (kernel, bias), (outer_kernel, outer_bias) = self.hidden, self.outer
        logits: Floats = (np.tanh(near @ kernel + bias) @ outer_kernel + outer_bias)[:, 0]
        return logits

    def scaled(self, zero: float, one: float) -> "Head":
        """Whose logits are 0 and 1 where they were `zero` and `one`."""
        kernel, bias = self.outer
        return Head(self.hidden, (kernel / (one - zero), (bias - zero) / (one - zero)))


@dataclass(frozen=True, eq=False)
class Gate:
    distance: Distance  # 1 at its limit
    head: Head  # 0 for the median film, 1 at its limit


def fit(network: Any, films: Pixels, validation: Pixels, seed: int = 1, effort: Effort | None = None) -> Gate | None:
    """Fit a gate to a trained network.

    Args:
        network: as `networks.build` builds it, trained.
        films: uint8 (n, side, side, 1) of training patients, in every form in which films arrive.
        validation: the same of patients not among them, on whom the limits are chosen.
        seed: of strangers, augmentation and the head.

    Returns:
        None where the network has no convolutions to look through (`dense`).
    """
    if not _taps(load_keras(), network):
        return None
    effort = (effort or Effort()).scaled(len(films))
    rng = np.random.default_rng([seed, 2])
    seen = _looking(network)
    let_through = np.concatenate([seen(batch) for batch in _films(films, effort, rng)])
    refused = seen(strangers.mixture(effort.strangers, films, seed))
    plain = seen(validation)
    changed = np.concatenate([seen(_changed(validation, how, rng)) for how in (HERE, ELSEWHERE)])

    distance = _distance(let_through)
    plain, changed = distance.standardised(plain), distance.standardised(changed)
    limit = _limit(distance.far(plain), distance.far(changed), effort)
    head = _head(distance.standardised(let_through), distance.standardised(refused), seed, effort)
    usual = float(np.median(head.logits(plain)))
    surely = max(_limit(head.logits(plain), head.logits(changed), effort), usual + 1)
    return Gate(replace(distance, weights=distance.weights / limit), head.scaled(usual, surely))


def served(network: Any, gate: Gate | None = None) -> Any:
    """What is saved of a trained network: as `networks.served` says, and with a gate the output `strangeness` (n, 1)
    beside `probability` and any map. The weights are the network's own."""
    plain = networks.served(network)
    if gate is None:
        return plain
    keras = load_keras()
    outputs = plain.output if isinstance(plain.output, dict) else {"probability": plain.output}
    strangeness = _strangeness(keras, _features(keras, network), gate)
    return keras.Model(network.inputs, {**outputs, "strangeness": strangeness}, name=network.name)


# Features


def _taps(keras: ModuleType, network: Any) -> list[Any]:
    """The last two resolutions of the network's ReLUs, the last output of each, deepest last."""
    kinds = keras.layers.ReLU, keras.layers.Activation, keras.layers.Conv2D
    last = {}
    for layer in network.layers:
        relu = isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu
        if isinstance(layer, kinds) and relu and len(layer.output.shape) == 4 and layer.output.shape[1] >= max(CELLS):
            last[layer.output.shape[1]] = layer.output
    return [last[side] for side in sorted(last, reverse=True)][-len(CELLS) :]


def _features(keras: ModuleType, network: Any) -> Any:
    """(n, d): means of the film, 0 to 1, and of the network's taps, in cells of a grid."""
    scaled = next((layer.output for layer in network.layers if isinstance(layer, keras.layers.Rescaling)), None)
    film = keras.layers.Rescaling(1 / 255, name="gate_film")(network.input) if scaled is None else scaled
    taps = _taps(keras, network)
    looks = [_cells(keras, film, FILM_CELLS, "gate_film_cells")]
    looks += [
        _cells(keras, tap, cells, f"gate_cells_{cells}") for tap, cells in zip(taps, CELLS[-len(taps) :], strict=True)
    ]
    return keras.layers.Concatenate(name="gate_features")(looks)


def _cells(keras: ModuleType, x: Any, cells: int, name: str) -> Any:
    """Means over `cells` x `cells` squares, which overlap where the edge is no multiple."""
    side = x.shape[1]
    size = -(-side // cells)
    stride = max((side - size) // (cells - 1), 1)
    return keras.layers.Flatten(name=f"{name}_flat")(keras.layers.AveragePooling2D(size, stride, name=name)(x))


def _looking(network: Any) -> Any:
    keras = load_keras()
    model = keras.Model(network.input, _features(keras, network))

    def seen(films: Pixels) -> Floats:
        features: Floats = model.predict(films, batch_size=PREDICT_BATCH, verbose=0)
        return features

    return seen


def _films(films: Pixels, effort: Effort, rng: np.random.Generator) -> Iterator[Pixels]:
    """What is to be let through, in batches: films as they are, films changed, phantoms."""
    side = films.shape[1]
    chosen = np.resize(rng.permutation(len(films)), effort.films)
    for number, part in enumerate(np.array_split(chosen, max(effort.films // PREDICT_BATCH, 1))):
        how = (None, HERE, HERE, ELSEWHERE, ELSEWHERE)[number % 5]
        yield _changed(films[part], how, rng) if how else films[part]
    drawn = (Image.fromarray(phantom(1000 + seed, bool(seed % 2))) for seed in range(effort.phantoms))
    yield np.array([film.resize((side, side), Image.Resampling.BILINEAR) for film in drawn], np.uint8)[..., np.newaxis]


def _changed(films: Pixels, how: Augmentation, rng: np.random.Generator) -> Pixels:
    """As other scanners, hands and screens give films: a third of them within a frame of one gray."""
    changed = augment(films, how, rng)
    side = films.shape[1]
    for film in changed:
        if rng.random() < 1 / 3:
            wide, high = (int(side * min(rng.uniform(1 - FRAME, 1.05), 1)) for _ in range(2))
            left, top = rng.integers(0, side - wide + 1), rng.integers(0, side - high + 1)
            small = Image.fromarray(film[..., 0]).resize((wide, high), Image.Resampling.BILINEAR)
            film[:] = (0, 255, rng.integers(256))[rng.integers(3)]
            film[top : top + high, left : left + wide, 0] = small
    return changed


# Judges


def _distance(features: Floats) -> Distance:
    """By the films' own spread and the directions in which they differ most, of a covariance whose other directions
    share what is left (Tipping and Bishop, 1999). No limit yet."""
    mean, variance = features.mean(axis=0), features.var(axis=0)
    variance = (
        variance + 1e-3 * variance.mean() + 1e-8
    )  # a feature that is the same on all films is not all that counts
    bare = Distance(mean, variance, *(np.zeros((0, 0), np.float32),) * 2)
    near = bare.standardised(features)
    spread, axes = np.linalg.eigh(near.T @ near / len(near))
    count = min(DIRECTIONS, len(spread) - 1)
    rest = max(float(spread[:-count].mean()), 1e-3)
    weights = np.concatenate([np.full(len(mean), 1 / rest), 1 / np.maximum(spread[-count:], rest) - 1 / rest])
    return replace(bare, directions=axes[:, -count:], weights=weights.astype(np.float32)[:, np.newaxis])


def _head(films: Floats, others: Floats, seed: int, effort: Effort) -> Head:
    """Learned on standardised features, films and strangers weighing the same in all."""
    keras = load_keras()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = layers.Dense(HIDDEN, activation="tanh")  # bounded: what is far off is for the distance to judge
    outer = layers.Dense(1)
    head = keras.Sequential(
        [
            keras.Input((films.shape[1],)),
            layers.GaussianNoise(0.3),
            layers.Dropout(0.3),
            hidden,
            layers.Dropout(0.2),
            outer,
        ]
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.02)
    head.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), loss)
    labels = np.concatenate([np.zeros(len(films)), np.ones(len(others))])
    weights = np.concatenate([np.full(len(films), 0.5 / len(films)), np.full(len(others), 0.5 / len(others))])
    head.fit(
        np.concatenate([films, others]),
        labels,
        sample_weight=weights * len(labels),
        batch_size=128,
        epochs=effort.epochs,
        verbose=0,
    )
    return Head(tuple(hidden.get_weights()), tuple(outer.get_weights()))


def _limit(plain: Floats, changed: Floats, effort: Effort) -> float:
    """Beyond which hardly any film lies, neither as it is nor changed as by other scanners."""
    return float(
        max(np.quantile(plain, 1 - effort.false_alarms), np.quantile(changed, 1 - effort.false_alarms_changed))
    )


# The same arithmetic in Keras' layers


def _strangeness(keras: ModuleType, features: Any, gate: Gate) -> Any:
    layers = keras.layers
    standard = layers.BatchNormalization(scale=False, epsilon=0.0, name="gate_standard", trainable=False)
    hidden = layers.Dense(len(gate.head.hidden[1]), activation="tanh", name="gate_hidden")
    outer = layers.Dense(1, name="gate_head")
    directions = layers.Dense(gate.distance.directions.shape[1], use_bias=False, name="gate_directions")
    distance = layers.Dense(1, use_bias=False, name="gate_distance")
    # clipped by a ReLU, which begins at 0
    x = layers.ReLU(max_value=2 * CLIP, name="gate_clip")(standard(features))
    x = layers.Rescaling(1.0, offset=-CLIP, name="gate_centre")(x)
    both = layers.Concatenate(name="gate_all_directions")([x, directions(x)])
    far = distance(layers.Multiply(name="gate_squares")([both, both]))
    strange = layers.Maximum(name="strangeness")([outer(hidden(x)), far])
    standard.set_weights([np.full_like(gate.distance.mean, CLIP), gate.distance.mean, gate.distance.variance])
    hidden.set_weights(gate.head.hidden)
    outer.set_weights(gate.head.outer)
    directions.set_weights([gate.distance.directions])
    distance.set_weights([gate.distance.weights])
    return strange
