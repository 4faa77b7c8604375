"""The output of a network for a batch of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class ModelOutput(NamedTuple):
    """A network's output for n images, float32.

    `probability` (n,): of pneumonia. `gate_score` (n,): how unlike a frontal chest x-ray each image is; beyond 1 it is
    rejected; zeros where the model has no gate. `maps` (n, h, w): the logit at each position, whose mean is the image's
    logit; None where the model has no map.
    """

    probability: FloatArray
    gate_score: FloatArray
    maps: FloatArray | None = None

    @classmethod
    def from_probabilities(cls, probability: Any) -> "ModelOutput":
        """Make the output of a model that gives probabilities alone."""
        values = np.asarray(probability, np.float32)
        return cls(values, np.zeros(len(values), np.float32))

    @classmethod
    def concatenate(cls, outputs: Sequence["ModelOutput"]) -> "ModelOutput":
        """Join the outputs of consecutive batches of one network; at least one."""
        if len(outputs) == 1:
            return outputs[0]
        maps = [output.maps for output in outputs if output.maps is not None]
        return cls(
            np.concatenate([output.probability for output in outputs]),
            np.concatenate([output.gate_score for output in outputs]),
            np.concatenate(maps) if maps else None,
        )

    def slice(self, start: int, stop: int) -> "ModelOutput":
        """Return the output for the images `start` to `stop` (exclusive)."""
        maps = None if self.maps is None else self.maps[start:stop]
        return ModelOutput(self.probability[start:stop], self.gate_score[start:stop], maps)
