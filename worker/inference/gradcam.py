"""Compute heatmaps: the model's own map, or Grad-CAM (Selvaraju et al., 2017) where it has none.

Grad-CAM is used without its mean of the gradients over all positions (HiResCAM, Draelos and Carin, 2020). For a network
that ends in an average both are the same. The notebook's networks weigh each position separately: with the mean, half
of an image was above 0.7 on images of which half is below 0.03 without it.

Heat is 0 to 1 at each position. For a model's own map it is the probability at that position. Grad-CAM has no such
scale, so its maximum is set to the image's probability. An image with a low probability has low heat either way.
"""

from typing import Any

import numpy as np

from pneumowatch.errors import ModelError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from worker.inference.classifier import load_network
from worker.inference.model_output import FloatArray, ModelOutput


class Explainer:
    """Computes heatmaps of images that a model has classified.

    Raises ModelError where the model has neither a map nor a convolution: a network on flattened pixels has no
    positions.
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
        """Return heatmaps, float32 (n, h, w), 0 to 1, for images, uint8 (n, side, side), and the model's output."""
        if output.maps is not None:
            return np.asarray(1 / (1 + np.exp(-output.maps.astype(np.float64))), np.float32)
        found = _gradcam(self._gradient_network, images)
        hottest = found.max(axis=(1, 2), keepdims=True)
        scaled = np.divide(found, hottest, out=np.zeros_like(found), where=hottest > 0)
        return np.asarray(scaled * output.probability[:, np.newaxis, np.newaxis], np.float32)


def _as_functional(network: Any) -> Any:
    """Rebuild a Sequential network as a functional one: Keras calls the layers of the former twice."""
    import keras

    images = keras.Input(network.input_shape[1:], dtype="uint8")
    x = images
    for layer in network.layers:
        x = type(layer).from_config(layer.get_config())(x)
    model = keras.Model(images, x)
    model.set_weights(network.get_weights())
    return model


def _gradient_network(network: Any, probability: Any, version: str) -> Any:
    """Build a network with two outputs: the features of the last convolution, and the logit."""
    import keras

    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    if not convolutions:
        raise ModelError(f"The model {version} has no convolution, so it cannot show which region moved it.")
    last = next(layer for layer in network.layers if layer.output is probability)
    last.activation = keras.activations.linear  # near certainty the gradient of a probability vanishes
    return keras.Model(network.inputs, [convolutions[-1].output, probability])


def _gradcam(gradient_network: Any, images: Pixels) -> FloatArray:
    """Compute Grad-CAM: features of the last convolution times their gradient, summed over channels.

    Returns (n, h, w), at least 0: only what moves the logit towards pneumonia.
    """
    import tensorflow as tf

    with tf.GradientTape() as tape:
        features, logit = gradient_network(tf.constant(images[..., np.newaxis]), training=False)
    found: FloatArray = tf.nn.relu(tf.reduce_sum(features * tape.gradient(logit, features), axis=-1)).numpy()
    return found
