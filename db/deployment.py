"""What holds for the whole deployment and stands in its database once: the patient key's fingerprint, and its name."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, select

from db.dialect import dialect_name, insert_or_ignore
from db.models import Deployment
from db.session import Database
from pneumowatch import patient_hashing
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

DEPLOYMENT: Final[Any] = Deployment.__table__
KEY_FINGERPRINT: Final = "patient_key_fingerprint"
DEPLOYMENT_ID: Final = "identity"


def load_patient_key(database: Database, settings: Settings) -> bytes:
    """The deployment's patient key, for parts that hash patient IDs; made where this is its first start.

    Raises:
        SettingsError: it cannot be read or made, or it is not the one that was used so far.
    """
    file = settings.patient_key_path
    if settings.patient_key_file is None:
        with suppress(OSError):  # what is wrong with it is said where the key cannot be made
            settings.data_dir.mkdir(parents=True, exist_ok=True)
    # where there was a key once, a new one would only have to be found and removed again
    key = (
        patient_hashing.read_key(file)
        if database.read(stored_fingerprint)
        else patient_hashing.read_or_create_key(file)
    )
    _require_same_key(database, file, key)
    return key


def check_patient_key(database: Database, settings: Settings) -> None:
    """For parts that do without the key: where they have it all the same, it must be the deployment's.

    Raises SettingsError as `load_patient_key` does.
    """
    file = settings.patient_key_path
    if os.access(file, os.R_OK):
        _require_same_key(database, file, patient_hashing.read_key(file))


def deployment_id(database: Database) -> UUID:
    """Names this deployment among all others; drawn at random when it is first asked for."""

    def work(connection: Connection) -> UUID:
        drawn = insert_or_ignore(dialect_name(connection), DEPLOYMENT).values(name=DEPLOYMENT_ID, value=str(uuid4()))
        connection.execute(drawn)
        return UUID(connection.execute(select(Deployment.value).where(Deployment.name == DEPLOYMENT_ID)).scalar_one())

    return database.write(work)


def stored_fingerprint(connection: Connection) -> str | None:
    return connection.scalar(select(Deployment.value).where(Deployment.name == KEY_FINGERPRINT))


def _require_same_key(database: Database, file: Path, key: bytes) -> None:
    own = patient_hashing.key_fingerprint(key)

    def work(connection: Connection) -> str | None:
        connection.execute(
            insert_or_ignore(dialect_name(connection), DEPLOYMENT).values(name=KEY_FINGERPRINT, value=own)
        )
        return stored_fingerprint(connection)

    if database.write(work) != own:
        raise SettingsError(
            f"{file} is not the patient key of this database: the same patients would count as others. Put the key "
            f"there that the other machines of this deployment have, or the one from its backup, or name it in "
            f"{patient_hashing.KEY_FILE_VARIABLE}."
        )
