"""Decide what a decoded file means for its scan: classify, reject or defer. Pure rules."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from db.ledger.outcomes import ClaimedScan, Deferred, Rejected
from db.states import Reason
from pneumowatch.header import Header
from worker.decode import DecodedFile, DecodeFailure, DecodeResult, FileUnavailable

MAX_GATE_SCORE: Final = 1.0  # beyond this an image is not taken for a frontal chest x-ray
NOT_CHEST_SENTENCE: Final = (
    "This does not look like a frontal chest x-ray. Send the original image, upright and not inverted, or have it read "
    "without pneumowatch."
)


@dataclass(frozen=True)
class AgeRule:
    """Rule for patients outside the model's age range: classify with a caution, or reject.

    `ages`: youngest and oldest age the model was trained on, in completed years (a child of five years and eleven
    months is five); None where its card does not say. An image without an age counts as inside the range.
    """

    ages: tuple[int, int] | None = None
    reject: bool = False

    def is_outside(self, header: Header | None) -> bool:
        """Tell whether the patient's age is known and outside of the model's range."""
        if self.ages is None or header is None or header.age_years is None:
            return False
        youngest, oldest = self.ages
        return not youngest <= header.age_years < oldest + 1

    def caution(self, header: Header | None) -> str | None:
        """Return the caution for a patient of this age, or None."""
        return "age" if self.is_outside(header) else None

    def apply(self, fetched: DecodeResult) -> DecodeResult:
        """Return the result as it is, or a DecodeFailure where the patient's age is to be rejected."""
        if not (self.ages and self.reject and isinstance(fetched, DecodedFile) and self.is_outside(fetched.header)):
            return fetched
        youngest, oldest = self.ages
        sentence = (
            f"The patient's age is outside of what the model knows ({youngest} to {oldest} years). Have the image read "
            "without pneumowatch."
        )
        return DecodeFailure(
            fetched.scan_id,
            Reason.OUTSIDE_AGE,
            sentence,
            fetched.sha256,
            fetched.size,
            fetched.mtime_ns,
            fetched.header,
        )


NO_AGE_RULE: Final = AgeRule()


def apply_input_gate(image: DecodedFile, gate_score: float) -> DecodedFile | DecodeFailure:
    """Return the image, or a DecodeFailure where the input gate does not take it for a frontal chest x-ray."""
    if gate_score <= MAX_GATE_SCORE:
        return image
    reason = Reason.NOT_CHEST_XRAY
    return DecodeFailure(
        image.scan_id, reason, NOT_CHEST_SENTENCE, image.sha256, image.size, image.mtime_ns, image.header
    )


def decide(scan: ClaimedScan, fetched: DecodeResult, now: datetime, settle: timedelta) -> Rejected | Deferred | None:
    """Return the outcome of a scan without prediction, or None where the image is to be classified.

    A file that differs from its row was written after it was announced. Its row is updated and waits until the file has
    settled, whether or not it can be read by now. A file that cannot be read and that changed less than `settle` ago
    may be half written, because scanners close and reopen files: its scan is deferred instead of rejected.
    """
    if isinstance(fetched, FileUnavailable):
        return Deferred(scan.id, now + timedelta(seconds=fetched.seconds), "the share is away")
    if fetched.size is not None and (fetched.size, fetched.mtime_ns) != (scan.size, scan.mtime_ns):
        return Deferred(scan.id, now + settle, "the file has changed", fetched.size, fetched.mtime_ns)
    if isinstance(fetched, DecodedFile):
        return None
    settled = scan.changed_at + settle
    if fetched.size is not None and scan.changed_at > now + settle:
        # the row's time comes from a clock that is ahead, or was set back since: set it by this machine's clock
        return Deferred(scan.id, now + settle, "not readable yet", fetched.size, fetched.mtime_ns)
    if fetched.size is not None and now < settled:
        return Deferred(scan.id, min(settled, now + settle), "not readable yet")
    return Rejected(scan.id, Reason(fetched.reason), fetched.sentence, fetched.sha256, fetched.header)
