"""The network in training: its weights, their running mean, the best so far; and all of it as arrays."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.film import Pixels
from trainer import networks
from trainer.knobs import Knobs

PREDICT_BATCH: Final = 64  # films; a matter of speed and memory only

Array = NDArray[Any]


class Pupil:
    """Learns in the precision that the knobs ask for; what it says, and what is kept of it, is float32.

    Args:
        start: a network as `networks.build` builds it, whose weights it begins with; None for random ones.
    """

    def __init__(self, knobs: Knobs, start: Any = None) -> None:
        keras = networks.load_keras()
        self.precision = networks.choose_precision(knobs.precision)
        keras.utils.set_random_seed(knobs.seed)
        folds = start is not None and start.name.endswith(networks.FOLDED)
        self._network = networks.build(knobs.network, self.precision, folds)
        self._kept = networks.build(knobs.network, folds=folds)
        if start is not None:
            self._network.set_weights(start.get_weights())
        self._averaged = bool(knobs.averaged)
        self._optimizer = _optimizer(keras, knobs)
        self._optimizer.build(self._network.trainable_variables)  # now, so that what it remembers can be restored
        # `auto`: XLA where there is a GPU
        self._network.compile(optimizer=self._optimizer, loss=knobs.loss, jit_compile="auto")
        self._best: list[Array] = self._kept.get_weights() if knobs.patience else []

    def learn(self, films: Pixels, labels: NDArray[np.float32]) -> float:
        """One step. Returns the loss of this batch."""
        self._network.reset_metrics()  # or some versions of Keras return the mean of all steps instead of this one's
        return float(self._network.train_on_batch(films, labels[:, np.newaxis]))

    def settle(self) -> None:
        """What it says from here on, it says with its weights of now, or their running mean where that is kept."""
        weights = self._network.get_weights()
        if self._averaged:
            self._optimizer.finalize_variable_values(self._network.trainable_variables)
        self._kept.set_weights(self._network.get_weights())
        self._network.set_weights(weights)

    def remember(self) -> None:
        """The settled weights are the best so far."""
        self._best = self._kept.get_weights()

    def probabilities(self, films: Pixels) -> NDArray[np.float64]:
        """Of pneumonia, (n,), with the settled weights."""
        return probabilities(self._kept, films)

    def graduate(self) -> Any:
        """The `keras.Model` that is kept, float32 and uncompiled: with the best weights where they were remembered."""
        if self._best:
            self._kept.set_weights(self._best)
        return self._kept

    def arrays(self) -> list[Array]:
        """All that it takes to go on: weights, chance of its dropout, the optimizer's memory, best weights."""
        convert = networks.load_keras().ops.convert_to_numpy
        return [*(np.array(convert(one)) for one in self._variables), *self._kept.get_weights(), *self._best]

    def restore(self, arrays: Sequence[Array]) -> None:
        own, kept = len(self._variables), len(self._kept.get_weights())
        for variable, value in zip(self._variables, arrays[:own], strict=True):
            variable.assign(value)
        self._kept.set_weights(arrays[own : own + kept])
        self._best = list(arrays[own + kept :])

    @property
    def _variables(self) -> list[Any]:
        return [*self._network.variables, *self._optimizer.variables]


def probabilities(model: Any, films: Pixels) -> NDArray[np.float64]:
    """Of pneumonia, shape (n,), of films, uint8 (n, side, side, 1), by a trained network or a served one."""
    if not len(films):
        return np.zeros(0)
    said = model.predict(films, batch_size=PREDICT_BATCH, verbose=0)
    return (said["probability"] if isinstance(said, dict) else said)[:, 0].astype(np.float64)


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
    made = optimizer[knobs.optimizer](**config)
    if knobs.weight_decay:
        made.exclude_from_weight_decay(
            var_names=["bias", "gamma", "beta"]
        )  # they scale, and are few: no need to shrink
    return made
