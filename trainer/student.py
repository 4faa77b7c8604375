"""The network in training: its weights, their running mean and the best so far; and all of it as arrays."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.imaging.reader import Pixels
from trainer import networks
from trainer.hyperparameters import Hyperparameters

PREDICT_BATCH: Final = 64  # images; affects speed and memory only

Array = NDArray[Any]


class Student:
    """A network that trains in the precision of its hyperparameters; its outputs and kept weights are float32.

    Args:
        start: a network as `networks.build` builds it, whose weights are the first; None for random ones.
    """

    def __init__(self, hyperparameters: Hyperparameters, start: Any = None) -> None:
        keras = networks.load_keras()
        self.precision = networks.choose_precision(hyperparameters.precision)
        keras.utils.set_random_seed(hyperparameters.seed)
        fold = start is not None and start.name.endswith(networks.FOLDED_SUFFIX)
        self._network = networks.build(hyperparameters.network, self.precision, fold)
        self._kept = networks.build(hyperparameters.network, fold=fold)
        if start is not None:
            self._network.set_weights(start.get_weights())
        self._ema = bool(hyperparameters.ema_momentum)
        self._optimizer = _optimizer(keras, hyperparameters)
        self._optimizer.build(self._network.trainable_variables)  # now, so that a saved state can be restored into it
        # `auto`: XLA where there is a GPU
        self._network.compile(optimizer=self._optimizer, loss=hyperparameters.loss, jit_compile="auto")
        self._best: list[Array] = self._kept.get_weights() if hyperparameters.patience else []

    def train_step(self, images: Pixels, labels: NDArray[np.float32]) -> float:
        """Run one step. Returns the loss of this batch."""
        self._network.reset_metrics()  # some versions of Keras return the mean of all steps otherwise
        return float(self._network.train_on_batch(images, labels[:, np.newaxis]))

    def sync_weights(self) -> None:
        """Predict from here on with the current weights, or with their running mean where there is one."""
        weights = self._network.get_weights()
        if self._ema:
            self._optimizer.finalize_variable_values(self._network.trainable_variables)
        self._kept.set_weights(self._network.get_weights())
        self._network.set_weights(weights)

    def save_best(self) -> None:
        """Remember the synchronised weights as the best so far."""
        self._best = self._kept.get_weights()

    def probabilities(self, images: Pixels) -> NDArray[np.float64]:
        """Predict probabilities of pneumonia, (n,), with the synchronised weights."""
        return predict_probabilities(self._kept, images)

    def export(self) -> Any:
        """Return the `keras.Model` to keep, float32 and uncompiled, with the best weights if they were remembered."""
        if self._best:
            self._kept.set_weights(self._best)
        return self._kept

    def state_arrays(self) -> list[Array]:
        """Return all that it takes to resume: weights, states of dropout and optimizer, kept and best weights."""
        convert = networks.load_keras().ops.convert_to_numpy
        return [*(np.array(convert(one)) for one in self._variables), *self._kept.get_weights(), *self._best]

    def restore_state(self, arrays: Sequence[Array]) -> None:
        own, kept = len(self._variables), len(self._kept.get_weights())
        for variable, value in zip(self._variables, arrays[:own], strict=True):
            variable.assign(value)
        self._kept.set_weights(arrays[own : own + kept])
        self._best = list(arrays[own + kept :])

    @property
    def _variables(self) -> list[Any]:
        return [*self._network.variables, *self._optimizer.variables]


def predict_probabilities(model: Any, images: Pixels) -> NDArray[np.float64]:
    """Predict probabilities of pneumonia, shape (n,), of images, uint8 (n, side, side, 1).

    `model` is a trained network or a served one.
    """
    if not len(images):
        return np.zeros(0)
    predicted = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
    return (predicted["probability"] if isinstance(predicted, dict) else predicted)[:, 0].astype(np.float64)


def _optimizer(keras: ModuleType, hyperparameters: Hyperparameters) -> Any:
    rate: Any = hyperparameters.learning_rate
    if hyperparameters.schedule == "cosine":
        steps = hyperparameters.epochs * hyperparameters.steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 100, max(steps - steps // 20, 1), warmup_target=rate, warmup_steps=steps // 20
        )
    config: dict[str, Any] = {"learning_rate": rate}
    if hyperparameters.weight_decay:
        config["weight_decay"] = hyperparameters.weight_decay
    if hyperparameters.ema_momentum:
        config |= {"use_ema": True, "ema_momentum": hyperparameters.ema_momentum}
    optimizer = {"rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD, "adamw": keras.optimizers.AdamW}
    made = optimizer[hyperparameters.optimizer](**config)
    if hyperparameters.weight_decay:
        # scales and biases are few and do not overfit
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made
