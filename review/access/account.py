"""One's own account: its password, and the tokens of its scripts."""

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
    """Answers with the page itself: the token is shown this once, and stands nowhere.

    Not for a token: whoever found one could make others, and revoking it would end nothing.
    """
    if user.via == "token":
        raise RequestRefused(403, "A token makes no other: sign in to make one, or use `pneumowatch users token`.")

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
