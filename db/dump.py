"""A database in one file, written while others use it, and put back: by SQLite's online backup, or by pg_dump.

Putting back is all or nothing: SQLite's file is moved into place when it is complete (`db.restoration`), and PostgreSQL
takes everything in one transaction.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Final

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from db.session import BUSY_SECONDS, Database
from pneumowatch.errors import BackupError

Watch = Callable[[int, int], None]  # done, of how many

FILES: Final = {"sqlite": "database.sqlite", "postgresql": "database.pgdump"}  # by dialect
PAGES: Final = 2000  # of SQLite at a time, 8 MB: as often the progress is told
CHUNK: Final = 2**20  # bytes
LOCK_SECONDS: Final = 30  # that PostgreSQL waits for others to let go of the tables that are replaced


def write(database: Database, file: Path, watch: Watch) -> None:
    """The database as it is at one moment, in a new file; others read and write meanwhile.

    Raises BackupError where it cannot be done, or the copy is not sound.
    """
    url = database.engine.url
    if database.dialect == "sqlite":
        _write_sqlite(sqlite_file(url), file, watch)
    else:
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--file={file}"]
        _run(["pg_dump", *options, _address(url)], _secret(url), "The database was not copied")


def is_empty(database: Database) -> bool:
    """Whether there is no table nor view. An SQLite file need not be there."""
    if database.dialect == "sqlite" and not sqlite_file(database.engine.url).exists():
        return True
    try:
        return database.read(lambda c: not inspect(c).get_table_names() and not inspect(c).get_view_names())
    except DBAPIError:  # something is there, and it is no database any more
        return False


def put_back(database: Database, file: Path) -> None:
    """Replace all tables of a PostgreSQL database by those of the file, in one transaction.

    Raises BackupError; nothing has changed then.
    """
    url = database.engine.url
    script = f"SET lock_timeout = '{LOCK_SECONDS}s';\nBEGIN;\n" + database.read(_drop_everything)
    read = [_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file)]
    # none of the user's own settings for psql, and an end at the first error
    write = [_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", _address(url)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(read, stdout=pipe, stderr=pipe) as reading,
        subprocess.Popen(write, env=_secret(url), stdin=pipe, stderr=pipe) as writing,
    ):
        _feed(reading, writing, script.encode())
        failed = writing.wait() != 0 or reading.wait() != 0
        complaint = _complaint(writing.stderr) or _complaint(reading.stderr)
    if failed:
        raise BackupError(f"The database was not put back, and is as it was. {complaint}")


def sqlite_file(url: URL | str) -> Path:
    """Raises BackupError where it has none."""
    name = make_url(url).database
    if not name or name == ":memory:":
        raise BackupError("A database in memory cannot be backed up.")
    return Path(name)


def _write_sqlite(source: Path, file: Path, watch: Watch) -> None:
    try:
        with closing(sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)) as live:
            # holds the snapshot: a copy in steps would else begin anew whenever somebody writes
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(file)) as copy:
                live.backup(copy, pages=PAGES, progress=lambda _, left, total: watch(total - left, total), sleep=0)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, without companions
                sound = copy.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise BackupError(f"The database cannot be copied: {error}.") from None
    if sound != "ok":
        raise BackupError(
            "The database is damaged, as SQLite's quick_check says; keep the backups that you have, and restore one."
        )


def _drop_everything(connection: Connection) -> str:
    """SQL that empties the database of tables and views, whichever version of pneumowatch made them."""
    preparer, inspector = connection.dialect.identifier_preparer, inspect(connection)
    views = [f"DROP VIEW IF EXISTS {preparer.quote(name)} CASCADE;\n" for name in inspector.get_view_names()]
    tables = [f"DROP TABLE IF EXISTS {preparer.quote(name)} CASCADE;\n" for name in inspector.get_table_names()]
    return "".join([*views, *tables])


def _feed(reading: subprocess.Popen[bytes], writing: subprocess.Popen[bytes], script: bytes) -> None:
    """All of it, and the COMMIT only where all of it was read: without one, everything stays as it was."""
    assert reading.stdout is not None
    assert writing.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, and says why
        writing.stdin.write(script)
        shutil.copyfileobj(reading.stdout, writing.stdin, CHUNK)
        if reading.wait() == 0:
            writing.stdin.write(b"\nCOMMIT;\n")
    reading.stdout.close()
    with suppress(BrokenPipeError):
        writing.stdin.close()


def _run(command: list[str], env: Mapping[str, str], what: str) -> None:
    done = subprocess.run([_program(command[0]), *command[1:]], env=env, capture_output=True)
    if done.returncode != 0:
        raise BackupError(f"{what}: {_error_line(done.stderr)}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise BackupError(
            f"{name} is not on this machine: install PostgreSQL's client programs, of the server's version or newer "
            "(postgresql-client on Debian and Ubuntu, postgresql on Fedora), and try again."
        )
    return found


def _address(url: URL) -> str:
    """For libpq's programs, without the password: other users of the machine can read command lines."""
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _secret(url: URL) -> dict[str, str]:
    return {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}


def _complaint(stream: IO[bytes] | None) -> str:
    return _error_line(stream.read() if stream is not None else b"")


def _error_line(said: bytes) -> str:
    """The error alone: the lines after it may quote rows."""
    lines = said.decode("utf-8", "replace").splitlines()
    return next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), "")
