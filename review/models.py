"""The models: which one serves, which might, what the nights came to; and letting another one serve."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Request
from sqlalchemy import Connection, RowMapping
from starlette.responses import RedirectResponse, Response

from db import audit, registry, training
from db.audit import Act
from db.session import Database
from review import archive
from review.auth import Admin, Reader
from review.problems import Refused
from review.templating import page

router = APIRouter(include_in_schema=False)

DECISIONS: Final = 20  # that are shown
MEASURES: Final = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auc": "AUC",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "f1": "F1",
    "brier": "Brier score (lower is better)",
    "calibration_error": "Calibration error (lower is better)",
}
SPLITS: Final = {
    "test": "Test patients",
    "test_full_size": "Test patients, full-size films",
    "validation": "Validation patients (the threshold was chosen on them)",
}
Reason = Annotated[str, Form(min_length=3, max_length=500)]


@router.get("/models")
def models(request: Request, user: Reader) -> Response:
    database: Database = request.app.state.database
    known = [_summary(row) for row in database.read(registry.listed)]
    changes = database.read(registry.promotions)
    return page(
        request,
        "models.html",
        models=known,
        champion=next((model for model in known if model["champion"]), None),
        changes=changes,
        before=_before(changes),
        at_work=database.read(registry.at_work),
        decisions=database.read(lambda connection: training.listed(connection, DECISIONS)),
    )


@router.get("/models/{version}")
def model(request: Request, user: Reader, version: str) -> Response:
    database: Database = request.app.state.database
    known = _find(database, version)
    changes = [one for one in database.read(registry.promotions) if version in (one["version"], one["previous"])]
    return page(
        request,
        "model.html",
        model=_summary(known),
        card=known["card"],
        splits=[(title, _measures(known["card"], split)) for split, title in SPLITS.items()],
        curve=_curve(known["card"].get("history") or []),
        files=archive.files(database, version),
        changes=changes,
        serving=database.read(registry.champion),
    )


@router.get("/models/{version}/files/{name}")
def file(request: Request, user: Reader, version: str, name: str) -> Response:
    """A page or picture of a model's archive."""
    database: Database = request.app.state.database
    for one in archive.files(database, _find(database, version)["version"]):
        if one.name == name and one.body is not None:
            return Response(one.body, headers={"Content-Security-Policy": one.policy}, media_type=one.media_type)
    raise Refused(404, "This model has no such file to show.")


@router.post("/models/{version}/promote")
def promote(request: Request, user: Admin, version: str, reason: Reason, serving: Annotated[str, Form()]) -> Response:
    """Let it serve in place of the one that the admin saw serving."""

    def work(connection: Connection) -> None:
        previous = registry.promote(connection, version, user.name, reason.strip())
        _require_seen(previous, serving)
        audit.record(connection, user.name, Act.PROMOTION, detail=f"{version} in place of {previous}")

    request.app.state.database.write(work)
    return RedirectResponse("/models", 303)


@router.post("/models/rollback")
def roll_back(request: Request, user: Admin, reason: Reason, serving: Annotated[str, Form()]) -> Response:
    """Back to the model before the one that the admin saw serving."""

    def work(connection: Connection) -> None:
        left = registry.champion(connection)
        _require_seen(left, serving)
        version = registry.rollback(connection, user.name, reason.strip(), of=left)
        audit.record(connection, user.name, Act.ROLLBACK, detail=f"{version} in place of {left}")

    request.app.state.database.write(work)
    return RedirectResponse("/models", 303)


def _require_seen(serves: str | None, seen: str) -> None:
    """Raising undoes the transaction."""
    if serves != seen:
        raise Refused(409, "Another model serves by now than the page showed; look at it again, and decide anew.")


def _find(database: Database, version: str) -> RowMapping:
    for known in database.read(registry.listed):
        if known["version"] == version:
            return known
    raise Refused(404, "There is no such model here.")


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


def _before(changes: Any) -> str | None:
    """What rolling back would lead to, as `registry.rollback` finds it; None where nothing served before."""
    line: list[str] = []
    for change in reversed(changes):
        if change["back"]:
            line.pop()
        else:
            line.append(change["version"])
    return line[-2] if len(line) > 1 else None


def _measures(card: Mapping[str, Any], split: str) -> list[tuple[str, Mapping[str, float]]]:
    known = card.get("metrics", {}).get(split, {})
    return [(title, known[name]) for name, title in MEASURES.items() if isinstance(known.get(name), dict)]


def _curve(history: list[Mapping[str, float]]) -> dict[str, Any] | None:
    """Polylines of the losses by epoch in a plane of 600 x 160, and the greatest loss; None for a single epoch."""
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
