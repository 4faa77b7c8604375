"""Health, readiness and metrics of the review app, for monitoring, without signing in."""

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
    """Health of the review app.

    `degraded`: the review app can be used, but another component of the deployment is stalled or missing. `components`
    names it and says what to do.
    """

    status: Literal["ok", "ready", "degraded"]
    components: list[str] = []


@router.get("/healthz", summary="Tell whether the process runs", response_model_exclude_defaults=True)
def healthz() -> Health:
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Tell whether the review app can be used, and which components have problems",
    responses={NOT_READY: {"description": "Not ready"}},
    response_model=Health,
    response_model_exclude_defaults=True,
)
def readyz(request: Request) -> Health | Response:
    """Return `ready`, or `degraded` if another component has a problem, with one sentence for each such component.

    Problems of other components never give an error status: readers can use the review app without a worker. The status
    is 503 only if the database cannot be used.
    """
    fault = _database_problem(request)
    if fault:
        return problem_details.problem_response(request, NOT_READY, fault)
    components = _component_problems(request)
    return Health(status="degraded" if components else "ready", components=components)


@router.get(
    "/metrics",
    summary="Metrics of the ledger and of this process, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(request: Request) -> Response:
    """Return metrics in the Prometheus text format. Labels name sources and machines, never images or patients."""
    body = generate_latest(metrics.REGISTRY) + generate_latest(request.app.state.ledger_metrics)
    return Response(body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def ledger_metrics_registry(database: Database, settings: Settings) -> CollectorRegistry:
    """Return a registry with the ledger's metrics, for `app.state`."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector(database, settings))
    return registry


def _database_problem(request: Request) -> str:
    """Return a sentence on what is wrong with the database or with this machine's patient key; empty if nothing is."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    try:
        schema.require_current(database)
        deployment.check_patient_key(database, settings)
    except (DatabaseUnavailable, SchemaMismatch) as error:
        return str(error)
    except SettingsError:  # its sentence names a file, which must not be shown without signing in
        return "This machine's patient key cannot be read, or differs from the database's; see `pneumowatch doctor`."
    return ""


def _component_problems(request: Request) -> list[str]:
    """Return one sentence for each component of the deployment that is not healthy."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    found = database.read(lambda connection: heartbeats.readiness(connection, settings.lease_seconds))
    return [
        f"{component.component}: {component.sentence}"
        for component in found.components
        if component.status is not heartbeats.HealthStatus.HEALTHY
    ]
