"""One training run, from a labelled folder to a model folder, top to bottom."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TrainingError
from pneumowatch.film import Pixels
from pneumowatch.model import ModelFolder
from trainer import card, dataset, networks, store
from trainer.augment import Augmentation, augment, mixed
from trainer.dataset import Examples, LeftOut
from trainer.evaluate import Figure, figures, threshold_for
from trainer.knobs import Knobs

PREDICT_BATCH: Final = 64  # films; a matter of speed and memory only
TEMPERATURES: Final = np.geomspace(0.2, 5, 161)
EDGE: Final = 1e-6  # probabilities nearer to certainty have no logit worth fitting


@dataclass(frozen=True)
class Standing:
    """Where a run stands after a step; the validation figures are those of the last whole epoch, NaN before it."""

    epoch: int  # from 1
    step: int  # from 1, within the epoch
    loss: float  # mean of this epoch so far
    validation_loss: float = np.nan
    validation_accuracy: float = np.nan  # at 0.5, as the threshold is chosen at the end


@dataclass(frozen=True)
class Trained:
    folder: ModelFolder
    left_out: tuple[LeftOut, ...]  # files of the training folder and of `also` that could not be read


def train(
    data: Path,
    out: Path,
    knobs: Knobs,
    also: Path | None = None,
    about: Path | None = None,
    watch: Callable[[Standing], None] = lambda _: None,
) -> Trained:
    """Train, choose the threshold, evaluate, and write `out`/<version>.

    Args:
        data: a folder with NORMAL and PNEUMONIA.
        also: another such folder, of which the films of test patients are evaluated as `test_full_size`.
        about: what is known of `data`, for the card (`card.read_about`).
        watch: called after every step and every epoch.

    Raises:
        TrainingError: the data or the knobs cannot be used, or the model cannot be written.
    """
    known = card.read_about(about)
    side = networks.find(knobs.network).side
    films = dataset.read(data, side)
    learn, validation, test = (films.examples(split) for split in dataset.SPLITS)
    judged, left_out = {"validation": validation, "test": test}, films.left_out
    if also:
        full_size = dataset.read(also, side)
        judged["test_full_size"] = full_size.examples("test")
        left_out += full_size.left_out
    _check(learn, validation)

    model = fit(learn, validation, knobs, watch)

    threshold = threshold_for(validation.labels, probabilities(model, validation), knobs.target_sensitivity)
    metrics = {name: evaluated(model, examples, threshold) for name, examples in judged.items()}
    written = card.describe(model, knobs, films, known, threshold, metrics)
    return Trained(store.write(out, model, written), left_out)


def fit(learn: Examples, validation: Examples, knobs: Knobs, watch: Callable[[Standing], None]) -> Any:
    """A trained `keras.Model`, uncompiled: what is saved carries no optimizer state."""
    keras = networks.load_keras()
    keras.utils.set_random_seed(knobs.seed)
    model = networks.build(knobs.network)
    optimizer = _optimizer(keras, knobs)
    model.compile(optimizer=optimizer, loss=knobs.loss)
    batches = lessons(learn, knobs)
    at = Standing(0, 0, np.nan)
    for epoch in range(1, knobs.epochs + 1):
        losses: list[float] = []
        for step in range(1, knobs.steps + 1):
            films, labels = next(batches)
            model.reset_metrics()  # or some versions of Keras return the mean of all steps instead of this one's loss
            losses.append(float(model.train_on_batch(films, labels[:, np.newaxis])))
            at = replace(at, epoch=epoch, step=step, loss=float(np.mean(losses)))
            watch(at)
        unseen, accuracy = _loss_and_accuracy(validation.labels, probabilities(model, validation))
        at = replace(at, validation_loss=unseen, validation_accuracy=accuracy)
        watch(at)
    if knobs.averaged:
        optimizer.finalize_variable_values(model.trainable_variables)
    bare = networks.build(knobs.network)
    bare.set_weights(model.get_weights())
    if knobs.calibrated:
        calibrate(bare, validation)
    return bare


def lessons(learn: Examples, knobs: Knobs) -> Iterator[tuple[Pixels, NDArray[np.float32]]]:
    """Batches of films with what is to be said of them, for ever."""
    rng = np.random.default_rng([knobs.seed, 1])
    for chosen in shuffled_batches(len(learn), knobs.batch, knobs.seed):
        films, labels = learn.pixels[chosen], learn.labels[chosen]
        if knobs.augmented:
            films = augment(films, Augmentation(), rng)
        if knobs.mixup:
            films, labels = mixed(films, labels, knobs.mixup, rng)
        yield films, labels + knobs.smoothing * (0.5 - labels)


def calibrate(model: Any, validation: Examples) -> float:
    """Divide the network's logits by the temperature under which it is least surprised by the validation patients
    (Guo et al., 2017), in its last weights. Returns the temperature."""
    said = np.clip(probabilities(model, validation), EDGE, 1 - EDGE)
    logits, ill = np.log(said / (1 - said)), validation.labels
    surprise = [np.logaddexp(0, np.where(ill == 1, -logits, logits) / heat).mean() for heat in TEMPERATURES]
    heat = float(TEMPERATURES[int(np.argmin(surprise))])
    last = model.get_layer(networks.LAST)
    last.set_weights([weights / heat for weights in last.get_weights()])
    return heat


def _optimizer(keras: ModuleType, knobs: Knobs) -> Any:
    rate: Any = knobs.learning_rate
    if knobs.schedule == "cosine":
        steps = knobs.epochs * knobs.steps
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 100, max(steps - steps // 20, 1), warmup_target=rate, warmup_steps=steps // 20
        )
    config: dict[str, Any] = {"learning_rate": rate}
    if knobs.weight_decay:
        config["weight_decay"] = knobs.weight_decay
    if knobs.averaged:
        config |= {"use_ema": True, "ema_momentum": knobs.averaged}
    optimizer = {"rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD, "adamw": keras.optimizers.AdamW}
    return optimizer[knobs.optimizer](**config)


def shuffled_batches(films: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of `batch` films for ever: all of them in random order, then all of them in another, without a gap."""
    rng = np.random.default_rng(seed)
    waiting = rng.permutation(films)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(films)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def probabilities(model: Any, examples: Examples) -> NDArray[np.float64]:
    """Of pneumonia, shape (n,)."""
    if not len(examples):
        return np.zeros(0)
    return model.predict(examples.pixels, batch_size=PREDICT_BATCH, verbose=0)[:, 0].astype(np.float64)


def evaluated(model: Any, examples: Examples, threshold: float) -> dict[str, Figure]:
    return figures(examples.labels, probabilities(model, examples), examples.patients, threshold)


def _loss_and_accuracy(labels: NDArray[np.float32], probability: NDArray[np.float64]) -> tuple[float, float]:
    right = np.clip(np.where(labels == 1, probability, 1 - probability), 1e-7, 1)  # Keras' own bound
    return float(-np.log(right).mean()), float(((probability >= 0.5) == labels).mean())


def _check(learn: Examples, validation: Examples) -> None:
    if len(set(learn.labels.tolist())) < 2:
        raise TrainingError("The training patients need films of both classes; add films of more patients.")
    if not validation.labels.any():
        raise TrainingError(
            "No validation patient has a film with pneumonia to choose a threshold by; add films of more patients."
        )
