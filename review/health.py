"""Whether the desk lives, and whether it can do its work: for those who watch over it, without signing in."""

from typing import Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from db import deployment, heartbeats, schema
from db.session import Database
from pneumowatch.errors import DatabaseAway, SchemaMismatch, SettingsError
from pneumowatch.settings import Settings
from review import problems

router = APIRouter(tags=["health"])
NOT_READY: Final = 503


class Health(BaseModel):
    """`degraded`: the desk can be used, but a part of the deployment is stuck or gone; `parts` says which, and what
    to do."""

    status: Literal["ok", "ready", "degraded"]
    parts: list[str] = []


@router.get("/healthz", summary="The process lives", response_model_exclude_defaults=True)
def healthz() -> Health:
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="The desk can be used, and how the other parts are",
    responses={NOT_READY: {"description": "Not ready"}},
    response_model=Health,
    response_model_exclude_defaults=True,
)
def readyz(request: Request) -> Health | Response:
    """A worker that is gone must not take the desk from its readers: that is `degraded`, and no error."""
    fault = _database(request)
    if fault:
        return problems.answer(request, NOT_READY, fault)
    parts = _parts(request)
    return Health(status="degraded" if parts else "ready", parts=parts)


def _database(request: Request) -> str:
    """What is wrong with the database, or with its patient key here; empty where nothing is."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    try:
        schema.require_current(database)
        deployment.check_patient_key(database, settings)
    except (DatabaseAway, SchemaMismatch) as error:
        return str(error)
    except SettingsError:  # whose sentence names a file
        return "The patient key of this machine cannot be read, or is not the database's; see `pneumowatch doctor`."
    return ""


def _parts(request: Request) -> list[str]:
    """What is wrong with the parts of the deployment: a sentence each."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    found = database.read(lambda connection: heartbeats.readiness(connection, settings.lease_seconds))
    return [f"{part.part}: {part.sentence}" for part in found.parts if part.verdict is not heartbeats.Verdict.WELL]
