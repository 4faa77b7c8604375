"""Images that cannot be stored: reported once, held, and stored when there is space."""

from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from db.ledger.outcomes import Classified
from pneumowatch.imaging import image_store
from pneumowatch.settings import Settings
from worker import image_keeper
from worker.decode import DecodedFile
from worker.image_keeper import ImageKeeper


def keep(one: ImageKeeper, *numbers: int, flagged: bool = True) -> None:
    images = [DecodedFile(n, np.full((4, 4), n, np.uint8), f"{n:064x}", 1, 1) for n in numbers]
    outcomes = [Classified(n, f"{n:064x}", 0.9, flagged, 0.5, "model") for n in numbers]
    one.keep(images, outcomes, np.zeros((len(numbers), 2, 2), np.float32))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def held(settings: Settings) -> list[int]:
    return [n for n in range(100) if image_store.load_image(settings.data_dir, f"{n:064x}") is not None]


def test_a_full_disk_is_said_once_and_what_is_missing_is_kept_when_there_is_room(settings: Settings) -> None:
    blocked = settings.data_dir / image_store.IMAGES_FOLDER
    blocked.write_text("no folder can be made here")
    one = ImageKeeper(settings)
    with capture_logs() as logs:
        for number in range(1, 20, 3):
            keep(one, number, number + 1, number + 2)
        assert [entry["log_level"] for entry in logs] == ["error"]
        keep(one, 50, flagged=False)
        blocked.unlink()
        keep(one, 60)
    assert held(settings) == [*range(1, 22), 60]
    assert image_store.load_activation_map(settings.data_dir, f"{1:064x}") is not None
    assert [entry["log_level"] for entry in logs] == ["error", "info"]
    assert (logs[1]["kept"], logs[1]["missing"]) == (22, 0)


def test_more_than_is_held_in_memory_is_counted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_keeper, "MAX_PENDING_IMAGES", 5)
    blocked = settings.data_dir / image_store.IMAGES_FOLDER
    blocked.write_text("no folder can be made here")
    one = ImageKeeper(settings)
    for number in range(1, 9):
        keep(one, number)
    blocked.unlink()
    with capture_logs() as logs:
        keep(one, 9)
    assert held(settings) == [4, 5, 6, 7, 8, 9]
    assert [entry["missing"] for entry in logs] == [3]
    with capture_logs() as logs:
        keep(one, 10)
    assert logs == []
