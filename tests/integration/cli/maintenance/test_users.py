"""`pneumowatch users`: accounts and tokens, with passwords from standard input alone."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import app
from db import schema
from db.session import Database
from db.worklist import accounts, audit, throttle
from pneumowatch.errors import AccountRefused
from review.access.passwords import MIN_LENGTH, verify_password

PASSWORD = "a sentence of some words"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path / 'pneumowatch.db'}")) as database:
        schema.upgrade(database)
        yield database


def users(tmp_path: Path, *words: object, said: str = "") -> Result:
    return CliRunner().invoke(app, ["users", *map(str, words), "--data", str(tmp_path)], input=said)


def account(database: Database, name: str) -> accounts.Account | None:
    return database.read(lambda c: accounts.find_user(c, name))


def test_the_life_of_an_account(tmp_path: Path, database: Database) -> None:
    added = users(tmp_path, "add", "Rita", said=f"{PASSWORD}\n")
    assert added.exit_code == 0, added.output
    assert PASSWORD not in added.output
    rita = account(database, "rita")
    assert rita is not None
    assert rita.role == "reader"
    assert verify_password(PASSWORD, rita.password_hash)
    assert PASSWORD not in rita.password_hash

    assert users(tmp_path, "role", "rita", "admin").exit_code == 0
    assert users(tmp_path, "password", "rita", said="another sentence of words\n").exit_code == 0
    rita = account(database, "rita")
    assert rita is not None
    assert rita.role == "admin"
    assert verify_password("another sentence of words", rita.password_hash)
    (row,) = json.loads(users(tmp_path, "list", "--json").stdout)
    assert (row["name"], row["role"]) == ("rita", "admin")

    assert users(tmp_path, "remove", "rita").exit_code == 0
    assert account(database, "rita") is None
    rows = database.read(lambda c: audit.list_actions(c, 10))
    assert [row["what"] for row in rows] == ["user_removed", "user_changed", "user_changed", "user_added"]
    assert {row["who"] for row in rows} == {"command line"}


@pytest.mark.parametrize(
    ("words", "said", "sentence"),
    [
        (("add", "rita"), "short\n", f"A password has {MIN_LENGTH}"),
        (("add", "rita"), "", "No password came"),
        (("add", "local"), f"{PASSWORD}\n", "No user can have that name"),
        (("add", ""), f"{PASSWORD}\n", "No user can have that name"),
        (("add", "taken"), f"{PASSWORD}\n", "There is a user 'taken' already"),
        (("remove", "none"), "", "There is no user 'none'"),
        (("password", "none"), f"{PASSWORD}\n", "There is no user 'none'"),
        (("role", "none", "admin"), "", "There is no user 'none'"),
        (("token", "none", "--label", "a script"), "", "There is no user 'none'"),
        (("token", "taken", "--label", "a script", "--role", "admin"), "", "is a reader"),
        (("token", "taken", "--revoke", "1"), "", "has no token 1"),
    ],
)
def test_what_cannot_be(tmp_path: Path, database: Database, words: tuple[str, ...], said: str, sentence: str) -> None:
    users(tmp_path, "add", "taken", said=f"{PASSWORD}\n")
    ended = users(tmp_path, *words, said=said)
    assert isinstance(ended.exception, AccountRefused)
    assert sentence in str(ended.exception)


def test_a_role_that_is_none(tmp_path: Path, database: Database) -> None:
    assert users(tmp_path, "add", "rita", "--role", "chief", said=f"{PASSWORD}\n").exit_code == 2


def test_a_token_is_printed_once_and_revoked(tmp_path: Path, database: Database) -> None:
    users(tmp_path, "add", "rita", said=f"{PASSWORD}\n")
    token = json.loads(users(tmp_path, "token", "rita", "--label", "export", "--json").stdout)["token"]
    bearer = database.read(lambda c: accounts.find_token(c, token))
    assert bearer is not None
    assert bearer.name == "rita"
    listed = users(tmp_path, "token", "rita", "--json").stdout
    assert token not in listed
    (row,) = json.loads(listed)
    assert users(tmp_path, "token", "rita", "--revoke", row["id"]).exit_code == 0
    assert database.read(lambda c: accounts.find_token(c, token)) is None


def test_another_password_lets_in_whom_guessers_kept_out(tmp_path: Path, database: Database) -> None:
    users(tmp_path, "add", "rita", said=f"{PASSWORD}\n")
    counted = [throttle.account_key("rita")]
    while not database.write(lambda c: throttle.admit(c, counted)):
        pass
    users(tmp_path, "password", "rita", said=f"{PASSWORD}\n")
    assert not database.write(lambda c: throttle.admit(c, counted))
