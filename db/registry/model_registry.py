"""The model registry: all models that may make predictions, and which of them is the champion.

A model is registered once and never changes. The first one is the champion until another is promoted. Every change of
the champion adds a row to `promotions`. `db.registry.model_cache` copies the champion to each machine.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from db.dialect import lock_for_transaction
from db.models import Model, Prediction, Promotion
from pneumowatch.errors import ModelError
from pneumowatch.model_folder import ModelFolder

MODELS: Final[Any] = Model.__table__
PROMOTIONS: Final[Any] = Promotion.__table__
VERSION_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # it becomes the name of a folder
PROMOTION_LOCK: Final = "pneumowatch models"


def register_model(connection: Connection, folder: ModelFolder, archive: bytes, by: str) -> None:
    """Register a model, once. The first one becomes champion.

    Args:
        archive: the folder, from `db.registry.model_cache.pack_folder`.
        by: who registers it.

    Raises:
        ModelError: its version is registered with other weights, or cannot be a name.
    """
    lock_for_transaction(connection, PROMOTION_LOCK)  # two workers may start at once
    version = folder.version
    if not VERSION_PATTERN.fullmatch(version) or version == "champion":
        raise ModelError(
            f"No model can be called '{version}': use letters, digits, '.', '_' and '-', and not 'champion'."
        )
    known = connection.execute(select(Model.sha256, Model.archive_sha256).where(Model.version == version)).one_or_none()
    packed = {"archive": archive, "archive_sha256": hashlib.sha256(archive).hexdigest()}
    if known is None:
        row = {"version": version, "sha256": folder.sha256, "card": folder.card, "registered_at": _now()}
        connection.execute(insert(MODELS), [{**row, **packed, "champion": False}])
    elif known.sha256 != folder.sha256:
        raise ModelError(f"The database has the model {version} with other weights; do not rename models.")
    elif known.archive_sha256 is None:  # registered by a version that kept no archives
        connection.execute(update(Model).where(Model.version == version).values(packed))
    if champion_version(connection) is None:
        _set_champion(connection, version, None, by, "it was the first model here")


def lock_promotions(connection: Connection) -> None:
    """Lock promotions until this transaction ends: no other may change the champion."""
    lock_for_transaction(connection, PROMOTION_LOCK)


def promote_to_champion(connection: Connection, version: str, by: str, reason: str) -> str | None:
    """Make a registered model the champion, unless it is already. Returns the previous champion.

    Raises ModelError if there is no such model, or the database has no archive of it for other machines.
    """
    lock_for_transaction(connection, PROMOTION_LOCK)
    _require_archive(connection, version)
    previous = champion_version(connection)
    if previous != version:
        _set_champion(connection, version, previous, by, reason)
    return previous


def roll_back_champion(connection: Connection, by: str, reason: str, expected: str | None = None) -> str:
    """Make the model champion that was champion before. Returns its version.

    A champion that was rolled back is not returned to: after A, B, C, a second rollback leads to A.

    Args:
        expected: the champion to roll back; if another is champion, nothing changes and its version is returned.

    Raises:
        ModelError: there was no champion before.
    """
    lock_for_transaction(connection, PROMOTION_LOCK)
    current = champion_version(connection)
    if expected is not None and current is not None and current != expected:
        return current
    stack = _promotion_stack(connection)
    if len(stack) < 2:
        raise ModelError("No other model was champion before; there is none to roll back to.")
    _require_archive(connection, stack[-2])
    _set_champion(connection, stack[-2], current, by, reason, is_rollback=True)
    return stack[-2]


def champion_version(connection: Connection) -> str | None:
    """Return the champion's version, or None if no model is registered yet."""
    return connection.scalar(select(Model.version).where(Model.champion))


def champion_history(connection: Connection) -> list[str]:
    """Return the champions, the current one first, each once, without those that were rolled back."""
    return list(dict.fromkeys(reversed(_promotion_stack(connection))))


def is_registered(connection: Connection, version: str) -> bool:
    return connection.scalar(select(Model.version).where(Model.version == version)) is not None


def champion_input_side(connection: Connection) -> int | None:
    """Return the edge in pixels of the champion's input, or None if no model is registered yet."""
    card = connection.scalar(select(Model.card).where(Model.champion))
    return None if card is None else int(card["input"]["side"])


def model_archive(connection: Connection, version: str) -> bytes:
    """Return a model's archive. Raises ModelError if there is no such model, or no archive of it."""
    _require_archive(connection, version)
    packed = connection.scalar(select(Model.archive).where(Model.version == version))
    return packed or b""


def archive_sha256(connection: Connection, version: str) -> str:
    """Return the SHA-256 of a model's archive, in hex. Raises ModelError as `model_archive` does."""
    return _require_archive(connection, version)


def archive_hashes(connection: Connection) -> dict[str, str | None]:
    """Return {version: SHA-256 of its archive, or None without one}."""
    rows = connection.execute(select(Model.version, Model.archive_sha256))
    return {row.version: row.archive_sha256 for row in rows}


def registered_models(connection: Connection) -> Sequence[RowMapping]:
    """Return all models, the newest first.

    Columns: version, sha256, champion, registered_at, promoted_at (when it last became champion, or None),
    archive_bytes and card.
    """
    promoted = select(func.max(Promotion.at)).where(Promotion.version == Model.version).scalar_subquery()
    statement = select(
        Model.version,
        Model.sha256,
        Model.champion,
        Model.registered_at,
        promoted.label("promoted_at"),
        func.length(Model.archive).label("archive_bytes"),
        Model.card,
    ).order_by(Model.registered_at.desc(), Model.version)
    return connection.execute(statement).mappings().all()


def promotions(connection: Connection) -> Sequence[RowMapping]:
    """Return every change of the champion, the newest first: version, previous, is_rollback, at, by, reason."""
    columns = [column for column in PROMOTIONS.c if column.name != "id"]
    return connection.execute(select(*columns).order_by(PROMOTIONS.c.id.desc())).mappings().all()


def recently_used(connection: Connection, newest: int = 200) -> Sequence[RowMapping]:
    """Return the models of the newest predictions, the last one first: version, images, last_at."""
    newest_predictions = (
        select(Prediction.model_version, Prediction.made_at).order_by(Prediction.id.desc()).limit(newest).subquery()
    )
    columns = (
        newest_predictions.c.model_version.label("version"),
        func.count().label("images"),
        func.max(newest_predictions.c.made_at).label("last_at"),
    )
    statement = (
        select(*columns)
        .group_by(newest_predictions.c.model_version)
        .order_by(func.max(newest_predictions.c.made_at).desc())
    )
    return connection.execute(statement).mappings().all()


def _promotion_stack(connection: Connection) -> list[str]:
    """Return the champions, each promoted over the one before it, without those that were rolled back."""
    stack: list[str] = []
    for version, is_rollback in connection.execute(
        select(Promotion.version, Promotion.is_rollback).order_by(Promotion.id)
    ):
        if is_rollback:
            stack.pop()
        else:
            stack.append(version)
    return stack


def _require_archive(connection: Connection, version: str) -> str:
    """Return the SHA-256 of a model's archive. Raises ModelError if there is no such model, or no archive of it."""
    row = connection.execute(select(Model.archive_sha256).where(Model.version == version)).one_or_none()
    if row is None:
        raise ModelError(f"There is no model '{version}'; `pneumowatch models list` shows all.")
    if row.archive_sha256 is None:
        raise ModelError(
            f"The database has no archive of the model {version}; add it with `pneumowatch models add FOLDER`."
        )
    return str(row.archive_sha256)


def _set_champion(
    connection: Connection, version: str, previous: str | None, by: str, reason: str, is_rollback: bool = False
) -> None:
    connection.execute(update(Model).where(Model.champion).values(champion=False))
    connection.execute(update(Model).where(Model.version == version).values(champion=True))
    row = {
        "version": version,
        "previous": previous,
        "is_rollback": is_rollback,
        "at": _now(),
        "by": by,
        "reason": reason,
    }
    connection.execute(insert(PROMOTIONS), [row])


def _now() -> datetime:
    return datetime.now(UTC)
