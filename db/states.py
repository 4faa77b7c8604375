"""The states of a scan, the transitions between them, and the reasons why a file gets no prediction.

    (new) ------> queued ------> running ------> classified    has a prediction
                    ^  ^            |  |  |-----> rejected      has none: a reason and one sentence
                    |  |            |  |--------> duplicate     same image as a classified scan
                    |  |            |-----------> failed        worker died or raised max_attempts times over it alone
                    |  |--deferred--|  lease expired, share away, file incomplete, worker unfit or draining
                    |--requeue-- failed, rejected

    erased, on demand, from any state but running -------> rejected    a tombstone: counted, without any data

`db.ledger.transitions` is the only module that moves a scan, each time by a compare-and-set with an event row.
"""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CLASSIFIED = "classified"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    FAILED = "failed"


WAITING: Final = (State.QUEUED, State.RUNNING)
FINAL: Final = (State.CLASSIFIED, State.REJECTED, State.DUPLICATE, State.FAILED)
REQUEUEABLE: Final = (State.REJECTED, State.FAILED)


class Reason(StrEnum):
    """The reason why a scan is `rejected`. The sentence beside it says more."""

    EMPTY = "empty"  # no bytes
    UNSUPPORTED = "unsupported"  # not a kind of file that is read
    UNREADABLE = "unreadable"  # damaged or incomplete, or its decoder crashed
    TOO_LARGE = "too_large"  # beyond the bound on bytes or pixels
    TOO_SLOW = "too_slow"  # beyond the bound on decoding time
    NO_PIXELS = "no_pixels"  # readable, but without an image
    NOT_CHEST_XRAY = "not_chest_xray"  # another kind of image, or another part of the body
    NOT_FRONTAL = "not_frontal"  # a lateral or oblique view
    OUTSIDE_AGE = "outside_age"  # an age that the model was not trained for, if the setting rejects those
    NO_PERMISSION = "no_permission"  # the file may not be read
    NOT_A_FILE = "not_a_file"  # a link, folder, pipe or device has replaced the file
    VANISHED = "vanished"  # gone before it was read, while the share was available
    SUPERSEDED = "superseded"  # newer content is at the same path and has its own scan
    ERASED = "erased"  # all its data was erased on demand; it is never processed again


REJECTED_UNREAD: Final = (Reason.VANISHED, Reason.SUPERSEDED)  # rejected before the content was read


class Verdict(StrEnum):
    """A reader's verdict on a scan. Only the first two are training labels."""

    PNEUMONIA = "pneumonia"
    NO_PNEUMONIA = "no_pneumonia"
    UNSURE = "unsure"
    UNUSABLE = "unusable"
