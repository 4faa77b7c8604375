"""Where in a film the model found what moved it: its own map, or Grad-CAM (Selvaraju et al., 2017) where it has none.

Without Grad-CAM's mean of the gradients over all places (HiResCAM, Draelos and Carin, 2020). Where a network ends in an
average that is the same; the notebook's networks weigh each place apart, and with the mean half of a film was hotter
than 0.7, on films of which half is colder than 0.03 without it.

Heat is 0 to 1 for each place. Of a map it is the place's own probability; Grad-CAM knows no such scale, so its hottest
place is as hot as the film's probability. A film that did not move the model is therefore cold either way.
"""

from typing import Any

import numpy as np

from pneumowatch.errors import ModelError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from worker.inference.classifier import load_network
from worker.inference.model_output import FloatArray, ModelOutput


class Explainer:
    """Finds the heat of films that a model has read.

    Raises ModelError where the model has neither a map nor a convolution: a network that looks at the flat film has no
    places.
    """

    def __init__(self, folder: ModelFolder) -> None:
        import keras

        folder.verify()
        network = load_network(folder)
        if isinstance(network, keras.Sequential):
            network = _as_functional(network)
        outputs = network.output if isinstance(network.output, dict) else {"probability": network.output}
        self._gradient_network = (
            None if "map" in outputs else _gradient_network(network, outputs["probability"], folder.version)
        )

    def heatmaps(self, images: Pixels, output: ModelOutput) -> FloatArray:
        """Float32 (n, h, w), 0 to 1, of films, uint8 (n, side, side), with what the model says of them."""
        if output.maps is not None:
            return np.asarray(1 / (1 + np.exp(-output.maps.astype(np.float64))), np.float32)
        found = _gradcam(self._gradient_network, images)
        hottest = found.max(axis=(1, 2), keepdims=True)
        scaled = np.divide(found, hottest, out=np.zeros_like(found), where=hottest > 0)
        return np.asarray(scaled * output.probability[:, np.newaxis, np.newaxis], np.float32)


def _as_functional(network: Any) -> Any:
    """A Sequential network once more, so that its layers have one output each: Keras calls them twice."""
    import keras

    images = keras.Input(network.input_shape[1:], dtype="uint8")
    x = images
    for layer in network.layers:
        x = type(layer).from_config(layer.get_config())(x)
    model = keras.Model(images, x)
    model.set_weights(network.get_weights())
    return model


def _gradient_network(network: Any, probability: Any, version: str) -> Any:
    """The network with two outputs: what its last convolution finds, and the logit."""
    import keras

    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    if not convolutions:
        raise ModelError(f"The model {version} looks at the flat film, so it cannot show what in it moved it.")
    last = next(layer for layer in network.layers if layer.output is probability)
    last.activation = keras.activations.linear  # near certainty the gradient of a probability is nothing
    return keras.Model(network.inputs, [convolutions[-1].output, probability])


def _gradcam(gradient_network: Any, images: Pixels) -> FloatArray:
    """What the last convolution found at each place, as far as it moves the logit towards pneumonia; (n, h, w), at
    least 0."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        features, logit = gradient_network(tf.constant(images[..., np.newaxis]), training=False)
    found: FloatArray = tf.nn.relu(tf.reduce_sum(features * tape.gradient(logit, features), axis=-1)).numpy()
    return found
