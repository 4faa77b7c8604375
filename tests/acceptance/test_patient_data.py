"""Patient data appears nowhere but in an image's path: planted in names and headers, then searched for."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from formats.dicom_images import IMAGE
from pydicom import uid
from support import dicom_files
from support.programs import Drop, RunningCommand, environment, run
from support.services import Server, connect

NAME, FIRST, NUMBER, BORN = "Zwiebelfisch", "Adelgunde", "4711-08-15", "20200229"
SPELLINGS: Final = [
    text.encode(coding)
    for word in (NAME, FIRST, NUMBER, NUMBER.replace("-", ""), BORN, "2020-02-29", "29.02.2020")
    for text in {word, word.upper(), word.lower()}
    for coding in ("utf-8", "utf-16-le")
]
HEADER: Final[dict[str, Any]] = {
    "PatientName": f"{NAME}^{FIRST}",
    "PatientID": NUMBER,
    "PatientBirthDate": BORN,
    "OtherPatientIDs": NUMBER,
    "PatientComments": f"{NAME} {BORN}",
    "PatientAge": None,
}
PATHS: Final = ("path", "path_bytes")  # columns that may hold a name: people look for their images by it


def planted(inbox: Path) -> None:
    """Sound images, duplicates, and rejects of each kind, all with the patient in name and header."""
    folder = inbox / f"{NAME}_{FIRST}"
    folder.mkdir()
    sound = dicom_files.make_dicom(IMAGE, **HEADER)
    files = {
        "image.dcm": sound,
        "again.dcm": dicom_files.make_dicom(IMAGE, **HEADER | {"PatientComments": "another header"}),
        "packed.dcm": dicom_files.make_dicom(IMAGE, uid.JPEG2000Lossless, 8, number=2, **HEADER),
        "ct.dcm": dicom_files.make_dicom(IMAGE, number=3, Modality="CT", **HEADER),
        "side.dcm": dicom_files.make_dicom(IMAGE, number=4, ViewPosition="LL", **HEADER),
        "cut.dcm": dicom_files.make_dicom(IMAGE, number=5, **HEADER)[:-700],
        "report.dcm": dicom_files.dataset_bytes(dicom_files.make_header(number=6, Modality="SR", **HEADER)),
        "odd.dcm": sound.replace(b"DX", b"\xff\xfe").replace(
            dicom_files.DX.encode(), NAME.encode().ljust(len(dicom_files.DX))
        ),
        "text.jpeg": f"{NAME} {FIRST} {BORN}".encode() * 30,
        "empty.jpeg": b"",
    }
    for name, data in files.items():
        (folder / f"{NUMBER}_{BORN}_{name}").write_bytes(data)
    (folder / f"{NAME}.lnk.jpeg").symlink_to(folder / "nowhere")


def leaks(where: str, text: bytes) -> list[str]:
    return [f"{where}: {spelling!r}" for spelling in SPELLINGS if spelling in text]


def in_processes(parts: list[RunningCommand]) -> list[str]:
    """Command lines and environments, which other users of the machine see."""
    found = []
    for part in parts:
        for name in ("cmdline", "environ"):
            found += leaks(name, Path(f"/proc/{part.process.pid}/{name}").read_bytes())
    return found


def in_broker(url: str) -> Iterator[str]:
    client = redis.Redis.from_url(url)
    for key in client.keys("*"):
        kind = client.type(key)
        value = {
            b"list": lambda key: client.lrange(key, 0, -1),
            b"hash": lambda key: client.hgetall(key),
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"set": lambda key: client.smembers(key),
        }.get(kind, client.get)(key)
        yield from leaks("Redis", key + repr(value).encode())


def in_rows(tables: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for table, rows in tables.items():
        for row in rows:
            for column, value in row.items():
                if column not in PATHS:
                    yield from leaks(f"{table}.{column}", str(value).encode())


@pytest.mark.slow
def test_a_department(tmp_path: Path, own_redis: Server, postgres_database: str, drop: Drop) -> None:
    inbox = tmp_path / "images"
    inbox.mkdir()
    env = environment(
        inboxes=f"ward={inbox}",
        data_dir=tmp_path / "data",
        database_url=postgres_database,
        broker_url=own_redis.url,
        settle_seconds=0.2,
        log_format="json",
    )
    assert run("db", "upgrade", cwd=tmp_path, env=env).code == 0
    planted(inbox)
    drop(inbox, 3)
    with ExitStack() as stack:
        watcher = stack.enter_context(RunningCommand(("watch",), tmp_path, tmp_path / "watch.log", env))
        watcher.wait_until_said("scans registered")
        found = list(in_broker(own_redis.url))  # while the messages wait
        worker = stack.enter_context(RunningCommand(("work",), tmp_path, tmp_path / "work.log", env))
        with connect(postgres_database) as connection:
            count = "SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL"
            worker.wait_until(lambda: connection.execute(count).fetchone()[0] >= 13)
        found += in_processes([watcher, worker])
        for command in (("status",), ("doctor",), ("reconcile",), ("requeue", "--reason", "unreadable")):
            ended = run(*command, cwd=tmp_path, env=env)
            if command != ("reconcile",):  # which names files: it is what it is asked for
                found += leaks(" ".join(command), (ended.out + ended.err).encode())
        with connect(postgres_database) as connection:  # what was queued again is read again
            worker.wait_until(lambda: connection.execute(count).fetchone()[0] >= 13)
        for part in (watcher, worker):
            assert part.terminate() == 0, part.said()
    for log in tmp_path.glob("*.log"):
        assert log.stat().st_size > 0
        found += leaks(log.name, log.read_bytes())
    with connect(postgres_database) as connection:
        names = [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        tables = {}
        for name in names:
            cursor = connection.execute(f"SELECT * FROM {name}")
            tables[name] = [
                dict(zip([column.name for column in cursor.description or ()], row, strict=True)) for row in cursor
            ]
    found += in_rows(tables)
    assert not found
    scans = tables["scans"]
    assert len(scans) == 13
    keys = {row["patient_key"] for row in scans if row["modality"] == "DX"}
    assert len(keys) == 1  # one patient, known by the keyed hash alone
    assert len(keys.pop()) == 64
    assert any(NAME in row["path"] for row in scans)  # the search would find it


@pytest.mark.slow
def test_one_machine(tmp_path: Path) -> None:
    inbox, data = tmp_path / "images", tmp_path / "data"
    inbox.mkdir()
    planted(inbox)
    env = environment(settle_seconds=0)
    ended = run("up", "--once", "--inbox", inbox, "--data", data, cwd=tmp_path, env=env)
    assert ended.code == 0, ended.err
    found = leaks("up", (ended.out + ended.err).encode())
    with sqlite3.connect(data / "pneumowatch.db") as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in names}
    connection.close()
    found += in_rows(tables)
    states = {row["path"].rpartition("_")[2]: row["reason"] or row["state"] for row in tables["scans"]}
    assert states["again.dcm"] == "duplicate" or states["image.dcm"] == "duplicate"
    assert states["ct.dcm"] == "not_chest_xray"
    assert states["side.dcm"] == "not_frontal"
    assert states["report.dcm"] == "no_pixels"
    bad = sorted(path for path in (inbox / f"{NAME}_{FIRST}").iterdir() if path.name.endswith((".dcm", "text.jpeg")))
    told = run("classify", "--json", *bad, cwd=tmp_path, env=env)
    for row in json.loads(told.out):
        found += leaks("classify", json.dumps({key: value for key, value in row.items() if key != "path"}).encode())
    found += leaks("classify", told.err.encode())
    assert not found
