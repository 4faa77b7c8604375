"""What a fetched file means for its scan: to be classified, rejected, or looked at again later. Pure rules."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from db.ledger.outcomes import ClaimedScan, Deferred, Rejected
from db.states import Reason
from pneumowatch.header import Header
from worker.decode import DecodedFile, DecodeFailure, DecodeResult, FileUnavailable

MAX_GATE_SCORE: Final = 1.0  # strangeness beyond this: no frontal chest film
NOT_CHEST_SENTENCE: Final = (
    "This does not look like a frontal chest film; send the film itself, upright and not inverted, or have it read "
    "without pneumowatch."
)


@dataclass(frozen=True)
class AgeRule:
    """Films of patients whom the model does not know: scored with a caution, or rejected.

    `ages`: youngest and oldest it was trained on, in completed years (a child of five years and eleven months is five);
    None where its card does not say. A film without an age is taken for one that the model knows.
    """

    ages: tuple[int, int] | None = None
    reject: bool = False

    def is_outside(self, header: Header | None) -> bool:
        if self.ages is None or header is None or header.age_years is None:
            return False
        youngest, oldest = self.ages
        return not youngest <= header.age_years < oldest + 1

    def caution(self, header: Header | None) -> str | None:
        return "age" if self.is_outside(header) else None

    def apply(self, fetched: DecodeResult) -> DecodeResult:
        """The film, or, where it is to be rejected for its patient's age, what is said of it instead."""
        if not (self.ages and self.reject and isinstance(fetched, DecodedFile) and self.is_outside(fetched.header)):
            return fetched
        youngest, oldest = self.ages
        sentence = (
            f"The patient's age is outside of what the model knows ({youngest} to {oldest} years); have the film read "
            "without it."
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
    """The film, or, where the model's gate takes it for something else, what is said of it instead."""
    if gate_score <= MAX_GATE_SCORE:
        return image
    reason = Reason.NOT_CHEST_XRAY
    return DecodeFailure(
        image.scan_id, reason, NOT_CHEST_SENTENCE, image.sha256, image.size, image.mtime_ns, image.header
    )


def decide(scan: ClaimedScan, fetched: DecodeResult, now: datetime, settle: timedelta) -> Rejected | Deferred | None:
    """None where the film is to be classified.

    A file that differs from its row was written to after it was announced: its row follows it and waits until it has
    settled, whether or not it can be read by now. One that cannot be read, and that was still changing less than
    `settle` ago, may be half written: scanners close and reopen.
    """
    if isinstance(fetched, FileUnavailable):
        return Deferred(scan.id, now + timedelta(seconds=fetched.seconds), "the share is away")
    if fetched.size is not None and (fetched.size, fetched.mtime_ns) != (scan.size, scan.mtime_ns):
        return Deferred(scan.id, now + settle, "the file has changed", fetched.size, fetched.mtime_ns)
    if isinstance(fetched, DecodedFile):
        return None
    settled = scan.changed_at + settle
    if fetched.size is not None and scan.changed_at > now + settle:
        # by a clock that is ahead, or was set back since: the row takes the file and the time of this one
        return Deferred(scan.id, now + settle, "not readable yet", fetched.size, fetched.mtime_ns)
    if fetched.size is not None and now < settled:
        return Deferred(scan.id, min(settled, now + settle), "not readable yet")
    return Rejected(scan.id, Reason(fetched.reason), fetched.sentence, fetched.sha256, fetched.header)
