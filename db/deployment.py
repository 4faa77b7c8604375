"""Facts about the whole deployment, stored once in its database: its ID and the fingerprint of its patient key."""

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
    """Return the deployment's patient key, for components that hash patient IDs.

    The deployment's first start creates it.

    Raises:
        SettingsError: it cannot be read or created, or it is not the key that was used so far.
    """
    file = settings.patient_key_path
    if settings.patient_key_file is None:
        with suppress(OSError):  # creating the key reports the error
            settings.data_dir.mkdir(parents=True, exist_ok=True)
    # a new key could not replace one that was used before: it would only have to be removed again
    key = (
        patient_hashing.read_key(file)
        if database.read(stored_fingerprint)
        else patient_hashing.read_or_create_key(file)
    )
    _require_same_key(database, file, key)
    return key


def check_patient_key(database: Database, settings: Settings) -> None:
    """Check the patient key for components that do not need it: a readable one must be the deployment's.

    Raises SettingsError as `load_patient_key` does.
    """
    file = settings.patient_key_path
    if os.access(file, os.R_OK):
        _require_same_key(database, file, patient_hashing.read_key(file))


def deployment_id(database: Database) -> UUID:
    """Return the ID that identifies this deployment. Create it at random at the first call."""

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
            f"{file} is not the patient key of this database: the same patients would count as different ones. Use the "
            f"key of the other machines of this deployment, or the one from its backup: replace the file, or name the "
            f"right one in {patient_hashing.KEY_FILE_VARIABLE}."
        )
