"""The models that made predictions here. The first to be registered is the champion."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from db.dialect import wait_in_turn
from db.models import Model
from pneumowatch.errors import ModelError

MODELS: Final[Any] = Model.__table__


def register(connection: Connection, version: str, sha256: str, card: dict[str, Any]) -> None:
    """Make a model known, once. Raises ModelError where its version is known with other weights."""
    wait_in_turn(connection, "pneumowatch models")  # two workers may start at once
    known = connection.scalar(select(Model.sha256).where(Model.version == version))
    if known is None:
        row = {
            "version": version,
            "sha256": sha256,
            "card": card,
            "registered_at": datetime.now(UTC),
            "champion": False,
        }
        connection.execute(insert(MODELS), [row])
    elif known != sha256:
        raise ModelError(f"The database knows the model {version} with other weights; do not rename models.")
    if connection.scalar(select(Model.version).where(Model.champion)) is None:
        connection.execute(update(Model).where(Model.version == version).values(champion=True))
