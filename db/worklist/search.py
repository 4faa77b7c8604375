"""Search for scans by accession number or part of a file's name."""

import unicodedata
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, or_, select

from db.dialect import force_custom_plans
from db.models import Scan

RESULT_LIMIT: Final = 100  # scans per answer
SEARCH_WINDOW: Final = 250_000  # scans whose names are searched at once; no index covers parts of names
MIN_LETTERS: Final = 3  # of a part of a name


@dataclass(frozen=True)
class SearchResult:
    """`scan_ids`: the newest first.

    `searched_down_to`: names of older scans than this one were not searched; None: all were.
    """

    scan_ids: list[int]
    searched_down_to: int | None


def search_scans(connection: Connection, text: str, before: int | None = None) -> SearchResult:
    """Return scans with this accession number, then those whose path contains the text, in any case.

    Args:
        before: search only the names of older scans than this one.
    """
    force_custom_plans(connection)
    text = text.strip()
    exact = [] if before or not text else list(connection.scalars(_of_accession(text)))
    if len(text) < MIN_LETTERS:
        return SearchResult(exact, None)
    top = before or (connection.scalar(select(func.max(Scan.id))) or 0) + 1
    bottom = max(top - SEARCH_WINDOW, 1)
    named = list(connection.scalars(_named(text, bottom, top)))
    if len(named) == RESULT_LIMIT:
        bottom = named[-1]
    found = list(dict.fromkeys([*exact, *named]))
    return SearchResult(found, bottom if bottom > 1 else None)


def _of_accession(text: str) -> Any:
    return select(Scan.id).where(Scan.accession_number == text).order_by(Scan.id.desc()).limit(RESULT_LIMIT)


def _named(text: str, bottom: int, top: int) -> Any:
    within = (Scan.id >= bottom, Scan.id < top)
    # composed or not: macOS writes accents separately from their letters
    forms = {unicodedata.normalize(form, text.lower()) for form in ("NFC", "NFD")}
    has = or_(*(_folded(form).contains(form, autoescape=True) for form in sorted(forms)))
    return select(Scan.id).where(*within, has).order_by(Scan.id.desc()).limit(RESULT_LIMIT)


def _folded(sought: str) -> Any:
    """Return SQL for the path in lower case; letters beyond ASCII only if they are in `sought`."""
    path = func.lower(Scan.path)
    # SQLite's lower() converts ASCII letters alone, as does PostgreSQL's in the locale C
    for letter in sorted(set(sought)):
        if len(letter.upper()) == 1 and not letter.isascii():
            path = func.replace(path, letter.upper(), letter)
    return path
