"""What a network says of films."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class ModelOutput(NamedTuple):
    """Of n films, float32.

    `probability` (n,): of pneumonia. `gate_score` (n,): how unlike a frontal chest film each is; beyond 1 it is none;
    zeros where the model has no gate. `maps` (n, h, w): the logit of each place, whose mean is the film's; None where
    the model has no such map.
    """

    probability: FloatArray
    gate_score: FloatArray
    maps: FloatArray | None = None

    @classmethod
    def from_probabilities(cls, probability: Any) -> "ModelOutput":
        """Of a model that gives probabilities alone."""
        values = np.asarray(probability, np.float32)
        return cls(values, np.zeros(len(values), np.float32))

    @classmethod
    def concatenate(cls, outputs: Sequence["ModelOutput"]) -> "ModelOutput":
        """Of films read one part after the other, by one network; at least one part."""
        if len(outputs) == 1:
            return outputs[0]
        maps = [output.maps for output in outputs if output.maps is not None]
        return cls(
            np.concatenate([output.probability for output in outputs]),
            np.concatenate([output.gate_score for output in outputs]),
            np.concatenate(maps) if maps else None,
        )

    def slice(self, start: int, stop: int) -> "ModelOutput":
        maps = None if self.maps is None else self.maps[start:stop]
        return ModelOutput(self.probability[start:stop], self.gate_score[start:stop], maps)
