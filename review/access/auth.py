"""Who is asking: a browser's session, a script's token, or the word of a trusted proxy.

    browser that signed in       cookie with a random token, known to `db.worklist.accounts` by its hash
    script                       `Authorization: Bearer pnw_...`
    behind a proxy that does     header with the user's name, believed from PNEUMOWATCH_TRUSTED_PROXIES alone
    OIDC, SAML, Kerberos, ...

Routes say whom they are for: `user: Reader` or `user: Admin` among their arguments.
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
    """Who asks, for one request. `csrf` is what each form of theirs must bear."""

    name: str
    role: Role
    via: Literal["session", "token", "proxy"]
    csrf: str = ""

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


def session_cookie_name(request: Request) -> str:
    # the prefix keeps other hosts of the domain, and plain HTTP, from setting it: RFC 6265bis, 4.1.3.2
    return "__Host-pneumowatch" if request.app.state.secure else "pneumowatch"


def session_limits(settings: Settings) -> SessionLimits:
    return SessionLimits(timedelta(minutes=settings.session_idle_minutes), timedelta(hours=settings.session_hours))


def set_session(request: Request, response: Response, token: str) -> None:
    """Lax, not Strict: a link to a film in the department's own worklist leads to the film and not to the sign-in."""
    response.set_cookie(
        session_cookie_name(request), token, path="/", httponly=True, samesite="lax", secure=request.app.state.secure
    )


def clear_session(request: Request, response: Response) -> None:
    response.delete_cookie(
        session_cookie_name(request), path="/", httponly=True, samesite="lax", secure=request.app.state.secure
    )


def current_user(request: Request) -> CurrentUser | None:
    """Who asks; None where nobody does that is known here. Asked once a request."""
    known = _by_token(request) or _by_proxy(request) or _by_session(request)
    request.state.user = known  # for pages, and for what is said when something fails
    return known


async def require_reader(request: Request, known: Annotated[CurrentUser | None, Depends(current_user)]) -> CurrentUser:
    """Whoever is signed in. Raises NotSignedIn, or Refused where a form does not come from a page of theirs."""
    if known is None:
        raise NotSignedIn
    # a script's token is sent by nobody but the script; a browser's cookie goes wherever a page makes it go
    if known.via != "token" and request.method not in SAFE_METHODS and not await has_csrf_token(request, known.csrf):
        raise RequestRefused(403, "This form is no longer yours: load the page again, and send it again.")
    return known


async def require_admin(user: Annotated[CurrentUser, Depends(require_reader)]) -> CurrentUser:
    """Whoever is signed in as an admin. Raises as `require_reader`."""
    if not user.is_admin:
        raise RequestRefused(403, "This takes the role admin; `pneumowatch users role NAME admin` gives it.")
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
        raise NotSignedIn  # and not whatever else the request bears: a script must notice that its token is void
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
    if len(names) != 1:  # two: one of them was not the proxy's
        return None
    name = accounts.normalize_name(names[0])
    role = _proxy_role(request, name) if name else None
    if role is None:
        return None
    return CurrentUser(name, role, "proxy", csrf_token(request.app.state.signing_key, f"proxy:{name}"))


def _proxy_role(request: Request, name: str) -> Role | None:
    """Of a user whom the proxy names: that of the local account, where there is one, else by the groups."""
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
