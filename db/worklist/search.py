"""Scans by what people know of them: an accession number, or a part of a file's name."""

import unicodedata
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, or_, select

from db.dialect import force_custom_plans
from db.models import Scan

RESULT_LIMIT: Final = 100  # scans of one answer
SEARCH_WINDOW: Final = 250_000  # scans whose names are looked through at once; there is no index of parts of names
MIN_LETTERS: Final = 3  # letters of a name


@dataclass(frozen=True)
class SearchResult:
    """`scan_ids`: the newest first. `searched_down_to`: names of older scans than this one have not been looked at;
    None: all have."""

    scan_ids: list[int]
    searched_down_to: int | None


def search_scans(connection: Connection, text: str, before: int | None = None) -> SearchResult:
    """Scans of this accession number, then those in whose path the text stands, whatever its case.

    Args:
        before: look only through names of older scans than this one.
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
    # composed or not: macOS writes names with accents apart from their letters
    forms = {unicodedata.normalize(form, text.lower()) for form in ("NFC", "NFD")}
    has = or_(*(_folded(form).contains(form, autoescape=True) for form in sorted(forms)))
    return select(Scan.id).where(*within, has).order_by(Scan.id.desc()).limit(RESULT_LIMIT)


def _folded(sought: str) -> Any:
    """The path in small letters, those that are sought at least."""
    path = func.lower(Scan.path)
    # SQLite's lower() knows the letters of ASCII alone, as PostgreSQL's does in the locale C
    for letter in sorted(set(sought)):
        if len(letter.upper()) == 1 and not letter.isascii():
            path = func.replace(path, letter.upper(), letter)
    return path
