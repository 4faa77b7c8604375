"""Statements that SQLite and PostgreSQL both support, but for which SQLAlchemy has no common form."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Connection,
    FromClause,
    LargeBinary,
    String,
    Table,
    bindparam,
    cast,
    column,
    func,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

_INDEX_ORDER_SETTINGS: Final = select(
    *(func.set_config(setting, "off", true()) for setting in ("enable_sort", "enable_bitmapscan", "enable_seqscan"))
)
_CUSTOM_PLAN_SETTINGS: Final = select(
    func.set_config("plan_cache_mode", "force_custom_plan", true()), func.set_config("enable_seqscan", "off", true())
)
ROWS_PARAMETER: Final = "given"  # the parameter that carries `json_rows` rows


def insert_or_ignore(dialect: str, table: Table) -> Any:
    """Build INSERT ... ON CONFLICT DO NOTHING for a dialect."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table).on_conflict_do_nothing()


def upsert(dialect: str, table: Table, keys: Sequence[str], columns: Sequence[str], values: Any = None) -> Any:
    """Build INSERT ... ON CONFLICT DO UPDATE of `columns`.

    `keys` are the columns that identify a row. The values come from the SELECT `values` or, without one, from the
    parameters of the execution.
    """
    insertion = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    if values is not None:
        insertion = insertion.from_select(list(columns), values)
    anew = {name: insertion.excluded[name] for name in columns if name not in keys}
    return insertion.on_conflict_do_update(index_elements=list(keys), set_=anew)


def upsert_rows(connection: Connection, table: Table, values: Sequence[dict[str, Any]]) -> None:
    """Insert rows into a table and overwrite those with the same primary key."""
    keys = [column.name for column in table.primary_key]
    connection.execute(upsert(dialect_name(connection), table, keys, table.c.keys()), values)


def json_rows(dialect: str, **types: type[TypeEngine[Any]]) -> FromClause:
    """Return a table of the rows that `rows_parameter` passes as a parameter; `types` names its columns.

    The rows travel as one JSON document. So work on a whole batch is one statement with one parameter, and the
    statement is built once. One execution per row, or building the statement each time, takes several times as long.
    Floats keep all bits.
    """
    document = bindparam(ROWS_PARAMETER, type_=String)
    if dialect == "postgresql":
        records = func.jsonb_to_recordset(cast(document, postgresql.JSONB))
        columns = [column(name, type_) for name, type_ in types.items()]
        return records.table_valued(*columns, name="given_rows").render_derived(with_types=True)
    each = func.json_each(document).table_valued("value")
    fields = [func.json_extract(each.c.value, f"$.{name}", type_=type_).label(name) for name, type_ in types.items()]
    return select(*fields).subquery("given_rows")


def rows_parameter(values: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the parameter for a statement with `json_rows`."""
    return {ROWS_PARAMETER: json.dumps(values)}


def unhex(dialect: str, digits: Any) -> Any:
    """Convert hexadecimal digits to bytes: JSON has no bytes. `db.session` adds the function to older SQLite."""
    return func.decode(digits, "hex", type_=LargeBinary) if dialect == "postgresql" else func.unhex(digits)


def prefer_index_order(connection: Connection) -> None:
    """Let PostgreSQL follow indexes in their order, until the transaction ends.

    The number of waiting scans changes a thousandfold within seconds, and the planner's statistics are a minute old.
    Otherwise it fetches and sorts the whole queue for each claim (58 ms instead of 1 with 6,400 scans waiting).
    """
    if dialect_name(connection) == "postgresql":
        connection.execute(_INDEX_ORDER_SETTINGS)


def lock_for_transaction(connection: Connection, purpose: str) -> None:
    """Hold the lock for a purpose until the transaction ends.

    SQLite needs no lock: it has one writer at a time.
    """
    if dialect_name(connection) == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(purpose))))


def force_custom_plans(connection: Connection) -> None:
    """Let PostgreSQL plan each statement for its parameters and look rows up by an index, until the transaction ends.

    Otherwise it reuses the plan of a statement. A plan made while the table was small reads the whole table once it is
    large: 1.5 s instead of 60 ms for a thousand paths among 32,000. And while a table fills faster than it is analysed,
    the planner expects a few hundred keys to match most of it.
    """
    if dialect_name(connection) == "postgresql":
        connection.execute(_CUSTOM_PLAN_SETTINGS)


def database_now(connection: Connection) -> datetime:
    """Return the time by the database's clock, which all machines share."""
    if dialect_name(connection) == "sqlite":
        return datetime.fromisoformat(connection.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")))
    return connection.execute(text("SELECT clock_timestamp()")).scalar_one()


def dialect_name(connection: Connection) -> str:
    return connection.dialect.name
