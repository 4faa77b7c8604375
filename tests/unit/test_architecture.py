"""Rules that import-linter cannot check: SQL is written in db alone, and heavy libraries are imported late."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pneumowatch", "db", "watcher", "worker", "trainer", "notify", "review", "cli")
MODULES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
SERVER_ADMINISTRATION = Path("cli/bench/scratch_servers.py")  # CREATE DATABASE and DROP DATABASE


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_sql_is_written_in_db_alone(path: Path) -> None:
    if path.parts[0] == "db" or path == SERVER_ADMINISTRATION:
        return
    nodes = ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
    from_sqlalchemy = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy"]
    names = {alias.name for node in from_sqlalchemy for alias in node.names}
    assert not names & {"select", "update", "insert", "delete", "text"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_tensorflow_is_imported_late_and_by_few(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    at_once = {name for name in imported(iter(tree.body)) if name in ("tensorflow", "keras")}
    assert not at_once
    if path.parts[0] not in ("worker", "trainer"):
        assert not {"tensorflow", "keras"} & set(imported(ast.walk(tree)))
