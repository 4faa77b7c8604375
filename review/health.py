"""Whether the desk lives, and whether it can do its work: for those who watch over it, without signing in."""

from typing import Final, Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from db import deployment, schema
from db.health import heartbeats
from db.health.ledger_metrics import LedgerCollector
from db.session import Database
from pneumowatch import metrics
from pneumowatch.errors import DatabaseUnavailable, SchemaMismatch, SettingsError
from pneumowatch.settings import Settings
from review import problem_details

router = APIRouter(tags=["health"])
NOT_READY: Final = 503


class Health(BaseModel):
    """`degraded`: the review app can be used, but a component of the deployment is stuck or gone; `components` says which, and what
    to do."""

    status: Literal["ok", "ready", "degraded"]
    components: list[str] = []


@router.get("/healthz", summary="The process lives", response_model_exclude_defaults=True)
def healthz() -> Health:
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="The review app can be used, and how the other components are",
    responses={NOT_READY: {"description": "Not ready"}},
    response_model=Health,
    response_model_exclude_defaults=True,
)
def readyz(request: Request) -> Health | Response:
    """A worker that is gone must not take the review app from its readers: that is `degraded`, and no error."""
    fault = _database_problem(request)
    if fault:
        return problem_details.problem_response(request, NOT_READY, fault)
    components = _component_problems(request)
    return Health(status="degraded" if components else "ready", components=components)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus: of the ledger and of this process",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(request: Request) -> Response:
    """Counts alone, with the names of sources and machines; no image, no patient."""
    body = generate_latest(metrics.REGISTRY) + generate_latest(request.app.state.ledger_metrics)
    return Response(body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def ledger_metrics_registry(database: Database, settings: Settings) -> CollectorRegistry:
    """The ledger's metrics, for `app.state`."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector(database, settings))
    return registry


def _database_problem(request: Request) -> str:
    """What is wrong with the database, or with its patient key here; empty where nothing is."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    try:
        schema.require_current(database)
        deployment.check_patient_key(database, settings)
    except (DatabaseUnavailable, SchemaMismatch) as error:
        return str(error)
    except SettingsError:  # whose sentence names a file
        return "The patient key of this machine cannot be read, or is not the database's; see `pneumowatch doctor`."
    return ""


def _component_problems(request: Request) -> list[str]:
    """What is wrong with the parts of the deployment: a sentence each."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    found = database.read(lambda connection: heartbeats.readiness(connection, settings.lease_seconds))
    return [
        f"{component.component}: {component.sentence}"
        for component in found.components
        if component.status is not heartbeats.HealthStatus.HEALTHY
    ]
