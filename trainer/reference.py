"""What a model says of films like those it was judged on: the reference that `db.drift` holds a source against."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TrainingError
from pneumowatch.film import Pixels
from pneumowatch.model import CARD, ModelFolder
from pneumowatch.settings import Settings
from trainer import dataset, networks
from trainer.dataset import Naming

BINS: Final = 10
DIGITS: Final = 9  # float32 keeps no more
BATCH: Final = 64  # films; a matter of speed alone


def reference(served: Any, films: Pixels) -> dict[str, Any]:
    """For the card: {films, probability, strangeness, brightness}, all but the first as `bins`; strangeness is None
    where the network has no gate.

    Args:
        served: a `keras.Model` as `gate.served` gives it.
        films: uint8 (n, side, side, 1) of validation patients, at least one.
    """
    said = served.predict(films, batch_size=BATCH, verbose=0)
    outputs = said if isinstance(said, dict) else {"probability": said}
    strangeness = outputs.get("strangeness")
    return {
        "films": len(films),
        "probability": bins(outputs["probability"][:, 0]),
        "strangeness": None if strangeness is None else bins(strangeness[:, 0]),
        "brightness": bins(films.mean(axis=(1, 2, 3))),
    }


def note(folder: Path, data: Path, also: Path | None, settings: Settings) -> int:
    """Put the reference into the card of a model that has none. Returns the number of films.

    Args:
        data: the films that it was trained on.
        also: a second such folder, of full-size films.
        settings: whose patient key tells patients of headers apart.

    Raises:
        ModelError: the folder is damaged.
        TrainingError: the films cannot be used, or the card cannot be written.
    """
    model = ModelFolder.read(folder)
    model.verify()
    naming = Naming.of_card(model.card, settings)
    films = dataset.read(data, model.side, naming)
    validation = (films + dataset.read(also, model.side, naming) if also else films).examples("validation")
    if not len(validation.labels):
        raise TrainingError("There is no film of a validation patient; see `pneumowatch train --help`.")
    card = model.card | {"reference": reference(networks.load(model), validation.pixels)}
    try:
        (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise TrainingError(f"{folder / CARD} cannot be written: {error.strerror}.") from error
    return len(validation.labels)


def bins(values: NDArray[Any]) -> dict[str, list[float]]:
    """{edges, shares}: bins that hold a tenth of the values each, fewer where many are equal; none is empty."""
    values = np.round(values.astype(np.float64), DIGITS)
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS, method="higher"))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    if not counts[0]:  # all below the first edge are none: it separates nothing
        edges, counts = edges[1:], counts[1:]
    return {"edges": edges.tolist(), "shares": (counts / len(values)).round(DIGITS).tolist()}
