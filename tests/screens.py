"""Take screenshots of each page of the review app with phantom images, so that no patient is shown.

    python tests/screens.py docs/screens

Runs an `up` of its own in a temporary folder, lets a reader judge a few images, and takes each page at both widths.
"""

import argparse
import io
import re
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from PIL import Image
from support.browser import NARROW, WIDE, Visitor, chromium
from support.programs import COMMAND, RunningCommand, environment

from pneumowatch.imaging.phantom import write_phantoms

IMAGES: Final = 60
NAME, PASSWORD = "rita", "a sentence of some words"
COLOURS: Final = 96  # a picture of a page needs no more, and is a third of the size
PAGES: Final = ("worklist", "scan", "unscored", "upload", "overview", "models", "model", "account")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pneumowatch-screens-") as name:
        folder = Path(name)
        inbox = folder / "inbox"
        inbox.mkdir()
        write_phantoms(inbox, IMAGES)
        (inbox / "report.txt").write_text("No image.", "utf-8")
        env = environment(settle_seconds=0.2, retrain_at="never", keep_images="all")
        with RunningCommand(("up",), folder, folder / "log", env) as part, chromium() as browser:
            url = part.wait_until(lambda: re.search(r"Review: (http://[^/]+)/", part.said()))[1]
            command = [*COMMAND, "users", "add", NAME, "--role", "admin"]
            subprocess.run(command, cwd=folder, env=env, input=PASSWORD, text=True, check=True, capture_output=True)
            with Visitor(browser, url) as visitor:
                _sign_in(visitor, out)
                part.wait_until(lambda: _read(folder), 300)
                _judge_some(visitor)
                for page in PAGES:
                    _take(visitor, out, page)
            part.terminate()


def _sign_in(visitor: Visitor, out: Path) -> None:
    visitor.go("/sign-in")
    visitor.page.get_by_label("Name").fill(NAME)
    visitor.page.get_by_label("Password").fill(PASSWORD)
    _picture(visitor, out / "sign-in.png")
    visitor.press_and_wait("Enter")


def _read(folder: Path) -> bool:
    with closing(sqlite3.connect(f"file:{folder}/data/pneumowatch.db?mode=ro", uri=True)) as ledger:
        statement = "SELECT count(*) FROM scans WHERE finished_at IS NOT NULL"
        return bool(ledger.execute(statement).fetchone()[0] == IMAGES + 1)


def _judge_some(visitor: Visitor) -> None:
    visitor.go("/")
    visitor.press("j")
    visitor.press_and_wait("Enter")
    for key in "pnpup":
        visitor.page.locator("canvas").wait_for()
        visitor.press_and_wait(key)


def _take(visitor: Visitor, out: Path, page: str) -> None:
    visitor.go({"worklist": "/", "scan": "/", "model": "/models"}.get(page, f"/{page}"))
    if page == "scan":  # the first whose result is not hidden
        visitor.page.locator("tbody tr").filter(has_text="flagged").first.get_by_role("link").first.click()
        visitor.page.locator("canvas").wait_for()
        visitor.page.wait_for_load_state("networkidle")
        visitor.press("m", *"<<<")  # phantoms are no lungs: the map is all over them
    if page == "model":
        visitor.page.locator("table a").first.click()
        visitor.page.wait_for_url("**/models/*")
    _picture(visitor, out / f"{page}.png")
    visitor.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    _picture(visitor, out / f"{page}-narrow.png")
    visitor.page.set_viewport_size(WIDE)  # type: ignore[arg-type]


def _picture(visitor: Visitor, file: Path) -> None:
    visitor.page.wait_for_load_state("networkidle")
    visitor.page.evaluate("new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)))")
    taken = Image.open(io.BytesIO(visitor.page.screenshot()))
    taken.convert("RGB").quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main()
