"""Sign in and out."""

import hashlib
import hmac
import math
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Request
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from db.session import Database
from db.worklist import accounts, audit, throttle
from db.worklist.accounts import Account
from db.worklist.audit import AuditAction
from db.worklist.throttle import ThrottleKey
from pneumowatch.logs import get_logger
from review import address
from review.access import passwords
from review.access.auth import OptionalUser, Reader, clear_session, session_cookie_name, session_limits, set_session
from review.problem_details import RequestRefused
from review.templating import render_page

log = get_logger("review")
router = APIRouter(include_in_schema=False)

DEVICE_COOKIE: Final = "pneumowatch_device"
DEVICE_SECONDS: Final = 365 * 24 * 3600
UNKNOWN_USER: Final = "unknown"  # audited instead of a name that no user has: people type passwords there by mistake
MAX_FIELD_LENGTH: Final = 1024  # characters of a field


@router.get("/sign-in")
def sign_in_page(request: Request, known: OptionalUser, next: str = "/") -> Response:
    wanted = address.safe_next(next)
    if known is not None:
        return RedirectResponse(wanted, 303)
    return render_page(request, "sign_in.html", next=wanted, fault="", name="")


@router.post("/sign-in")
def sign_in(
    request: Request,
    name: Annotated[str, Form(max_length=MAX_FIELD_LENGTH)],
    password: Annotated[str, Form(max_length=MAX_FIELD_LENGTH)],
    next: Annotated[str, Form(max_length=MAX_FIELD_LENGTH)] = "/",
) -> Response:
    wanted, user = address.safe_next(next), accounts.normalize_name(name)
    counted = _throttle_keys(request, user)
    database: Database = request.app.state.database
    wait = database.write(lambda connection: throttle.admit(connection, counted))
    if wait:
        return _throttled(request, wait, wanted, name)
    account = database.read(lambda connection: accounts.find_user(connection, user))
    if not passwords.verify_password(password, account.password_hash if account else None) or account is None:
        who = account.name if account else UNKNOWN_USER
        database.write(lambda connection: audit.record_action(connection, who, AuditAction.SIGN_IN_FAILED))
        return render_page(
            request, "sign_in.html", 401, next=wanted, fault="The name or the password is wrong.", name=name
        )
    if passwords.needs_rehash(account.password_hash):
        _rehash_password(database, account, password)
    return _signed_in(request, account, counted, wanted)


@router.get("/sign-in/once")
def sign_in_once(request: Request, key: str = "") -> Response:
    """Sign in as local admin by the link that `up` prints. Raises RequestRefused if it was used or has expired."""
    link = request.app.state.one_time_link
    if link is None or not link.redeem(key):
        raise RequestRefused(
            403, "This link was already used or has expired. Start `pneumowatch up` again for a new one."
        )
    return _signed_in(request, None, [], "/")


@router.post("/sign-out")
def sign_out(request: Request, user: Reader) -> Response:
    token = request.cookies.get(session_cookie_name(request), "")

    def end(connection: Connection) -> None:
        accounts.end_session(connection, token)
        audit.record_action(connection, user.name, AuditAction.SIGN_OUT)

    request.app.state.database.write(end)
    response = RedirectResponse("/sign-in", 303)
    clear_session(request, response)
    return response


def _signed_in(request: Request, account: Account | None, counted: Sequence[ThrottleKey], wanted: str) -> Response:
    """Open a session and redirect to the requested page.

    The session is always new, and the one before it ends: an attacker may have planted it in the browser (session
    fixation).
    """
    before = request.cookies.get(session_cookie_name(request), "")
    who = account.name if account else accounts.LOCAL

    def begin(connection: Connection) -> str:
        throttle.record_success(connection, counted)
        accounts.end_session(connection, before)
        audit.record_action(connection, who, AuditAction.SIGN_IN, detail="password" if account else "one-time link")
        return accounts.open_session(
            connection, account.id if account else None, session_limits(request.app.state.settings)
        )

    token = request.app.state.database.write(begin)
    response = RedirectResponse(wanted, 303)
    set_session(request, response, token)
    if account:
        _remember_device(request, response, account.name)
    return response


def _throttled(request: Request, wait: timedelta, wanted: str, name: str) -> Response:
    seconds = math.ceil(wait.total_seconds())
    log.warning("sign-in refused: too many wrong passwords", seconds=seconds)
    fault = f"Too many wrong passwords. Try again in {seconds} s."
    response = render_page(request, "sign_in.html", 429, next=wanted, fault=fault, name=name)
    response.headers["Retry-After"] = str(seconds)
    return response


def _throttle_keys(request: Request, user: str) -> list[ThrottleKey]:
    nonce, _, signature = request.cookies.get(DEVICE_COOKIE, "").partition(".")
    if nonce and hmac.compare_digest(signature, _device_signature(request, user, nonce)):
        return [throttle.device_key(nonce)]
    host = address.client_address(request, request.app.state.settings.trusted_proxies)
    return [throttle.account_key(user), throttle.address_key(host)]


def _remember_device(request: Request, response: Response, user: str) -> None:
    """Set a signed device cookie, so that failed attempts from elsewhere do not lock this user out on this device.

    Source: https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
    """
    nonce = secrets.token_urlsafe(16)
    shared: dict[str, Any] = {"httponly": True, "samesite": "lax", "secure": request.app.state.secure}
    value = f"{nonce}.{_device_signature(request, user, nonce)}"
    response.set_cookie(DEVICE_COOKIE, value, max_age=DEVICE_SECONDS, path="/sign-in", **shared)


def _device_signature(request: Request, user: str, nonce: str) -> str:
    key: bytes = request.app.state.signing_key
    return hmac.new(key, f"device:{user}:{nonce}".encode(), hashlib.sha256).hexdigest()


def _rehash_password(database: Database, account: Account, password: str) -> None:
    fresh = passwords.hash_password(password)
    database.write(lambda connection: accounts.rehash(connection, account, fresh))
