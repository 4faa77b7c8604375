"""What a fetched file means for its scan: to be classified, rejected, or looked at again later. Pure rules."""

from datetime import datetime, timedelta

from db.outcomes import ClaimedScan, Deferred, Rejected
from db.states import Reason
from worker.decode import Away, Decoded, Fetched

SHARE_DELAY = timedelta(seconds=5)  # until films of a share that is away are tried again


def judge(scan: ClaimedScan, fetched: Fetched, now: datetime, settle: timedelta) -> Rejected | Deferred | None:
    """None where the film is to be classified.

    A file that differs from its row was written to after it was announced: its row follows it and waits until it has
    settled, whether or not it can be read by now. One that cannot be read, and that was still changing less than
    `settle` ago, may be half written: scanners close and reopen.
    """
    if isinstance(fetched, Away):
        return Deferred(scan.id, now + SHARE_DELAY, "the share does not answer")
    if fetched.size is not None and (fetched.size, fetched.mtime_ns) != (scan.size, scan.mtime_ns):
        return Deferred(scan.id, now + settle, "the file has changed", fetched.size, fetched.mtime_ns)
    if isinstance(fetched, Decoded):
        return None
    settled = scan.changed_at + settle
    if fetched.size is not None and now < settled:
        return Deferred(scan.id, min(settled, now + settle), "not readable yet")
    return Rejected(scan.id, Reason(fetched.reason), fetched.sentence, fetched.sha256)
