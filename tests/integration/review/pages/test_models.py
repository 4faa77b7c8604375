"""The models page: what it shows, and promoting another model."""

import json
from typing import Any

import pytest
from support.ledger_driver import LedgerDriver, file_version, model_folder
from support.review_server import ReviewServer

from db.registry import model_cache, model_registry, training_runs
from db.registry.training_runs import TrainingDecision, TrainingOutcome
from db.worklist import audit
from pneumowatch.model_folder import ModelFolder


@pytest.fixture
def two(review_server: ReviewServer) -> ReviewServer:
    """model-1 serves, model-2 is a challenger."""
    for version in ("model-1", "model-2"):
        folder = model_folder(version, version.encode().hex().ljust(64, "0"))
        review_server.database.write(
            lambda c, folder=folder: model_registry.register_model(c, folder, b"an archive", "test")
        )
    return review_server


def champion(review_server: ReviewServer) -> str | None:
    return review_server.database.read(model_registry.champion_version)


def promote(client: Any, version: str = "model-2", serving: str = "model-1", reason: str = "it is better") -> Any:
    return client.post(f"/models/{version}/promote", data={"reason": reason, "serving": serving})


def test_before_the_first_model(review_server: ReviewServer) -> None:
    assert "No model is known" in review_server.reader().get("/models").text


def test_an_admin_promotes_and_rolls_back(two: ReviewServer) -> None:
    admin = two.admin("adam")
    assert "Promote" in admin.get("/models/model-2").text
    assert promote(admin).headers["location"] == "/models"
    assert champion(two) == "model-2"

    page = admin.get("/models").text
    assert "Roll back to model-1" in page
    assert "it is better" in page
    assert admin.post("/models/rollback", data={"reason": "no", "serving": "model-2"}).status_code == 422
    assert admin.post("/models/rollback", data={"reason": "worse after all", "serving": "model-2"}).status_code == 303
    assert champion(two) == "model-1"
    changes = two.database.read(model_registry.promotions)
    assert [(one["version"], one["by"], one["reason"]) for one in changes[:2]] == [
        ("model-1", "adam", "worse after all"),
        ("model-2", "adam", "it is better"),
    ]
    rows = two.database.read(lambda c: audit.list_actions(c, 10))
    assert [(row["who"], row["what"]) for row in rows] == [("adam", "rollback"), ("adam", "promotion")]


def test_readers_are_shown_no_way_to(two: ReviewServer) -> None:
    reader = two.reader()
    assert "Promote" not in reader.get("/models/model-2").text
    assert promote(reader).status_code == 403
    assert champion(two) == "model-1"


def test_of_two_admins_the_second_is_told_what_the_first_did(two: ReviewServer) -> None:
    """Each decides by what the page showed."""
    folder = model_folder("model-3", "3" * 64)
    two.database.write(lambda c: model_registry.register_model(c, folder, b"an archive", "test"))
    assert promote(two.admin("first"), "model-2").status_code == 303
    for answer in (
        promote(two.admin("second"), "model-3"),
        two.admin("second").post("/models/rollback", data={"reason": "as it was", "serving": "model-1"}),
    ):
        assert answer.status_code == 409
        assert "Another model serves by now" in answer.text
    assert champion(two) == "model-2"
    assert len(two.database.read(model_registry.promotions)) == 2, "what was refused left nothing"


def test_the_pick_up_is_seen(two: ReviewServer) -> None:
    ledger, admin = LedgerDriver(two.database), two.admin()
    ledger.classify(file_version("a.png"))
    assert "The workers read with the champion" in admin.get("/models").text
    promote(admin)
    assert "No image has been read by the champion yet" in admin.get("/models").text


def test_what_trainings_came_to(two: ReviewServer) -> None:
    conclusion = TrainingOutcome(
        TrainingDecision.REFUSED, ("Its AUC is <lower>.",), champion="model-1", challenger="c-9", new_labels=7
    )
    two.database.write(lambda c: training_runs.start_run(c, "token", "night"))
    two.database.write(lambda c: training_runs.finish_run(c, "token", conclusion))
    page = two.reader().get("/models").text
    assert "Its AUC is &lt;lower&gt;." in page
    assert "challenger c-9 against model-1" in page
    assert "refused" in page


def test_a_models_card_and_files(review_server: ReviewServer, tiny_model: ModelFolder) -> None:
    model_cache.register_folder(review_server.database, tiny_model, "test")
    reader, version = review_server.reader(), tiny_model.version
    page = reader.get(f"/models/{version}").text
    assert "model.keras" in page
    assert f'href="/models/{version}/files/model.keras"' not in page, "weights are no page"
    card = reader.get(f"/models/{version}/files/card.json")
    assert card.json() == json.loads((tiny_model.path / "card.json").read_text("utf-8"))
    assert reader.get(f"/models/{version}/files/model.keras").status_code == 404
    assert reader.get(f"/models/{version}/files/reference.npz").status_code == 404
    assert reader.get("/models/none").status_code == 404
    assert review_server.visitor().get(f"/models/{version}/files/card.json").status_code == 401


def test_a_report_runs_nothing(review_server: ReviewServer, tiny_model: ModelFolder, tmp_path: Any) -> None:
    """Whatever a folder brings: its page has no origin, no script, and the style that it came with."""
    import shutil

    folder = shutil.copytree(tiny_model.path, tmp_path / "model")
    hostile = "<style>p { color: red }</style><script>fetch('/models')</script><p>Report</p>"
    (folder / "report.html").write_text(hostile, "utf-8")
    model_cache.register_folder(review_server.database, ModelFolder.read(folder), "test")
    answer = review_server.reader().get(f"/models/{tiny_model.version}/files/report.html")
    assert answer.text == hostile
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    assert "unsafe" not in policy
    assert "style-src 'sha256-" in policy


def test_a_damaged_archive_is_no_page_that_fails(two: ReviewServer) -> None:
    assert two.reader().get("/models/model-1").status_code == 200
