"""Every command: its help, its exit codes, and the sentences with which it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import environment, run
from typer.main import get_command

from cli import app

HEAVY = ("tensorflow", "keras", "sqlalchemy", "celery", "numpy", "PIL", "structlog")


def commands() -> list[tuple[str, ...]]:
    """All commands: a new one is tested without being named here."""
    found: list[tuple[str, ...]] = [()]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found.append((name,))
        found += [(name, below) for below in getattr(command, "commands", {})]
    return found


def test_all_commands_of_the_contract_are_there() -> None:
    expected = {
        "up", "watch", "work", "schedule", "demo", "flagged", "unscored", "status", "reconcile", "requeue", "classify",
        "train", "retrain", "verdict", "bench", "doctor", "db", "models", "rescore",
    }  # fmt: skip
    assert expected <= {words[0] for words in commands() if words}


HELP = """
import sys
from cli import app
for words in {commands}:
    try:
        app([*words, "--help"], prog_name="pneumowatch")
    except SystemExit as end:
        assert end.code == 0, words
    print("<end>")
print(*sorted(set({heavy}) & set(sys.modules)))
"""


def test_help_of_every_command_starts_nothing_heavy() -> None:
    """All in one process, as what one of them imported would be seen there as well."""
    script = HELP.format(commands=commands(), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    *helps, heavy = done.stdout.split("<end>\n")
    assert len(helps) == len(commands())
    assert all("Usage: pneumowatch" in text and len(text) > 200 for text in helps)
    assert heavy.split() == []


def test_the_command_itself_without_and_with_words(tmp_path: Path) -> None:
    version = run("--version", cwd=tmp_path)
    assert (version.code, version.err) == (0, "")
    assert version.out.count(".") == 2
    assert "Usage" in run(cwd=tmp_path).out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [("read",), ("status", "--loud"), ("flagged", "-n", "0"), ("flagged", "-n", "many"), ("classify",), ("db", "mend")],
    ids=" ".join,
)
def test_misuse_ends_with_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = run(*words, cwd=tmp_path)
    assert ended.code == 2
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        (("status",), {"batch_size": 0}, "PNEUMOWATCH_BATCH_SIZE"),
        (("up", "--once"), {"batch_size": "many"}, "PNEUMOWATCH_BATCH_SIZE"),
        (("doctor",), {"inboxes": "ward"}, "PNEUMOWATCH_INBOXES"),
        (("doctor",), {"log_format": "xml"}, "PNEUMOWATCH_LOG_FORMAT"),
        (("status",), {"database_url": "oracle://x"}, "PNEUMOWATCH_DATABASE_URL"),
        (("status",), {"database_url": "nonsense"}, "PNEUMOWATCH_DATABASE_URL"),
        (("status",), {"database_url_file": "/nowhere"}, "PNEUMOWATCH_DATABASE_URL_FILE"),
        (("status",), {}, "There is no ledger"),
        (("db", "check"), {"database_url": "sqlite:///no/such/folder/x.db"}, "database"),
        (("watch",), {"inboxes": "ward=."}, "PNEUMOWATCH_BROKER_URL"),
        (("work",), {}, "PNEUMOWATCH_BROKER_URL"),
        (("schedule",), {}, "PNEUMOWATCH_BROKER_URL"),
        (("work",), {"broker_url": "redis://127.0.0.1:1/0"}, "db upgrade"),
        (("watch",), {"broker_url": "redis://127.0.0.1:1/0"}, "db upgrade"),
        (("up",), {"broker_url": "redis://127.0.0.1:1/0"}, "PNEUMOWATCH_BROKER_URL"),
        (("up",), {"inboxes": "ward=/nowhere"}, "The inbox 'ward' is not there"),
        (("classify", "x.jpeg", "--model", "."), {}, "is not a model folder"),
    ],
)
def test_what_cannot_be_ends_with_1_and_a_sentence(
    tmp_path: Path, words: tuple[str, ...], settings: dict[str, object], sentence: str
) -> None:
    (tmp_path / "inbox").mkdir()
    ended = run(*words, cwd=tmp_path, env=environment(**settings), timeout=30)
    assert ended.code == 1, ended.out + ended.err
    assert ended.err.startswith("pneumowatch: ")
    assert sentence in ended.err
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.rstrip().endswith((".", ")"))


def test_a_bad_password_is_not_repeated(tmp_path: Path) -> None:
    url = "postgresql://somebody:hush-hush@127.0.0.1:1/x"
    for words in (("status",), ("doctor",)):
        ended = run(
            *words, cwd=tmp_path, env=environment(database_url=url, broker_url="redis://:hush-hush@127.0.0.1:1/0")
        )
        assert ended.code == 1
        assert "hush-hush" not in ended.out + ended.err
        assert "Traceback" not in ended.err


def test_doctor_on_a_good_and_a_bad_day(tmp_path: Path) -> None:
    bad = run("doctor", "--json", cwd=tmp_path)
    assert bad.code == 1
    assert {finding["check"]: finding["status"] for finding in bad.json}["inbox inbox"] == "error"

    (tmp_path / "inbox").mkdir()
    good = run("doctor", "--json", cwd=tmp_path)
    assert good.code == 0, good.out
    assert not [finding for finding in good.json if finding["status"] == "error"]
    assert not (tmp_path / "data").exists()  # it looks, and makes nothing

    table = run("doctor", cwd=tmp_path, env=environment(model_dir=tmp_path))
    assert table.code == 0
    assert "inbox" in table.out


def test_doctor_finds_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    champion = tmp_path / "models" / "champion"
    champion.mkdir(parents=True)
    (champion / "card.json").write_text("{}")
    found = run("doctor", "--json", cwd=tmp_path, env=environment(model_dir=tmp_path / "models"))
    assert found.code == 1
    assert [finding["check"] for finding in found.json if finding["status"] == "error"] == ["model"]


def test_the_database_from_nothing_to_checked(tmp_path: Path) -> None:
    assert run("db", "current", "--data", "here", cwd=tmp_path).code == 1
    assert run("db", "upgrade", "--data", "here", cwd=tmp_path).code == 0
    assert run("db", "upgrade", "--data", "here", cwd=tmp_path).code == 0
    current = run("db", "current", "--data", "here", "--json", cwd=tmp_path)
    assert current.code == 0
    assert current.json["current"] == current.json["wanted"]
    check = run("db", "check", "--data", "here", cwd=tmp_path)
    assert (check.code, check.out) == (0, "0 differences.\n")
    flagged = run("flagged", "--data", "here", "--json", cwd=tmp_path)
    assert (flagged.code, flagged.json) == (0, [])


def test_a_reader_that_leaves_early_is_no_trouble(tmp_path: Path) -> None:
    """`pneumowatch ... | head`"""
    (tmp_path / "inbox").mkdir()
    words = f"{sys.executable} -m pneumowatch doctor --json | true"
    done = subprocess.run(
        ["bash", "-c", words], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
