"""Training runs on real databases: taken over where another one died, and promoted with their row or not at all."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from support.ledger_driver import model_folder, wait_until_another_waits
from support.training_site import write_base

from db.registry import model_registry, training_runs
from db.registry.training_runs import TrainingDecision, TrainingOutcome, TrainingState
from db.session import Database
from pneumowatch.errors import TrainingError
from pneumowatch.model_folder import ModelFolder
from pneumowatch.settings import Settings
from trainer import dataset
from trainer.nightly.retrain_run import RetrainOptions, RetrainRun, run_retraining
from trainer.nightly.workspace import locked_workspace

BETTER = TrainingOutcome(
    TrainingDecision.PROMOTED, ("It is better.",), {"newer": {"images": 40}}, "one", "standin-1", 20, 20
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", lease_seconds=0.2)


@pytest.fixture
def championed(database: Database) -> Database:
    for version, digit in (("one", "1"), ("other", "2")):
        folder = model_folder(version, digit * 64)
        database.write(lambda c, folder=folder: model_registry.register_model(c, folder, b"packed", "test"))
    return database


def begin(database: Database, token: str) -> None:
    assert database.write(lambda c: training_runs.start_run(c, token, "retrain@elsewhere"))


def attempts(database: Database) -> list[tuple[str, str | None]]:
    """Oldest first."""
    rows = database.read(lambda c: training_runs.recent_runs(c, 100))
    return [(row["state"], row["decision"]) for row in reversed(rows)]


def new_run(settings: Settings, database: Database, token: str) -> RetrainRun:
    return RetrainRun(
        settings, database, threading.Event(), token, RetrainOptions(), settings.data_dir, lambda *_: None
    )


def test_with_nothing_to_learn(database: Database, settings: Settings) -> None:
    row = run_retraining(settings, database, threading.Event())
    assert row is not None
    assert (row["decision"], row["new_labels"]) == ("nothing_to_do", 0)
    assert row["reasons"] == ["0 judged images are new; 20 are required."]
    forced = run_retraining(settings, database, threading.Event(), RetrainOptions(force=True))
    assert forced is not None
    assert forced["decision"] == "no_base"
    assert attempts(database) == [("finished", "nothing_to_do"), ("finished", "no_base")]


def test_where_none_is_due_none_begins(database: Database, settings: Settings) -> None:
    assert run_retraining(settings, database, threading.Event(), RetrainOptions(when_due=True)) is None
    begin(database, "elsewhere")
    assert run_retraining(settings, database, threading.Event(), RetrainOptions(when_due=True)) is None
    assert attempts(database) == [("running", None)]


def test_a_dead_one_on_another_machine_is_taken_over(database: Database, settings: Settings) -> None:
    begin(database, "elsewhere")
    seen: list[str] = []
    assert run_retraining(settings, database, threading.Event(), on_progress=lambda stage, *_: seen.append(stage))
    assert attempts(database) == [("killed", None), ("finished", "nothing_to_do")]
    assert seen[0] == "waiting"


def test_a_dead_one_of_this_data_folder_is_known_at_once(database: Database, settings: Settings) -> None:
    begin(database, "here")
    with locked_workspace(settings.data_dir, "here"):
        pass  # as the kernel leaves it
    seen: list[str] = []
    assert run_retraining(settings, database, threading.Event(), on_progress=lambda stage, *_: seen.append(stage))
    assert attempts(database) == [("killed", None), ("finished", "nothing_to_do")]
    assert "waiting" not in seen


def test_one_that_lives_on_another_machine_is_left_alone(database: Database, settings: Settings) -> None:
    begin(database, "elsewhere")

    def lives(stage: str, *_: Any) -> None:
        assert database.write(lambda c: training_runs.renew_run(c, "elsewhere", "training"))

    with pytest.raises(TrainingError, match="Another training is running"):
        run_retraining(settings, database, threading.Event(), on_progress=lives)
    assert attempts(database) == [("running", None)]


@pytest.mark.parametrize("pattern", [r"^([A-Z]+_[A-Z]+)_", r"^(.)"])
def test_a_sites_pattern_moves_nobody_of_the_base_dataset(
    database: Database, tmp_path: Path, tiny_model: ModelFolder, pattern: str
) -> None:
    """Otherwise the challenger would be evaluated on patients that it and the champion learned from."""
    base = write_base(tmp_path / "base", range(30))
    settings = Settings(data_dir=tmp_path / "data", training_dir=base, patient_pattern=pattern)
    begin(database, "a")
    read = new_run(settings, database, "a")._base(tiny_model, 32)
    assert read.splits == dataset.read_dataset(base, 32).splits
    assert not read.split_mismatch(tiny_model.card)


def test_where_patients_were_told_apart_otherwise_nothing_is_learned(
    database: Database, tmp_path: Path, tiny_model: ModelFolder
) -> None:
    base = write_base(tmp_path / "base", range(30))
    settings = Settings(data_dir=tmp_path / "data", training_dir=base, patient_pattern="nobody")
    begin(database, "a")
    stated = {"patients": {"patterns": [dataset.KERMANY_PATTERN.pattern], "key": "0" * 64}}
    champion = replace(tiny_model, card=tiny_model.card | {"data": stated})
    image = dataset.read_dataset(base, 32)
    keyed = replace(image, images=tuple(replace(one, keyed=True) for one in image.images))
    here = new_run(settings, database, "a")
    here._base = lambda *_: keyed  # type: ignore[method-assign]
    here._learn(champion, None, BETTER)  # type: ignore[arg-type]
    (row,) = database.read(lambda c: training_runs.recent_runs(c, 1))
    assert "identified by another rule" in row["reasons"][0]


def test_promotion_and_row_are_one(championed: Database, settings: Settings, tiny_model: ModelFolder) -> None:
    begin(championed, "a")
    new_run(settings, championed, "a").promote(tiny_model, BETTER)
    assert championed.read(model_registry.champion_version) == "standin-1"
    assert attempts(championed) == [("finished", "promoted")]
    assert (settings.models / "standin-1" / "card.json").exists()
    assert championed.write(lambda c: model_registry.roll_back_champion(c, "ada", "worse after all")) == "one"


def test_a_promotion_that_is_under_way_is_waited_for(
    championed: Database, settings: Settings, tiny_model: ModelFolder
) -> None:
    """The challenger was never compared with the model that is being promoted."""
    begin(championed, "a")
    under_way = threading.Event()

    def promote(connection: Connection) -> None:
        model_registry.promote_to_champion(connection, "other", "ada", "by hand")
        under_way.set()
        wait_until_another_waits(connection)

    thread = threading.Thread(target=championed.write, args=(promote,))
    thread.start()
    assert under_way.wait(60)
    new_run(settings, championed, "a").promote(tiny_model, BETTER)
    thread.join()
    assert championed.read(model_registry.champion_version) == "other"
    assert attempts(championed) == [("finished", "refused")]


def test_what_was_taken_for_dead_promotes_nothing(
    championed: Database, settings: Settings, tiny_model: ModelFolder
) -> None:
    begin(championed, "a")
    assert championed.write(lambda c: training_runs.fail_run(c, "a", "Not heard of.", TrainingState.KILLED))
    with pytest.raises(TrainingError, match="taken for dead"):
        new_run(settings, championed, "a").promote(tiny_model, BETTER)
    assert championed.read(model_registry.champion_version) == "one"
    assert "standin-1" not in championed.read(model_registry.archive_hashes)
    assert attempts(championed) == [("killed", None)]


def test_over_a_model_that_it_was_not_held_against_it_is_not_promoted(
    championed: Database, settings: Settings, tiny_model: ModelFolder
) -> None:
    begin(championed, "a")
    championed.write(lambda c: model_registry.promote_to_champion(c, "other", "ada", "by hand"))
    new_run(settings, championed, "a").promote(tiny_model, BETTER)
    assert championed.read(model_registry.champion_version) == "other"
    assert attempts(championed) == [("finished", "refused")]
