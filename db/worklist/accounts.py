"""Who may use the desk: local accounts, the browsers that have signed in, and the tokens of scripts.

Sessions and tokens are random and stand here as hashes only, so that nobody who reads the database can use one. What
an account loses (its role, its password, itself) its sessions and tokens lose in the same transaction.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, update

from db.dialect import dialect_name as dialect_of
from db.dialect import insert_or_ignore
from db.models import ApiToken, Deployment, User, UserSession
from pneumowatch.errors import AccountRefused

USERS: Final[Any] = User.__table__
SESSIONS: Final[Any] = UserSession.__table__
TOKENS: Final[Any] = ApiToken.__table__

LOCAL: Final = "local"  # the admin who came by the one-time link of `up`
SIGNING_KEY: Final = "signing_key"  # the deployment's, by which the desk signs what it hands out
MAX_NAME_LENGTH: Final = 255
TOKEN_BYTES: Final = 32
LAST_USE_RESOLUTION: Final = timedelta(minutes=1)  # how exactly it is known when a session or token was last used


class Role(StrEnum):
    READER = "reader"  # sees films, says verdicts, uploads
    ADMIN = "admin"  # ... and lets another model serve


class Account(NamedTuple):
    id: int
    name: str
    role: Role
    password_hash: str


class Principal(NamedTuple):
    """Whoever holds a session or a token."""

    name: str
    role: Role
    stale: bool = False  # when it was last used is not known exactly any more: see `touch_session`, `touch_token`


@dataclass(frozen=True)
class SessionLimits:
    """How long a session lasts: without use, and at all."""

    idle: timedelta
    absolute: timedelta


def normalize_name(given: str) -> str:
    """A user's name as it stands everywhere: lower case; empty where it cannot be one."""
    name = given.strip().lower()
    return name if name.isprintable() and len(name) <= MAX_NAME_LENGTH and name != LOCAL else ""


def add_user(connection: Connection, name: str, role: Role, password_hash: str) -> int:
    """Make an account; returns its id. Raises AccountRefused where the name is taken or cannot be one."""
    if not name or name != normalize_name(name):
        raise AccountRefused(
            f"No user can have that name: at most {MAX_NAME_LENGTH} characters, no capitals, and not '{LOCAL}', which is "
            "whoever uses the link of `pneumowatch up`."
        )
    row = {"name": name, "role": role, "password_hash": password_hash, "created_at": _now()}
    connection.execute(insert_or_ignore(dialect_of(connection), USERS).values(row))
    made = find_user(connection, name)
    if made is None or made.password_hash != password_hash:
        raise AccountRefused(f"There is a user '{name}' already; `pneumowatch users list` shows all.")
    return made.id


def remove_user(connection: Connection, name: str) -> None:
    """With its sessions and tokens. What it said and did stays. Raises AccountRefused where there is none."""
    user = require_user(connection, name)
    for table in (SESSIONS, TOKENS):
        connection.execute(delete(table).where(table.c.user_id == user.id))
    connection.execute(delete(USERS).where(USERS.c.id == user.id))


def set_password(connection: Connection, name: str, password_hash: str) -> None:
    """Whoever was signed in with the old one is so no longer. Raises AccountRefused where there is no such user."""
    user = require_user(connection, name)
    connection.execute(update(USERS).where(USERS.c.id == user.id).values(password_hash=password_hash))
    connection.execute(delete(SESSIONS).where(SESSIONS.c.user_id == user.id))


def rehash(connection: Connection, user: Account, password_hash: str) -> None:
    """The same password at other costs: nobody is signed out. Nothing where it has been changed meanwhile."""
    same = (USERS.c.id == user.id, USERS.c.password_hash == user.password_hash)
    connection.execute(update(USERS).where(*same).values(password_hash=password_hash))


def set_role(connection: Connection, name: str, role: Role) -> None:
    """Raises AccountRefused where there is no such user."""
    user = require_user(connection, name)
    connection.execute(update(USERS).where(USERS.c.id == user.id).values(role=role))


def find_user(connection: Connection, name: str) -> Account | None:
    row = connection.execute(
        select(USERS.c.id, USERS.c.name, USERS.c.role, USERS.c.password_hash).where(USERS.c.name == name)
    ).one_or_none()
    return None if row is None else Account(row.id, row.name, Role(row.role), row.password_hash)


def require_user(connection: Connection, name: str) -> Account:
    """Raises AccountRefused where there is no such user."""
    user = find_user(connection, name)
    if user is None:
        raise AccountRefused(f"There is no user '{name}'; `pneumowatch users list` shows all.")
    return user


def fetch_users(connection: Connection) -> Sequence[RowMapping]:
    """All accounts by name: name, role, created_at."""
    return (
        connection.execute(select(USERS.c.name, USERS.c.role, USERS.c.created_at).order_by(USERS.c.name))
        .mappings()
        .all()
    )


def open_session(connection: Connection, user_id: int | None, limits: SessionLimits) -> str:
    """A new session's token, which only its browser knows from now on. `user_id` None: the local admin's."""
    at = _now()
    connection.execute(delete(SESSIONS).where(_expired(at, limits)))
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row = {"token_sha256": hash_token(token), "user_id": user_id, "created_at": at, "seen_at": at}
    connection.execute(insert(SESSIONS), [row])
    return token


def find_session(connection: Connection, token: str, limits: SessionLimits) -> Principal | None:
    """Whose session it is; None where there is none of this token, or it is over."""
    statement = (
        select(SESSIONS.c.user_id, SESSIONS.c.seen_at, USERS.c.name, USERS.c.role)
        .select_from(SESSIONS.outerjoin(USERS, USERS.c.id == SESSIONS.c.user_id))
        .where(SESSIONS.c.token_sha256 == hash_token(token), ~_expired(_now(), limits))
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    stale = row.seen_at < _now() - LAST_USE_RESOLUTION
    return Principal(LOCAL, Role.ADMIN, stale) if row.user_id is None else Principal(row.name, Role(row.role), stale)


def touch_session(connection: Connection, token: str) -> None:
    """It was used just now."""
    connection.execute(update(SESSIONS).where(SESSIONS.c.token_sha256 == hash_token(token)).values(seen_at=_now()))


def end_session(connection: Connection, token: str) -> None:
    connection.execute(delete(SESSIONS).where(SESSIONS.c.token_sha256 == hash_token(token)))


def create_token(connection: Connection, name: str, role: Role, label: str) -> str:
    """A new API token, shown this once. Raises AccountRefused where the user is none, or may not do so much."""
    user = require_user(connection, name)
    if role == Role.ADMIN != user.role:
        raise AccountRefused(f"'{name}' is a reader, and a reader's token is a reader's.")
    token = f"pnw_{secrets.token_urlsafe(TOKEN_BYTES)}"
    row = {"token_sha256": hash_token(token), "user_id": user.id, "label": label, "role": role, "created_at": _now()}
    connection.execute(insert(TOKENS), [row])
    return token


def find_token(connection: Connection, secret: str) -> Principal | None:
    """Whose API token it is, with the lesser of the two roles; None where there is none."""
    statement = (
        select(USERS.c.name, USERS.c.role, TOKENS.c.role.label("own"), TOKENS.c.used_at)
        .join(TOKENS, TOKENS.c.user_id == USERS.c.id)
        .where(TOKENS.c.token_sha256 == hash_token(secret))
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    stale = row.used_at is None or row.used_at < _now() - LAST_USE_RESOLUTION
    return Principal(row.name, Role.ADMIN if Role.ADMIN == row.role == row.own else Role.READER, stale)


def touch_token(connection: Connection, secret: str) -> None:
    """It was used just now."""
    connection.execute(update(TOKENS).where(TOKENS.c.token_sha256 == hash_token(secret)).values(used_at=_now()))


def delete_token(connection: Connection, name: str, token_id: int) -> str:
    """Returns its label. Raises AccountRefused where the user has no such token."""
    mine = (TOKENS.c.id == token_id, TOKENS.c.user_id == require_user(connection, name).id)
    label = connection.scalar(select(TOKENS.c.label).where(*mine))
    if label is None:
        raise AccountRefused(f"'{name}' has no token {token_id}.")
    connection.execute(delete(TOKENS).where(*mine))
    return str(label)


def fetch_tokens(connection: Connection, name: str) -> Sequence[RowMapping]:
    """A user's API tokens, the oldest first: id, label, role, created_at, used_at."""
    columns = (TOKENS.c.id, TOKENS.c.label, TOKENS.c.role, TOKENS.c.created_at, TOKENS.c.used_at)
    mine = select(*columns).join(USERS, USERS.c.id == TOKENS.c.user_id).where(USERS.c.name == name)
    return connection.execute(mine.order_by(TOKENS.c.id)).mappings().all()


def signing_key(connection: Connection) -> bytes:
    """The deployment's own random key, 32 bytes, made once: all its desks sign with the same one."""
    fresh = {"name": SIGNING_KEY, "value": secrets.token_hex(TOKEN_BYTES)}
    connection.execute(insert_or_ignore(dialect_of(connection), Deployment.__table__).values(fresh))  # type: ignore[arg-type]
    return bytes.fromhex(
        connection.execute(select(Deployment.value).where(Deployment.name == SIGNING_KEY)).scalar_one()
    )


def hash_token(token: str) -> str:
    """Random tokens of 256 bits need no salt and no slowness."""
    return hashlib.sha256(token.encode()).hexdigest()


def _expired(at: datetime, limits: SessionLimits) -> Any:
    return or_(SESSIONS.c.seen_at < at - limits.idle, SESSIONS.c.created_at < at - limits.absolute)


def _now() -> datetime:
    return datetime.now(UTC)
