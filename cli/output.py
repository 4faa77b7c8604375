"""Print results: tables for people, JSON for scripts."""

import codecs
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pneumowatch.logs import STDERR

FOLDED_COLUMNS: Final = ("path", "detail", "sentence", "message", "rule")  # columns that may wrap

console = Console()
error_console = Console(file=STDERR)


def print_json(value: Any) -> None:
    unicode = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print(json.dumps(value, indent=2, ensure_ascii=not unicode, default=_encode))


def print_table(title: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        long = column in FOLDED_COLUMNS
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=not long, min_width=20 if long else None)
    for row in rows:
        table.add_row(*(format_cell(row[column]) for column in columns))
    console.print(table)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, so that --json stays clean. Yields a function of (done, total)."""
    with Progress(console=error_console, transient=True, disable=not error_console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def format_cell(value: Any) -> Text:
    """Format one value for a table. Markup in file names is shown as text, control characters are escaped."""
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.3f}")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    return Text(escape_unprintable(str(value)))


def escape_unprintable(text: str) -> str:
    """Replace characters that cannot be printed by their escape sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
