"""Accounts of the desk: who may read, who may let another model serve, and tokens for scripts."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from db import LARGEST_ID
from pneumowatch.errors import AccountRefused

users = typer.Typer(no_args_is_help=True, help="Accounts of the desk: list, add, remove, change; tokens for scripts.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="The data folder (default: PNEUMOWATCH_DATA_DIR, or ./data).")
]
Name = Annotated[str, typer.Argument(help="The user.")]
RoleName = Annotated[str, typer.Option("--role", help="reader, or admin: who may also let another model serve.")]

BY: Final = "command line"


@users.command("list")
def list_users(data: Data = None, json: Json = False) -> None:
    """List all accounts and their roles."""
    from db import accounts
    from pneumowatch.cli.output import console, print_json, print_table
    from pneumowatch.cli.query import open_database

    rows: list[dict[str, Any]] = [dict(row) for row in open_database(data).read(accounts.listed)]
    if json:
        return print_json(rows)
    print_table("Users", rows, ["name", "role", "created_at"])
    if not rows:
        console.print("There is none yet; `pneumowatch users add NAME` makes one.")
    return None


@users.command()
def add(name: Name, role: RoleName = "reader", data: Data = None) -> None:
    """Make an account. The password is asked for or, where nobody sits at a terminal, read from standard input."""
    from db import accounts, audit
    from db.audit import Act
    from pneumowatch.cli.query import open_database
    from review.passwords import hashed

    database, wanted, user = open_database(data), _role(role), accounts.clean(name)
    password = hashed(_password())

    def work(connection: Any) -> None:
        accounts.add(connection, user, wanted, password)
        audit.record(connection, BY, Act.USER_ADDED, detail=f"{user} ({wanted})")

    database.write(work)
    typer.echo(f"{user} may sign in as {wanted}.")


@users.command()
def remove(name: Name, data: Data = None) -> None:
    """Remove an account, its sessions and its tokens. Verdicts and the audit keep the name."""
    from db import accounts, audit
    from db.audit import Act
    from pneumowatch.cli.query import open_database

    user = accounts.clean(name)

    def work(connection: Any) -> None:
        accounts.remove(connection, user)
        audit.record(connection, BY, Act.USER_REMOVED, detail=user)

    open_database(data).write(work)
    typer.echo(f"{user} is removed.")


@users.command()
def password(name: Name, data: Data = None) -> None:
    """Give an account another password, asked for as `add` does. Signs it out everywhere; forgets wrong passwords."""
    from db import accounts, audit, throttle
    from db.audit import Act
    from pneumowatch.cli.query import open_database
    from review.passwords import hashed

    database, user = open_database(data), accounts.clean(name)
    database.read(lambda connection: accounts.require(connection, user))  # before it is asked for
    fresh = hashed(_password())

    def work(connection: Any) -> None:
        accounts.set_password(connection, user, fresh)
        throttle.forgive(connection, [throttle.account(user)])
        audit.record(connection, BY, Act.USER_CHANGED, detail=f"{user}: password")

    database.write(work)
    typer.echo(f"{user} has another password.")


@users.command()
def role(
    name: Name, role: Annotated[str, typer.Argument(metavar="ROLE", help="reader or admin.")], data: Data = None
) -> None:
    """Give an account another role, from its next request on."""
    from db import accounts, audit
    from db.audit import Act
    from pneumowatch.cli.query import open_database

    wanted, user = _role(role), accounts.clean(name)

    def work(connection: Any) -> None:
        accounts.set_role(connection, user, wanted)
        audit.record(connection, BY, Act.USER_CHANGED, detail=f"{user}: {wanted}")

    open_database(data).write(work)
    typer.echo(f"{user} is {wanted} now.")


@users.command()
def token(
    name: Name,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    role: RoleName = "reader",
    revoke: Annotated[int | None, typer.Option(max=LARGEST_ID, help="Revoke the token of this id instead.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a token by which a script acts as this user, or list the user's tokens.

    With [bold]--label WHAT[/bold] one is made and printed, this once; without, the tokens are listed.
    """
    from db import accounts
    from pneumowatch.cli.output import print_json, print_table
    from pneumowatch.cli.query import open_database

    database, user = open_database(data), accounts.clean(name)
    if revoke is not None:
        gone = database.write(lambda connection: _revoke(connection, user, revoke))
        return typer.echo(f"The token '{gone}' is revoked.")
    if label:
        made = database.write(lambda connection: _make(connection, user, _role(role), label))
        return print_json({"token": made}) if json else typer.echo(made)
    database.read(lambda connection: accounts.require(connection, user))
    rows = [dict(row) for row in database.read(lambda connection: accounts.tokens(connection, user))]
    if json:
        return print_json(rows)
    return print_table("Tokens", rows, ["id", "label", "role", "created_at", "used_at"])


def _make(connection: Any, user: str, role: Any, label: str) -> str:
    from db import accounts, audit
    from db.audit import Act

    made = accounts.make_token(connection, user, role, label)
    audit.record(connection, BY, Act.TOKEN_MADE, detail=f"{user}: {label} ({role})")
    return made


def _revoke(connection: Any, user: str, token_id: int) -> str:
    from db import accounts, audit
    from db.audit import Act

    label = accounts.revoke_token(connection, user, token_id)
    audit.record(connection, BY, Act.TOKEN_REVOKED, detail=f"{user}: {label}")
    return label


def _role(given: str) -> Any:
    from db.accounts import Role

    if given not in set(Role):
        raise typer.BadParameter(f"'{given}' is no role; there are: {', '.join(Role)}.")
    return Role(given)


def _password() -> str:
    """Never from the command line, which every user of the machine can read."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise AccountRefused("No password came on standard input; pipe one line into it, or run it at a terminal.")
    return given
