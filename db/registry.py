"""The model store: every model that may make predictions here, and which of them serves.

A model is registered once and never changes. One of them is the champion: the first to be registered, until another is
promoted; every change leaves a row in `promotions`. `db.cache` brings the champion to each machine.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from db.dialect import wait_in_turn
from db.models import Model, Prediction, Promotion
from pneumowatch.errors import ModelError
from pneumowatch.model import ModelFolder

MODELS: Final[Any] = Model.__table__
PROMOTIONS: Final[Any] = Promotion.__table__
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # it becomes a folder's
TURN: Final = "pneumowatch models"


def register(connection: Connection, folder: ModelFolder, archive: bytes, by: str) -> None:
    """Make a model known, once; the first one serves.

    Args:
        archive: the folder as `db.cache.pack` gives it.
        by: who brings it.

    Raises:
        ModelError: its version is known with other weights, or cannot be a name.
    """
    wait_in_turn(connection, TURN)  # two workers may start at once
    version = folder.version
    if not NAME.fullmatch(version) or version == "champion":
        raise ModelError(f"No model can be called '{version}': letters, digits, '.', '_' and '-' make a name.")
    known = connection.execute(select(Model.sha256, Model.archive_sha256).where(Model.version == version)).one_or_none()
    packed = {"archive": archive, "archive_sha256": hashlib.sha256(archive).hexdigest()}
    if known is None:
        row = {"version": version, "sha256": folder.sha256, "card": folder.card, "registered_at": _now()}
        connection.execute(insert(MODELS), [{**row, **packed, "champion": False}])
    elif known.sha256 != folder.sha256:
        raise ModelError(f"The database knows the model {version} with other weights; do not rename models.")
    elif known.archive_sha256 is None:  # registered by a version that kept no archives
        connection.execute(update(Model).where(Model.version == version).values(packed))
    if champion(connection) is None:
        _serve(connection, version, None, by, "it was the first model here")


def in_turn(connection: Connection) -> None:
    """Until this transaction ends, no other changes which model serves."""
    wait_in_turn(connection, TURN)


def promote(connection: Connection, version: str, by: str, reason: str) -> str | None:
    """Let a registered model serve. Returns the one that served before; where it serves already, nothing is done.

    Raises ModelError where there is no such model, or none that another machine could fetch.
    """
    wait_in_turn(connection, TURN)
    _require(connection, version)
    previous = champion(connection)
    if previous != version:
        _serve(connection, version, previous, by, reason)
    return previous


def rollback(connection: Connection, by: str, reason: str, of: str | None = None) -> str:
    """Let the model serve that served before the champion. Returns its version.

    What was gone back behind once is not come back to: of A, B, C a second rollback leads to A.

    Args:
        of: the champion to go back behind; where another serves, nothing is done, and its version is returned.

    Raises:
        ModelError: nothing served before.
    """
    wait_in_turn(connection, TURN)
    current = champion(connection)
    if of is not None and current is not None and current != of:
        return current
    line = _line(connection)
    if len(line) < 2:
        raise ModelError("No other model served here before; there is none to go back to.")
    _require(connection, line[-2])
    _serve(connection, line[-2], current, by, reason, back=True)
    return line[-2]


def champion(connection: Connection) -> str | None:
    """The version that serves; None where no model is known yet."""
    return connection.scalar(select(Model.version).where(Model.champion))


def champions(connection: Connection) -> list[str]:
    """All that served here, the one that does first, then the one before it; without those that were gone back behind,
    each once."""
    return list(dict.fromkeys(reversed(_line(connection))))


def is_known(connection: Connection, version: str) -> bool:
    return connection.scalar(select(Model.version).where(Model.version == version)) is not None


def side(connection: Connection) -> int | None:
    """Edge in pixels of the films that the champion takes; None where no model is known yet."""
    card = connection.scalar(select(Model.card).where(Model.champion))
    return None if card is None else int(card["input"]["side"])


def archive(connection: Connection, version: str) -> bytes:
    """Raises ModelError where there is no such model, or none was kept of it."""
    _require(connection, version)
    packed = connection.scalar(select(Model.archive).where(Model.version == version))
    return packed or b""


def archive_sha256(connection: Connection, version: str) -> str:
    """Of its archive, in hex. Raises ModelError as `archive` does."""
    return _require(connection, version)


def known(connection: Connection) -> dict[str, str | None]:
    """{version: SHA-256 of its archive, None where none was kept}."""
    rows = connection.execute(select(Model.version, Model.archive_sha256))
    return {row.version: row.archive_sha256 for row in rows}


def listed(connection: Connection) -> Sequence[RowMapping]:
    """All models, the newest first: version, sha256, champion, registered_at, promoted_at (the last time it began to
    serve, or None), archive_bytes and card."""
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
    """Every change of the champion, the newest first: version, previous, back, at, by, reason."""
    columns = [column for column in PROMOTIONS.c if column.name != "id"]
    return connection.execute(select(*columns).order_by(PROMOTIONS.c.id.desc())).mappings().all()


def at_work(connection: Connection, newest: int = 200) -> Sequence[RowMapping]:
    """Which models read the newest films: version, films, last_at; the one that read the very last film first."""
    last = select(Prediction.model_version, Prediction.made_at).order_by(Prediction.id.desc()).limit(newest).subquery()
    columns = (
        last.c.model_version.label("version"),
        func.count().label("films"),
        func.max(last.c.made_at).label("last_at"),
    )
    counted = select(*columns).group_by(last.c.model_version).order_by(func.max(last.c.made_at).desc())
    return connection.execute(counted).mappings().all()


def _line(connection: Connection) -> list[str]:
    """The champions, each promoted over the one before it; those that were gone back behind are not in it."""
    line: list[str] = []
    for version, back in connection.execute(select(Promotion.version, Promotion.back).order_by(Promotion.id)):
        if back:
            line.pop()
        else:
            line.append(version)
    return line


def _require(connection: Connection, version: str) -> str:
    """The SHA-256 of a model's archive."""
    row = connection.execute(select(Model.archive_sha256).where(Model.version == version)).one_or_none()
    if row is None:
        raise ModelError(f"There is no model '{version}' here; `pneumowatch models list` shows which there are.")
    if row.archive_sha256 is None:
        raise ModelError(f"The database holds no archive of the model {version}; bring it with `models add FOLDER`.")
    return str(row.archive_sha256)


def _serve(
    connection: Connection, version: str, previous: str | None, by: str, reason: str, back: bool = False
) -> None:
    connection.execute(update(Model).where(Model.champion).values(champion=False))
    connection.execute(update(Model).where(Model.version == version).values(champion=True))
    row = {"version": version, "previous": previous, "back": back, "at": _now(), "by": by, "reason": reason}
    connection.execute(insert(PROMOTIONS), [row])


def _now() -> datetime:
    return datetime.now(UTC)
