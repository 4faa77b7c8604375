"""Drift of a source whose scanner has another gray curve, beside one without.

Real images of patients unseen in training go through the whole pipeline, with the shipped model and its reference.
"""

import random
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.deploy_files import DEPLOY
from support.programs import environment, run

from db.health import drift
from db.health.ledger_metrics import LedgerCollector
from db.session import Database
from pneumowatch.settings import Settings
from trainer.dataset import patient_of, split_of

pytestmark = pytest.mark.slow  # 400 real images

GAMMA = 0.75  # what is mid-gray, 128, becomes 152


def test_the_drifted_source_passes_the_alert_within_200_images_and_the_other_does_not(
    images: Path, tmp_path: Path
) -> None:
    found = sorted((images / "kermany-224").glob("*/*.jpeg"))
    held_out = [original for original in found if split_of(patient_of(original.name)) == "test"]
    chosen = random.Random(1).sample(held_out, 2 * drift.DRIFT_WINDOW)
    inboxes = {name: tmp_path / name for name in ("plain", "drifted")}
    for inbox in inboxes.values():
        inbox.mkdir()
    for original in chosen[: drift.DRIFT_WINDOW]:
        shutil.copy(original, inboxes["plain"])
    for original in chosen[drift.DRIFT_WINDOW :]:
        bend(original, inboxes["drifted"] / f"{original.stem}.png")
    env = environment(inboxes=",".join(f"{name}={path}" for name, path in inboxes.items()))
    ended = run("up", "--once", "--data", tmp_path / "data", cwd=tmp_path, env=env, timeout=300)
    assert ended.code == 0, ended.err

    with closing(Database(f"sqlite:///{tmp_path / 'data' / 'pneumowatch.db'}")) as database:
        told = {family.name: family.samples for family in LedgerCollector(database, Settings()).collect()}
    psi = {(one.labels["source"], one.labels["feature"]): one.value for one in told["pneumowatch_drift_psi"]}
    assert set(psi) == {(source, of) for source in inboxes for of in drift.QUANTITIES}
    limit, alarmed = alert()
    assert max(psi["drifted", of] for of in alarmed) > limit, psi
    assert max(psi["plain", of] for of in alarmed) < limit, psi


def bend(original: Path, target: Path) -> None:
    levels = np.round(255 * (np.arange(256) / 255) ** GAMMA).astype(np.uint8)
    with Image.open(original) as image:
        Image.fromarray(levels[np.asarray(image.convert("L"))]).save(target)


def alert() -> tuple[float, list[str]]:
    """Return limit and subject of the alert rule in deploy/."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))["groups"][0]["rules"]
    (expression,) = (rule["expr"] for rule in rules if rule["alert"] == "PneumowatchDrift")
    about, _, limit = expression.partition(" > ")
    return float(limit), about.partition('feature=~"')[2].partition('"')[0].split("|")
