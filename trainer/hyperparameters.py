"""Hyperparameters of a training run. A card records all of them, so a run can be repeated from its card."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

# Mixed precision: half the bits in the arithmetic of training, float32 weights. bfloat16 has the range of float32, so
# the loss needs no scaling. GPUs since 2020 compute with it, and CPUs with avx512_bf16 or amx_bf16.
# Measured on two cores with avx512_bf16, milliseconds a step: cnn 494 and 204, compact 44 and 43.
PRECISIONS: Final = ("auto", "float32", "mixed_bfloat16")


@dataclass(frozen=True)
class Hyperparameters:
    """The defaults are those of the notebook this project started from; it had no augmentation and no class weights."""

    network: str = "cnn_dropout"  # a name in trainer.networks
    loss: str = "binary_crossentropy"
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-4
    schedule: str = "constant"  # or cosine: warm-up for a twentieth of the run, then decay to almost 0
    weight_decay: float = 0.0
    # Share of the old weights in the running mean of the weights, which is what is kept; 0: the last weights are kept.
    ema_momentum: float = 0.0
    batch_size: int = 20  # images
    # Batches in an epoch. The order of images continues from epoch to epoch, so an epoch need not cover all of them.
    steps_per_epoch: int = 100
    epochs: int = 30
    patience: int = 0  # epochs without a lower validation loss, after which the best weights are kept; 0: the last ones
    augmented: bool = False  # see trainer.augment
    mixup: float = 0.0  # how strongly images are blended with others
    label_smoothing: float = 0.0  # moves labels towards 0.5
    calibrated: bool = False  # by a temperature and a shift, on the validation patients
    gated: bool = False  # with an input gate, fitted to the training patients' images; see trainer.input_gate.gate
    precision: str = "float32"  # of the arithmetic, one of PRECISIONS; the saved weights are always float32
    teachers: tuple[str, ...] = ()  # versions of the models whose outputs replace the labels; see trainer.distillation
    views: int = 0  # of each image, made once and labelled by the teachers
    weak_share: float = 1 / 3  # share of the views that are changed little
    start: str = ""  # version of the model whose weights training starts from
    seed: int = 1  # of weights, order and augmentation; machines and thread counts still differ in the last digits
    target_sensitivity: float = 0.97  # share of the validation patients' images with pneumonia that must be flagged


NOTEBOOK: Final = Hyperparameters()
COMPACT: Final = Hyperparameters(
    network="compact",
    optimizer="adamw",
    learning_rate=2e-3,
    schedule="cosine",
    weight_decay=1e-3,
    ema_momentum=0.998,
    batch_size=32,
    steps_per_epoch=122,
    epochs=80,
    augmented=True,
    mixup=0.2,
    label_smoothing=0.04,
    calibrated=True,
    gated=True,
    precision="auto",
    target_sensitivity=0.99,
)
# Few epochs and small steps: what these learned from photographs transfers to other hospitals, and is soon lost.
FROM_IMAGENET: Final = replace(
    COMPACT, network="lite0", gated=False, learning_rate=8e-4, weight_decay=1e-2, ema_momentum=0.99, epochs=8, mixup=0.0
)
PRESETS: Final = {
    "compact": COMPACT,
    "dense": Hyperparameters(network="dense", optimizer="sgd", learning_rate=1e-2),
    "cnn": Hyperparameters(network="cnn"),
    "cnn_dropout": NOTEBOOK,
    "wide": replace(COMPACT, network="wide", gated=False, weight_decay=1e-2, ema_momentum=0.995, epochs=24),
    "lite0": FROM_IMAGENET,
    "lite1": replace(FROM_IMAGENET, network="lite1"),
}


def distilled(hyperparameters: Hyperparameters, teachers: Sequence[str]) -> Hyperparameters:
    """Return the hyperparameters of the same network taught by these teachers.

    Augmentation, mixup and label smoothing are off: the teachers' views are augmented and their labels soft already.
    """
    return replace(
        hyperparameters,
        teachers=tuple(teachers),
        views=16,
        weak_share=0.4,
        epochs=60,
        augmented=False,
        mixup=0.0,
        label_smoothing=0.0,
    )


def finishing_distillation(hyperparameters: Hyperparameters, start: str) -> Hyperparameters:
    """Return the hyperparameters of a second, short distillation of a trained network.

    It takes small steps on views close to the original images, so that the network ends on images like those that it
    will mostly see.
    """
    return replace(
        hyperparameters,
        start=start,
        views=4,
        weak_share=1.0,
        epochs=12,
        learning_rate=hyperparameters.learning_rate / 10,
    )


def fine_tuning(network: str) -> Hyperparameters:
    """Return the hyperparameters for a trained network that goes on with a few more images.

    A tenth of its preset's epochs at a tenth of the rate, so that it keeps what it knows. Mixup and label smoothing are
    off: its labels are readers' verdicts. The running mean looks back over fifty steps: over five hundred, a short
    nightly training would end where it began.
    """
    preset = PRESETS[network]
    averaged = min(preset.ema_momentum, 0.98)
    epochs, rate = max(preset.epochs // 10, 1), preset.learning_rate / 10
    return replace(preset, epochs=epochs, learning_rate=rate, ema_momentum=averaged, mixup=0.0, label_smoothing=0.0)
