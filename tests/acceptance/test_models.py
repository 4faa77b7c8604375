"""The model commands: list, add, promote while workers read, roll back, and rescore old images."""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.programs import CompletedCommand, Drop, RunningCommand, environment, run
from support.services import Server, connect
from support.tiny_models import tiny_network, write_model

from pneumowatch.model_folder import ModelFolder, shipped_folder


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Takes images of another size than the shipped one, and flags from another threshold."""
    network = tiny_network(80)
    folder = tmp_path_factory.mktemp("models") / "challenger"
    return write_model(folder, network, 80, version="challenger-1", threshold={"value": 0.25}, limits=["Untrained."])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A ledger that knows no model yet."""
    assert run("db", "upgrade", "--data", tmp_path / "data", cwd=tmp_path).code == 0
    return tmp_path / "data"


def models(data: Path, *words: object) -> CompletedCommand:
    return run("models", *words, "--data", data, cwd=data.parent)


@pytest.mark.slow
def test_a_model_from_added_to_gone_back_from(data: Path, challenger: ModelFolder) -> None:
    assert models(data, "list", "--json").json == []
    added = models(data, "add", challenger.path, "--json")
    assert added.code == 0, added.err
    assert (added.json["version"], added.json["serves"]) == ("challenger-1", False)
    listed = {row["version"]: row["serves"] for row in models(data, "list", "--json").json}
    assert listed == {"challenger-1": False, shipped_folder().version: True}

    promoted = models(data, "promote", "challenger-1", "--reason", "a try", "--json")
    assert promoted.json == {"version": "challenger-1", "previous": shipped_folder().version}
    shown = models(data, "show", "--json").json
    assert (shown["version"], shown["serves"], shown["threshold"]) == ("challenger-1", True, 0.25)
    assert shown["card"]["limits"] == ["Untrained."]
    assert [change["reason"] for change in shown["promotions"]] == ["a try"]

    back = models(data, "rollback", "--json")
    assert back.json == {"version": shipped_folder().version, "previous": "challenger-1"}
    again = models(data, "rollback")
    assert again.code == 1
    assert again.err == "pneumowatch: No other model was champion before; there is none to roll back to.\n"
    for words in (("list",), ("show",), ("show", "challenger-1"), ("promote", "challenger-1")):
        ended = models(data, *words)
        assert ended.code == 0, ended.err
        assert "challenger-1" in ended.out


@pytest.mark.slow
def test_what_cannot_be_is_a_sentence(data: Path, challenger: ModelFolder, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(challenger.path, tmp_path / "broken"))
    with (broken / "reference.npz").open("ab") as file:
        file.truncate(100)
    for words, sentence in (
        (("show",), "has no model yet"),
        (("show", "x"), "no model 'x'"),
        (("promote", "x"), "no model 'x'"),
        (("rollback",), "none to roll back to"),
        (("add", tmp_path), "is not a model folder"),
        (("add", broken), "reference.npz"),
    ):
        ended = models(data, *words)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("pneumowatch: ")
        assert sentence in ended.err
        assert ended.err.count("\n") == 1
    assert models(data, "list", "--json").json == []


@pytest.mark.slow
def test_a_worker_at_work_takes_a_promoted_model_and_rescore_reads_old_images(
    data: Path, challenger: ModelFolder, drop: Drop, tmp_path: Path
) -> None:
    (tmp_path / "inbox").mkdir()
    env = environment(settle_seconds=0.5)

    def ask(statement: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(data / "pneumowatch.db") as connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows

    def finished() -> int:
        return ask("SELECT count(*) FROM scan_ledger WHERE state = 'classified'")[0][0]

    with RunningCommand(("up", "--data", data), tmp_path, tmp_path / "up.log", env) as up:
        up.wait_until_said("model ready")
        drop(tmp_path / "inbox" / "before", 6)
        up.wait_until(lambda: finished() == 6)
        assert models(data, "add", challenger.path).code == 0
        assert models(data, "promote", "challenger-1").code == 0
        up.wait_until_said("new model in use")
        for image in drop(tmp_path / "outside", 12)[6:]:
            shutil.copy(image, tmp_path / "inbox")
        up.wait_until(lambda: finished() == 12)
        assert up.interrupt() == 0
    read = ask("SELECT model_version, threshold, count(*) FROM scan_ledger GROUP BY 1, 2 ORDER BY 1")
    assert read == [("challenger-1", 0.25, 6), (shipped_folder().version, shipped_folder().threshold, 6)]
    link = data / "models" / "champion"
    assert (link.is_symlink(), json.loads((link / "card.json").read_text())["version"]) == (True, "challenger-1")
    image = next(iter((tmp_path / "inbox" / "before").iterdir()))
    (said,) = run("classify", image, "--json", cwd=tmp_path, env=environment(data_dir=data)).json
    assert said["model_version"] == "challenger-1"  # as the last one verified here says, without the database

    words = ("rescore", "--model", "challenger-1", "--data", data, "--json")
    beside = run(*words, cwd=tmp_path)
    assert beside.code == 0, beside.err
    assert beside.json == {
        "model": "challenger-1", "classified": 12, "already": 6, "rescored": 6, "not_chest_xray": 0, "left_out": 0,
        "made_current": 0,
    }  # fmt: skip
    assert finished() == 12
    assert len(ask("SELECT DISTINCT model_version FROM scan_ledger")) == 2
    current = run(*words, "--make-current", cwd=tmp_path)
    assert (current.json["rescored"], current.json["made_current"]) == (0, 6)
    assert ask("SELECT DISTINCT model_version, threshold FROM scan_ledger") == [("challenger-1", 0.25)]
    assert ask("SELECT count(*), count(DISTINCT scan_id) FROM predictions") == [(18, 12)]
    (rescored,) = (one for one in ask("SELECT path, probability FROM scan_ledger") if image.name in one[0])
    assert rescored[1] == pytest.approx(said["probability"], abs=1e-5)


# swaps under load, in a deployment


@dataclass
class Deployment:
    folder: Path
    database: str
    env: dict[str, str]
    parts: list[RunningCommand]

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(statement).fetchall()

    def models(self, *words: object) -> Any:
        ended = run("models", *words, "--json", cwd=self.folder, env=self.env)
        assert ended.code == 0, ended.err
        return ended.json


@pytest.fixture
def deployment(tmp_path: Path, own_redis: Server, postgres_database: str) -> Iterator[Deployment]:
    """A watcher and two workers, each worker on a machine of its own: with a model store of its own."""
    (tmp_path / "images").mkdir()
    env = environment(
        inboxes=f"ward={tmp_path / 'images'}",
        data_dir=tmp_path / "data",
        database_url=postgres_database,
        broker_url=own_redis.url,
        settle_seconds=0.5,
        batch_size=4,
        decoders=1,
    )
    assert run("db", "upgrade", cwd=tmp_path, env=env).code == 0
    with ExitStack() as stack:
        parts = [stack.enter_context(RunningCommand(("watch",), tmp_path, tmp_path / "watch.log", env))]
        for number in (1, 2):
            own = env | {"PNEUMOWATCH_MODEL_DIR": str(tmp_path / f"store-{number}")}
            parts.append(stack.enter_context(RunningCommand(("work",), tmp_path, tmp_path / f"work-{number}.log", own)))
        for worker in parts[1:]:
            worker.wait_until_said("model ready")
        yield Deployment(tmp_path, postgres_database, env, parts)


@pytest.mark.slow
def test_models_change_while_images_arrive_and_none_is_lost_or_read_twice(
    deployment: Deployment, challenger: ModelFolder, drop: Drop
) -> None:
    """Promote the challenger and roll back while an image arrives every few milliseconds; a third worker is late."""
    deployment.models("add", challenger.path)
    images = drop(deployment.folder / "outside", 480)
    waiting = iter(images)

    def arrive(count: int) -> None:
        for _ in range(count):
            image = next(waiting)
            image.rename(deployment.folder / "images" / image.name)
            time.sleep(0.005)  # the pace of arrivals: they shall last for all changes of model

    arrive(40)
    for swap in range(1, 5):
        deployment.models(*(("promote", "challenger-1") if swap % 2 else ("rollback",)))
        for worker in deployment.parts[1:]:
            worker.wait_until(lambda: worker.said().count("new model in use") >= swap or arrive(5))  # noqa: B023 - at once
        arrive(10)
    arrived = len(list((deployment.folder / "images").iterdir()))
    watcher = deployment.parts[0]
    watcher.wait_until(
        lambda: deployment.ask("SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL")[0][0] == arrived
    )
    assert deployment.ask("SELECT state, count(*) FROM scan_ledger GROUP BY state") == [("classified", arrived)]
    assert deployment.ask("SELECT count(*), count(DISTINCT scan_id) FROM predictions") == [(arrived, arrived)]
    twice = "SELECT scan_id FROM scan_events WHERE to_state = 'classified' GROUP BY scan_id HAVING count(*) > 1"
    assert deployment.ask(twice) == []
    read = deployment.ask("SELECT DISTINCT model_version, threshold FROM scan_ledger ORDER BY 1")
    assert read == [("challenger-1", 0.25), (shipped_folder().version, pytest.approx(shipped_folder().threshold))]

    deployment.models("promote", "challenger-1")
    late = deployment.env | {"PNEUMOWATCH_MODEL_DIR": str(deployment.folder / "store-3")}
    with RunningCommand(("work",), deployment.folder, deployment.folder / "work-3.log", late) as worker:
        worker.wait_until_said("model ready")
        assert "challenger-1" in worker.said()  # from the database: its own store was empty
    for part in deployment.parts:
        assert part.terminate() == 0, part.said()
