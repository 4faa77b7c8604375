"""Measure the input gate: what it accepts and rejects, kind by kind, and what it costs.

It is measured on real images of test patients, small and in full size, unchanged and changed a little; phantoms;
out-of-distribution pictures, of kinds that the gate was fitted to and of others; pictures that come with scikit-image
and scikit-learn, if those are installed, and with pydicom. A model without a gate gets one fitted to training patients.

    python tests/benchmarks/gate.py [--model FOLDER] [--pictures FOLDER] [--quick] [--json] [--write]
"""

import argparse
import importlib.util
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pydicom
from figures import Figure, at_least, at_most, tell
from images import ORIGINALS
from PIL import Image, ImageFilter
from pydicom.errors import InvalidDicomError

from pneumowatch import settings
from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import reader
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder, champion_folder
from trainer import dataset, networks
from trainer.dataset import Dataset
from trainer.input_gate import gate, ood_samples

SMALL = ORIGINALS.parent / "kermany-224"
PAGE = machine.ROOT / "docs" / "evidence" / "input-gate.md"
PICTURES, QUICK_PICTURES = 100, 10  # of each out-of-distribution kind
PHANTOMS, QUICK_PHANTOMS = 200, 20
ROUNDS, QUICK_ROUNDS = 150, 5  # of timing
SEED = 77  # of out-of-distribution pictures; different from that of any fit

FALSE_REJECTIONS = 0.5  # at most this % of real images
CHANGED = 2.0  # at most this % of real images that were changed a little
EACH_CLASS, ALL = 90.0, 97.0  # at least this % of out-of-distribution pictures

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Row:
    """Pictures of one kind, and how many of them the gate rejected."""

    part: str
    name: str
    pictures: int
    refused: int
    at_most: float | None = None  # %
    at_least: float | None = None  # %

    @property
    def share(self) -> float:
        return 100 * self.refused / max(self.pictures, 1)

    @property
    def figure(self) -> Figure:
        name = f"{self.part}: {self.name}, {self.refused} of {self.pictures} rejected"
        if self.at_most is not None:
            return at_most(name, self.share, "%", self.at_most)
        return (
            at_least(name, self.share, "%", self.at_least)
            if self.at_least is not None
            else Figure(name, self.share, "%")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder (default: the champion)")
    parser.add_argument("--pictures", type=Path, help="a folder of other pictures that are no chest x-rays")
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that it works")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="write docs/evidence/input-gate.md")
    given = parser.parse_args()
    folder = ModelFolder.read(given.model) if given.model else champion_folder(settings.load_settings().models)
    tell("reading images")
    small, large = dataset.read_dataset(SMALL, folder.side), dataset.read_dataset(ORIGINALS, folder.side)
    model = gated(folder, small + large)
    rows = list(measured(model, small, small + large, given.pictures, given.quick))
    cost = at_most("share of the network's time", 100 * cost_of(model, folder.side, given.quick), "%", 3)
    if given.write:
        PAGE.write_text(page(folder.version, rows, cost), "utf-8")
    if given.json:
        print(json.dumps([asdict(figure) for figure in (*(row.figure for row in rows), cost)]))
        return
    for figure in (*(row.figure for row in rows), cost):
        print(f"{figure.name:<90} {figure.text:>10}  {figure.bar_text:<16} {figure.verdict}")


def gated(folder: ModelFolder, images: Dataset) -> Any:
    """Return the folder's model, with a gate fitted to training patients if it has none."""
    model = networks.load_inference_model(folder)
    if isinstance(model.output, dict) and "gate_score" in model.output:
        return model
    tell("the model has no gate: fitting one")
    network = networks.restore_network(folder)
    fitted = gate.fit_gate(network, images.examples("train").pixels, images.examples("validation").pixels)
    assert fitted, "no gate can be fitted to this network"
    return gate.gated_inference_model(network, fitted)


def measured(model: Any, small: Dataset, images: Dataset, pictures: Path | None, quick: bool) -> Iterator[Row]:
    def row(part: str, name: str, of: Pixels, **bar: float) -> Row:
        gate_score = model.predict(of, batch_size=64, verbose=0)["gate_score"][:, 0] if len(of) else np.zeros(0)
        return Row(part, name, len(of), int((gate_score > 1).sum()), **bar)

    count = QUICK_PICTURES if quick else PICTURES
    test, side = images.examples("test", small).pixels, images.side
    large = [one for one in images.in_split("test") if one.path and ORIGINALS in one.path.parents]
    tell("real images")
    yield row("real images", "224 pixels", test, at_most=FALSE_REJECTIONS)
    yield row("real images", "full size", stacked([one.pixels for one in large], side), at_most=FALSE_REJECTIONS)
    rng = np.random.default_rng(SEED)
    for name, change in CHANGES.items():
        yield row("real images, changed", name, changed(test[: 8 * count], change, rng), at_most=CHANGED)
    yield row(
        "phantoms",
        "drawn by pneumowatch.imaging.phantom",
        phantoms(QUICK_PHANTOMS if quick else PHANTOMS, side),
        at_most=0,
    )
    tell("out-of-distribution pictures")
    yield from ood_rows(
        [(kind, row("", "", ood_samples.draw_samples(kind, count, test, SEED))) for kind in ood_samples.KINDS]
    )
    tell("bundled pictures")
    for package, within in (("skimage", "data"), ("sklearn", "datasets/images")):
        if found := bundled(package, within):
            yield row("bundled", f"pictures of {package}", from_files(found, side), at_least=EACH_CLASS)
    for modality, exported in sorted(exports(side).items()):
        yield row("bundled", f"pydicom's {modality}, as PNG", stacked(exported, side), at_least=EACH_CLASS)
    yield row("bundled", "pydicom's files whose header lets them in", from_files(pydicoms(), side), at_least=EACH_CLASS)
    if pictures:
        yield row("other", "pictures of the folder given", from_files(sorted(pictures.rglob("*")), side))


def ood_rows(found: list[tuple[ood_samples.SampleKind, Row]]) -> Iterator[Row]:
    """Yield rows by class, in total, and by kind; kinds that the gate was not fitted to separately."""

    def together(part: str, name: str, rows: list[Row], at_least: float) -> Row:
        counts = sum(row.pictures for row in rows), sum(row.refused for row in rows)
        return Row(part, name, *counts, at_least=at_least)

    for group in dict.fromkeys(kind.group for kind, _ in found):
        yield together("class", group, [row for kind, row in found if kind.group == group], EACH_CLASS)
    yield together("out-of-distribution", "all", [row for _, row in found], ALL)
    for held_out, name in ((False, "kinds fitted"), (True, "kinds held out")):
        yield together("out-of-distribution", name, [row for kind, row in found if kind.held_out == held_out], ALL)
    for kind, row in found:
        part = "kind held out" if kind.held_out else "kind"
        yield Row(part, kind.name, row.pictures, row.refused)


def gamma(exponent: float) -> Change:
    return lambda image, _: image.point([round(255 * (gray / 255) ** exponent) for gray in range(256)])


def contrast(factor: float) -> Change:
    return lambda image, _: image.point([round((gray - 128) * factor + 128) for gray in range(256)])


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    grain = np.asarray(image) + rng.normal(0, 10, image.size[::-1])
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, _: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop a tenth of each side, at a random position."""
    side = image.width
    left, top = rng.uniform(0, 0.1 * side, 2)
    return image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + 0.9 * side, top + 0.9 * side))


def covered(share: float) -> Change:
    """Return a change that blackens a share of the side along each edge."""

    def cover(image: Image.Image, _: np.random.Generator) -> Image.Image:
        edge = round(share * image.width)
        bordered = Image.new("L", image.size)
        bordered.paste(image.crop((edge, edge, image.width - edge, image.height - edge)), (edge, edge))
        return bordered

    return cover


def framed(gray: int, share: float) -> Change:
    """Return a change that shrinks the image and puts it into a frame of one gray level."""

    def frame(image: Image.Image, _: np.random.Generator) -> Image.Image:
        edge = round(share * image.width)
        inner = image.resize((image.width - 2 * edge, image.height - 2 * edge), Image.Resampling.BILINEAR)
        bordered = Image.new("L", image.size, gray)
        bordered.paste(inner, (edge, edge))
        return bordered

    return frame


CHANGES: dict[str, Change] = {
    "gamma 0.6": gamma(0.6),
    "gamma 1.6": gamma(1.6),
    "contrast 0.7": contrast(0.7),
    "contrast 1.4": contrast(1.4),
    "blurred": lambda image, _: image.filter(ImageFilter.GaussianBlur(1.5)),
    "noise": noisy,
    "JPEG of quality 20": compressed,
    "a tenth cropped": cropped,
    "turned by 10 degrees": lambda image, _: image.rotate(10, Image.Resampling.BILINEAR),
    "turned by -10 degrees": lambda image, _: image.rotate(-10, Image.Resampling.BILINEAR),
    "black borders of 15 %": covered(0.15),
    "within a black frame of 10 %": framed(0, 0.1),
    "within a white frame of 5 %": framed(255, 0.05),
}


def changed(images: Pixels, change: Change, rng: np.random.Generator) -> Pixels:
    return stacked([np.asarray(change(Image.fromarray(image[..., 0]), rng)) for image in images], images.shape[1])


def phantoms(count: int, side: int) -> Pixels:
    """Draw phantoms in full size, and reduce them as the reader does. Returns uint8 (count, side, side, 1)."""
    drawn = (Image.fromarray(draw_phantom(seed, bool(seed % 2))) for seed in range(count))
    return stacked([np.asarray(one.resize((side, side), Image.Resampling.BILINEAR)) for one in drawn], side)


def stacked(pictures: list[Any], side: int) -> Pixels:
    return np.array(pictures, np.uint8).reshape(-1, side, side, 1)


def bundled(package: str, within: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted(path for place in places for path in (Path(place) / within).rglob("*.*"))


def from_files(paths: list[Path], side: int) -> Pixels:
    """Read the files that the reader accepts; the others never reach the gate."""
    found = []
    for path in paths:
        try:
            found.append(reader.read_image(path.read_bytes(), side).pixels)
        except (ImageRejected, OSError):
            continue
    return stacked(found, side)


def pydicoms() -> list[Path]:
    return sorted((Path(pydicom.__file__).parent / "data").rglob("*.dcm"))


def exports(side: int) -> dict[str, list[Pixels]]:
    """Return {modality: images} of pydicom's files as a viewer exports them, without the header that rejects them."""
    found: dict[str, list[Pixels]] = {}
    for path in pydicoms():
        try:
            dicom = pydicom.dcmread(path)
            pixels = np.asarray(dicom.pixel_array, np.float32)
        except (InvalidDicomError, AttributeError, ValueError, RuntimeError, NotImplementedError, KeyError):
            continue  # no DICOM, no pixels, or an encoding that pydicom alone cannot read
        colour = dicom.get("SamplesPerPixel", 1) == 3
        while pixels.ndim > (3 if colour else 2):
            pixels = pixels[0]
        gray = pixels.mean(axis=-1) if colour else pixels
        low, high = np.percentile(gray, (1, 99))
        file = io.BytesIO()
        levels = np.clip((gray - low) / max(high - low, 1e-6), 0, 1) * 255
        Image.fromarray(levels.astype(np.uint8)).save(file, "PNG")
        try:
            read = reader.read_image(file.getvalue(), side).pixels
        except ImageRejected:
            continue  # one gray level, or a thumbnail
        found.setdefault(dicom.get("Modality") or "others", []).append(read)
    return found


def cost_of(model: Any, side: int, quick: bool) -> float:
    """Return how much longer a batch of 32 takes with the gate, as a share of the time without: median of pairs."""
    import keras
    import tensorflow as tf

    without = {name: output for name, output in model.output.items() if name != "gate_score"}
    images = tf.constant(np.random.default_rng(1).integers(0, 256, (32, side, side, 1), dtype=np.uint8))
    runs = [tf.function(keras.Model(model.inputs, outputs)) for outputs in (without, model.output)]
    for run in runs * 3:
        run(images, training=False)
    more = []
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        bare, all_of_it = (seconds(run, images) for run in runs)
        more.append(all_of_it / bare - 1)
    return statistics.median(more)


def seconds(run: Any, images: Any) -> float:
    started = time.perf_counter()
    run(images, training=False)
    return time.perf_counter() - started


OPENING = """# The input gate

An image that is not a frontal chest x-ray is `rejected` as `not_chest_xray` and listed in `unscored_cases`. The gate is
part of the served network: its output `gate_score` is above 1 for such an image. It is the larger of two scores, both
from means over the cells of a grid, of the image itself and of the network's last convolutions, at little cost:

- a **head**, a small network trained to tell chest x-rays from out-of-distribution pictures: pictures that
  `trainer/input_gate/ood_samples.py` draws, and chest x-rays turned, inverted, cropped or put together;
- a **distance** to the training patients' images (Mahalanobis, with a shrunk covariance), for unforeseen pictures.

Each score is 1 at its limit. At most {plain} of the validation patients' images lie beyond the limits, and at most
{changed} of the same images changed as by other scanners. Images in a frame, with another exposure or strongly
compressed were accepted in fitting, as were the project's phantoms. Everything is fitted to training patients by
`trainer.input_gate.gate.fit_gate`, again for each new model.

This page is written by `python tests/benchmarks/gate.py --write`. Kinds held out were never shown to the gate. Bundled
pictures are those that come with scikit-image, scikit-learn and pydicom. Most of pydicom's are already rejected by
their header, so their pixels are measured as a viewer would export them. The bar of 90 % applies to each class.

Limits of this evidence: the pictures of most kinds are drawn. Real x-rays of other parts of the body and lateral chest
x-rays were not available. A rejected image is not lost: it is listed in `unscored_cases` with its reason.
"""


def page(version: str, rows: list[Row], cost: Figure) -> str:
    effort = gate.FitBudget()
    shares = {"plain": f"{effort.false_rejections:.1%}", "changed": f"{effort.false_rejections_augmented:.1%}"}
    lines = [
        OPENING.format(**shares),
        f"Model {version}. The gate takes {cost.text} of the network's time ({cost.bar_text}).\n",
    ]
    lines += ["| | pictures | rejected | share | bar | |", "|---|---:|---:|---:|---|---|"]
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            lines.append(f"| **{part}** | | | | | |")
        of = row.figure
        lines.append(
            f"| {row.name} | {row.pictures} | {row.refused} | {row.share:.1f} % | {of.bar_text} | {of.verdict} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
