"""`users`: accounts of the review app, their roles, and API tokens for scripts."""

import sys
from typing import Annotated, Any

import typer

from cli.options import ACTOR, Data, Json
from db import LARGEST_ID
from pneumowatch.errors import AccountRefused

user_commands = typer.Typer(
    no_args_is_help=True, help="Accounts of the review app: list, add, remove, change; tokens for scripts."
)

Name = Annotated[str, typer.Argument(help="The user's name.")]
RoleName = Annotated[str, typer.Option("--role", help="reader, or admin: may also promote models.")]


@user_commands.command("list")
def list_users(data: Data = None, json: Json = False) -> None:
    """List all accounts and their roles."""
    from cli.connection import open_database
    from cli.output import console, print_json, print_table
    from db.worklist import accounts

    rows: list[dict[str, Any]] = [dict(row) for row in open_database(data).read(accounts.fetch_users)]
    if json:
        return print_json(rows)
    print_table("Users", rows, ["name", "role", "created_at"])
    if not rows:
        console.print("There is no account yet; `pneumowatch users add NAME` creates one.")
    return None


@user_commands.command("add")
def add_user(name: Name, role: RoleName = "reader", data: Data = None) -> None:
    """Create an account. The password is prompted for or, without a terminal, read from standard input."""
    from cli.connection import open_database
    from db.worklist import accounts, audit
    from db.worklist.audit import AuditAction
    from review.access.passwords import hash_password

    database, wanted, user = open_database(data), _parse_role(role), accounts.normalize_name(name)
    password = hash_password(_read_password())

    def work(connection: Any) -> None:
        accounts.add_user(connection, user, wanted, password)
        audit.record_action(connection, ACTOR, AuditAction.USER_ADDED, detail=f"{user} ({wanted})")

    database.write(work)
    typer.echo(f"{user} may sign in as {wanted}.")


@user_commands.command("remove")
def remove_user(name: Name, data: Data = None) -> None:
    """Remove an account, its sessions and its tokens. Verdicts and the audit keep the name."""
    from cli.connection import open_database
    from db.worklist import accounts, audit
    from db.worklist.audit import AuditAction

    user = accounts.normalize_name(name)

    def work(connection: Any) -> None:
        accounts.remove_user(connection, user)
        audit.record_action(connection, ACTOR, AuditAction.USER_REMOVED, detail=user)

    open_database(data).write(work)
    typer.echo(f"{user} was removed.")


@user_commands.command("password")
def change_password(name: Name, data: Data = None) -> None:
    """Change an account's password, entered as for `users add`.

    Signs the account out everywhere and clears its count of wrong passwords.
    """
    from cli.connection import open_database
    from db.worklist import accounts, audit, throttle
    from db.worklist.audit import AuditAction
    from review.access.passwords import hash_password

    database, user = open_database(data), accounts.normalize_name(name)
    database.read(lambda connection: accounts.require_user(connection, user))  # before the prompt
    password_hash = hash_password(_read_password())

    def work(connection: Any) -> None:
        accounts.set_password(connection, user, password_hash)
        throttle.record_success(connection, [throttle.account_key(user)])
        audit.record_action(connection, ACTOR, AuditAction.USER_CHANGED, detail=f"{user}: password")

    database.write(work)
    typer.echo(f"The password of {user} was changed.")


@user_commands.command("role")
def change_role(
    name: Name, role: Annotated[str, typer.Argument(metavar="ROLE", help="reader or admin.")], data: Data = None
) -> None:
    """Change an account's role, from its next request on."""
    from cli.connection import open_database
    from db.worklist import accounts, audit
    from db.worklist.audit import AuditAction

    wanted, user = _parse_role(role), accounts.normalize_name(name)

    def work(connection: Any) -> None:
        accounts.set_role(connection, user, wanted)
        audit.record_action(connection, ACTOR, AuditAction.USER_CHANGED, detail=f"{user}: {wanted}")

    open_database(data).write(work)
    typer.echo(f"{user} now has the role {wanted}.")


@user_commands.command("token")
def create_token(
    name: Name,
    label: Annotated[str, typer.Option(help="What the token is for.")] = "",
    role: RoleName = "reader",
    revoke: Annotated[int | None, typer.Option(max=LARGEST_ID, help="Revoke the token with this id instead.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Create a token with which a script acts as this user, or list the user's tokens.

    With [bold]--label WHAT[/bold] a token is created and printed once; without it, the tokens are listed.
    """
    from cli.connection import open_database
    from cli.output import print_json, print_table
    from db.worklist import accounts

    database, user = open_database(data), accounts.normalize_name(name)
    if revoke is not None:
        revoked_label = database.write(lambda connection: _revoke_token(connection, user, revoke))
        return typer.echo(f"The token '{revoked_label}' was revoked.")
    if label:
        created = database.write(lambda connection: _create_token(connection, user, _parse_role(role), label))
        return print_json({"token": created}) if json else typer.echo(created)
    database.read(lambda connection: accounts.require_user(connection, user))
    rows = [dict(row) for row in database.read(lambda connection: accounts.fetch_tokens(connection, user))]
    if json:
        return print_json(rows)
    return print_table("Tokens", rows, ["id", "label", "role", "created_at", "used_at"])


def _create_token(connection: Any, user: str, role: Any, label: str) -> str:
    from db.worklist import accounts, audit
    from db.worklist.audit import AuditAction

    created = accounts.create_token(connection, user, role, label)
    audit.record_action(connection, ACTOR, AuditAction.TOKEN_MADE, detail=f"{user}: {label} ({role})")
    return created


def _revoke_token(connection: Any, user: str, token_id: int) -> str:
    from db.worklist import accounts, audit
    from db.worklist.audit import AuditAction

    label = accounts.delete_token(connection, user, token_id)
    audit.record_action(connection, ACTOR, AuditAction.TOKEN_REVOKED, detail=f"{user}: {label}")
    return label


def _parse_role(given: str) -> Any:
    from db.worklist.accounts import Role

    if given not in set(Role):
        raise typer.BadParameter(f"'{given}' is not a role; use one of: {', '.join(Role)}.")
    return Role(given)


def _read_password() -> str:
    """Read a password from the terminal or standard input; never from the command line, which other users can see."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise AccountRefused("No password came on standard input; pipe one line into the command, or use a terminal.")
    return given
