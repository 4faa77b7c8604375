"""Every knob of a training run. A card records all of them, so a run can be repeated from its card."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

# Half the bits in the arithmetic of training, float32 in the weights. Of the two halves bfloat16, which has float32's
# range, so that no loss must be scaled: GPUs since 2020 compute with it, and CPUs that know avx512_bf16 or amx_bf16.
# Measured on two cores with avx512_bf16, milliseconds a step: cnn 494 and 204, compact 44 and 43.
PRECISIONS: Final = ("auto", "float32", "mixed_bfloat16")


@dataclass(frozen=True)
class Hyperparameters:
    """The defaults are those of the notebook this project started from; it had no augmentation and no class weights."""

    network: str = "cnn_dropout"  # a name in trainer.networks
    loss: str = "binary_crossentropy"
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-4
    schedule: str = "constant"  # or cosine: up within a twentieth of the run, then down to nothing
    weight_decay: float = 0.0
    ema_momentum: float = (
        0.0  # share of the old weights in each step's running mean, which is what is kept; 0: the last
    )
    batch_size: int = 20  # films
    steps_per_epoch: int = (
        100  # batches in an epoch; films go on from one epoch to the next, so an epoch need not see them all
    )
    epochs: int = 30
    patience: int = 0  # epochs without a lower loss on validation patients, after which the best is kept; 0: the last
    augmented: bool = False  # as trainer.augment says
    mixup: float = 0.0  # how far films are blended with others
    label_smoothing: float = 0.0  # of the labels, towards not knowing
    calibrated: bool = False  # by a temperature and a shift, on the validation patients
    gated: bool = False  # with an input gate, fitted to the training patients' films, as trainer.input_gate.gate says
    precision: str = "float32"  # of the arithmetic, as PRECISIONS; what is kept is float32 always
    teachers: tuple[
        str, ...
    ] = ()  # versions of the models whose word replaces the labels, as trainer.distillation says
    views: int = 0  # of each film, made once and labelled by the teachers
    weak_share: float = 1 / 3  # share of the views that are changed little
    start: str = ""  # version of the model whose weights it begins with
    seed: int = 1  # of weights, films and chance; other machines and thread counts still differ in last digits
    target_sensitivity: float = 0.97  # share of the validation patients' ill films that the threshold has to flag


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
# Few epochs and small steps: what these learned of photographs is what holds at another hospital, and is soon forgotten
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
    """The same network, taught by these: their views are changed and softened already."""
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
    """The same lessons for a network that has learned already: small steps, on views near the films, so that it ends
    at home among the films that it will mostly see."""
    return replace(
        hyperparameters,
        start=start,
        views=4,
        weak_share=1.0,
        epochs=12,
        learning_rate=hyperparameters.learning_rate / 10,
    )


def fine_tuning(network: str) -> Hyperparameters:
    """Of a network that has learned already, and goes on with a few more films: a tenth of its preset's epochs, at a
    tenth of the rate, so that it keeps what it knows; its labels are readers' words, and stay as they are. The running
    mean looks back over fifty steps: over five hundred, a short night would end where it began."""
    preset = PRESETS[network]
    averaged = min(preset.ema_momentum, 0.98)
    epochs, rate = max(preset.epochs // 10, 1), preset.learning_rate / 10
    return replace(preset, epochs=epochs, learning_rate=rate, ema_momentum=averaged, mixup=0.0, label_smoothing=0.0)
