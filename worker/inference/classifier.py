"""Load the network and classify uint8 images. Only this module and `gradcam` import TensorFlow in this package."""

import os
from typing import Any, Final

import numpy as np

from pneumowatch.errors import ModelError, SettingsError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.logs import silence_stderr
from pneumowatch.model_folder import REFERENCE, ModelFolder
from worker.inference.adaptive_batch import AdaptiveBatchSize
from worker.inference.model_output import ModelOutput

REFERENCE_TOLERANCE: Final = 1e-3  # engines differ by 1e-6; a wrong or damaged network by far more
SMALL_BATCH_SIZE: Final = 8
OPTIONAL_OUTPUTS: Final = {"gate_score": "gate_score", "map": "maps"}  # output of the network -> field of ModelOutput


class Classifier:
    """One network on one device.

    Images are padded to one of a few fixed batch shapes, which are all run once at start: TensorFlow compiles again for
    each new shape, and a single image must pay neither for that nor for a whole batch. Where the largest shape does not
    fit into the device's memory, smaller ones are used (`worker.inference.adaptive_batch`).

    Args:
        folder: is verified, and loaded in Keras' safe mode.
        batch_size: the largest batch.
        device: `cpu`, `gpu:N`, or None for what TensorFlow picks.

    Raises:
        ModelError: the folder is damaged, or its network does not give its own reference outputs.
        SettingsError: TensorFlow does not see the device.
        DeviceOutOfMemory: as `predict`.
    """

    def __init__(self, folder: ModelFolder, batch_size: int, device: str | None = None) -> None:
        folder.verify()
        self.version = folder.version
        self.side = folder.side
        self.threshold = folder.threshold
        self._small_batch = min(SMALL_BATCH_SIZE, batch_size)
        self._adaptive_batch = AdaptiveBatchSize(batch_size)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with silence_stderr():
            import tensorflow as tf

        self._tf = tf
        _choose_device(tf, device)
        self._network = load_network(folder)
        signature = tf.TensorSpec((None, self.side, self.side, 1), tf.uint8)
        self._run = tf.function(lambda images: self._network(images, training=False), input_signature=[signature])
        for shape in sorted({1, self._small_batch, batch_size}):
            self.predict(np.zeros((shape, self.side, self.side), np.uint8))
        self._check(folder)

    def predict(self, images: Pixels) -> ModelOutput:
        """Classify images, uint8 (n, side, side), n up to the batch size.

        Raises ModelError where an output is not a number or a probability is outside of 0 to 1, and DeviceOutOfMemory
        where the device's memory does not hold a single image.
        """
        return self._adaptive_batch.run(images, self._predict)

    def _predict(self, images: Pixels, limit: int) -> ModelOutput:
        count = len(images)
        shape = next(shape for shape in (1, min(self._small_batch, limit), limit) if shape >= count)
        padded = np.zeros((shape, self.side, self.side, 1), np.uint8)
        padded[:count, :, :, 0] = images
        result = self._run(self._tf.constant(padded))
        # a dictionary of outputs, or the probability alone
        outputs = result if isinstance(result, dict) else {"probability": result}
        found = {name: output.numpy()[:count, ..., 0].astype(np.float32) for name, output in outputs.items()}
        probability = found["probability"]
        if not (np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()):
            raise ModelError(f"The model {self.version} gives values that are not probabilities.")
        if not all(np.isfinite(output).all() for output in found.values()):
            raise ModelError(f"The model {self.version} gives outputs that are not numbers.")
        return ModelOutput.from_probabilities(probability)._replace(
            **{field: found[name] for name, field in OPTIONAL_OUTPUTS.items() if name in found}
        )

    def _check(self, folder: ModelFolder) -> None:
        try:
            with (folder.path / REFERENCE).open("rb") as file, np.load(file, allow_pickle=False) as reference:
                images, expected = reference["images"][..., 0], reference["probabilities"]
        except Exception as error:  # a damaged archive raises BadZipFile, EOFError, zlib.error, ...
            raise ModelError(f"{folder.path / REFERENCE} cannot be read: {error}.") from error
        if images.shape != (len(expected), self.side, self.side) or not len(expected):
            raise ModelError(
                f"{folder.path / REFERENCE} holds no images of this model's size with their probabilities."
            )
        got = np.concatenate([self.predict(images[i : i + 1]).probability for i in range(len(images))])
        if not np.allclose(got, expected, atol=REFERENCE_TOLERANCE):
            raise ModelError(f"The model {self.version} does not reproduce its reference outputs on this machine.")


def load_network(folder: ModelFolder) -> Any:
    """Load the `keras.Model` of a verified folder. Raises ModelError where it does not match its card."""
    import keras

    try:
        network = keras.saving.load_model(folder.weights, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a damaged file leads it to
        raise ModelError(f"{folder.weights} cannot be loaded: {type(error).__name__}.") from error
    expected = (None, folder.side, folder.side, 1)
    if tuple(network.input_shape) != expected:
        raise ModelError(f"{folder.weights} takes {network.input_shape}, its card says {expected}.")
    _check_outputs(folder, network.compute_output_spec(keras.KerasTensor(expected, dtype="uint8")))
    return network


def _check_outputs(folder: ModelFolder, outputs: Any) -> None:
    """Raise ModelError where the network's outputs do not have the names and shapes that `ModelOutput` needs."""
    outputs = outputs if isinstance(outputs, dict) else {"probability": outputs}
    if "probability" not in outputs:
        raise ModelError(f"{folder.weights} gives no probability.")
    for name, output in outputs.items():
        known = name == "probability" or name in OPTIONAL_OUTPUTS
        if not known or len(output.shape) != (4 if name == "map" else 2) or output.shape[-1] != 1:
            raise ModelError(f"{folder.weights} gives an unknown output: {name}, {output.shape}.")


def _choose_device(tf: Any, device: str | None) -> None:
    """Select the device. Raises SettingsError instead of silently using the CPU where the requested GPU is missing."""
    gpus = tf.config.list_physical_devices("GPU")
    if device is None:
        chosen = gpus
    elif device == "cpu":
        chosen = []
    else:
        kind, _, number = device.partition(":")
        if kind != "gpu" or not number.isdigit():
            raise SettingsError(f"'{device}' is not a device; use cpu or gpu:0, gpu:1, ...")
        if int(number) >= len(gpus):
            raise SettingsError(f"TensorFlow does not see {device} (it sees {len(gpus)} GPUs); see `nvidia-smi`.")
        chosen = [gpus[int(number)]]
    try:
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)  # other programs share the GPU
    except RuntimeError as error:
        raise SettingsError(f"The device cannot be changed after TensorFlow has started: {error}.") from error
