"""Make full-size images for the benchmarks, none of which is a duplicate of another.

python tests/benchmarks/images.py FOLDER COUNT
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from cli.bench.copies import copy_images, draw_phantoms

ORIGINALS = Path(__file__).parents[3] / "shared" / "data" / "originals"


def kind() -> str:
    """Return what the images are made from, for the report."""
    return "real images" if ORIGINALS.is_dir() else "phantoms, because there are no real images here"


def make_images(folder: Path, count: int, tell: Callable[[int], None] = lambda done: None) -> list[Path]:
    """Make `count` distinct images in `folder`, from the real originals, or from phantoms if there are none."""
    if ORIGINALS.is_dir():
        return copy_images(sorted(ORIGINALS.rglob("*.jpeg")), folder, count, tell)
    return copy_images(draw_phantoms(folder / "drawn"), folder, count, tell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    print(f"{len(make_images(given.folder, given.count))} images in {given.folder}, made from {kind()}")


if __name__ == "__main__":
    main()
