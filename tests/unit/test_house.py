"""The house stands as CONTRIBUTING says: imports run one way, and heavy libraries are imported late."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "pneumowatch": {"pneumowatch"},
    "db": {"pneumowatch", "db"},
    "watcher": {"pneumowatch", "db", "watcher"},
    "worker": {"pneumowatch", "db", "worker"},
    "trainer": {"pneumowatch", "db", "trainer"},
    "review": {"pneumowatch", "db", "review"},
    "notify": {"pneumowatch", "db", "notify"},
}
MODULES = [path.relative_to(ROOT) for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_run_one_way(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    ours = set(imported(ast.walk(tree))) & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[path.parts[0]]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_tensorflow_is_imported_late_and_by_few(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    at_once = {name for name in imported(iter(tree.body)) if name in ("tensorflow", "keras")}
    assert not at_once
    if path.parts[0] not in ("worker", "trainer"):
        assert not {"tensorflow", "keras"} & set(imported(ast.walk(tree)))
