"""What a network says of films."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Readings(NamedTuple):
    """Of n films, float32.

    `probability` (n,): of pneumonia. `strangeness` (n,): how unlike a frontal chest film each is; beyond 1 it is none;
    zeros where the model has no gate. `maps` (n, h, w): the logit of each place, whose mean is the film's; None where
    the model has no such map.
    """

    probability: Floats
    strangeness: Floats
    maps: Floats | None = None

    @classmethod
    def of(cls, probability: Any) -> "Readings":
        """Of a model that gives probabilities alone."""
        found = np.asarray(probability, np.float32)
        return cls(found, np.zeros(len(found), np.float32))

    @classmethod
    def joined(cls, parts: Sequence["Readings"]) -> "Readings":
        """Of films read one part after the other, by one network; at least one part."""
        if len(parts) == 1:
            return parts[0]
        maps = [part.maps for part in parts if part.maps is not None]
        return cls(
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.strangeness for part in parts]),
            np.concatenate(maps) if maps else None,
        )

    def part(self, start: int, stop: int) -> "Readings":
        maps = None if self.maps is None else self.maps[start:stop]
        return Readings(self.probability[start:stop], self.strangeness[start:stop], maps)
