"""What holds for the whole deployment and stands in its database once: the patient key's fingerprint, and its name."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, select

from db.dialect import insert_new, name
from db.models import Deployment
from db.session import Database
from pneumowatch import patients
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

FACTS: Final[Any] = Deployment.__table__
PATIENT_KEY: Final = "patient_key_fingerprint"
IDENTITY: Final = "identity"


def patient_key(database: Database, settings: Settings) -> bytes:
    """The deployment's patient key, for parts that hash patient IDs; made where this is its first start.

    Raises:
        SettingsError: it cannot be read or made, or it is not the one that was used so far.
    """
    file = settings.patient_key_path
    if settings.patient_key_file is None:
        with suppress(OSError):  # what is wrong with it is said where the key cannot be made
            settings.data_dir.mkdir(parents=True, exist_ok=True)
    # where there was a key once, a new one would only have to be found and removed again
    key = patients.read(file) if database.read(known_fingerprint) else patients.read_or_make(file)
    _agree(database, file, key)
    return key


def check_patient_key(database: Database, settings: Settings) -> None:
    """For parts that do without the key: where they have it all the same, it must be the deployment's.

    Raises SettingsError as `patient_key` does.
    """
    file = settings.patient_key_path
    if os.access(file, os.R_OK):
        _agree(database, file, patients.read(file))


def identity(database: Database) -> UUID:
    """Names this deployment among all others; drawn at random when it is first asked for."""

    def work(connection: Connection) -> UUID:
        drawn = insert_new(name(connection), FACTS).values(name=IDENTITY, value=str(uuid4()))
        connection.execute(drawn)
        return UUID(connection.execute(select(Deployment.value).where(Deployment.name == IDENTITY)).scalar_one())

    return database.write(work)


def known_fingerprint(connection: Connection) -> str | None:
    return connection.scalar(select(Deployment.value).where(Deployment.name == PATIENT_KEY))


def _agree(database: Database, file: Path, key: bytes) -> None:
    own = patients.fingerprint(key)

    def work(connection: Connection) -> str | None:
        connection.execute(insert_new(name(connection), FACTS).values(name=PATIENT_KEY, value=own))
        return known_fingerprint(connection)

    if database.write(work) != own:
        raise SettingsError(
            f"{file} is not the patient key of this database: the same patients would count as others. Put the key "
            f"there that the other machines of this deployment have, or the one from its backup, or name it in "
            f"{patients.VARIABLE}."
        )
