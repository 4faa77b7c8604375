"""The account page: tokens for scripts."""

import re

from support.review_server import ReviewServer

from db.worklist import accounts, audit
from db.worklist.accounts import Role


def token_of(page: str) -> str:
    found = re.search(r"pnw_[\w-]{43}", page)
    assert found, page
    return found[0]


def test_a_token_is_shown_once_works_and_is_revoked(review_server: ReviewServer) -> None:
    reader = review_server.reader("rita")
    token = token_of(reader.post("/account/tokens", data={"label": "nightly <export>"}).text)
    page = reader.get("/account").text
    assert token not in page
    assert "nightly &lt;export&gt;" in page

    script = review_server.visitor(Authorization=f"Bearer {token}")
    assert "rita" in script.get("/account").text
    first = review_server.database.read(lambda c: accounts.fetch_tokens(c, "rita"))[0]
    assert first["used_at"] is not None

    assert reader.post(f"/account/tokens/{first['id']}/revoke").status_code == 303
    assert script.get("/account").status_code == 401
    rows = review_server.database.read(lambda c: audit.list_actions(c, 10))
    assert [row["what"] for row in rows] == ["token_revoked", "token_made"]


def test_a_token_makes_no_other(review_server: ReviewServer) -> None:
    """Whoever found a reader's token of an admin would have an admin's, and one that outlives it."""
    admin = review_server.admin("carl")
    script = review_server.visitor(
        Authorization=f"Bearer {token_of(admin.post('/account/tokens', data={'label': 'a'}).text)}"
    )
    for role in Role:
        assert script.post("/account/tokens", data={"label": "b", "role": role}).status_code == 403
    (token,) = review_server.database.read(lambda c: accounts.fetch_tokens(c, "carl"))
    assert script.post(f"/account/tokens/{token['id']}/revoke").status_code == 303, "a token needs no csrf"
    assert script.get("/account").status_code == 401


def test_a_token_stands_nowhere(review_server: ReviewServer) -> None:
    token = token_of(review_server.reader("rita").post("/account/tokens", data={"label": "a script"}).text)
    rows = review_server.database.read(lambda c: c.exec_driver_sql("SELECT * FROM api_tokens").all())
    assert token not in str(rows)
    assert token.removeprefix("pnw_") not in str(rows)


def test_others_tokens_are_not_ones_own(review_server: ReviewServer) -> None:
    review_server.script("rita")
    (token,) = review_server.database.read(lambda c: accounts.fetch_tokens(c, "rita"))
    assert review_server.admin("adam").post(f"/account/tokens/{token['id']}/revoke").status_code == 409
    assert len(review_server.database.read(lambda c: accounts.fetch_tokens(c, "rita"))) == 1


def test_a_reader_makes_no_admins_token(review_server: ReviewServer) -> None:
    reader = review_server.reader("rita")
    answer = reader.post("/account/tokens", data={"label": "a script", "role": Role.ADMIN})
    assert answer.status_code == 409
    assert review_server.database.read(lambda c: accounts.fetch_tokens(c, "rita")) == []
