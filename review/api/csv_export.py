"""Lists as CSV, for spreadsheets: which take some texts for formulas, and run them."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import StreamingResponse

FORMULA_PREFIXES: Final = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
)  # https://owasp.org/www-community/attacks/CSV_Injection


def csv_response(name: str, columns: Sequence[str], pages: Iterable[Iterable[dict[str, Any]]]) -> StreamingResponse:
    """Sent page by page, so that a list of any length fits."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(_csv_lines(columns, pages), media_type="text/csv; charset=utf-8", headers=headers)


def _csv_lines(columns: Sequence[str], pages: Iterable[Iterable[dict[str, Any]]]) -> Iterator[str]:
    yield _csv_line(columns)
    for rows in pages:
        yield "".join(_csv_line([csv_cell(row[column]) for column in columns]) for row in rows)


def csv_cell(value: Any) -> str:
    """As it stands in the file. A text that a spreadsheet would take for a formula begins with an apostrophe."""
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
