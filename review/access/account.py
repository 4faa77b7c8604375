"""The account page: a user's role, and the API tokens of their scripts."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from db.session import Database
from db.worklist import accounts, audit
from db.worklist.accounts import Role
from db.worklist.audit import AuditAction
from review.access.auth import CurrentUser, Reader
from review.problem_details import RequestRefused
from review.templating import render_page

router = APIRouter(include_in_schema=False)


@router.get("/account")
def account_page(request: Request, user: Reader) -> Response:
    return _page(request, user)


@router.post("/account/tokens")
def create_own_token(
    request: Request,
    user: Reader,
    label: Annotated[str, Form(min_length=1, max_length=64)],
    role: Annotated[Role, Form()] = Role.READER,
) -> Response:
    """Create an API token and return the account page, which shows it this once: only its hash is stored.

    Raises RequestRefused if the request itself uses a token: otherwise a stolen token could create others that survive
    its revocation.
    """
    if user.via == "token":
        raise RequestRefused(
            403, "A token cannot create another token. Sign in to create one, or use `pneumowatch users token`."
        )

    def make(connection: Connection) -> str:
        new_token = accounts.create_token(connection, user.name, role, label.strip())
        audit.record_action(connection, user.name, AuditAction.TOKEN_MADE, detail=f"{label.strip()} ({role})")
        return new_token

    return _page(request, user, new_token=request.app.state.database.write(make))


@router.post("/account/tokens/{token_id}/revoke")
def revoke_own_token(request: Request, user: Reader, token_id: int) -> Response:
    def revoke(connection: Connection) -> None:
        label = accounts.delete_token(connection, user.name, token_id)
        audit.record_action(connection, user.name, AuditAction.TOKEN_REVOKED, detail=label)

    request.app.state.database.write(revoke)
    return RedirectResponse("/account", 303)


def _page(request: Request, user: CurrentUser, new_token: str = "") -> Response:
    database: Database = request.app.state.database
    local = database.read(lambda connection: accounts.find_user(connection, user.name))
    own_tokens = database.read(lambda connection: accounts.fetch_tokens(connection, user.name))
    return render_page(
        request, "account.html", tokens=own_tokens, new_token=new_token, has_account=local is not None, roles=list(Role)
    )
