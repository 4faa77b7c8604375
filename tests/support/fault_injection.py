"""Replace `worker.decode.read_and_decode`, in children too, by one that obeys the orders in a file.

One order is for the worker itself. Two variables change the process: FAULT_INJECTION_BUSY_SECONDS is how long a locked
SQLite is waited for, and FAULT_INJECTION_CLOCK names a file with the seconds by which the machine's clock is off.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Final

from db import session
from worker import decode
from worker.decode import DecodeRequest, DecodeResult, DecoderLimits, DecoderPool

KILL: Final = b"kill the decoder"
EXIT: Final = b"leave the decoder"
CRASH: Final = b"crash the decoder"
HANG: Final = b"hang the decoder"
UNANSWERED: Final = b"let the share hang"
SLOW: Final = b"be slow: %.2f"  # seconds
GROW: Final = b"give the decoder 8 GB"
LEAK: Final = b"lose 512 MB"
ONCE: Final = b"kill the decoder once"  # it leaves a mark beside the file
DOWN: Final = b"bring the worker down"  # the process with the model, and all that it was reading
ORDER_BYTES: Final = 40

_lost: list[bytearray] = []
_real_read_and_decode = (
    decode.read_and_decode
)  # the real one, as this module is imported before the other is put in its place
_real_decode = DecoderPool.decode


def read_and_decode(requests: Sequence[DecodeRequest], side: int, limits: DecoderLimits) -> list[DecodeResult]:
    for request in requests:
        _obey(request)
    return _real_read_and_decode(requests, side, limits)


def decode_in_children(self: DecoderPool, requests: Sequence[DecodeRequest], side: int) -> list[DecodeResult]:
    """Apply orders in the worker's own process, before its children get the requests."""
    if any(_order(request).startswith(DOWN) for request in requests):
        os.kill(os.getpid(), signal.SIGKILL)
    return _real_decode(self, requests, side)


def _order(request: DecodeRequest) -> bytes:
    try:
        with (request.root / os.fsdecode(request.path)).open("rb") as file:
            return file.read(ORDER_BYTES)
    except OSError:
        return b""  # it is not there; the real reader says so


def _obey(request: DecodeRequest) -> None:
    path = request.root / os.fsdecode(request.path)
    if not path.is_file():
        return
    order = _order(request)
    done = path.with_name(f".{path.name}.done")
    if order == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == EXIT:
        os._exit(3)
    elif order == CRASH:
        os.abort()
    elif order == HANG:
        path.with_name(f".{path.name}.hangs").touch()  # for whoever waits until it does
        _hang()
    elif order == UNANSWERED:
        with decode.awaiting_share():
            _hang()
    elif order.startswith(SLOW[:9]):
        time.sleep(float(order[9:]))  # as slow as the file says: what is tested is a bound on time
    elif order == GROW:
        _hold(8 * 2**30)
    elif order == LEAK:
        _lost.append(bytearray(2**29))
    elif order == ONCE and not done.exists():
        done.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(600)  # a decoder that hangs does just that; longer than any bound


def _hold(count: int) -> None:
    """Touch so many bytes, a gigabyte at a time, as a decoder does for a header that claims a vast picture."""
    held = []
    for _ in range(count // 2**30):
        held.append(bytearray(2**30))


def _set_clock(file: Path) -> None:
    """Shift `time.time` before Celery and others are imported, which copy it."""
    from db.ledger import transitions
    from db.registry import model_registry, training_runs

    real = time.time

    def skewed() -> float:
        return real() + float(file.read_text("ascii"))

    class SkewedDatetime:
        @staticmethod
        def now(zone: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(skewed(), zone)

    time.time = skewed
    for module in (transitions, model_registry, training_runs):
        module.datetime = SkewedDatetime  # type: ignore[attr-defined]


def main() -> None:
    """Run `pneumowatch` with this reader instead of its own: python tests/support/fault_injection.py up --once ..."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support import fault_injection  # under its own name, which the children can import

    if clock := os.environ.get("FAULT_INJECTION_CLOCK"):
        _set_clock(Path(clock))
    from cli import main as command_line

    decode.read_and_decode = fault_injection.read_and_decode
    DecoderPool.decode = fault_injection.decode_in_children  # type: ignore[method-assign]
    session.BUSY_SECONDS = float(os.environ.get("FAULT_INJECTION_BUSY_SECONDS", session.BUSY_SECONDS))  # type: ignore[misc]
    command_line()


if __name__ == "__main__":
    main()
