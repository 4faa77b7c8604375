"""A review app to test with: the real application, served on loopback, and HTTP clients as browsers."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from db.session import Database
from db.worklist import accounts
from db.worklist.accounts import Role
from pneumowatch.settings import Settings, load_settings
from review import security
from review.access.auth import session_limits
from review.access.passwords import hash_password
from review.app import create_app
from review.server import Server

PASSWORD: Final = "a sentence of some words"


@dataclass
class ReviewServer:
    """The review app on a database, at `url`, until the block is left."""

    database: Database
    settings: Settings = field(default_factory=load_settings)
    made: dict[str, Any] = field(default_factory=dict)  # arguments of `create_app`

    def __enter__(self) -> "ReviewServer":
        self._stack = ExitStack()
        self.app = create_app(self.settings, self.database, **self.made)
        self.server = self._stack.enter_context(Server(self.app, port=0))
        self.url = self.server.url
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def visitor(self, **headers: str) -> httpx.Client:
        """Return a client that has not signed in. It does not follow redirects."""
        return self._stack.enter_context(
            httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False)
        )

    def reader(self, name: str = "rita") -> httpx.Client:
        """Return a client in which a reader has signed in; it sends X-CSRF-Token with each request."""
        return self._signed_in(name, Role.READER)

    def admin(self, name: str = "adam") -> httpx.Client:
        """Return a client in which an admin has signed in."""
        return self._signed_in(name, Role.ADMIN)

    def script(self, name: str = "rita", role: Role = Role.READER) -> httpx.Client:
        """Return a client with an API token, as scripts have it."""
        self.account(name, role)
        token = self.database.write(lambda c: accounts.create_token(c, name, role, "a script"))
        return self.visitor(Authorization=f"Bearer {token}")

    def account(self, name: str, role: Role = Role.READER, password: str = PASSWORD) -> int:
        """Return the id of an account, made where there is none."""
        known = self.database.read(lambda c: accounts.find_user(c, name))
        return (
            known.id
            if known
            else self.database.write(lambda c: accounts.add_user(c, name, role, hash_password(password)))
        )

    def _signed_in(self, name: str, role: Role) -> httpx.Client:
        user_id = self.account(name, role)
        token = self.database.write(lambda c: accounts.open_session(c, user_id, session_limits(self.settings)))
        client = self.visitor(
            **{"X-CSRF-Token": security.csrf_token(self.app.state.signing_key, accounts.hash_token(token))}
        )
        client.cookies.set("pneumowatch", token)
        return client
