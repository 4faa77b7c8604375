"""The training workspace: one training at a time, and a dead one's leftovers are removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from pneumowatch.errors import TrainingError
from trainer.nightly.workspace import locked_workspace

DIES = """
import os, sys
from pathlib import Path
from trainer.nightly.workspace import locked_workspace
with locked_workspace(Path(sys.argv[1]), "first") as place:
    place.scratch.mkdir()
    (place.scratch / "half").write_text("a model")
    os.kill(os.getpid(), 9)
"""


def test_one_at_a_time_and_nothing_is_left(tmp_path: Path) -> None:
    with locked_workspace(tmp_path, "a") as place:
        (place.scratch / "below").mkdir(parents=True)
        with pytest.raises(TrainingError, match="Another training"), locked_workspace(tmp_path, "b"):
            pass
        assert (place.scratch / "below").is_dir()
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["lock"]
    with locked_workspace(tmp_path, "b") as place:
        assert place.previous_token == "a"


def test_after_a_kill_its_leftovers_are_removed_and_its_token_is_known(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert (tmp_path / "training" / "scratch" / "half").exists()
    with locked_workspace(tmp_path, "second") as place:
        assert place.previous_token == "first"
        assert not place.scratch.exists()


def test_a_data_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "training").touch()
    with pytest.raises(TrainingError, match="cannot be written"), locked_workspace(tmp_path, "a"):
        pass
