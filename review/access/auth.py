"""Authentication: a browser's session, a script's token, or the header of a trusted proxy.

    browser that signed in       cookie with a random token, known to `db.worklist.accounts` by its hash
    script                       `Authorization: Bearer pnw_...`
    behind a proxy that does     header with the user's name, trusted from PNEUMOWATCH_TRUSTED_PROXIES only
    OIDC, SAML, Kerberos, ...

A route requires a role by its argument `user: Reader` or `user: Admin`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import Depends, Request
from sqlalchemy import Connection
from starlette.responses import Response

from db.session import Database
from db.worklist import accounts
from db.worklist.accounts import Principal, Role, SessionLimits
from pneumowatch.settings import Settings
from review import address
from review.problem_details import NotSignedIn, RequestRefused
from review.security import SAFE_METHODS, csrf_token, has_csrf_token

BEARER_PREFIX: Final = "bearer "


@dataclass(frozen=True)
class CurrentUser:
    """The user of one request. Each of their forms must carry the token `csrf`."""

    name: str
    role: Role
    via: Literal["session", "token", "proxy"]
    csrf: str = ""

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


def session_cookie_name(request: Request) -> str:
    # with this prefix, neither other hosts of the domain nor plain HTTP can set the cookie: RFC 6265bis, 4.1.3.2
    return "__Host-pneumowatch" if request.app.state.secure else "pneumowatch"


def session_limits(settings: Settings) -> SessionLimits:
    return SessionLimits(timedelta(minutes=settings.session_idle_minutes), timedelta(hours=settings.session_hours))


def set_session(request: Request, response: Response, token: str) -> None:
    """Set the session cookie.

    SameSite is Lax, not Strict, so that a link from the department's own worklist opens the scan and not the sign-in
    page.
    """
    response.set_cookie(
        session_cookie_name(request), token, path="/", httponly=True, samesite="lax", secure=request.app.state.secure
    )


def clear_session(request: Request, response: Response) -> None:
    response.delete_cookie(
        session_cookie_name(request), path="/", httponly=True, samesite="lax", secure=request.app.state.secure
    )


def current_user(request: Request) -> CurrentUser | None:
    """Return the user of a request, or None if nobody is signed in. FastAPI calls it once per request."""
    known = _by_token(request) or _by_proxy(request) or _by_session(request)
    request.state.user = known  # for pages, including error pages
    return known


async def require_reader(request: Request, known: Annotated[CurrentUser | None, Depends(current_user)]) -> CurrentUser:
    """Return the signed-in user.

    Raises NotSignedIn, or RequestRefused if a state-changing request lacks the session's CSRF token.
    """
    if known is None:
        raise NotSignedIn
    # only the script itself sends its token, but any page can make a browser send its cookie
    if known.via != "token" and request.method not in SAFE_METHODS and not await has_csrf_token(request, known.csrf):
        raise RequestRefused(403, "This form belongs to another session. Load the page again, and send the form again.")
    return known


async def require_admin(user: Annotated[CurrentUser, Depends(require_reader)]) -> CurrentUser:
    """Return the signed-in admin. Raises like `require_reader`, and RequestRefused for other roles."""
    if not user.is_admin:
        raise RequestRefused(403, "This requires the role admin; `pneumowatch users role NAME admin` grants it.")
    return user


OptionalUser = Annotated[CurrentUser | None, Depends(current_user)]
Reader = Annotated[CurrentUser, Depends(require_reader)]
Admin = Annotated[CurrentUser, Depends(require_admin)]


def _by_token(request: Request) -> CurrentUser | None:
    given = request.headers.get("authorization", "")
    if given[: len(BEARER_PREFIX)].lower() != BEARER_PREFIX:
        return None
    secret = given[len(BEARER_PREFIX) :].strip()
    database: Database = request.app.state.database
    found = database.read(lambda connection: accounts.find_token(connection, secret))
    if found is None:
        raise NotSignedIn  # no fallback to a cookie or proxy: a script must notice that its token is not valid
    if found.stale:
        database.write(lambda connection: accounts.touch_token(connection, secret))
    return CurrentUser(found.name, found.role, "token")


def _by_session(request: Request) -> CurrentUser | None:
    token = request.cookies.get(session_cookie_name(request))
    if not token:
        return None
    database: Database = request.app.state.database
    over = session_limits(request.app.state.settings)
    found = database.read(lambda connection: accounts.find_session(connection, token, over))
    if found is None:
        return None
    if found.stale:
        database.write(lambda connection: accounts.touch_session(connection, token))
    return CurrentUser(
        found.name, found.role, "session", csrf_token(request.app.state.signing_key, accounts.hash_token(token))
    )


def _by_proxy(request: Request) -> CurrentUser | None:
    settings: Settings = request.app.state.settings
    peer = request.client.host if request.client else ""
    if not address.is_trusted_proxy(peer, settings.trusted_proxies):
        return None
    names = request.headers.getlist(settings.proxy_user_header)
    if len(names) != 1:  # with two headers, the client sent one of them
        return None
    name = accounts.normalize_name(names[0])
    role = _proxy_role(request, name) if name else None
    if role is None:
        return None
    return CurrentUser(name, role, "proxy", csrf_token(request.app.state.signing_key, f"proxy:{name}"))


def _proxy_role(request: Request, name: str) -> Role | None:
    """Return the role of a user named by the proxy: that of the local account if there is one, otherwise by group."""
    settings: Settings = request.app.state.settings

    def of_account(connection: Connection) -> Principal | None:
        account = accounts.find_user(connection, name)
        return Principal(account.name, account.role) if account else None

    if account := request.app.state.database.read(of_account):
        return Role(account.role)
    lists = request.headers.getlist(settings.proxy_groups_header)
    groups = {group.strip() for value in lists for group in value.split(",")} if len(lists) == 1 else set()
    if settings.proxy_admin_group and settings.proxy_admin_group in groups:
        return Role.ADMIN
    return Role.READER if not settings.proxy_reader_group or settings.proxy_reader_group in groups else None
