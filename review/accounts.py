"""One's own account: its password, and the tokens of its scripts."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from db import accounts, audit
from db.accounts import Role
from db.audit import Act
from db.session import Database
from review.auth import Reader, User
from review.problems import Refused
from review.templating import page

router = APIRouter(include_in_schema=False)


@router.get("/account")
def account(request: Request, user: Reader) -> Response:
    return _page(request, user)


@router.post("/account/tokens")
def make_token(
    request: Request,
    user: Reader,
    label: Annotated[str, Form(min_length=1, max_length=64)],
    role: Annotated[Role, Form()] = Role.READER,
) -> Response:
    """Answers with the page itself: the token is shown this once, and stands nowhere.

    Not for a token: whoever found one could make others, and revoking it would end nothing.
    """
    if user.via == "token":
        raise Refused(403, "A token makes no other: sign in to make one, or use `pneumowatch users token`.")

    def make(connection: Connection) -> str:
        made = accounts.make_token(connection, user.name, role, label.strip())
        audit.record(connection, user.name, Act.TOKEN_MADE, detail=f"{label.strip()} ({role})")
        return made

    return _page(request, user, made=request.app.state.database.write(make))


@router.post("/account/tokens/{token_id}/revoke")
def revoke_token(request: Request, user: Reader, token_id: int) -> Response:
    def revoke(connection: Connection) -> None:
        label = accounts.revoke_token(connection, user.name, token_id)
        audit.record(connection, user.name, Act.TOKEN_REVOKED, detail=label)

    request.app.state.database.write(revoke)
    return RedirectResponse("/account", 303)


def _page(request: Request, user: User, made: str = "") -> Response:
    database: Database = request.app.state.database
    local = database.read(lambda connection: accounts.by_name(connection, user.name))
    mine = database.read(lambda connection: accounts.tokens(connection, user.name))
    return page(request, "account.html", tokens=mine, made=made, has_account=local is not None, roles=list(Role))
