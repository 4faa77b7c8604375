"""Old scans read again by another model: from the films that were kept, else from the files where they still stand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from db import rescoring
from db.outcomes import Classified
from db.rescoring import OldScan
from db.session import Database
from pneumowatch import kept
from pneumowatch.header import Header
from pneumowatch.settings import Settings
from worker.decode import Bounds, Decoded, Decoders, Errand
from worker.keeper import Keeper
from worker.serving import Serving

AT_A_TIME: Final = 500  # scans of one transaction that show another model's result
Watch = Callable[[int, int], None]  # scans done, of how many


@dataclass(frozen=True)
class Counts:
    """Of classified scans: `already` had a prediction of the model, `rescored` have one now; `not_chest_xray` the model
    takes for something else, and of `left_out` there is neither a film of its size nor the file as it was: both keep
    the result that they had. `made_current`: now show what the model says."""

    classified: int
    already: int
    rescored: int
    not_chest_xray: int
    left_out: int
    made_current: int


class Rescoring:
    """Safe to repeat, and to stop at any point: what has a prediction of this model is not read again."""

    def __init__(
        self, database: Database, settings: Settings, inboxes: dict[str, Path], serving: Serving, by: str
    ) -> None:
        self._database = database
        self._settings = settings
        self._inboxes = inboxes
        self._serving = serving
        self._by = by
        self._keeper = Keeper(settings)
        bounds = Bounds(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
        self._decoders = Decoders(settings.decoder_count, bounds)  # its children start with the first film

    def run(self, make_current: bool, watch: Watch) -> Counts:
        """`make_current`: also let all scans that the model has read show its result."""
        version = self._serving.version
        classified, unread = self._database.read(lambda c: rescoring.counts(c, version))
        after = done = rescored = strange = 0
        size = self._settings.batch_size
        while batch := self._database.read(partial(rescoring.unread, version=version, after=after, limit=size)):
            films = self._films(batch)
            outcomes = self._read(films, make_current) if films else []
            new = self._database.write(partial(rescoring.add, outcomes=outcomes))
            rescored, strange = rescored + new, strange + len(films) - len(outcomes)
            after, done = batch[-1].id, done + len(batch)
            watch(done, max(done, unread))
        current = self._show() if make_current else 0
        return Counts(classified, classified - unread, rescored, strange, done - rescored - strange, current)

    def close(self) -> None:
        self._decoders.close()

    def _films(self, scans: list[OldScan]) -> list[Decoded]:
        """The films that can still be had, of this model's size, with their patients' ages."""
        side = self._serving.side
        found: dict[int, Decoded] = {}
        for scan in scans:
            pixels = kept.read(self._settings.data_dir, scan.sha256)
            if pixels is not None and pixels.shape == (side, side):
                found[scan.id] = Decoded(scan.id, pixels, scan.sha256, 0, 0, Header(age_years=scan.age_years))
        by_id = {scan.id: scan for scan in scans if scan.id not in found and scan.inbox in self._inboxes}
        errands = [Errand(scan.id, self._inboxes[scan.inbox], scan.path_bytes) for scan in by_id.values()]
        for one in self._decoders.fetch(errands, side):
            scan = by_id[one.scan_id]
            if isinstance(one, Decoded) and one.sha256 == scan.sha256:
                header = Header(age_years=scan.age_years)
                found[scan.id] = Decoded(scan.id, one.pixels, scan.sha256, one.size, one.mtime_ns, header)
        return [found[scan.id] for scan in scans if scan.id in found]

    def _read(self, films: list[Decoded], make_current: bool) -> list[Classified]:
        readings = self._serving.predict(films)
        told = zip(films, readings.probability.tolist(), readings.strangeness.tolist(), strict=True)
        outcomes = [self._serving.outcome(*one) for one in told]
        if make_current:  # the map must be that of the result beside which it is shown
            self._keeper.keep(films, outcomes, readings.maps)
        return [outcome for outcome in outcomes if isinstance(outcome, Classified)]

    def _show(self) -> int:
        version, rule = self._serving.version, self._serving.age_rule
        total = 0
        while moved := self._database.write(
            lambda c: rescoring.make_current(
                c, version, AT_A_TIME, self._by, lambda age: rule.caution(Header(age_years=age))
            )
        ):
            total += moved
        return total
