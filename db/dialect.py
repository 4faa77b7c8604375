"""What SQLite and PostgreSQL can both do but SQLAlchemy keeps apart."""

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
    """INSERT ... ON CONFLICT DO NOTHING, for a database of this name."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table).on_conflict_do_nothing()


def upsert(dialect: str, table: Table, keys: Sequence[str], columns: Sequence[str], values: Any = None) -> Any:
    """INSERT ... ON CONFLICT DO UPDATE of these columns, of which `keys` say which rows are the same; from a SELECT,
    or, without one, of what the statement is executed with."""
    insertion = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    if values is not None:
        insertion = insertion.from_select(list(columns), values)
    anew = {name: insertion.excluded[name] for name in columns if name not in keys}
    return insertion.on_conflict_do_update(index_elements=list(keys), set_=anew)


def upsert_rows(connection: Connection, table: Table, values: Sequence[dict[str, Any]]) -> None:
    """Put rows into a table; those that are there (by primary key) are overwritten."""
    keys = [column.name for column in table.primary_key]
    connection.execute(upsert(dialect_name(connection), table, keys, table.c.keys()), values)


def json_rows(dialect: str, **types: type[TypeEngine[Any]]) -> FromClause:
    """A table whose rows come with the statement's parameters, as `rows_parameter` makes them; its columns are named by `types`.

    They travel as one JSON document, so work on a whole batch is one statement with one parameter, which can be built
    once: the time of one execution a row, or of building it each time, is several times as long. Floats keep all bits.
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
    """The parameter for a statement with `json_rows`."""
    return {ROWS_PARAMETER: json.dumps(values)}


def unhex(dialect: str, digits: Any) -> Any:
    """The bytes that hexadecimal digits stand for, as JSON holds none. Older SQLite gets it from `db.session`."""
    return func.decode(digits, "hex", type_=LargeBinary) if dialect == "postgresql" else func.unhex(digits)


def prefer_index_order(connection: Connection) -> None:
    """For this transaction, let PostgreSQL follow indexes in their order.

    How many scans wait changes a thousandfold within seconds, and the planner's statistics are a minute old: it then
    fetches and sorts the whole queue for each claim (58 ms instead of 1 with 6,400 films waiting).
    """
    if dialect_name(connection) == "postgresql":
        connection.execute(_INDEX_ORDER_SETTINGS)


def lock_for_transaction(connection: Connection, purpose: str) -> None:
    """Until this transaction ends, nobody else is past this line for the same purpose; on SQLite no writer ever is."""
    if dialect_name(connection) == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(purpose))))


def force_custom_plans(connection: Connection) -> None:
    """For this transaction, let PostgreSQL plan each statement for its parameters, and look rows up by an index.

    It keeps a statement's plan, and the one made while the table was small reads all of it once it is large: 1.5 s
    instead of 60 ms for a thousand paths among 32,000. And of a table that fills faster than it is analysed it believes
    that a few hundred keys pick most of it.
    """
    if dialect_name(connection) == "postgresql":
        connection.execute(_CUSTOM_PLAN_SETTINGS)


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock, which all machines share."""
    if dialect_name(connection) == "sqlite":
        return datetime.fromisoformat(connection.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")))
    return connection.execute(text("SELECT clock_timestamp()")).scalar_one()


def dialect_name(connection: Connection) -> str:
    return connection.dialect.name
