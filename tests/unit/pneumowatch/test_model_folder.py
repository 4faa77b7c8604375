"""A model folder is read, verified and refused without TensorFlow."""

import hashlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pneumowatch import model_folder
from pneumowatch.errors import ModelError
from pneumowatch.model_folder import CARD, WEIGHTS, ModelFolder, champion_folder

DENSE = {"class_name": "Dense", "config": {"units": 1, "activation": "sigmoid"}}
NETWORK = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Rescaling", "config": {}}, DENSE]}}
LAMBDA = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA"}}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "one")


def make(folder: Path, config: Any = NETWORK) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.12.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", random.Random(1).randbytes(2000))
    write_card(folder)
    return folder


def write_card(folder: Path, **changed: Any) -> None:
    card = {
        "version": "2026-11-24",
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "input": {"side": 150},
        "threshold": {"value": 0.4},
        **changed,
    }
    (folder / CARD).write_text(json.dumps({key: value for key, value in card.items() if value is not None}), "utf-8")


def test_a_good_folder(folder: Path) -> None:
    read = ModelFolder.read(folder)
    assert (read.version, read.side, read.threshold) == ("2026-11-24", 150, 0.4)
    read.verify()


def test_the_ages_that_it_was_trained_on(folder: Path) -> None:
    assert ModelFolder.read(folder).ages is None
    write_card(folder, ages_years=[1, 5])
    assert ModelFolder.read(folder).ages == (1, 5)
    assert model_folder.shipped_folder().ages == (1, 5)


@pytest.mark.parametrize("key", ["version", "sha256", "input", "threshold"])
def test_a_card_without_a_needed_key(folder: Path, key: str) -> None:
    write_card(folder, **{key: None})
    with pytest.raises(ModelError, match=r"card\.json"):
        ModelFolder.read(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"input": {}},
        {"input": {"side": "wide"}},
        {"input": {"side": 0}},
        {"input": 150},
        {"threshold": {}},
        {"threshold": {"value": "high"}},
        {"threshold": {"value": float("nan")}},  # nothing is ever at or above it: every child would be not flagged
        {"threshold": {"value": float("inf")}},
        {"threshold": {"value": 1.5}},
        {"threshold": {"value": -0.1}},
        {"ages_years": [5, 1]},
        {"ages_years": [-1, 5]},
        {"ages_years": [1]},
        {"ages_years": ["one", "five"]},
        {"ages_years": "all"},
        {"ages_years": 5},
    ],
    ids=str,
)
def test_a_card_with_a_value_that_cannot_be(folder: Path, changed: dict[str, Any]) -> None:
    write_card(folder, **changed)
    with pytest.raises(ModelError, match=r"card\.json"):
        ModelFolder.read(folder)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'"text"'])
def test_a_card_that_is_none(folder: Path, text: bytes) -> None:
    (folder / CARD).write_bytes(text)
    with pytest.raises(ModelError, match=r"card\.json"):
        ModelFolder.read(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        ModelFolder.read(tmp_path / "nowhere")


def test_changed_weights_are_refused_wherever_the_change_is(folder: Path) -> None:
    good = (folder / WEIGHTS).read_bytes()
    read = ModelFolder.read(folder)
    for place in [*range(0, len(good), 37), len(good) - 1]:
        changed = bytearray(good)
        changed[place] ^= 0x5A
        (folder / WEIGHTS).write_bytes(changed)
        with pytest.raises(ModelError):
            read.verify()


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, -1])
def test_cut_weights_are_refused(folder: Path, kept: int) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelError):
        ModelFolder.read(folder).verify()


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        ModelFolder.read(folder).verify()


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"no archive", b"PK\5\6" + bytes(18)])
def test_weights_that_are_no_archive_are_refused_though_the_card_vouches_for_them(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    write_card(folder)
    with pytest.raises(ModelError, match="cannot be read"):
        ModelFolder.read(folder).verify()


def test_a_damaged_archive_is_refused_though_the_card_vouches_for_it(folder: Path) -> None:
    good = (folder / WEIGHTS).read_bytes()
    for place in range(good.index(b"config.json"), good.index(b"config.json") + 60):
        changed = bytearray(good)
        changed[place] ^= 0x5A
        (folder / WEIGHTS).write_bytes(changed)
        write_card(folder)
        with pytest.raises(ModelError, match="cannot be read"):
            ModelFolder.read(folder).verify()


@pytest.mark.parametrize(
    "foreign",
    [
        LAMBDA,
        {"class_name": "TorchModuleWrapper", "config": {}},
        {"class_name": "TFSMLayer", "config": {"filepath": "/tmp/model"}},
        {"class_name": "Custom", "module": "builtins", "registered_name": "Package>Custom", "config": {}},
        {"class_name": "Dense", "config": {"activation": {"class_name": "function", "config": "system"}}},
        {"class_name": "Dense", "config": {"kernel_regularizer": {"class_name": "Evil", "config": {}}}},
        {"class_name": "Functional", "config": {"layers": [[[{"class_name": "Sequential", "config": [LAMBDA]}]]]}},
    ],
    ids=lambda config: config["class_name"],
)
def test_what_is_not_on_the_list_is_refused_wherever_it_hides(tmp_path: Path, foreign: Any) -> None:
    config = {"class_name": "Sequential", "config": {"layers": [DENSE, foreign]}}
    with pytest.raises(ModelError, match="classes that are not allowed"):
        ModelFolder.read(make(tmp_path / "foreign", config)).verify()


def test_the_champion_of_the_store_comes_before_the_shipped_model(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(model_folder, "SHIPPED_DIR", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    store = tmp_path / "store"
    with pytest.raises(ModelError, match="holds 0 models"):
        champion_folder(store)
    shipped = make(tmp_path / "shipped" / "first")
    assert champion_folder(store).path == shipped
    store.mkdir()
    promoted = make(store / "champion")
    assert champion_folder(store).path == promoted
    make(tmp_path / "shipped" / "second")
    with pytest.raises(ModelError, match="holds 2 models"):
        champion_folder(tmp_path / "no-store")
