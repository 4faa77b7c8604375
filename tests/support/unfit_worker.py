"""Run a worker whose GPU is broken until a file is there; its pipeline counts its permits, and reads nothing.

    python tests/support/unfit_worker.py FILE [stuck]

With `stuck` it is not the GPU: each read blocks until shutdown, as on a database that is down.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pneumowatch import logs, settings
from pneumowatch.errors import ShuttingDown
from pneumowatch.queue import make_celery_app
from worker.circuit_breaker import CircuitBreaker
from worker.tasks import register_task, run_worker


class CountingProcessor:
    def __init__(self, healed: Path, stuck: bool, stop: threading.Event) -> None:
        self._healed, self._stuck, self._stop = healed, stuck, stop
        self._circuit_breaker = CircuitBreaker(stop)

    def process(self, permits: int) -> None:
        if self._stuck:
            print("waits", flush=True)
            self._stop.wait()
            raise ShuttingDown("Shutdown was asked for.")
        self._circuit_breaker.wait(self._try_out)
        if self._healed.exists():
            print(f"read {permits}", flush=True)
        else:
            self._circuit_breaker.record_failure(RuntimeError("broken"), None, self._try_out)

    def watch_health(self, on_change: Callable[[bool], None]) -> None:
        self._circuit_breaker.watch_health(self._try_out, on_change)

    def _try_out(self) -> None:
        if not self._healed.exists():
            raise RuntimeError("broken")


def main() -> None:
    given = settings.load_settings()
    logs.configure(given.log_format)
    stop, app = threading.Event(), make_celery_app(given)
    processor = CountingProcessor(Path(sys.argv[1]), "stuck" in sys.argv, stop)
    register_task(app, processor, given.batch_size)  # type: ignore[arg-type]
    print("ready", flush=True)
    sys.exit(run_worker(app, given, stop, watch_health=processor.watch_health))


if __name__ == "__main__":
    main()
