"""PostgreSQL's plans for the statements that a function runs."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from db.session import Database


def explain(database: Database, work: Callable[[Connection], Any]) -> list[str]:
    """Return the plans of every statement that `work` runs, made within its transaction, which is then rolled back."""
    ran: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.lstrip().split()[0] in ("SELECT", "UPDATE", "INSERT", "WITH"):
            ran.append((statement, parameters[0] if many else parameters))

    with database.engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", note)
        work(connection)
        event.remove(connection, "before_cursor_execute", note)
        plans = [_plan(connection, statement, parameters) for statement, parameters in ran]
        connection.rollback()
    return plans


def _plan(connection: Connection, statement: str, parameters: Any) -> str:
    with connection.begin_nested() as savepoint:
        rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
        savepoint.rollback()
    return "\n".join(rows)
