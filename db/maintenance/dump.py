"""A database in one file, written while others use it, and put back: by SQLite's online backup, or by pg_dump.

Putting back is all or nothing: SQLite's file is moved into place when it is complete (`db.maintenance.restore`), and PostgreSQL
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

StepProgress = Callable[[int, int], None]  # done, of how many

DUMP_FILES: Final = {"sqlite": "database.sqlite", "postgresql": "database.pgdump"}  # by dialect
PAGES_PER_STEP: Final = 2000  # of SQLite at a time, 8 MB: as often the progress is told
PIPE_CHUNK_BYTES: Final = 2**20  # bytes
TABLE_LOCK_SECONDS: Final = 30  # that PostgreSQL waits for others to let go of the tables that are replaced


def write_dump(database: Database, file: Path, progress: StepProgress) -> None:
    """The database as it is at one moment, in a new file; others read and write meanwhile.

    Raises BackupError where it cannot be done, or the copy is not sound.
    """
    url = database.engine.url
    if database.dialect == "sqlite":
        _write_sqlite(sqlite_file(url), file, progress)
    else:
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--file={file}"]
        _run_program(
            ["pg_dump", *options, _connection_url(url)], _password_environment(url), "The database was not copied"
        )


def is_empty(database: Database) -> bool:
    """Whether there is no table nor view. An SQLite file need not be there."""
    if database.dialect == "sqlite" and not sqlite_file(database.engine.url).exists():
        return True
    try:
        return database.read(lambda c: not inspect(c).get_table_names() and not inspect(c).get_view_names())
    except DBAPIError:  # something is there, and it is no database any more
        return False


def restore_dump(database: Database, file: Path) -> None:
    """Replace all tables of a PostgreSQL database by those of the file, in one transaction.

    Raises BackupError; nothing has changed then.
    """
    url = database.engine.url
    script = f"SET lock_timeout = '{TABLE_LOCK_SECONDS}s';\nBEGIN;\n" + database.read(_drop_statements)
    read = [_find_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file)]
    # none of the user's own settings for psql, and an end at the first error
    write = [
        _find_program("psql"),
        "--no-psqlrc",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
        _connection_url(url),
    ]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(read, stdout=pipe, stderr=pipe) as restore_process,
        subprocess.Popen(write, env=_password_environment(url), stdin=pipe, stderr=pipe) as psql_process,
    ):
        _pipe_script(restore_process, psql_process, script.encode())
        failed = psql_process.wait() != 0 or restore_process.wait() != 0
        error = _error_of(psql_process.stderr) or _error_of(restore_process.stderr)
    if failed:
        raise BackupError(f"The database was not put back, and is as it was. {error}")


def sqlite_file(url: URL | str) -> Path:
    """Raises BackupError where it has none."""
    name = make_url(url).database
    if not name or name == ":memory:":
        raise BackupError("A database in memory cannot be backed up.")
    return Path(name)


def _write_sqlite(source: Path, file: Path, progress: StepProgress) -> None:
    try:
        with closing(sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)) as source_connection:
            # holds the snapshot: a copy in steps would else begin anew whenever somebody writes
            source_connection.execute("BEGIN")
            source_connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(file)) as target_connection:
                source_connection.backup(
                    target_connection,
                    pages=PAGES_PER_STEP,
                    progress=lambda _, left, total: progress(total - left, total),
                    sleep=0,
                )
                target_connection.execute("PRAGMA journal_mode=DELETE")  # one file, without companions
                check_result = target_connection.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise BackupError(f"The database cannot be copied: {error}.") from None
    if check_result != "ok":
        raise BackupError(
            "The database is damaged, as SQLite's quick_check says; keep the backups that you have, and restore one."
        )


def _drop_statements(connection: Connection) -> str:
    """SQL that empties the database of tables and views, whichever version of pneumowatch made them."""
    preparer, inspector = connection.dialect.identifier_preparer, inspect(connection)
    views = [f"DROP VIEW IF EXISTS {preparer.quote(name)} CASCADE;\n" for name in inspector.get_view_names()]
    tables = [f"DROP TABLE IF EXISTS {preparer.quote(name)} CASCADE;\n" for name in inspector.get_table_names()]
    return "".join([*views, *tables])


def _pipe_script(
    restore_process: subprocess.Popen[bytes], psql_process: subprocess.Popen[bytes], script: bytes
) -> None:
    """All of it, and the COMMIT only where all of it was read: without one, everything stays as it was."""
    assert restore_process.stdout is not None
    assert psql_process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, and says why
        psql_process.stdin.write(script)
        shutil.copyfileobj(restore_process.stdout, psql_process.stdin, PIPE_CHUNK_BYTES)
        if restore_process.wait() == 0:
            psql_process.stdin.write(b"\nCOMMIT;\n")
    restore_process.stdout.close()
    with suppress(BrokenPipeError):
        psql_process.stdin.close()


def _run_program(command: list[str], env: Mapping[str, str], what: str) -> None:
    done = subprocess.run([_find_program(command[0]), *command[1:]], env=env, capture_output=True)
    if done.returncode != 0:
        raise BackupError(f"{what}: {_error_line(done.stderr)}")


def _find_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise BackupError(
            f"{name} is not on this machine: install PostgreSQL's client programs, of the server's version or newer "
            "(postgresql-client on Debian and Ubuntu, postgresql on Fedora), and try again."
        )
    return found


def _connection_url(url: URL) -> str:
    """For libpq's programs, without the password: other users of the machine can read command lines."""
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _password_environment(url: URL) -> dict[str, str]:
    return {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}


def _error_of(stream: IO[bytes] | None) -> str:
    return _error_line(stream.read() if stream is not None else b"")


def _error_line(stderr: bytes) -> str:
    """The error alone: the lines after it may quote rows."""
    lines = stderr.decode("utf-8", "replace").splitlines()
    return next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), "")
