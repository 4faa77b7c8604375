"""Hold the code and its pages to the field's own words: what was retired does not come back.

The vocabulary stands in CONTRIBUTING.md. CHANGELOG.md tells of the old names and LICENSE is not ours to word.
"""

import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from style import ROOMS, ROOT

from db.models import Base
from pneumowatch.settings import Settings

# No name of ours holds one of these words: `film_path` and `FilmBatches` would both be found.
WORDS: Final = frozenset(
    """
    film films doorbell licence licences errand errands undecoded nudge nudges postman courier couriers parcel
    darkroom mailroom desk strangeness curriculum brushes pupil fitness handover absences hearing portions
    succession urgency census pulse rung unring watchman knobs lessons strangers spoilt checkup enlist relieve vouch
    """.split()  # noqa: SIM905 - words read better than a list of strings
)
# No name of ours is one of these; as a part of another they may be meant literally (`child_process`, `post_data`).
NAMES: Final = frozenset(
    """
    ReadingRoom Door Post Errand Undecoded Away Doorbell ring rung_at deaths deaths_alone suspect alone Part promise
    Vital Keeper Fitness blames Handover Serving Portions Readings judged absences door apart twins Twins Hint Look
    Quiet Night Wanted Watchman Standing Opinion Exam Naming Attention lessons graduate InboxThere SeenFile Presence
    """.split()  # noqa: SIM905 - words read better than a list of strings
)
# What people read: pages, documents, help, log lines and error sentences.
PROSE: Final = re.compile(
    r"\b(films?|doorbells?|nudge[sd]?|desks?|postm[ae]n|darkrooms?|mailrooms?|school|licences?(?= to ))\b",
    re.I,
)
QUEUE_ON_THE_WIRE: Final = ("queue.py", '"films"')
# Names on the wire that stay, whatever they hold, and a word of the data set's licence.
ALLOWED: Final = re.compile(r"pneumowatch\.read_scans|queue(?:=|: | )[`\"]?films|CC BY")
TEXTS: Final = sorted(
    [
        *(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(path for path in (ROOT / "review" / "templates").rglob("*") if path.is_file()),
        *(path for path in (ROOT / "review" / "static").rglob("*.js")),
    ]
)
MODULES: Final = sorted(
    path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py") if path != Path(__file__)
)


def words_of(name: str) -> set[str]:
    """Split a name in snake case or camel case into its words, in lower case."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def is_retired(name: str) -> bool:
    return name in NAMES or bool(words_of(name) & WORDS)


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, name) for each name that a Python file uses or defines."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string


def test_it_finds_what_it_looks_for() -> None:
    names = ("film_path", "FilmBatches", "rung_at", "filmstrip", "posted", "Post")
    assert [name for name in names if is_retired(name)] == ["film_path", "FilmBatches", "rung_at", "Post"]
    prose = "A film on the Desk; filmed at a school, a licence to claim, an MIT licence"
    assert [found[0] for found in PROSE.finditer(prose)] == ["film", "Desk", "school", "licence"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_python(path: Path) -> None:
    assert sorted({f"{line}: {name}" for line, name in names_in(path) if is_retired(name)}) == []


def test_names_of_modules_and_folders() -> None:
    parts = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert sorted(part for part in parts if is_retired(part)) == []


def test_tables_columns_and_settings() -> None:
    tables = Base.metadata.sorted_tables
    names = {
        name for table in tables for name in (table.name, *table.columns.keys(), *(one.name for one in table.indexes))
    }
    assert sorted(name for name in names | set(Settings.model_fields) if is_retired(name)) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_people_read(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    found = [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if PROSE.search(ALLOWED.sub("", line))]
    assert found == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if "tests" not in path.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_programs_say(path: Path) -> None:
    """Check help, logs and sentences of errors, which are strings; docstrings and comments are held to it as well."""
    found = [
        f"{token.start[0]}: {token.string.strip()[:100]}"
        for token in strings_and_comments(path)
        if (path.name, token.string) != QUEUE_ON_THE_WIRE
        if PROSE.search(ALLOWED.sub("", token.string))
    ]
    assert found == []


def strings_and_comments(path: Path) -> Iterator[tokenize.TokenInfo]:
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    with tokenize.open(path) as file:
        yield from (token for token in tokenize.generate_tokens(file.readline) if token.type in kinds)


def test_the_contract() -> None:
    contract = json.loads((ROOT / "docs" / "develop" / "contract.json").read_text("utf-8"))
    contract["payloads"].pop("messages")  # the queue's name on the wire stays
    assert PROSE.findall(json.dumps(contract)) == []
