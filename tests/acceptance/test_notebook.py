"""The notebook runs: all its code, in order, in a process of its own, on phantom images that it draws itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pneumowatch.model_folder import ModelFolder, shipped_folder

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "seed.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_no_output_is_kept_in_the_repository(cells: list[dict[str, Any]]) -> None:
    """One might show a patient."""
    assert {(cell["execution_count"], len(cell["outputs"])) for cell in cells} == {(None, 0)}


@pytest.mark.slow
def test_it_trains_the_three_and_compares_them_with_what_ships(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells), "utf-8")
    tiny = {"EPOCHS": "1", "STEPS": "2", "OUT": str(tmp_path / "out")}
    env = {**os.environ, **{f"PNEUMOWATCH_NOTEBOOK_{name}": value for name, value in tiny.items()}}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "accuracy" in line]
    assert [line.split()[0] for line in told] == ["dense", "cnn", "cnn_dropout", "shipped"]
    folders = [ModelFolder.read(path.parent) for path in (tmp_path / "out").glob("*/card.json")]
    assert {folder.card["network"] for folder in folders} == {"dense", "cnn", "cnn_dropout"}
    page = (tmp_path / "out" / "seed.html").read_text("utf-8")
    assert all(folder.version in page for folder in [*folders, shipped_folder()])
