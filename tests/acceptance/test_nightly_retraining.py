"""A nightly retraining in fast motion, with real images, Redis, PostgreSQL and running workers: verdicts on a second
scanner's images, a challenger that must not pass, one that is killed, one that is promoted, and the rollback."""

import csv
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from support.programs import CompletedCommand, RunningCommand, environment, run
from support.second_scanner import convert_images
from support.services import Server, connect

from trainer.dataset import patient_of, split_of

pytestmark = pytest.mark.slow  # a night of training, three times

KINDS: Final = {"NORMAL": "no_pneumonia", "PNEUMONIA": "pneumonia"}
JUDGED: Final = 200
HELD_OUT: Final = 80  # of these, of patients that no model may learn from
TRAINING_OPTIONS: Final = ("--epochs", 2)
PACE: Final = 0.1  # seconds between images that come while it learns: they shall last until it has
SLOW: Final = 600.0  # seconds, for what takes a minute on a machine that does nothing else
FINISHED: Final = "SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL"


@dataclass
class Department:
    folder: Path
    database: str
    env: dict[str, str]
    truth: dict[str, str]  # name of an image without its ending -> its class
    parts: list[RunningCommand] = field(default_factory=list)

    @property
    def inbox(self) -> Path:
        return self.folder / "ward"

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(statement).fetchall()

    def run(self, *words: object) -> CompletedCommand:
        done = run(*words, "--json", cwd=self.folder, env=self.env, timeout=SLOW)
        assert done.code == 0, done.err
        return done

    def wait_for(self, count: int) -> None:
        self.parts[0].wait_until(lambda: self.ask(FINISHED)[0][0] >= count, SLOW)

    @property
    def champion(self) -> str:
        ((version,),) = self.ask("SELECT version FROM models WHERE champion")
        return str(version)

    def judge(self, wrong: bool = False) -> None:
        """Give a verdict on every image: the truth, or with `wrong` the contrary for patients who are trained on."""
        file = self.folder / "verdicts.csv"
        with file.open("w", encoding="utf-8", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(["scan_id", "verdict", "reviewer"])
            for scan_id, path in self.ask("SELECT scan_id, path FROM scan_ledger WHERE state = 'classified'"):
                name = Path(path).stem
                kind = self.truth[name]
                if wrong and split_of(patient_of(name)) == "train":
                    kind = next(other for other in KINDS if other != kind)
                rows.writerow([scan_id, KINDS[kind], "ada"])
        self.run("verdict", "--from", file)


@pytest.fixture
def department(images: Path, tmp_path: Path, own_redis: Server, postgres_database: str) -> Iterator[Department]:
    base = images / "kermany-224"
    (tmp_path / "ward").mkdir()
    env = environment(
        inboxes=f"ward={tmp_path / 'ward'}", data_dir=tmp_path / "data", database_url=postgres_database,
        broker_url=own_redis.url, training_dir=base, keep_images="all", settle_seconds=0.5, retrain_at="",
    )  # fmt: skip
    truth = {image.stem: kind for kind in KINDS for image in (base / kind).iterdir()}
    upgraded = run("db", "upgrade", cwd=tmp_path, env=env)
    assert upgraded.code == 0, upgraded.err
    with ExitStack() as stack:
        here = Department(tmp_path, postgres_database, env, truth)
        for number, words in enumerate((("watch",), ("work",))):
            here.parts.append(stack.enter_context(RunningCommand(words, tmp_path, tmp_path / f"{number}.log", env)))
        here.parts[-1].wait_until_said("model ready")
        yield here


def chosen(images: Path) -> list[Path]:
    """Return equally many of each class, images of held-out patients included."""
    found: list[Path] = []
    for held_out, count in ((True, HELD_OUT), (False, JUDGED - HELD_OUT)):
        for kind in KINDS:
            of_kind = sorted((images / "kermany-224" / kind).iterdir())
            of_split = [image for image in of_kind if (split_of(patient_of(image.name)) != "train") == held_out]
            found += of_split[:: len(of_split) // (count // 2)][: count // 2]
    return found


def test_a_nightly_run_in_fast_motion(department: Department, images: Path) -> None:
    """One story, as starting all this takes longer than what happens in it."""
    before = department.champion
    reviewed = chosen(images)
    assert len(reviewed) == JUDGED
    convert_images(reviewed, department.inbox)
    department.wait_for(JUDGED)
    classified = department.ask("SELECT count(*) FROM scan_ledger WHERE state = 'classified'")[0][0]
    assert classified >= 0.98 * JUDGED  # the input gate accepts another scanner's images
    for image in department.inbox.iterdir():  # the night learns from what was kept
        image.unlink()

    what_was_learned_wrongly_is_refused(department, before)
    killed_in_the_middle_it_does_no_harm(department, before)
    after = what_is_better_takes_over_while_images_come(department, before, images)
    a_second_machine_serves_it(department, after)
    one_command_takes_it_back(department, before, images)


def what_was_learned_wrongly_is_refused(department: Department, before: str) -> None:
    department.judge(wrong=True)
    row = department.run("retrain", "--force", *TRAINING_OPTIONS).json
    assert row["decision"] == "refused", row["reasons"]
    assert row["reasons"]
    assert department.champion == before


def killed_in_the_middle_it_does_no_harm(department: Department, before: str) -> None:
    department.judge()
    words, log = ("retrain", "--force", "--epochs", 50), department.folder / "killed.log"
    with RunningCommand(words, department.folder, log, department.env) as part:
        part.wait_until(lambda: department.ask("SELECT 1 FROM training_runs WHERE stage = 'training'"), SLOW)
        part.kill()
    assert department.champion == before
    models = department.folder / "data" / "models"
    assert {path.name for path in models.iterdir() if not path.name.startswith(".")} == {"champion", before}


def what_is_better_takes_over_while_images_come(department: Department, before: str, images: Path) -> str:
    """Images come during the whole training; none is lost, none is read twice, and the last ones by the new model."""
    ledger = department.ask("SELECT count(*) FROM scan_ledger")[0][0]
    coming = sorted((images / "kermany-224" / "PNEUMONIA").iterdir())
    words, log = ("retrain", "--force", "--json", *TRAINING_OPTIONS), department.folder / "retrain.log"
    sent = 0
    with RunningCommand(words, department.folder, log, department.env) as part:
        while part.process.poll() is None:
            shutil.copyfile(coming[sent], department.inbox / coming[sent].name)
            sent += 1
            department.wait_for(ledger + sent)
            time.sleep(PACE)  # the pace of a scanner
        assert part.process.returncode == 0, part.said()
    after = department.champion
    ((decision, reasons),) = department.ask(
        "SELECT decision, reasons FROM training_runs WHERE id = (SELECT max(id) FROM training_runs)"
    )
    assert (decision, after != before) == ("promoted", True), reasons
    department.parts[1].wait_until(lambda: swapped(department, coming, after), SLOW)
    arrived = department.ask("SELECT count(*), count(DISTINCT path) FROM scan_ledger")[0]
    assert arrived[0] == arrived[1]
    others = department.ask(
        "SELECT state, reason, count(*) FROM scan_ledger WHERE state NOT IN ('classified', 'duplicate') GROUP BY 1, 2"
    )
    assert {(state, reason) for state, reason, _ in others} <= {("rejected", "not_chest_xray")}, others
    assert sum(count for *_, count in others) <= 0.03 * arrived[0], (others, arrived)
    per_scan = department.ask("SELECT max(n) FROM (SELECT count(*) n FROM predictions GROUP BY scan_id) counted")
    assert per_scan == [(1,)]
    return after


def swapped(department: Department, coming: list[Path], version: str) -> bool:
    """Tell whether the next image is read by this model: workers notice a promotion between batches."""
    known = {path for (path,) in department.ask("SELECT path FROM scan_ledger")}
    image = next(image for image in reversed(coming) if image.name not in known)
    shutil.copyfile(image, department.inbox / image.name)
    row: list[tuple[Any, ...]] = []
    department.parts[1].wait_until(
        lambda: (
            row.extend(
                department.ask(
                    f"SELECT model_version FROM scan_ledger WHERE path = '{image.name}' AND finished_at IS NOT NULL"
                )
            )
            or row
        ),
        SLOW,
    )
    return bool(row[0][0] == version)


def a_second_machine_serves_it(department: Department, version: str) -> None:
    """Its model folder is empty: it gets the champion from the database."""
    models = department.folder / "elsewhere"
    env = department.env | {"PNEUMOWATCH_MODEL_DIR": str(models)}
    with RunningCommand(("work",), department.folder, department.folder / "elsewhere.log", env) as part:
        part.wait_until_said("model ready")
        assert (models / "champion").readlink() == Path(version)
        part.terminate()


def one_command_takes_it_back(department: Department, before: str, images: Path) -> None:
    department.run("models", "rollback")
    assert department.champion == before
    coming = sorted((images / "kermany-224" / "NORMAL").iterdir())
    department.parts[1].wait_until(lambda: swapped(department, coming, before), SLOW)
