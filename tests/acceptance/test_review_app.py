"""A reader's session in the review app: a real `up`, real images, a real browser, and no mouse."""

import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from support.browser import Visitor
from support.programs import COMMAND, Drop, RunningCommand, environment

from db.registry import model_cache
from db.session import Database
from pneumowatch.model_folder import ModelFolder

PASSWORD = "a sentence of some words"
TEN = ["p", "n", "p", "u", "p", "x", "p", "n", "p", "p"]
VERDICTS = {"p": "pneumonia", "n": "no_pneumonia", "u": "unsure", "x": "unusable"}


@dataclass
class Deployment:
    """A running `up`, and ways to ask its ledger."""

    part: RunningCommand
    folder: Path
    url: str

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.folder}/data/pneumowatch.db?mode=ro", uri=True)) as ledger:
            return ledger.execute(statement).fetchall()

    def one(self, statement: str) -> Any:
        return self.ask(statement)[0][0]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, drop: Drop) -> Iterator[Deployment]:
    """`up` with sixty images that are read, and an account for rita."""
    folder = tmp_path_factory.mktemp("house")
    drop(folder / "inbox", 60)
    env = environment(settle_seconds=0.2, batch_size=16, decoders=2, retrain_at="never")
    with RunningCommand(("up",), folder, folder / "log", env) as part:
        link = part.wait_until(lambda: re.search(r"Review: (http://[^/]+)/", part.said()))
        deployment = Deployment(part, folder, link[1])
        command = [*COMMAND, "users", "add", "rita", "--role", "admin"]
        subprocess.run(command, cwd=folder, env=env, input=PASSWORD, text=True, check=True)
        part.wait_until(lambda: deployment.one("SELECT count(*) FROM scans WHERE finished_at IS NOT NULL") == 60)
        yield deployment


@pytest.fixture
def rita(deployment: Deployment, browser: Browser) -> Iterator[Visitor]:
    """Signed in, by keyboard; what her browser complains of fails the test."""
    with Visitor(browser, deployment.url) as visitor:
        visitor.go("/")
        expect(visitor.page.get_by_label("Name")).to_be_focused()
        visitor.page.keyboard.type("rita")
        visitor.press("Tab")
        visitor.page.keyboard.type(PASSWORD)
        visitor.press_and_wait("Enter")
        expect(visitor.page.get_by_role("heading", level=1)).to_contain_text("Worklist")
        yield visitor
        assert visitor.faults == []


def test_ten_images_by_keyboard_alone(deployment: Deployment, rita: Visitor) -> None:
    """From the first line of the worklist to the tenth verdict, and one taken back."""
    rita.press("j")
    rita.press_and_wait("Enter")
    reviewed = []
    for key in TEN:
        assert re.fullmatch(r"/scans/\d+", rita.path)
        scan = int(rita.path.rpartition("/")[2])
        expect(rita.page.locator("canvas")).to_be_visible()
        rita.press("i", "+", "0")  # the viewer's own keys leave the page where it is
        rita.press_and_wait(key)
        reviewed.append((scan, VERDICTS[key]))
        expect(rita.page.get_by_role("status").first).to_contain_text("Saved")
    assert len(dict(reviewed)) == 10, "each time the next case"
    said = deployment.ask("SELECT scan_id, verdict, reviewer FROM reviews ORDER BY id")
    assert said == [(scan, verdict, "rita") for scan, verdict in reviewed]
    flags = deployment.ask(f"SELECT count(*) FROM scans WHERE flagged AND id IN {tuple(scan for scan, _ in reviewed)}")
    assert flags[0][0] >= 8, "flagged images come first, but for a hidden sample of the others"

    rita.press_and_wait("z")
    assert rita.path == f"/scans/{reviewed[-1][0]}"
    expect(rita.page.get_by_text("taken back").first).to_be_visible()
    assert deployment.one(f"SELECT verdict FROM scans WHERE id = {reviewed[-1][0]}") is None
    assert deployment.one("SELECT count(*) FROM reviews") == 10, "what was said stays"
    acts = dict(deployment.ask("SELECT what, count(*) FROM audit WHERE who = 'rita' GROUP BY 1"))
    assert acts["verdict"] == 10
    assert acts["verdict_retracted"] == 1
    assert acts["image_opened"] >= 10


def test_keys_are_told_and_lead_everywhere(rita: Visitor) -> None:
    rita.press("?")
    expect(rita.page.get_by_role("dialog")).to_be_visible()
    rita.press("Escape")
    expect(rita.page.get_by_role("dialog")).to_be_hidden()
    for key, path in {"o": "/overview", "m": "/models", "u": "/upload", "n": "/unscored", "w": "/"}.items():
        rita.press_and_wait("g", key)
        assert rita.path == path
    rita.press("Tab")
    expect(rita.page.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_light_and_dark_are_chosen_and_kept(rita: Visitor) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = rita.page.evaluate(paper)
    rita.page.get_by_role("button", name="Light or dark").press("Enter")
    light = rita.page.evaluate(paper)
    assert light != dark
    rita.go("/models")
    assert rita.page.evaluate(paper) == light


def test_an_image_is_uploaded_and_its_result_seen(
    deployment: Deployment, rita: Visitor, drop: Drop, tmp_path: Path
) -> None:
    image = drop(tmp_path, 61)[-1]  # another than those that were read
    rita.press_and_wait("g", "u")
    rita.page.get_by_label("Images").set_input_files(image)
    result = rita.page.locator("#sent li[data-done]")
    expect(result).to_contain_text(re.compile("flagged|hidden"))
    scan = int(str(result.get_attribute("data-scan")))
    row = deployment.ask(f"SELECT inbox, state, probability IS NULL FROM scans WHERE id = {scan}")
    assert row == [("uploads", "classified", 0)]


def test_a_text_file_that_is_dropped_is_answered_by_a_sentence(deployment: Deployment, rita: Visitor) -> None:
    before = deployment.one("SELECT count(*) FROM unscored_cases")
    rita.go("/upload")
    make = """() => {
        const data = new DataTransfer();
        data.items.add(new File(["The quick brown fox."], "notes.txt", { type: "text/plain" }));
        return data;
    }"""
    rita.page.dispatch_event("#upload", "drop", {"dataTransfer": rita.page.evaluate_handle(make)})
    result = rita.page.locator("#sent li[data-done]")
    expect(result).to_contain_text("notes.txt")
    sentence = result.locator(".says").inner_text()
    scan = int(str(result.get_attribute("data-scan")))
    assert deployment.ask(f"SELECT state, reason, detail FROM scans WHERE id = {scan}") == [
        ("rejected", "unsupported", sentence)
    ]
    assert sentence.endswith(".")
    deadline = time.monotonic() + 60
    while True:  # the count may be some seconds old
        rita.go("/unscored")
        badge = rita.page.locator("a.unscored").inner_text()
        if str(before + 1) in badge:
            break
        assert time.monotonic() < deadline, badge


def test_a_champion_changes(
    deployment: Deployment, rita: Visitor, tiny_model: ModelFolder, drop: Drop, tmp_path: Path
) -> None:
    """By keyboard; the worker inside `up` takes it, and the page says so."""
    with closing(Database(f"sqlite:///{deployment.folder}/data/pneumowatch.db")) as database:
        model_cache.register_folder(database, tiny_model, "test")
    before = deployment.one("SELECT version FROM models WHERE champion")
    rita.press_and_wait("g", "m")
    rita.page.get_by_role("link", name=tiny_model.version).press("Enter")
    rita.page.wait_for_url(f"**/models/{tiny_model.version}")
    rita.page.on("dialog", lambda dialog: dialog.accept())
    rita.page.get_by_label("Why").focus()
    rita.page.keyboard.type("for a test")
    rita.press_and_wait("Enter")
    assert rita.path == "/models"
    expect(rita.page.locator("#pickup")).to_contain_text("by the champion yet")
    assert deployment.one("SELECT version FROM models WHERE champion") == tiny_model.version

    deployment.part.wait_until_said("new model in use")
    newest = drop(tmp_path, 62)[-1]
    rita.go("/upload")
    rita.page.get_by_label("Images").set_input_files(newest)
    expect(rita.page.locator("#sent li[data-done]")).to_be_visible()
    rita.go("/models")
    expect(rita.page.locator("#pickup")).to_contain_text("read with the champion")

    rita.page.get_by_text(f"Roll back to {before}").press("Enter")
    rita.page.get_by_label("Why").fill("as it was")
    rita.press_and_wait("Enter")
    assert deployment.one("SELECT version FROM models WHERE champion") == before


@pytest.mark.slow
def test_every_page_is_for_everybody(deployment: Deployment, browser: Browser, rita: Visitor) -> None:
    """axe-core finds nothing serious, and nothing is wider than a telephone."""
    scan = deployment.one("SELECT min(id) FROM scans WHERE flagged")
    refused = deployment.one("SELECT min(id) FROM scans WHERE NOT flagged")
    model = deployment.one("SELECT version FROM models WHERE champion")
    pages = [
        "/", "/?list=all", "/unscored", f"/scans/{scan}", f"/scans/{refused}", "/upload", "/overview", "/models",
        f"/models/{model}", "/account", "/docs", "/no/such/page",
    ]  # fmt: skip
    rita.expected.append(404)
    found = [fault for path in pages for fault in rita.examine(path)]
    with ExitStack() as stack:
        visitor = stack.enter_context(Visitor(browser, deployment.url))
        found += visitor.examine("/sign-in")
        assert visitor.faults == []
    assert found == []
