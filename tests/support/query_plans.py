"""How PostgreSQL would go about the statements of a piece of work."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from db.session import Database


def explain(database: Database, work: Callable[[Connection], Any]) -> list[str]:
    """The plans of every statement that this work runs, in the transaction in which it runs them; then rolled back."""
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
