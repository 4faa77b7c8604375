"""The health and metrics endpoints of the review app."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, insert, text
from support.review_server import ReviewServer

from db.models import Heartbeat
from db.session import Database
from pneumowatch import patient_hashing
from pneumowatch.settings import Settings


def test_ready(review_server: ReviewServer) -> None:
    visitor = review_server.visitor()
    assert visitor.get("/healthz").json() == {"status": "ok"}
    assert visitor.get("/readyz").json() == {"status": "ready"}


def test_not_ready_where_the_schema_is_another(review_server: ReviewServer) -> None:
    was = review_server.database.read(lambda c: c.scalar(text("SELECT version_num FROM alembic_version")))
    review_server.database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    try:
        answer = review_server.visitor().get("/readyz")
    finally:
        again = text("UPDATE alembic_version SET version_num = :was")
        review_server.database.write(lambda c: c.execute(again, {"was": was}))
    assert answer.status_code == 503
    assert "pneumowatch db upgrade" in answer.json()["detail"]


def test_not_ready_where_the_patient_key_is_another(review_server: ReviewServer, settings: Settings) -> None:
    from db import deployment

    deployment.load_patient_key(review_server.database, settings)
    assert review_server.visitor().get("/readyz").status_code == 200
    settings.patient_key_path.unlink()
    patient_hashing.read_or_create_key(settings.patient_key_path)
    answer = review_server.visitor().get("/readyz")
    assert answer.status_code == 503
    assert str(settings.data_dir) not in answer.text


def test_an_outage_is_said_and_over_when_it_is(tmp_path: Path, migrated_sqlite: Path, settings: Settings) -> None:
    """The file of an SQLite ledger is gone, and comes back."""
    file = tmp_path / "ledger.db"
    file.write_bytes(migrated_sqlite.read_bytes())
    database = Database(f"sqlite:///{file}")
    with ReviewServer(database, settings) as review_server:
        reader = review_server.reader()
        database.close()
        away = file.rename(tmp_path / "away.db")
        file.mkdir()
        try:
            assert reader.get("/readyz").status_code == 503
            answer = reader.get("/models", headers={"Accept": "text/html"})
            assert answer.status_code == 503
            assert "does not answer" in answer.text
            assert reader.get("/healthz").status_code == 200
        finally:
            file.rmdir()
            away.rename(file)
        assert reader.get("/models").status_code == 200
    database.close()


def test_a_component_that_is_gone_degrades_the_review_app_and_does_not_close_it(review_server: ReviewServer) -> None:
    gone = Heartbeat(
        component="worker@reading-room:7", kind="worker", machine="reading-room", pid=7, state="reading",
        **dict.fromkeys(("started_at", "progress_at", "beat_at"), datetime.now(UTC) - timedelta(minutes=10)),
        expectations={}, done={},
    )  # fmt: skip
    values = {column.name: getattr(gone, column.name) for column in Heartbeat.__table__.columns}
    review_server.database.write(lambda c: c.execute(insert(Heartbeat).values(values)))
    try:
        answer = review_server.visitor().get("/readyz")
        overview = review_server.reader().get("/overview")
    finally:
        review_server.database.write(lambda c: c.execute(delete(Heartbeat)))
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert "worker@reading-room:7" in answer.json()["components"][0]
    assert "silent" in overview.text


def test_metrics_are_told_to_who_asks(review_server: ReviewServer) -> None:
    answer = review_server.visitor().get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert "pneumowatch_database_up 1.0" in lines
    assert any(line.startswith("pneumowatch_build_info{") for line in lines)
