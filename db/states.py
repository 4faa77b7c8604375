"""The states of a scan, the ways between them, and the reasons for which a file gets no prediction.

    (new) ------> queued ------> running ------> classified    has a prediction
                    ^  ^            |  |  |-----> rejected      has none: a reason and one sentence
                    |  |            |  |--------> duplicate     same film as a classified scan
                    |  |            |-----------> failed        worker died or raised over it alone, max_attempts times
                    |  |--deferred--|  lease expired, share away, file not complete yet, worker unfit or draining
                    |--requeue-- failed, rejected

    erased, on demand, from any state but running -------> rejected    a tombstone: counted, and nothing known of it

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
    """Why a scan is `rejected`; the sentence beside it says more."""

    EMPTY = "empty"  # no bytes
    UNSUPPORTED = "unsupported"  # not a kind of file that is read
    UNREADABLE = "unreadable"  # damaged or incomplete, or its decoder died of it
    TOO_LARGE = "too_large"  # beyond the bound on bytes or pixels
    TOO_SLOW = "too_slow"  # beyond the bound on decoding time
    NO_PIXELS = "no_pixels"  # readable, but holds no picture
    NOT_CHEST_XRAY = "not_chest_xray"  # another kind of picture, or another part of the body
    NOT_FRONTAL = "not_frontal"  # a lateral or oblique view
    OUTSIDE_AGE = "outside_age"  # of an age that the model does not know, where the setting says so
    NO_PERMISSION = "no_permission"  # the file may not be read
    NOT_A_FILE = "not_a_file"  # a link, folder, pipe or device stands where the file was
    VANISHED = "vanished"  # gone before it was read, the share itself being there
    SUPERSEDED = "superseded"  # newer content stands at the same path, under a scan of its own
    ERASED = "erased"  # everything that was known of it was erased on demand; it is never tried again


REJECTED_UNREAD: Final = (Reason.VANISHED, Reason.SUPERSEDED)  # why a scan was rejected without a look at its content


class Verdict(StrEnum):
    """What a reader says of a film. Only the first two teach."""

    PNEUMONIA = "pneumonia"
    NO_PNEUMONIA = "no_pneumonia"
    UNSURE = "unsure"
    UNUSABLE = "unusable"
