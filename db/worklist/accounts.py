"""Accounts of the review app: local users, the browsers that have signed in, and the tokens of scripts.

Sessions and tokens are random. Only their hashes are stored, so that nobody who reads the database can use one. When an
account loses its role or password, or is removed, its sessions and tokens lose the same rights in the same transaction.
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

LOCAL: Final = "local"  # the admin who signed in by the one-time link of `up`
SIGNING_KEY: Final = "signing_key"  # the deployment's key, with which the review app signs
MAX_NAME_LENGTH: Final = 255
TOKEN_BYTES: Final = 32
LAST_USE_RESOLUTION: Final = timedelta(minutes=1)  # of the time when a session or token was last used


class Role(StrEnum):
    READER = "reader"  # sees scans, records verdicts, uploads
    ADMIN = "admin"  # ... and promotes models


class Account(NamedTuple):
    id: int
    name: str
    role: Role
    password_hash: str


class Principal(NamedTuple):
    """The holder of a session or a token."""

    name: str
    role: Role
    stale: bool = False  # the time of its last use is outdated: see `touch_session`, `touch_token`


@dataclass(frozen=True)
class SessionLimits:
    """The longest duration of a session: without use, and in total."""

    idle: timedelta
    absolute: timedelta


def normalize_name(given: str) -> str:
    """Return a user's name as it is stored: in lower case. Returns an empty string if it cannot be a name."""
    name = given.strip().lower()
    return name if name.isprintable() and len(name) <= MAX_NAME_LENGTH and name != LOCAL else ""


def add_user(connection: Connection, name: str, role: Role, password_hash: str) -> int:
    """Add an account and return its id. Raises AccountRefused if the name is taken or not allowed."""
    if not name or name != normalize_name(name):
        raise AccountRefused(
            f"No user can have that name: use at most {MAX_NAME_LENGTH} characters, no capitals, and not '{LOCAL}', "
            "the name of the user of the link of `pneumowatch up`."
        )
    row = {"name": name, "role": role, "password_hash": password_hash, "created_at": _now()}
    connection.execute(insert_or_ignore(dialect_of(connection), USERS).values(row))
    made = find_user(connection, name)
    if made is None or made.password_hash != password_hash:
        raise AccountRefused(f"There is a user '{name}' already; `pneumowatch users list` shows all.")
    return made.id


def remove_user(connection: Connection, name: str) -> None:
    """Remove a user with all sessions and tokens. Reviews and audit rows stay.

    Raises AccountRefused if there is no such user.
    """
    user = require_user(connection, name)
    for table in (SESSIONS, TOKENS):
        connection.execute(delete(table).where(table.c.user_id == user.id))
    connection.execute(delete(USERS).where(USERS.c.id == user.id))


def set_password(connection: Connection, name: str, password_hash: str) -> None:
    """Set the password and end all sessions of a user. Raises AccountRefused if there is no such user."""
    user = require_user(connection, name)
    connection.execute(update(USERS).where(USERS.c.id == user.id).values(password_hash=password_hash))
    connection.execute(delete(SESSIONS).where(SESSIONS.c.user_id == user.id))


def rehash(connection: Connection, user: Account, password_hash: str) -> None:
    """Store the hash of the same password at other costs. No session ends.

    If the password has changed meanwhile, nothing is stored.
    """
    same = (USERS.c.id == user.id, USERS.c.password_hash == user.password_hash)
    connection.execute(update(USERS).where(*same).values(password_hash=password_hash))


def set_role(connection: Connection, name: str, role: Role) -> None:
    """Set the role of a user. Raises AccountRefused if there is no such user."""
    user = require_user(connection, name)
    connection.execute(update(USERS).where(USERS.c.id == user.id).values(role=role))


def find_user(connection: Connection, name: str) -> Account | None:
    row = connection.execute(
        select(USERS.c.id, USERS.c.name, USERS.c.role, USERS.c.password_hash).where(USERS.c.name == name)
    ).one_or_none()
    return None if row is None else Account(row.id, row.name, Role(row.role), row.password_hash)


def require_user(connection: Connection, name: str) -> Account:
    """Return a user. Raises AccountRefused if there is no such user."""
    user = find_user(connection, name)
    if user is None:
        raise AccountRefused(f"There is no user '{name}'; `pneumowatch users list` shows all.")
    return user


def fetch_users(connection: Connection) -> Sequence[RowMapping]:
    """Return all accounts by name: name, role, created_at."""
    return (
        connection.execute(select(USERS.c.name, USERS.c.role, USERS.c.created_at).order_by(USERS.c.name))
        .mappings()
        .all()
    )


def open_session(connection: Connection, user_id: int | None, limits: SessionLimits) -> str:
    """Open a session and return its token, which only its browser knows from then on.

    `user_id` None: the local admin.
    """
    at = _now()
    connection.execute(delete(SESSIONS).where(_expired(at, limits)))
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row = {"token_sha256": hash_token(token), "user_id": user_id, "created_at": at, "seen_at": at}
    connection.execute(insert(SESSIONS), [row])
    return token


def find_session(connection: Connection, token: str, limits: SessionLimits) -> Principal | None:
    """Return the user of a session, or None if the token has no session or it has expired."""
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
    """Record that a session was used just now."""
    connection.execute(update(SESSIONS).where(SESSIONS.c.token_sha256 == hash_token(token)).values(seen_at=_now()))


def end_session(connection: Connection, token: str) -> None:
    connection.execute(delete(SESSIONS).where(SESSIONS.c.token_sha256 == hash_token(token)))


def create_token(connection: Connection, name: str, role: Role, label: str) -> str:
    """Create an API token and return it, this once.

    Raises AccountRefused if there is no such user, or the user's role does not permit the token's.
    """
    user = require_user(connection, name)
    if role == Role.ADMIN != user.role:
        raise AccountRefused(f"'{name}' is a reader, and cannot have an admin's token.")
    token = f"pnw_{secrets.token_urlsafe(TOKEN_BYTES)}"
    row = {"token_sha256": hash_token(token), "user_id": user.id, "label": label, "role": role, "created_at": _now()}
    connection.execute(insert(TOKENS), [row])
    return token


def find_token(connection: Connection, secret: str) -> Principal | None:
    """Return the user of an API token with the lesser of the two roles, or None if there is no such token."""
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
    """Record that a token was used just now."""
    connection.execute(update(TOKENS).where(TOKENS.c.token_sha256 == hash_token(secret)).values(used_at=_now()))


def delete_token(connection: Connection, name: str, token_id: int) -> str:
    """Delete a user's token and return its label. Raises AccountRefused if the user has no such token."""
    mine = (TOKENS.c.id == token_id, TOKENS.c.user_id == require_user(connection, name).id)
    label = connection.scalar(select(TOKENS.c.label).where(*mine))
    if label is None:
        raise AccountRefused(f"'{name}' has no token {token_id}.")
    connection.execute(delete(TOKENS).where(*mine))
    return str(label)


def fetch_tokens(connection: Connection, name: str) -> Sequence[RowMapping]:
    """Return a user's API tokens, the oldest first: id, label, role, created_at, used_at."""
    columns = (TOKENS.c.id, TOKENS.c.label, TOKENS.c.role, TOKENS.c.created_at, TOKENS.c.used_at)
    mine = select(*columns).join(USERS, USERS.c.id == TOKENS.c.user_id).where(USERS.c.name == name)
    return connection.execute(mine.order_by(TOKENS.c.id)).mappings().all()


def signing_key(connection: Connection) -> bytes:
    """Return the deployment's random key, 32 bytes; the first call creates it.

    All review apps of a deployment sign with the same key.
    """
    fresh = {"name": SIGNING_KEY, "value": secrets.token_hex(TOKEN_BYTES)}
    connection.execute(insert_or_ignore(dialect_of(connection), Deployment.__table__).values(fresh))  # type: ignore[arg-type]
    return bytes.fromhex(
        connection.execute(select(Deployment.value).where(Deployment.name == SIGNING_KEY)).scalar_one()
    )


def hash_token(token: str) -> str:
    """Hash a token. Random tokens of 256 bits need no salt and no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def _expired(at: datetime, limits: SessionLimits) -> Any:
    return or_(SESSIONS.c.seen_at < at - limits.idle, SESSIONS.c.created_at < at - limits.absolute)


def _now() -> datetime:
    return datetime.now(UTC)
