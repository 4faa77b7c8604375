"""The documents agree with the code."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import contract
import pytest
import typer
from formats import __main__ as formats
from typer.core import TyperGroup

from cli import app
from pneumowatch.settings import render_settings_page

ROOT = Path(__file__).parents[2]
MISUSE: Any = typer.BadParameter.__base__  # typer has a click of its own


def test_settings_are_documented_as_they_are() -> None:
    assert (ROOT / "docs" / "operate" / "settings.md").read_text("utf-8") == render_settings_page(), (
        "run `make settings`"
    )


def test_the_contract_is_written_down_as_it_is() -> None:
    assert contract.PAGE.read_text("utf-8") == contract.contract(), (
        "run `make contract`, and name the change in CHANGELOG"
    )


def test_what_is_read_is_documented_as_it_is() -> None:
    """Read every image there as well, and fail where one is not as the page says."""
    assert formats.PAGE.read_text("utf-8") == formats.page(), "run `make formats`"


def test_the_tests_that_are_said_to_catch_complaints_exist() -> None:
    text = (ROOT / "docs" / "evidence" / "reliability.md").read_text("utf-8")
    complaints = text.partition("What went wrong elsewhere")[2]
    rows = [line for line in complaints.splitlines() if re.match(r"\| \S+#\d+", line)]
    assert len(rows) == 12
    tests = [re.findall(r"`(tests/\S+)`", row) for row in rows]
    ids = [id_ for row in tests for id_ in row]
    assert all(tests)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *ids]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_data_path_is_drawn_as_its_script_draws_it() -> None:
    spec = importlib.util.spec_from_file_location("datapath", ROOT / "docs" / "datapath.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs" / "datapath.svg").read_text("utf-8") == script.draw(), "run `make picture`"


def pages() -> list[Path]:
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "deploy/README.md",
    ]


def said_commands(text: str) -> Iterator[str]:
    """Yield the words after `pneumowatch` in code blocks and in text, up to a comment or the next command."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    lines += [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", rest)]
    for line in lines:
        for part in re.split(r"&&|;|\s#\s|^# ", line):
            found = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?pneumowatch (\S.*)", part)
            if found:
                yield found[1].strip()


def parses(words: list[str]) -> None:
    """Parse the words without running anything. Raises MISUSE where the command line would refuse them."""
    command: Any = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        name, *words = words
        if name in ("--help", "--version"):
            return
        if name not in command.commands:
            raise MISUSE(f"no command {name}")
        command = command.commands[name]
    if words:  # else it is named, not called
        command.make_context("pneumowatch", words)


def plain(words: list[str]) -> list[str]:
    """Fill in placeholders; `1` is taken for ids, names and folders alike."""
    filled = [re.sub(r"^[A-Z][A-Z_]+$", "1", word) for word in words]
    return [word for word, before in zip(filled, ["", *words], strict=False) if word != "..." or not before.isupper()]


COMMANDS = sorted({(page.name, command) for page in pages() for command in said_commands(page.read_text("utf-8"))})


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 60
    assert ("backup.md", "restore /backups/2026-05-04") in COMMANDS
    for wrong in ("status --no-such-option", "no-such-command", "verdict 1 pneumonia more than that"):
        with pytest.raises(MISUSE):
            parses(wrong.split())


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_command_line_takes_what_the_pages_say(page: str, command: str) -> None:
    parses(plain(shlex.split(command)))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, part = link.partition("#")
        if "://" in link:
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        if part:
            heads = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert part in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, link
