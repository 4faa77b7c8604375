"""`pneumowatch verdict`: one or a file of them, all or none, and the reviewed image kept while it can still be read."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from support.ledger_driver import LedgerDriver, file_version
from typer.testing import CliRunner, Result

from cli import app
from db import schema
from db.models import Review
from db.session import Database
from pneumowatch.errors import ReviewRefused
from pneumowatch.imaging import image_store
from pneumowatch.imaging.reader import read_pixels


@pytest.fixture
def inbox(tmp_path: Path, phantoms: Path) -> Path:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for image in sorted(phantoms.iterdir())[:2]:
        shutil.copyfile(image, inbox / image.name)
    return inbox


@pytest.fixture
def ledger(tmp_path: Path, inbox: Path) -> Iterator[LedgerDriver]:
    """A ledger in which both images are classified, as scans 1 and 2."""
    (tmp_path / "data").mkdir()
    with closing(Database(f"sqlite:///{tmp_path / 'data' / 'pneumowatch.db'}")) as database:
        schema.upgrade(database)
        ledger = LedgerDriver(database)
        ledger.register_model()
        for image in sorted(inbox.iterdir()):
            ledger.classify(file_version(image.name), sha256=hashlib.sha256(image.read_bytes()).hexdigest())
        yield ledger


def verdict(tmp_path: Path, *words: object) -> Result:
    told = ["verdict", *map(str, words), "--data", str(tmp_path / "data"), "--inbox", str(tmp_path / "inbox"), "--json"]
    return CliRunner().invoke(app, told)


def reviews(ledger: LedgerDriver) -> list[tuple[int, str, str, str | None]]:
    columns = (Review.scan_id, Review.verdict, Review.reviewer, Review.comment)
    return [tuple(row) for row in ledger.database.read(lambda c: c.execute(select(*columns).order_by(Review.id)).all())]


def test_one_verdict(tmp_path: Path, inbox: Path, ledger: LedgerDriver) -> None:
    ended = verdict(tmp_path, 1, "pneumonia", "--reviewer", "ada", "--comment", "left")
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout) == [{"review_id": 1, "scan_id": 1, "verdict": "pneumonia", "image_kept": True}]
    assert reviews(ledger) == [(1, "pneumonia", "ada", "left")]
    image = sorted(inbox.iterdir())[0]
    found = image_store.load_image(tmp_path / "data", hashlib.sha256(image.read_bytes()).hexdigest())
    assert found is not None
    assert np.array_equal(found, read_pixels(image.read_bytes(), 64))  # as the champion takes it


def test_a_file_of_verdicts(tmp_path: Path, ledger: LedgerDriver) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text("scan_id,verdict,reviewer,comment\n1,no_pneumonia,bob,\n2,unsure,,blurred\n", "utf-8")
    for _ in range(2):  # read twice, it is said once
        ended = verdict(tmp_path, "--from", file, "--reviewer", "ada")
        assert ended.exit_code == 0, ended.output
    assert reviews(ledger) == [(1, "no_pneumonia", "bob", None), (2, "unsure", "ada", "blurred")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("2,ill,ada", "not a verdict"),
        ("two,unsure,ada", "line 3"),
        ("2,unsure,", "line 3"),
        ("2", "line 3"),
        (f"{2**63},unsure,ada", "line 3"),
    ],
)
def test_of_a_file_with_a_bad_line_nothing_is_recorded(
    tmp_path: Path, ledger: LedgerDriver, line: str, complaint: str
) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text(f"scan_id,verdict,reviewer\n1,pneumonia,ada\n{line}\n", "utf-8")
    ended = verdict(tmp_path, "--from", file)
    assert ended.exit_code == 2
    assert complaint in ended.stderr
    assert reviews(ledger) == []


def test_a_scan_id_means_its_number_however_it_is_padded(tmp_path: Path, ledger: LedgerDriver) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text(f"scan_id,verdict,reviewer\n{'2':0>40},unsure,ada\n", "utf-8")
    assert verdict(tmp_path, "--from", file).exit_code == 0
    assert [scan_id for scan_id, *_ in reviews(ledger)] == [2]


def test_of_a_file_with_an_unknown_scan_nothing_is_recorded(tmp_path: Path, ledger: LedgerDriver) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text("scan_id,verdict,reviewer\n1,pneumonia,ada\n99,pneumonia,ada\n", "utf-8")
    ended = verdict(tmp_path, "--from", file)
    assert isinstance(ended.exception, ReviewRefused)
    assert reviews(ledger) == []


def test_what_is_there_now_is_not_what_was_reviewed(tmp_path: Path, inbox: Path, ledger: LedgerDriver) -> None:
    first, second = sorted(inbox.iterdir())
    shutil.copyfile(second, first)
    second.unlink()
    file = tmp_path / "verdicts.csv"
    file.write_text("scan_id,verdict,reviewer\n1,pneumonia,ada\n2,pneumonia,ada\n", "utf-8")
    ended = verdict(tmp_path, "--from", file)
    assert [one["image_kept"] for one in json.loads(ended.stdout)] == [False, False]
    assert not (tmp_path / "data" / "images").exists()
    assert len(reviews(ledger)) == 2


@pytest.mark.parametrize("words", [(), (1,), (1, "pneumonia"), (1, "pneumonia", "--from", "x.csv"), ("--from", "none")])
def test_half_a_verdict_is_misuse(tmp_path: Path, ledger: LedgerDriver, words: tuple[object, ...]) -> None:
    assert verdict(tmp_path, *words).exit_code == 2
    assert reviews(ledger) == []
