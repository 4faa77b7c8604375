"""Dump a database into one file while it is in use, and restore it: by SQLite's online backup, or by pg_dump.

A restore is all or nothing: SQLite's file is moved into place when it is complete (`db.maintenance.restore`), and
PostgreSQL restores everything in one transaction.
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

StepProgress = Callable[[int, int], None]  # done, total

DUMP_FILES: Final = {"sqlite": "database.sqlite", "postgresql": "database.pgdump"}  # by dialect
PAGES_PER_STEP: Final = 2000  # of SQLite, 8 MB; progress is reported after each step
PIPE_CHUNK_BYTES: Final = 2**20
TABLE_LOCK_SECONDS: Final = 30  # how long PostgreSQL waits for locks on the tables that it replaces


def write_dump(database: Database, file: Path, progress: StepProgress) -> None:
    """Write the database as it is at one moment into a new file, while others read and write.

    Raises BackupError if that fails, or the copy is damaged.
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
    """Tell whether there is no table and no view. An SQLite file need not exist."""
    if database.dialect == "sqlite" and not sqlite_file(database.engine.url).exists():
        return True
    try:
        return database.read(lambda c: not inspect(c).get_table_names() and not inspect(c).get_view_names())
    except DBAPIError:  # a file that is not a database (any more)
        return False


def restore_dump(database: Database, file: Path) -> None:
    """Replace all tables of a PostgreSQL database by those of the file, in one transaction.

    Raises BackupError; nothing has changed then.
    """
    url = database.engine.url
    script = f"SET lock_timeout = '{TABLE_LOCK_SECONDS}s';\nBEGIN;\n" + database.read(_drop_statements)
    read = [_find_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file)]
    # ignore the user's psql settings, and stop at the first error
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
        raise BackupError(f"The database was not restored and has not changed. {error}")


def sqlite_file(url: URL | str) -> Path:
    """Return the file of an SQLite database. Raises BackupError if it has none."""
    name = make_url(url).database
    if not name or name == ":memory:":
        raise BackupError("A database in memory cannot be backed up.")
    return Path(name)


def _write_sqlite(source: Path, file: Path, progress: StepProgress) -> None:
    try:
        with closing(sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)) as source_connection:
            # holds the snapshot: otherwise a copy in steps would start again after each write
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
            "The database is damaged (SQLite's quick_check); keep your existing backups, and restore one."
        )


def _drop_statements(connection: Connection) -> str:
    """Return SQL that drops all tables and views, whichever version of pneumowatch made them."""
    preparer, inspector = connection.dialect.identifier_preparer, inspect(connection)
    views = [f"DROP VIEW IF EXISTS {preparer.quote(name)} CASCADE;\n" for name in inspector.get_view_names()]
    tables = [f"DROP TABLE IF EXISTS {preparer.quote(name)} CASCADE;\n" for name in inspector.get_table_names()]
    return "".join([*views, *tables])


def _pipe_script(
    restore_process: subprocess.Popen[bytes], psql_process: subprocess.Popen[bytes], script: bytes
) -> None:
    """Send the script and the dump to psql, with a COMMIT at the end only if all of the dump was read.

    Without a COMMIT nothing has changed.
    """
    assert restore_process.stdout is not None
    assert psql_process.stdin is not None
    with suppress(BrokenPipeError):  # psql has ended; its stderr has the reason
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
            f"{name} is not installed here: install PostgreSQL's client programs, of the server's version or newer "
            "(postgresql-client on Debian and Ubuntu, postgresql on Fedora), and try again."
        )
    return found


def _connection_url(url: URL) -> str:
    """Return the URL for libpq's programs, without the password: other users can read command lines."""
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _password_environment(url: URL) -> dict[str, str]:
    return {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}


def _error_of(stream: IO[bytes] | None) -> str:
    return _error_line(stream.read() if stream is not None else b"")


def _error_line(stderr: bytes) -> str:
    """Return the first error line alone: the lines after it may quote rows."""
    lines = stderr.decode("utf-8", "replace").splitlines()
    return next((line for line in lines if "error" in line.lower() or "fatal" in line.lower()), "")
