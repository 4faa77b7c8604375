"""Drop images into an inbox in the three ways they arrive, to check the whole with real images.

    python tests/drop.py ../shared/data/originals inbox

A third is copied whole, a third is written slowly in chunks with the file closed and reopened in between, and a third
is written elsewhere on the same file system and renamed in. Images of several folders are told apart by a prefix.
"""

import argparse
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAUSE = 0.5  # seconds between two chunks
CHUNKS = 4
WRITERS = 24


def copied(image: Path, target: Path) -> None:
    shutil.copyfile(image, target)


def written_slowly(image: Path, target: Path) -> None:
    data = image.read_bytes()
    size = -(-len(data) // CHUNKS)
    for start in range(0, len(data), size):
        with target.open("ab") as file:
            file.write(data[start : start + size])
        time.sleep(PAUSE)  # a slow writer's own pace


def renamed_in(image: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.absolute().parent.parent) as outside:
        copy = Path(outside, "image")
        shutil.copyfile(image, copy)
        copy.rename(target)


def drop(source: Path, inbox: Path) -> int:
    """Drop all images and return how many there were."""
    images = sorted(path for path in source.rglob("*") if path.is_file())
    ways = (copied, written_slowly, renamed_in)
    with ThreadPoolExecutor(WRITERS) as writers:
        dropped = [
            writers.submit(ways[number % 3], image, inbox / f"{image.parent.name}-{image.name}")
            for number, image in enumerate(images)
        ]
    for one in dropped:
        one.result()
    return len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("inbox", type=Path)
    given = parser.parse_args()
    print(f"{drop(given.images, given.inbox)} images dropped into {given.inbox}, a third in each way.")


if __name__ == "__main__":
    main()
