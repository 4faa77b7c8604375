"""Security rules that hold for every request."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from support.review_server import PASSWORD, ReviewServer

from db.worklist import accounts
from db.worklist.accounts import Role
from pneumowatch.errors import SettingsError
from review.server import Server

FORM = {"label": "a script"}


def test_headers_stand_on_every_answer(review_server: ReviewServer) -> None:
    reader = review_server.reader()
    for answer in (
        reader.get("/models"),
        reader.get("/none/such"),
        review_server.visitor().get("/sign-in"),
        reader.get("/api/no"),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


def test_pages_bring_no_style_or_script_of_their_own(review_server: ReviewServer) -> None:
    """The policy would refuse it, silently."""
    admin = review_server.admin()
    for path in ("/sign-in", "/account", "/models", "/none/such"):
        page = admin.get(path, headers={"Accept": "text/html"}).text
        assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son[a-z]+=|https?://", page), path


def test_static_files_are_kept_and_nothing_else_is_served(review_server: ReviewServer) -> None:
    visitor = review_server.visitor()
    url = re.search(r'href="(/static/[^"]+\.css)"', visitor.get("/sign-in").text)
    assert url
    sheet = visitor.get(url[1])
    assert sheet.headers["content-type"].startswith("text/css")
    assert "immutable" in sheet.headers["cache-control"]
    assert visitor.get(url[1].replace("base.css", "none.css")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/static/x/../app.py",
        "/static/x/..%2fapp.py",
        "/static/x/%2e%2e%2f%2e%2e%2fdb%2fmodels.py",
        "/static/..%2f..%2f..%2fetc%2fpasswd/base.css/",
        "/static/x//etc/passwd",
        "/models/..%2f..%2f/files/card.json",
        "/models/model-1/files/..%2f..%2fpneumowatch.db",
        "/models/model-1/files/%00",
        "//etc/passwd",
    ],
)
def test_paths_lead_nowhere_else(review_server: ReviewServer, path: str) -> None:
    """Paths are sent as they are, not normalised as a client would."""
    cookie = review_server.admin().cookies["pneumowatch"]
    with socket.create_connection(("127.0.0.1", review_server.server.port), 30) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: pneumowatch={cookie}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 (400|404|307) ", answer), answer[:200]
    assert b"root:" not in answer
    assert b"import " not in answer


class TestCrossSite:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    @pytest.mark.parametrize("path", ["/account/tokens", "/sign-in", "/sign-out", "/models/model-1/promote"])
    def test_posts_are_refused(self, review_server: ReviewServer, headers: dict[str, str], path: str) -> None:
        """Even with everything else that they need."""
        answer = review_server.admin().post(path, data={**FORM, "name": "rita", "password": PASSWORD}, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.text

    def test_own_posts_are_not(self, review_server: ReviewServer) -> None:
        reader = review_server.reader()
        assert reader.post("/account/tokens", data=FORM, headers={"Origin": review_server.url}).status_code == 200
        same = {"Sec-Fetch-Site": "same-origin", "Origin": "https://review.hospital.example"}
        assert reader.post("/account/tokens", data=FORM, headers=same).status_code == 200

    def test_a_form_without_its_token_is_refused(self, review_server: ReviewServer) -> None:
        reader = review_server.reader()
        other = review_server.reader("other").headers["X-CSRF-Token"]
        own = reader.headers.pop("X-CSRF-Token")
        for given in ({}, {"csrf": ""}, {"csrf": "made up"}, {"csrf": other}, {"csrf": "ü"}):
            assert reader.post("/account/tokens", data=FORM | given).status_code == 403, given
        assert reader.post("/account/tokens", data=FORM, headers={"X-CSRF-Token": other}).status_code == 403
        assert reader.post("/account/tokens", files={"csrf": ("csrf", own)}, data=FORM).status_code == 403
        assert reader.post("/account/tokens", data=FORM | {"csrf": own}).status_code == 200


class TestRoles:
    @pytest.mark.parametrize("path", ["/models/model-1/promote", "/models/rollback"])
    def test_a_reader_does_not_what_an_admin_may(self, review_server: ReviewServer, path: str) -> None:
        form = {"reason": "because", "serving": "model-1"}
        assert review_server.reader().post(path, data=form).status_code == 403
        assert review_server.script("rita").post(path, data=form).status_code == 403
        assert review_server.visitor().post(path, data=form).status_code == 401

    def test_a_token_may_what_it_and_its_user_both_may(self, review_server: ReviewServer) -> None:
        script = review_server.script("adam", Role.ADMIN)
        form = {"reason": "because", "serving": "none"}
        assert script.post("/models/none/promote", data=form).status_code == 409, "allowed, if only it were there"
        review_server.database.write(lambda c: accounts.set_role(c, "adam", Role.READER))
        assert script.post("/models/none/promote", data=form).status_code == 403

    def test_a_void_token_is_not_made_up_for_by_a_session(self, review_server: ReviewServer) -> None:
        reader = review_server.reader()
        assert reader.get("/account", headers={"Authorization": "Bearer pnw_nothing"}).status_code == 401


class TestBounds:
    def test_what_says_that_it_is_too_large(self, review_server: ReviewServer) -> None:
        answer = review_server.visitor().post("/sign-in", data={"name": "x", "password": "p" * (2 << 20)})
        assert answer.status_code == 413

    def test_what_does_not_say_so(self, review_server: ReviewServer) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"name=x&password="
            for _ in range(64):
                yield b"p" * 65536

        form = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            answer = review_server.visitor().post("/sign-in", content=chunks(), headers=form)
        except (httpx.WriteError, httpx.ReadError):
            return  # it hung up on us, which is as good
        assert answer.status_code == 413


class TestWhatIsSaid:
    def test_to_programs_and_to_people(self, review_server: ReviewServer) -> None:
        said = review_server.visitor().get("/api/none")
        assert said.headers["content-type"] == "application/problem+json"
        assert said.json()["status"] == said.status_code == 404
        page = review_server.visitor().get("/none", headers={"Accept": "text/html"})
        assert page.status_code == 404
        assert page.headers["content-type"].startswith("text/html")

    def test_a_fault_of_ours_names_nothing(self, review_server: ReviewServer) -> None:
        @review_server.app.get("/broken")
        def broken() -> None:
            raise RuntimeError("DOE^JOHN")

        answer = review_server.visitor(Accept="text/html").get("/broken")
        assert answer.status_code == 500
        assert "DOE" not in answer.text
        assert "log says what" in answer.text
        assert review_server.visitor().get("/healthz").json() == {"status": "ok"}

    def test_faults_in_a_form_are_named_without_their_values(self, review_server: ReviewServer) -> None:
        answer = review_server.admin().post(
            "/models/model-1/promote", data={"reason": "DO"}, headers={"Accept": "application/json"}
        )
        assert answer.status_code == 422
        assert {fault["where"] for fault in answer.json()["errors"]} == {"body.reason", "body.serving"}
        assert 'DO"' not in json.dumps(answer.json())


def test_a_taken_port_is_said_or_got_round(review_server: ReviewServer) -> None:
    taken = review_server.server.port
    with Server(review_server.app, port=taken, allow_other_port=True) as second:
        assert second.port != taken
        assert httpx.get(f"{second.url}/healthz", trust_env=False).status_code == 200
    with pytest.raises(SettingsError, match="Name another --port"):
        Server(review_server.app, port=taken)
