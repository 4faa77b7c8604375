"""A verdict that was confirmed as saved survives any kill, and readers never overwrite each other."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from support.ledger_driver import LedgerDriver, file_version
from support.programs import RunningCommand, environment

from db import schema
from db.models import Audit, Review
from db.session import Database
from db.worklist import accounts
from db.worklist.accounts import Role
from review.access.passwords import hash_password

PASSWORD = "a sentence of some words"
READERS = ("rita", "sam", "tom")


@pytest.fixture(params=["sqlite", "postgresql"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "data").mkdir()
    if request.param == "sqlite":
        return environment(data_dir=tmp_path / "data")
    return environment(data_dir=tmp_path / "data", database_url=request.getfixturevalue("postgres_database"))


@pytest.fixture
def ledger(env: dict[str, str], tmp_path: Path) -> Iterator[LedgerDriver]:
    """A ledger of twenty flagged images, and its readers."""
    url = env.get("PNEUMOWATCH_DATABASE_URL", f"sqlite:///{tmp_path / 'data' / 'pneumowatch.db'}")
    with closing(Database(url)) as database:
        schema.upgrade(database)
        ledger = LedgerDriver(database)
        ledger.register_model()
        ledger.classify(*(file_version(f"{number}.png") for number in range(20)))
        for name in READERS:
            database.write(lambda c, name=name: accounts.add_user(c, name, Role.READER, hash_password(PASSWORD)))
        yield ledger


def start_review(tmp_path: Path, env: dict[str, str], log: str = "log") -> RunningCommand:
    return RunningCommand(("review", "--port", "0"), tmp_path, tmp_path / log, env)


def url_of(part: RunningCommand) -> str:
    return str(part.wait_until(lambda: re.search(r"Review: (http://\S+)", part.said()))[1])


def signed_in(url: str, name: str) -> httpx.Client:
    """The browser of a reader who has signed in."""
    client = httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False)
    assert client.post("/sign-in", data={"name": name, "password": PASSWORD}).status_code == 303
    token = re.search(r'name="csrf" content="(\w+)"', client.get("/account").text)
    assert token
    client.headers["X-CSRF-Token"] = token[1]
    return client


def say(client: httpx.Client, scan_id: int, verdict: str) -> int:
    return client.post(f"/scans/{scan_id}/verdict", data={"verdict": verdict}).status_code


def test_what_was_said_to_be_saved_outlives_a_kill(tmp_path: Path, env: dict[str, str], ledger: LedgerDriver) -> None:
    """The process is killed in the moment of the answer."""
    for scan_id in (1, 2):
        with start_review(tmp_path, env, f"log-{scan_id}") as part, closing(signed_in(url_of(part), "rita")) as rita:
            assert say(rita, scan_id, "pneumonia") == 303
            part.kill()
        row = ledger.row(scan_id)
        assert (row["verdict"], row["reviewer"]) == ("pneumonia", "rita")
        acts = select(Audit.who).where(Audit.what == "verdict", Audit.scan_id == scan_id)
        assert ledger.database.read(lambda c, acts=acts: c.scalars(acts).all()) == ["rita"]


def test_readers_at_once(tmp_path: Path, env: dict[str, str], ledger: LedgerDriver) -> None:
    """All readers give a verdict on each image at the same time: all are recorded, and the newest is shown."""
    said = {"rita": "pneumonia", "sam": "no_pneumonia", "tom": "unsure"}
    with start_review(tmp_path, env) as part, ThreadPoolExecutor(len(READERS)) as pool:
        url = url_of(part)

        def evening(name: str) -> set[int]:
            with closing(signed_in(url, name)) as reader:
                return {say(reader, scan_id, said[name]) for scan_id in range(1, 21)}

        assert list(pool.map(evening, READERS)) == [{303}] * 3
        assert part.terminate() == 0
    columns = select(Review.scan_id, Review.reviewer, Review.verdict).order_by(Review.id)
    rows = [tuple(row) for row in ledger.database.read(lambda c: c.execute(columns).all())]
    assert sorted(rows) == sorted((scan_id, *pair) for scan_id in range(1, 21) for pair in said.items())
    newest = {scan_id: (reviewer, verdict) for scan_id, reviewer, verdict in rows}
    assert {scan_id: (ledger.row(scan_id)["reviewer"], ledger.row(scan_id)["verdict"]) for scan_id in newest} == newest
