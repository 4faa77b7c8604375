"""The scenario of a fault: a flow of images into its own folder, a clock, and the count at the end."""

import signal
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from support.waiting import NotInTime

from faults.fault_result import FaultResult, count, finished
from faults.rig import Rig

R = TypeVar("R", bound=Rig)

MIN_OUTAGE_SECONDS: Final = 3.0  # a shorter outage does not show what waiting costs
SINGLE_IMAGE_SECONDS: Final = 5.0  # within which a single image must have its result
HANDFUL: Final = 40  # images: more than two workers hold at a time
LEFT_SECONDS: Final = 300.0  # for images that arrived after the fault; reached only by a failure


@dataclass(frozen=True)
class Pace:
    """The size of a scenario: images dropped, seconds of their flow and of an outage, kills, the lease in seconds, and
    the attempts after which a scan is failed."""

    images: int
    flow: float
    outage: float
    kills: int
    lease: float
    attempts: int


FULL: Final = Pace(images=1000, flow=60, outage=62, kills=20, lease=15, attempts=3)
QUICK: Final = Pace(images=150, flow=4, outage=4, kills=3, lease=5, attempts=2)


class Scenario(Generic[R]):
    """One fault on a rig. Images are dropped one by one into a folder named after the fault."""

    def __init__(self, rig: R, pace: Pace, name: str) -> None:
        self.rig = rig
        self.pace = pace
        self.name = name
        self.note = ""
        self.expected_failed = 0
        self.folder = rig.inbox / name
        self.folder.mkdir()
        self._images = rig.stock.make(pace.images)
        self._place = threading.Lock()
        self._dropped = 0
        self._flow: threading.Thread | None = None
        self._recovered: Future[float] | None = None
        self._cpu: dict[str, float] = {}

    def surge(self, share: float) -> None:
        """Drop this share of all images at once."""
        for _ in range(round(share * self.pace.images)):
            self._drop_next()

    def kill_one(self, *names: str) -> tuple[str, int]:
        """Kill one of these components (SIGKILL) while it has rows in `running`. Return which, and how many it had."""
        name, held = self.catch(*names)
        self.rig.parts[name].kill()
        return name, held

    def catch(self, *names: str) -> tuple[str, int]:
        """Halt one of these components (SIGSTOP) while it has rows in `running`; it keeps them until it goes on.

        Drops images until that succeeds. Return which component it is, and how many rows it has.
        """
        return self.rig.wait_until(lambda: self._catch(names), LEFT_SECONDS)

    def _catch(self, names: tuple[str, ...]) -> tuple[str, int] | None:
        for name in names:
            process = self.rig.parts[name].process
            process.send_signal(signal.SIGSTOP)
            if held := self.rig.held_by(process.pid):
                return name, held
            process.send_signal(signal.SIGCONT)
        if finished(self.rig, self.name) == self._dropped:
            for _ in range(HANDFUL):
                self._drop_next() or self.drop()
        return None

    def flow(self, seconds: float | None = None) -> None:
        """Drop the remaining images from now on, evenly over so many seconds."""
        pause = (seconds or self.pace.flow) / max(len(self._images), 1)
        self._flow = threading.Thread(target=self._run, args=(pause,), name="flow")
        self._flow.start()

    def drop(self, content: bytes | None = None) -> None:
        """Drop one more image, with this content instead of its own if given."""
        (path,) = self.rig.stock.make(1)
        if content is not None:
            path.write_bytes(content)
        self._place_image(path)

    def lone_image(self) -> None:
        """Wait until all images are finished, drop a single one, and note how long it took.

        Raises NotInTime if that takes too long.
        """
        self.wait_for_all()
        started = time.monotonic()
        self.drop()
        self.rig.wait_until(lambda: finished(self.rig, self.name) == self._dropped, SINGLE_IMAGE_SECONDS)
        self.note = f"then a single image: {time.monotonic() - started:.1f} s"

    def wait_out(self, seconds: float) -> None:
        """Wait for an outage of so many seconds, and measure the processor time of each component in its second half.

        By then the components have done everything that is possible during the outage.
        """
        spent = []
        for _half in range(2):
            time.sleep(seconds / 2)  # the outage lasts this long; there is no condition to wait for
            spent.append(self.rig.cpu_seconds())
        if seconds < MIN_OUTAGE_SECONDS:
            return
        before, after = spent
        for pid, (name, cpu) in after.items():
            if pid in before:
                self._cpu[name] = (cpu - before[pid][1]) / (seconds / 2)

    def over(self) -> None:
        """Declare the fault ended, and start to measure how long the images dropped before still take."""
        self._recovered = Future()
        threading.Thread(target=self._recover, args=(self._recovered, self._dropped), name="recovery").start()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more images have been dropped, or none is left."""
        enough = self._dropped + count
        self.rig.wait_until(lambda: self._dropped >= enough or not self._images, LEFT_SECONDS)

    def wait_for(self, share: float) -> None:
        """Wait until this share of all images is finished."""
        self._until_finished(share * self.pace.images)

    def wait_for_all(self) -> None:
        """Wait until the flow has ended and everything dropped is finished."""
        if self._flow is not None:
            self._flow.join()
        self._until_finished(self._dropped)

    def _until_finished(self, many: float, before: str = "~") -> None:
        self.rig.wait_until(lambda: finished(self.rig, self.name, before) >= many, LEFT_SECONDS)

    def close(self) -> FaultResult:
        """Wait for the end of the flow and for all images, and count."""
        assert self._recovered is not None, "the fault never called over()"
        recovery = self._recovered.result()
        with suppress(NotInTime):  # what is missing is counted as lost
            self.wait_for_all()
        self._wait_until_nothing_runs()
        found = count(self.rig, self.name)
        return FaultResult(
            name=self.name,
            home=self.rig.home,
            dropped=self._dropped,
            states=found.states,
            predictions=found.predictions,
            lost=self._dropped - found.ended,
            doubled=found.doubled,
            recovery=recovery,
            lease=self.rig.lease,
            expected_failed=self.expected_failed,
            cpu=self._cpu,
            crashed=self.rig.crashed(),
            note=self.note,
        )

    def _recover(self, answer: "Future[float]", dropped: int) -> None:
        over, first_later = time.monotonic(), f"{dropped:06}"  # the name of the first image that was dropped later
        try:
            with suppress(NotInTime):
                self._until_finished(dropped, first_later)
            answer.set_result(time.monotonic() - over)
        except BaseException as fault:  # noqa: BLE001 - raised again by result()
            answer.set_exception(fault)

    def _wait_until_nothing_runs(self) -> None:
        """Wait until no worker holds a scan, because such a worker may be about to write a second result."""
        with suppress(NotInTime):
            self.rig.wait_until(lambda: not self.rig.held_by_anyone(), 2 * self.pace.lease)

    def _run(self, pause: float) -> None:
        due = time.monotonic()
        while self._drop_next():
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))  # the pace of the flow

    def _drop_next(self) -> bool:
        with self._place:
            if not self._images:
                return False
            path = self._images.pop(0)
        self._place_image(path)
        return True

    def _place_image(self, path: Path) -> None:
        """Rename a complete image into the inbox; its name is the number of images dropped before it."""
        with self._place:
            path.rename(self.folder / f"{self._dropped:06}{path.suffix}")
            self._dropped += 1
