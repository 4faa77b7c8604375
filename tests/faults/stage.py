"""Where a fault happens: a flow of films into a folder of its own, a clock, and the count at the end."""

import signal
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from support.waiting import NotInTime

from faults.account import Account, count, finished
from faults.rig import Rig

R = TypeVar("R", bound=Rig)

TELLING_SECONDS: Final = 3.0  # an outage that is shorter says nothing of what waiting costs
LONE_SECONDS: Final = 5.0  # within which a film that comes alone has its row
HANDFUL: Final = 40  # films, for two workers and more than they hold at a time
LEFT_SECONDS: Final = 300.0  # for films that came after the fault; reached only by a failure


@dataclass(frozen=True)
class Pace:
    """How much of it: films dropped, seconds of their flow and of an outage, kills, the lease in seconds, and the
    deaths after which a film is failed."""

    films: int
    flow: float
    outage: float
    kills: int
    lease: float
    attempts: int


FULL: Final = Pace(films=1000, flow=60, outage=62, kills=20, lease=15, attempts=3)
QUICK: Final = Pace(films=150, flow=4, outage=4, kills=3, lease=5, attempts=2)


class Stage(Generic[R]):
    """One fault on a rig. Films go one by one into a folder that is named after it."""

    def __init__(self, rig: R, pace: Pace, name: str) -> None:
        self.rig = rig
        self.pace = pace
        self.name = name
        self.note = ""
        self.expected_failed = 0
        self.folder = rig.inbox / name
        self.folder.mkdir()
        self._films = rig.stock.make(pace.films)
        self._place = threading.Lock()
        self._dropped = 0
        self._flow: threading.Thread | None = None
        self._recovered: Future[float] | None = None
        self._cpu: dict[str, float] = {}

    def surge(self, share: float) -> None:
        """Drop this share of all films at once."""
        for _ in range(round(share * self.pace.films)):
            self._drop_next()

    def kill_one(self, *names: str) -> tuple[str, int]:
        """SIGKILL one of these parts while it has rows in `running`. Returns which, and how many it had."""
        name, held = self.catch(*names)
        self.rig.parts[name].kill()
        return name, held

    def catch(self, *names: str) -> tuple[str, int]:
        """Halt (SIGSTOP) one of these parts while it has rows in `running`: what it holds now, it holds until it goes
        on or dies. Films are dropped until one is caught so. Returns which, and how many it has."""
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
        """From now on drop what is left, evenly over so many seconds."""
        pause = (seconds or self.pace.flow) / max(len(self._films), 1)
        self._flow = threading.Thread(target=self._run, args=(pause,), name="flow")
        self._flow.start()

    def drop(self, content: bytes | None = None) -> None:
        """Drop one film more, by itself; with this content instead of its own."""
        (path,) = self.rig.stock.make(1)
        if content is not None:
            path.write_bytes(content)
        self._place_film(path)

    def lone_film(self) -> None:
        """Once all is quiet, drop one film alone, and note how long it took. Raises NotInTime where that is too
        long."""
        self.wait_for_all()
        started = time.monotonic()
        self.drop()
        self.rig.wait_until(lambda: finished(self.rig, self.name) == self._dropped, LONE_SECONDS)
        self.note = f"then one film alone: {time.monotonic() - started:.1f} s"

    def wait_out(self, seconds: float) -> None:
        """Let an outage of so many seconds pass. What the parts cost in its second half, when they have done all that
        can be done without what is away, is kept."""
        spent = []
        for _half in range(2):
            time.sleep(seconds / 2)  # an outage is the time that it lasts
            spent.append(self.rig.cpu_seconds())
        if seconds < TELLING_SECONDS:
            return
        before, after = spent
        for pid, (name, cpu) in after.items():
            if pid in before:
                self._cpu[name] = (cpu - before[pid][1]) / (seconds / 2)

    def over(self) -> None:
        """The fault has ended: from here it is counted how long films dropped before it still take."""
        self._recovered = Future()
        threading.Thread(target=self._recover, args=(self._recovered, self._dropped), name="recovery").start()

    def wait_for_more(self, count: int) -> None:
        """Until so many films more have been dropped, or none is left to be."""
        enough = self._dropped + count
        self.rig.wait_until(lambda: self._dropped >= enough or not self._films, LEFT_SECONDS)

    def wait_for(self, share: float) -> None:
        """Until this share of all films is finished."""
        self._until_finished(share * self.pace.films)

    def wait_for_all(self) -> None:
        """Until the flow has ended and everything dropped is finished."""
        if self._flow is not None:
            self._flow.join()
        self._until_finished(self._dropped)

    def _until_finished(self, many: float, before: str = "~") -> None:
        self.rig.wait_until(lambda: finished(self.rig, self.name, before) >= many, LEFT_SECONDS)

    def close(self) -> Account:
        """Let the flow end, wait for the films, and count."""
        assert self._recovered is not None, "the scenario has not said when its fault was over"
        recovery = self._recovered.result()
        with suppress(NotInTime):  # what is missing is counted as lost
            self.wait_for_all()
        self._wait_for_the_quiet()
        found = count(self.rig, self.name)
        return Account(
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
            fallen=self.rig.fallen(),
            note=self.note,
        )

    def _recover(self, answer: "Future[float]", dropped: int) -> None:
        over, first_later = time.monotonic(), f"{dropped:06}"  # the name of the first film that came later
        try:
            with suppress(NotInTime):
                self._until_finished(dropped, first_later)
            answer.set_result(time.monotonic() - over)
        except BaseException as fault:  # noqa: BLE001 - handed to whoever asks for the answer
            answer.set_exception(fault)

    def _wait_for_the_quiet(self) -> None:
        """Whoever still holds a film may be about to write its second result."""
        with suppress(NotInTime):
            self.rig.wait_until(lambda: not self.rig.held_by_anyone(), 2 * self.pace.lease)

    def _run(self, pause: float) -> None:
        due = time.monotonic()
        while self._drop_next():
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))  # the flow's own pace

    def _drop_next(self) -> bool:
        with self._place:
            if not self._films:
                return False
            path = self._films.pop(0)
        self._place_film(path)
        return True

    def _place_film(self, path: Path) -> None:
        """By rename, complete; its name tells how many came before it."""
        with self._place:
            path.rename(self.folder / f"{self._dropped:06}{path.suffix}")
            self._dropped += 1
