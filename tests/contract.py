"""Write docs/develop/contract.json: every outward name that other people's programs may depend on (`make contract`).

Views, HTTP API, commands, settings, metrics, and what is sent to others. A test compares the file with the code: a name
cannot change without a line in the diff, and in CHANGELOG.md.
"""

import json
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import typer
from prometheus_client import CollectorRegistry
from typer.core import TyperGroup
from typer.testing import CliRunner

from cli import app
from db import schema, views
from db.session import Database
from notify import webhook
from pneumowatch import metrics, queue
from pneumowatch.notification import Notification
from pneumowatch.settings import ENV_PREFIX, Settings
from review.app import create_app

PAGE: Final = Path(__file__).parents[1] / "docs" / "develop" / "contract.json"
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLE: Final = Notification(UUID(int=0), 1, "0" * 64, "ward", 0.9, 0.5, "model", None, AT, AT)


def contract() -> str:
    """Return the whole contract as JSON text, the same on every machine."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        settings = Settings(data_dir=data)
        with closing(Database(settings.database)) as database:
            schema.upgrade(database)
            parts = {
                "views": view_columns(database),
                "commands": dict(commands((), typer.main.get_command(app))),
                "settings": setting_names(),
                "metrics": metric_names(),
                "payloads": payloads(data),
                "http": create_app(settings, database).openapi(),
            }
    parts["http"]["info"].pop("version")
    return json.dumps(parts, indent=1, sort_keys=True, default=str, ensure_ascii=False) + "\n"


def view_columns(database: Database) -> dict[str, list[str]]:
    """Return the columns of each view, in their order."""
    return {
        name: database.read(lambda c, name=name: [row[1] for row in c.exec_driver_sql(f"PRAGMA table_info({name})")])
        for name in views.VIEW_NAMES
    }


def commands(words: tuple[str, ...], command: Any) -> Any:
    """Yield (command line, its help, arguments and options) for a command and those below it."""
    shown = [parameter for parameter in command.params if parameter.name != "help"]
    yield (
        " ".join(("pneumowatch", *words)),
        {
            "help": (command.help or "").partition("\n")[0],
            "parameters": {
                "/".join([*parameter.opts, *parameter.secondary_opts]): {
                    "default": None if callable(parameter.default) else parameter.default,
                    "required": parameter.required,
                    "help": parameter.help,
                }
                for parameter in shown
            },
        },
    )
    if isinstance(command, TyperGroup):
        for name in sorted(command.commands):
            yield from commands((*words, name), command.commands[name])


def setting_names() -> dict[str, Any]:
    """Return default and description of each setting, by the name of its variable."""
    return {
        f"{ENV_PREFIX}{name.upper()}": {"default": field.default, "description": field.description}
        for name, field in Settings.model_fields.items()
    }


def metric_names() -> dict[str, Any]:
    """Return kind, labels and help of each metric of our own."""
    found: dict[str, Any] = {}
    for one in vars(metrics).values():
        if isinstance(one, metrics.GaugeDefinition):
            found[one.name] = {"kind": "gauge", "labels": one.labels, "help": one.help}
        elif hasattr(one, "_labelnames") and not isinstance(one, CollectorRegistry | type):
            (family,) = one.describe()
            found[family.name] = {"kind": family.type, "labels": one._labelnames, "help": family.documentation}
    return found


def payloads(data: Path) -> dict[str, Any]:
    """Return what leaves a process as JSON: the webhook's document, the messages, and the report of `status`."""
    shown = CliRunner().invoke(app, ["status", "--json", "--data", str(data)])
    assert shown.exit_code == 0, shown.output
    return {
        "webhook": json.loads(webhook.webhook_payload(EXAMPLE, "https://review.example")),
        "messages": {
            queue.READ_SCANS_TASK: {"queue": queue.SCANS_QUEUE, "args": [[1, 2]]},
            queue.RETRAIN_TASK: queue.TRAINING_QUEUE,
        },
        "status --json": json.loads(shown.stdout),
    }


def main() -> int:
    PAGE.write_text(contract(), "utf-8")
    print(f"Written to {PAGE.relative_to(PAGE.parents[2])}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
