"""The models pages: champion and challengers, training runs, and promotion or rollback by an admin."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Request
from sqlalchemy import Connection, RowMapping
from starlette.responses import RedirectResponse, Response

from db.registry import model_registry, training_runs
from db.session import Database
from db.worklist import audit
from db.worklist.audit import AuditAction
from review.access.auth import Admin, Reader
from review.pages import model_archive
from review.problem_details import RequestRefused
from review.templating import render_page

router = APIRouter(include_in_schema=False)

MAX_DECISIONS: Final = 20  # training runs on the page
METRIC_TITLES: Final = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auc": "AUC",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "f1": "F1",
    "brier": "Brier score (lower is better)",
    "calibration_error": "Calibration error (lower is better)",
}
SPLIT_TITLES: Final = {
    "test": "Test patients",
    "test_full_size": "Test patients, full-size images",
    "validation": "Validation patients (the threshold was chosen on them)",
}
PromotionReason = Annotated[str, Form(min_length=3, max_length=500)]


@router.get("/models")
def models_page(request: Request, user: Reader) -> Response:
    database: Database = request.app.state.database
    known = [_summary(row) for row in database.read(model_registry.registered_models)]
    changes = database.read(model_registry.promotions)
    return render_page(
        request,
        "models.html",
        models=known,
        champion=next((model for model in known if model["champion"]), None),
        changes=changes,
        before=_rollback_target(changes),
        at_work=database.read(model_registry.recently_used),
        decisions=database.read(lambda connection: training_runs.recent_runs(connection, MAX_DECISIONS)),
    )


@router.get("/models/{version}")
def model_page(request: Request, user: Reader, version: str) -> Response:
    database: Database = request.app.state.database
    known = _find_model(database, version)
    changes = [one for one in database.read(model_registry.promotions) if version in (one["version"], one["previous"])]
    return render_page(
        request,
        "model.html",
        model=_summary(known),
        card=known["card"],
        splits=[(title, _metrics(known["card"], split)) for split, title in SPLIT_TITLES.items()],
        curve=_loss_curve(known["card"].get("history") or []),
        files=model_archive.archived_files(database, version),
        changes=changes,
        serving=database.read(model_registry.champion_version),
    )


@router.get("/models/{version}/files/{name}")
def model_file(request: Request, user: Reader, version: str, name: str) -> Response:
    """Serve a report or picture of a model's archive, under its own content security policy."""
    database: Database = request.app.state.database
    for one in model_archive.archived_files(database, _find_model(database, version)["version"]):
        if one.name == name and one.content is not None:
            return Response(
                one.content, headers={"Content-Security-Policy": one.content_security_policy}, media_type=one.media_type
            )
    raise RequestRefused(404, "This model has no such file, or it cannot be shown.")


@router.post("/models/{version}/promote")
def post_promotion(
    request: Request, user: Admin, version: str, reason: PromotionReason, serving: Annotated[str, Form()]
) -> Response:
    """Promote a model to champion, if the champion is still the one that the admin saw."""

    def work(connection: Connection) -> None:
        previous = model_registry.promote_to_champion(connection, version, user.name, reason.strip())
        _require_serving(previous, serving)
        audit.record_action(connection, user.name, AuditAction.PROMOTION, detail=f"{version} in place of {previous}")

    request.app.state.database.write(work)
    return RedirectResponse("/models", 303)


@router.post("/models/rollback")
def post_rollback(request: Request, user: Admin, reason: PromotionReason, serving: Annotated[str, Form()]) -> Response:
    """Roll back to the previous champion, if the champion is still the one that the admin saw."""

    def work(connection: Connection) -> None:
        left = model_registry.champion_version(connection)
        _require_serving(left, serving)
        version = model_registry.roll_back_champion(connection, user.name, reason.strip(), expected=left)
        audit.record_action(connection, user.name, AuditAction.ROLLBACK, detail=f"{version} in place of {left}")

    request.app.state.database.write(work)
    return RedirectResponse("/models", 303)


def _require_serving(serves: str | None, seen: str) -> None:
    """Raise RequestRefused, which rolls the transaction back, if the champion is not the one that the page showed."""
    if serves != seen:
        raise RequestRefused(
            409, "Another model serves by now than the page showed. Load the page again before you decide."
        )


def _find_model(database: Database, version: str) -> RowMapping:
    for known in database.read(model_registry.registered_models):
        if known["version"] == version:
            return known
    raise RequestRefused(404, "There is no such model.")


def _summary(row: RowMapping) -> dict[str, Any]:
    card = row["card"]
    test = card.get("metrics", {}).get("test", {})
    return {
        "version": row["version"],
        "champion": row["champion"],
        "registered_at": row["registered_at"],
        "promoted_at": row["promoted_at"],
        "network": card.get("network"),
        "side": card["input"]["side"],
        "threshold": card["threshold"]["value"],
        "test": {name: test.get(name) for name in ("sensitivity", "specificity", "auc")},
    }


def _rollback_target(changes: Any) -> str | None:
    """Return the version that a rollback would restore; None if no model served before.

    It follows the same rule as `model_registry.roll_back_champion`.
    """
    line: list[str] = []
    for change in reversed(changes):
        if change["is_rollback"]:
            line.pop()
        else:
            line.append(change["version"])
    return line[-2] if len(line) > 1 else None


def _metrics(card: Mapping[str, Any], split: str) -> list[tuple[str, Mapping[str, float]]]:
    known = card.get("metrics", {}).get(split, {})
    return [(title, known[name]) for name, title in METRIC_TITLES.items() if isinstance(known.get(name), dict)]


def _loss_curve(history: list[Mapping[str, float]]) -> dict[str, Any] | None:
    """Return polylines of the losses by epoch in 600 x 160 SVG units, the largest loss, and the number of epochs.

    Returns None for fewer than two epochs.
    """
    names = [name for name in ("loss", "validation_loss") if all(name in at for at in history)]
    most = max((at[name] for at in history for name in names), default=0)
    if len(history) < 2 or most <= 0:
        return None
    lines = {
        name: " ".join(
            f"{600 * index / (len(history) - 1):.1f},{160 - 160 * at[name] / most:.1f}"
            for index, at in enumerate(history)
        )
        for name in names
    }
    return {"lines": lines, "most": most, "epochs": len(history)}
