"""Rescore old scans with another model: from the kept images, else from the original files where they still exist."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from db.ledger.outcomes import Classified
from db.registry import rescoring
from db.registry.rescoring import RescoreCandidate
from db.session import Database
from pneumowatch.header import Header
from pneumowatch.imaging import image_store
from pneumowatch.settings import Settings
from worker.decode import DecodedFile, DecodeRequest, DecoderLimits, DecoderPool
from worker.image_keeper import ImageKeeper
from worker.inference.serving import ServedModel

SCANS_PER_SWITCH: Final = 500  # per transaction that switches scans to another model's result
OnRescored = Callable[[int, int], None]  # scans done, of how many


@dataclass(frozen=True)
class RescoringCounts:
    """Counts of classified scans.

    `already`: had a prediction of the model. `rescored`: got one now. `not_chest_xray`: rejected by the model's input
    gate. `left_out`: neither an image of the model's size nor the unchanged file exists. Scans of the last two keep the
    result that they had. `made_current`: show the model's result from now on.
    """

    classified: int
    already: int
    rescored: int
    not_chest_xray: int
    left_out: int
    made_current: int


class Rescorer:
    """Rescores classified scans. Safe to repeat and to stop: scans with a prediction of this model are skipped."""

    def __init__(
        self, database: Database, settings: Settings, inboxes: dict[str, Path], served: ServedModel, by: str
    ) -> None:
        self._database = database
        self._settings = settings
        self._inboxes = inboxes
        self._served = served
        self._by = by
        self._image_keeper = ImageKeeper(settings)
        bounds = DecoderLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
        self._decoders = DecoderPool(settings.decoder_count, bounds)  # its children start with the first file

    def run(self, make_current: bool, on_progress: OnRescored) -> RescoringCounts:
        """Rescore all classified scans that have no prediction of this model, and return the counts.

        `make_current`: also show this model's result for all scans for which it has a prediction.
        """
        version = self._served.version
        classified, unread = self._database.read(lambda c: rescoring.rescore_counts(c, version))
        after = done = rescored = rejected = 0
        size = self._settings.batch_size
        while batch := self._database.read(partial(rescoring.unscored_by, version=version, after=after, limit=size)):
            images = self._read_images(batch)
            outcomes = self._read(images, make_current) if images else []
            new = self._database.write(partial(rescoring.add_predictions, outcomes=outcomes))
            rescored, rejected = rescored + new, rejected + len(images) - len(outcomes)
            after, done = batch[-1].id, done + len(batch)
            on_progress(done, max(done, unread))
        current = self._switch() if make_current else 0
        return RescoringCounts(classified, classified - unread, rescored, rejected, done - rescored - rejected, current)

    def close(self) -> None:
        """End the decoding children."""
        self._decoders.close()

    def _read_images(self, scans: list[RescoreCandidate]) -> list[DecodedFile]:
        """Return the images that still exist, in this model's size, with their patients' ages."""
        side = self._served.side
        found: dict[int, DecodedFile] = {}
        for scan in scans:
            pixels = image_store.load_image(self._settings.data_dir, scan.sha256)
            if pixels is not None and pixels.shape == (side, side):
                found[scan.id] = DecodedFile(scan.id, pixels, scan.sha256, 0, 0, Header(age_years=scan.age_years))
        by_id = {scan.id: scan for scan in scans if scan.id not in found and scan.inbox in self._inboxes}
        requests = [DecodeRequest(scan.id, self._inboxes[scan.inbox], scan.path_bytes) for scan in by_id.values()]
        for one in self._decoders.decode(requests, side):
            scan = by_id[one.scan_id]
            if isinstance(one, DecodedFile) and one.sha256 == scan.sha256:
                header = Header(age_years=scan.age_years)
                found[scan.id] = DecodedFile(scan.id, one.pixels, scan.sha256, one.size, one.mtime_ns, header)
        return [found[scan.id] for scan in scans if scan.id in found]

    def _read(self, images: list[DecodedFile], make_current: bool) -> list[Classified]:
        output = self._served.predict(images)
        scores = zip(images, output.probability.tolist(), output.gate_score.tolist(), strict=True)
        outcomes = [self._served.outcome(*one) for one in scores]
        if make_current:  # the kept map must belong to the result beside which it is shown
            self._image_keeper.keep(images, outcomes, output.maps)
        return [outcome for outcome in outcomes if isinstance(outcome, Classified)]

    def _switch(self) -> int:
        version, rule = self._served.version, self._served.age_rule
        share = self._settings.sample_unflagged
        total = 0
        while switched := self._database.write(
            lambda c: rescoring.make_current(
                c, version, SCANS_PER_SWITCH, self._by, lambda age: rule.caution(Header(age_years=age)), share
            )
        ):
            total += switched
        return total
