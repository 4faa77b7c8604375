"""The commands of the units and the compose file, started as written there, with images dropped and a reader signed in.

Only paths and ports differ: where folders are mounted, where secrets lie, and which ports are free.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from support.deploy_files import Program, compose_programs, unit_programs
from support.programs import Drop, RunningCommand, environment, run
from support.services import Server, free_port

from db.session import Database
from db.worklist import accounts
from db.worklist.accounts import Role
from review.access.passwords import hash_password

pytestmark = pytest.mark.slow  # every part started twice, as units and as compose

IMAGES = 6
SAID_BESIDE = (
    "Review: ",
    "worker: Warm shutdown",
)  # on standard output: the review app's address; and Celery, at the end


@pytest.mark.parametrize("programs", [unit_programs, compose_programs], ids=["systemd", "compose"])
def test_as_deployed(
    programs: Callable[[], dict[str, Program]], tmp_path: Path, own_redis: Server, postgres_database: str, drop: Drop
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "database_url").write_text(postgres_database + "\n", "utf-8")
    (secrets / "broker_url").write_text(own_redis.url + "\n", "utf-8")
    for inbox in ("ward", "pacs"):
        (tmp_path / "inboxes" / inbox).mkdir(parents=True)
    (tmp_path / "data").mkdir()
    programs_here = {name: relocated(program, tmp_path) for name, program in programs().items()}

    given = {key: value for key, value in programs_here["watch"].environment.items() if "METRICS" not in key}
    upgraded = run("db", "upgrade", cwd=tmp_path, env=environment() | given)
    assert upgraded.code == 0, upgraded.err
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(
                RunningCommand(
                    program.words, tmp_path, tmp_path / f"{name}.log", environment() | dict(program.environment)
                )
            )
            for name, program in programs_here.items()
        }
        running["review"].wait_until_said("Review: ")
        client = stack.enter_context(reader(running["review"], postgres_database))
        dropped = drop(tmp_path / "inboxes" / "ward", IMAGES)

        def read() -> bool:
            scans = client.get("/api/scans").raise_for_status().json()["scans"]
            return sum(scan["state"] == "classified" for scan in scans) == IMAGES

        running["work"].wait_until(read)
        for name, part in running.items():
            told = metrics(part, programs_here[name], client)
            assert "pneumowatch_build_info{" in told
            if name in ("schedule", "review"):
                assert 'pneumowatch_scans{source="ward",state=' in told
            if name == "work":
                assert "pneumowatch_model_info{" in told
                assert 'pneumowatch_images_processed_total{outcome="' in told
                assert 'pneumowatch_stage_seconds_count{stage="write"}' in told
            assert not [image for image in dropped if image.stem in told]
        for part in running.values():
            part.process.terminate()
        for name, part in running.items():
            assert part.process.wait(90) == 0, (name, part.said())
    for name, part in running.items():
        logged = [line for line in part.said().splitlines() if line and not line.startswith(SAID_BESIDE)]
        assert all("timestamp" in json.loads(line) for line in logged), (name, part.said())


def relocated(program: Program, folder: Path) -> Program:
    """Return the command with the paths of the units and containers moved into this folder."""
    port = str(free_port())
    paths = {
        "%d": str(folder / "secrets"),
        "/run/secrets": str(folder / "secrets"),
        "/var/lib/pneumowatch": str(folder / "data"),
        "/srv/inboxes": str(folder / "inboxes"),
        "=/inboxes": f"={folder}/inboxes",
        "0.0.0.0": "127.0.0.1",
        **dict.fromkeys(("8550", "9550", "9551", "9552", "9553"), port),
    }
    environment = dict(program.environment)
    if environment.get("PNEUMOWATCH_DATA_DIR") == "/data":
        environment["PNEUMOWATCH_DATA_DIR"] = str(folder / "data")
    if program.words[0] == "work":  # of the units' worker, which has its own file
        environment.setdefault("PNEUMOWATCH_METRICS_PORT", "9550")
    return Program(program.words, environment).relocated(paths)


def reader(review: RunningCommand, database_url: str) -> httpx.Client:
    url = review.said().partition("Review: ")[2].split()[0]
    with closing(Database(database_url)) as database:
        database.write(lambda c: accounts.add_user(c, "rita", Role.READER, hash_password("a sentence of some words")))
        token = database.write(lambda c: accounts.create_token(c, "rita", Role.READER, "a script"))
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)


def metrics(part: RunningCommand, program: Program, client: httpx.Client) -> str:
    if program.words[0] == "review":
        return client.get("/metrics").raise_for_status().text
    url = f"http://127.0.0.1:{program.environment['PNEUMOWATCH_METRICS_PORT']}/metrics"
    return httpx.get(url, timeout=60, trust_env=False).raise_for_status().text
