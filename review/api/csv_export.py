"""Lists as CSV for spreadsheets, with texts escaped that a spreadsheet would run as formulas."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import StreamingResponse

# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_PREFIXES: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_response(name: str, columns: Sequence[str], pages: Iterable[Iterable[dict[str, Any]]]) -> StreamingResponse:
    """Return a CSV download, streamed page by page so that a list of any length fits in memory."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(_csv_lines(columns, pages), media_type="text/csv; charset=utf-8", headers=headers)


def _csv_lines(columns: Sequence[str], pages: Iterable[Iterable[dict[str, Any]]]) -> Iterator[str]:
    yield _csv_line(columns)
    for rows in pages:
        yield "".join(_csv_line([csv_cell(row[column]) for column in columns]) for row in rows)


def csv_cell(value: Any) -> str:
    """Format a value for the CSV file: times in UTC, booleans as true or false, None as empty.

    A text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_PREFIXES) else text


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()
