"""Nightly retraining through the real command: only a better model is promoted, and no kill does harm."""

import os
import shutil
import signal
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import training_site
from support.programs import CompletedCommand, RunningCommand, run
from support.services import Server
from support.training_site import champions, query_ledger, site_environment
from support.waiting import eventually

LONG = 300.0  # seconds: learning shares the machine with others
TRAINING_OPTIONS = ("--epochs", 1, "--steps", 100)
IDLE = {"min_new_labels": 9999}  # a night that comes to its decision without learning


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose champion is slightly trained, and whose images, from a hazy scanner, have no verdicts yet."""
    return training_site.create_site(tmp_path_factory.mktemp("clinic"), 40, range(1, 121), range(1001, 1101), haze=0.4)


@pytest.fixture
def site(founded: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, with a verdict on every image."""
    site = Path(shutil.copytree(founded, tmp_path / "site", symlinks=True))
    kept = training_site.give_verdicts(site)
    assert len(kept) == 200
    assert all(one["image_kept"] for one in kept)
    return site


def retrain(site: Path, *words: object, **more: Any) -> CompletedCommand:
    return run("retrain", "--json", *words, cwd=site, env=site_environment(site, **more), timeout=LONG)


def attempts(site: Path) -> list[tuple[Any, ...]]:
    return query_ledger(site / "data", "SELECT state, decision FROM training_runs ORDER BY id")


def written(site: Path) -> set[str]:
    """Return every file of the model store and the training workspace, locks aside."""
    folders = (site / "data" / "models", site / "data" / "training")
    return {path.name for folder in folders if folder.exists() for path in folder.iterdir()} - {".lock", "lock"}


@pytest.mark.slow
def test_what_is_better_takes_over_and_learns_nothing_twice(site: Path) -> None:
    (before,) = champions(site)
    ended = retrain(site, *TRAINING_OPTIONS)
    assert ended.code == 0, ended.err
    row = ended.json
    assert (row["state"], row["decision"], row["new_labels"]) == ("finished", "promoted", 200), row["reasons"]
    assert row["champion"] == before
    assert champions(site) == [row["challenger"]]
    assert written(site) == {"champion", before, row["challenger"]}
    assert (site / "data" / "models" / "champion").readlink() == Path(row["challenger"])
    (why,) = query_ledger(site / "data", "SELECT reason FROM promotions WHERE previous IS NOT NULL")
    assert why == (" ".join(row["reasons"]),)
    assert row["figures"]["newer"]["champion"]["log_loss"] < 0
    card = run("evaluate", "--data", site / "base", "--json", cwd=site, env=site_environment(site))
    assert card.json["model_version"] == row["challenger"]

    again = retrain(site, *TRAINING_OPTIONS)
    assert (again.code, again.json["decision"], again.json["new_labels"]) == (0, "nothing_to_do", 0)
    shown = run("retrain", "--status", "--json", cwd=site, env=site_environment(site))
    assert [one["decision"] for one in shown.json] == ["nothing_to_do", "promoted"]


@pytest.mark.slow
def test_exchanged_labels_are_refused(site: Path) -> None:
    before = champions(site)
    training_site.give_verdicts(site, flipped=True)
    ended = retrain(site, *TRAINING_OPTIONS)
    assert (ended.code, ended.json["decision"]) == (0, "refused")
    assert "contrary" in ended.json["reasons"][0]
    assert champions(site) == before
    assert written(site) == {"champion", *before}


@pytest.mark.slow
def test_without_a_base_dataset_nothing_is_promoted(site: Path) -> None:
    before = champions(site)
    ended = run("retrain", "--json", "--data", site / "data", cwd=site)
    assert (ended.code, ended.json["decision"]) == (0, "no_base")
    assert "PNEUMOWATCH_TRAINING_DIR" in ended.json["reasons"][0]
    assert champions(site) == before


@pytest.mark.slow
def test_what_cannot_be_read_is_a_failure_that_the_row_tells(site: Path) -> None:
    (site / "empty").mkdir()
    ended = retrain(site, *TRAINING_OPTIONS, training_dir=site / "empty")
    assert (ended.code, ended.out) == (1, "")
    assert "NORMAL" in ended.err
    assert "Traceback" not in ended.err
    assert attempts(site) == [("failed", None)]


@pytest.mark.slow
def test_killed_at_any_point_it_does_no_harm(site: Path) -> None:
    before = champions(site)
    (site / "said").mkdir()
    for number, stage in enumerate(("reading", "training", "concluding", "comparing"), start=1):
        words = ("retrain", "--epochs", 1, "--steps", 4)
        with RunningCommand(words, cwd=site, log=site / "said" / stage, env=site_environment(site)) as part:
            at = f"SELECT 1 FROM training_runs WHERE id = {number} AND stage = '{stage}'"
            part.wait_until(lambda at=at: query_ledger(site / "data", at), LONG)
            part.kill()
        assert champions(site) == before
        assert {*before, "champion"} <= written(site) <= {*before, "champion", "scratch"}
    ended = retrain(site, "--epochs", 1, "--steps", 4)
    assert ended.code == 0, ended.err
    assert attempts(site) == [("killed", None)] * 4 + [("finished", ended.json["decision"])]
    assert written(site) == {"champion", *before, *champions(site)}


@pytest.mark.slow
def test_two_at_once_and_one_that_is_told_to_stop(site: Path) -> None:
    words = ("retrain", "--epochs", 50)
    with RunningCommand(words, cwd=site, log=site / "said", env=site_environment(site)) as part:
        part.wait_until(
            lambda: query_ledger(site / "data", "SELECT 1 FROM training_runs WHERE stage = 'training'"), LONG
        )
        second = retrain(site)
        assert second.code == 1
        assert "Another training" in second.err
        os.kill(part.process.pid, signal.SIGTERM)
        assert part.process.wait(60) == 1
        assert "Traceback" not in part.said()
    assert attempts(site) == [("killed", None)]
    assert written(site) == {"champion", *champions(site)}


def long_ago(site: Path) -> None:
    """Date the verdicts before last night's start."""
    with sqlite3.connect(site / "data" / "pneumowatch.db") as ledger:
        ledger.execute("UPDATE reviews SET reviewed_at = '2026-01-01 00:00:00.000000'")
    ledger.close()


def trains(process: Path, site: Path) -> bool:
    """Tell whether this /proc/PID/cmdline is of a training of the site."""
    try:
        words = process.read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return False
    return b"retrain" in words and bytes(site / "data") in words


@pytest.mark.slow
def test_up_makes_up_for_a_nightly_run_behind_the_images_and_ends_it_with_itself(site: Path) -> None:
    long_ago(site)
    (site / "inbox").mkdir()
    env = site_environment(site, retrain_at="00:00")
    with RunningCommand(("up", "--inbox", site / "inbox"), cwd=site, log=site / "said", env=env) as part:
        at = "SELECT 1 FROM training_runs WHERE stage = 'training'"
        part.wait_until(lambda: query_ledger(site / "data", at), LONG)
        (child,) = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if trains(path, site)]
        own = os.getpriority(os.PRIO_PROCESS, part.process.pid)
        assert os.getpriority(os.PRIO_PROCESS, child) == min(own + 10, 19)
        part.interrupt()
        assert not Path(f"/proc/{child}").exists()
    assert attempts(site) == [("killed", None)]
    assert written(site) == {"champion", *champions(site)}


@pytest.mark.slow
def test_a_nightly_run_does_not_outlive_an_up_that_is_killed(site: Path) -> None:
    long_ago(site)
    (site / "inbox").mkdir()
    env = site_environment(site, retrain_at="00:00")
    with RunningCommand(("up", "--inbox", site / "inbox"), cwd=site, log=site / "said", env=env) as part:
        part.wait_until(
            lambda: query_ledger(site / "data", "SELECT 1 FROM training_runs WHERE stage = 'training'"), LONG
        )
        part.kill()
    eventually(lambda: attempts(site) == [("killed", None)], LONG, every=0.1, message=lambda: f"{attempts(site)}")


@pytest.mark.slow
def test_a_nightly_run_without_anything_new_is_one_row(site: Path) -> None:
    long_ago(site)
    (site / "inbox").mkdir()
    env = site_environment(site, retrain_at="00:00", **IDLE)
    for start in range(2):
        with RunningCommand(("up", "--inbox", site / "inbox"), cwd=site, log=site / f"said-{start}", env=env) as part:
            part.wait_until(lambda: attempts(site) == [("finished", "nothing_to_do")], LONG)
            part.wait_until(lambda: "model ready" in part.said(), LONG)  # by then the timetable has looked
            part.interrupt()
    assert attempts(site) == [("finished", "nothing_to_do")]


@pytest.mark.slow
def test_two_schedules_and_a_training_worker(site: Path, own_redis: Server) -> None:
    long_ago(site)
    env = site_environment(site, retrain_at="00:00", broker_url=own_redis.url, **IDLE)
    with ExitStack() as stack:
        parts = [
            stack.enter_context(RunningCommand(words, cwd=site, log=site / f"said-{number}", env=env))
            for number, words in enumerate([("schedule",), ("schedule",), ("work", "--queue", "training")])
        ]
        parts[2].wait_until(lambda: attempts(site))
        parts[2].wait_until(lambda: attempts(site) == [("finished", "nothing_to_do")])
        assert [part.terminate() for part in parts] == [0, 0, 0]
    assert attempts(site) == [("finished", "nothing_to_do")]


@pytest.mark.slow
def test_a_training_worker_that_is_stopped_ends_its_training(site: Path, own_redis: Server) -> None:
    long_ago(site)
    env = site_environment(site, retrain_at="00:00", broker_url=own_redis.url)
    with ExitStack() as stack:
        parts = [
            stack.enter_context(RunningCommand(words, cwd=site, log=site / f"said-{number}", env=env))
            for number, words in enumerate([("schedule",), ("work", "--queue", "training")])
        ]
        parts[1].wait_until(
            lambda: query_ledger(site / "data", "SELECT 1 FROM training_runs WHERE stage = 'training'"), LONG
        )
        assert [part.terminate() for part in parts] == [0, 0]
    assert attempts(site) == [("killed", None)]
