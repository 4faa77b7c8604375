"""The image viewer in a real browser, by keyboard alone: what its keys do to the picture, and verdicts."""

import base64
import hashlib
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from support.ledger_driver import LedgerDriver, file_version
from support.review_server import ReviewServer

from db import schema
from db.ledger.outcomes import Rejected
from db.session import Database
from db.states import Reason
from db.worklist import verdicts
from pneumowatch.imaging import image_store
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.settings import Settings

PATIENCE = 90_000  # milliseconds
IMAGES = 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", inboxes={"inbox": tmp_path / "inbox"})


@pytest.fixture
def ledger(tmp_path: Path, settings: Settings) -> Iterator[LedgerDriver]:
    """Three flagged images, the first of them the most probable and with a map."""
    (tmp_path / "inbox").mkdir()
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as database:
        schema.upgrade(database)
        ledger = LedgerDriver(database)
        ledger.register_model()
        for number in range(IMAGES):
            file = io.BytesIO()
            Image.fromarray(draw_phantom(number, pneumonia=True, width=480, height=400)).save(file, "PNG")
            sha256 = hashlib.sha256(file.getvalue()).hexdigest()
            (tmp_path / "inbox" / f"{number}.png").write_bytes(file.getvalue())
            arrived = file_version(f"{number}.png", len(file.getvalue()))
            ledger.classify(arrived, sha256=sha256, probability=0.9 - number / 10)
            logits = np.where(np.eye(7), 4.0, -9.0)
            image_store.store_image(
                settings.data_dir, sha256, draw_phantom(number, pneumonia=True, width=64, height=64), logits
            )
        yield ledger


@pytest.fixture
def page(ledger: LedgerDriver, settings: Settings, browser: Browser) -> Iterator[Page]:
    """The first image, in the browser of a reader who has signed in; with nothing to complain of."""
    complaints: list[str] = []
    with ReviewServer(ledger.database, settings) as review_server:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(PATIENCE)
        context.add_cookies(
            [{"name": "pneumowatch", "value": review_server.reader().cookies["pneumowatch"], "url": review_server.url}]
        )
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda asked: complaints.append(asked.url) if not asked.url.startswith(review_server.url) else None,
        )
        page.goto(f"{review_server.url}/scans/1")
        shown(page)
        yield page
        context.close()
    assert complaints == []


def shown(page: Page) -> None:
    page.wait_for_selector("canvas[data-drawn]")


def picture(page: Page) -> np.ndarray:
    """The canvas, (height, width, 4)."""
    data, width, height = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas");
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [btoa(Array.from(pixels.data, (byte) => String.fromCharCode(byte)).join("")),
                    canvas.width, canvas.height];
        }"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def press(page: Page, *keys: str) -> np.ndarray:
    """Press keys and return what the canvas shows once they have been drawn."""
    for key in keys:
        before = page.get_attribute("canvas", "data-drawn")
        page.keyboard.press(key)
        page.wait_for_function("before => document.querySelector('canvas').dataset.drawn !== before", arg=before)
    return picture(page)


def image_of(pixels: np.ndarray) -> np.ndarray:
    """Return its gray levels, where the image is shown."""
    return pixels[..., 0][pixels[..., 3] > 0].astype(int)


def test_the_keys_of_the_viewer(page: Page) -> None:
    whole = picture(page)
    height, width = whole.shape[:2]
    across = (whole[height // 2, :, 3] > 0).sum()
    down = (whole[:, width // 2, 3] > 0).sum()
    assert down == height  # all in sight, and in its own proportions
    assert abs(across / down - 480 / 400) < 0.02

    inverted = press(page, "i")
    assert np.abs(image_of(whole) + image_of(inverted) - 255).max() <= 2
    assert page.get_attribute("[data-do=invert]", "aria-pressed") == "true"
    np.testing.assert_array_equal(press(page, "i"), whole)

    assert image_of(press(page, ".", ".")).mean() < image_of(whole).mean() < image_of(press(page, "0", ",", ",")).mean()
    assert image_of(press(page, "0", "[", "[", "[")).std() > image_of(whole).std()
    np.testing.assert_array_equal(press(page, "0"), whole)

    near = press(page, "+", "+", "+")
    assert (near[height // 2, :, 3] > 0).sum() > across
    moved = press(page, "ArrowRight", "ArrowDown")
    assert (near != moved).any()
    np.testing.assert_array_equal(press(page, "f"), whole)

    legend = page.locator(".legend")
    assert legend.is_hidden()
    heated = press(page, "m")
    assert legend.inner_text() == "shows what moved the model, not where disease is"
    red, blue = heated[..., 0].astype(int), heated[..., 2].astype(int)
    assert (red - blue).max() > 60  # orange, on the diagonal
    assert (red == blue).mean() > 0.3
    faint = press(page, "<", "<", "<", "<")
    assert (faint[..., 0].astype(int) - faint[..., 2]).max() < (red - blue).max()
    np.testing.assert_array_equal(press(page, "m"), whole)
    assert legend.is_hidden()


def test_the_mouse_on_the_viewer(page: Page) -> None:
    whole = picture(page)
    box = page.locator("canvas").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    page.wait_for_selector("canvas.near")
    near = picture(page)
    page.mouse.down()
    page.mouse.move(x + 80, y + 40, steps=3)
    page.mouse.up()
    page.wait_for_function("() => new Promise((then) => requestAnimationFrame(() => then(true)))")
    assert (picture(page) != near).any()
    press(page, "0")
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x, y + 60, steps=3)
    page.mouse.up(button="right")
    page.wait_for_function("() => new Promise((then) => requestAnimationFrame(() => then(true)))")
    assert image_of(picture(page)).mean() > image_of(whole).mean() + 5  # down is brighter


def test_cases_are_worked_through_by_keyboard_alone(page: Page, ledger: LedgerDriver) -> None:
    page.keyboard.press("c")
    page.keyboard.type("n: left base")  # typed, and no verdict
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.wait_for_url("**/scans/2?saved=*")
    assert "Saved: Pneumonia for scan 1" in page.inner_text(".said")
    page.keyboard.press("z")
    page.wait_for_url("**/scans/1?undone=*")
    page.keyboard.press("n")
    page.wait_for_url("**/scans/2?saved=*")
    page.keyboard.press("j")
    page.wait_for_url("**/scans/3?skipped=2")
    page.keyboard.press("x")
    page.wait_for_url("**/scans/3?saved=*")
    assert "last case" in page.inner_text(".said")
    said = [
        (one["scan_id"], one["verdict"], one["comment"], one["retracted_at"] is None)
        for scan_id in (1, 2, 3)
        for one in ledger.database.read(lambda c, scan_id=scan_id: verdicts.review_history(c, scan_id))
    ]
    assert said == [
        (1, "pneumonia", "n: left base", False),
        (1, "no_pneumonia", None, True),
        (3, "unusable", None, True),
    ]


def test_a_text_file_that_is_dropped_is_on_its_way(page: Page, ledger: LedgerDriver) -> None:
    page.keyboard.press("g")
    page.keyboard.press("u")
    page.wait_for_url("**/upload")
    page.evaluate(
        """() => {
            const carried = new DataTransfer();
            carried.items.add(new File(["no image"], "notes.txt"));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }"""
    )
    page.wait_for_selector("text=Waiting to be read.")
    scan_id = IMAGES + 1
    assert ledger.row(scan_id)["inbox"] == "uploads"
    ledger.finish(ledger.claimed(), Rejected(scan_id, Reason.UNSUPPORTED, "This is no image."))
    page.wait_for_selector("text=This is no image.")
    assert page.get_attribute("#sent .says", "class") == "says refused"
