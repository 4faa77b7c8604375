"""Every knob of a training run. A card records all of them, so a run can be repeated from its card."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Knobs:
    """The defaults are those of the notebook this project started from; it had no augmentation and no class weights."""

    network: str = "cnn_dropout"  # a name in trainer.networks
    loss: str = "binary_crossentropy"
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-4
    batch: int = 20  # films
    steps: int = 100  # batches in an epoch; films go on from one epoch to the next, so an epoch need not see them all
    epochs: int = 30  # the last epoch's weights are kept, as the notebook did
    seed: int = (
        1  # of weights, order of films and dropout; other machines and thread counts still differ in last digits
    )
    target_sensitivity: float = 0.97  # share of the validation patients' ill films that the threshold has to flag
