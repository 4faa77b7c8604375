"""Signing in and out: by password, one-time link or trusted proxy; and the protection against guessing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from support.review_server import PASSWORD, ReviewServer

from db.models import SignInFailure, UserSession
from db.session import Database
from db.worklist import accounts, audit, throttle
from db.worklist.accounts import Role
from pneumowatch.settings import Settings
from review.access.one_time_sign_in import LIFETIME_MINUTES, OneTimeLink

WRONG = "not the password at all"


def sign_in(client: httpx.Client, name: str = "rita", password: str = PASSWORD, **fields: str) -> httpx.Response:
    return client.post("/sign-in", data={"name": name, "password": password, **fields})


def acts(database: Database) -> list[tuple[str, str]]:
    return [(row["who"], row["what"]) for row in reversed(database.read(lambda c: audit.list_actions(c, 100)))]


def age(database: Database, column: Any, by: timedelta) -> None:
    """Make every session, or every failure, older by so much."""
    table = column.class_

    def shift(connection: Any) -> None:
        for (at,) in connection.execute(select(column)).all():
            connection.execute(update(table).where(column == at).values({column.key: at - by}))

    database.write(shift)


def test_a_reader_signs_in_and_out(review_server: ReviewServer) -> None:
    review_server.account("rita")
    browser = review_server.visitor(Accept="text/html")
    assert browser.get("/account").headers["location"] == "/sign-in?next=%2Faccount"

    answer = sign_in(browser, "Rita ", next="/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    page = browser.get("/account")
    assert page.status_code == 200
    assert "rita" in page.text

    held = browser.cookies["pneumowatch"]
    token = page.text.split('name="csrf" content="')[1].split('"')[0]
    assert browser.post("/sign-out", data={"csrf": token}).headers["location"] == "/sign-in"
    stolen = review_server.visitor(Cookie=f"pneumowatch={held}", Accept="text/html")
    assert stolen.get("/account").status_code == 303, "the session has ended at the server too"
    assert acts(review_server.database) == [("rita", "sign_in"), ("rita", "sign_out")]


def test_an_unknown_name_is_answered_as_a_wrong_password_is(review_server: ReviewServer) -> None:
    review_server.account("rita")
    known, unknown = sign_in(review_server.visitor(), "rita", WRONG), sign_in(review_server.visitor(), "nobody", WRONG)
    assert known.status_code == unknown.status_code == 401
    assert known.text.replace("rita", "NAME") == unknown.text.replace("nobody", "NAME")
    assert acts(review_server.database) == [("rita", "sign_in_failed"), ("unknown", "sign_in_failed")]


@pytest.mark.parametrize(
    "next_", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\t/evil.example"]
)
def test_sign_in_leads_to_no_other_host(review_server: ReviewServer, next_: str) -> None:
    review_server.account("rita")
    assert sign_in(review_server.visitor(), next=next_).headers["location"] == "/"
    assert f'value="{next_}"' not in review_server.visitor().get("/sign-in", params={"next": next_}).text


def test_a_session_planted_before_sign_in_is_worth_nothing_after_it(review_server: ReviewServer) -> None:
    review_server.account("rita")
    planted = review_server.reader("mallory").cookies["pneumowatch"]
    victim = review_server.visitor()
    for value in ("a-value-of-the-attackers-choice", planted):
        victim.cookies.clear()
        victim.cookies.set("pneumowatch", value)
        sign_in(victim)
        fresh = [cookie.value for cookie in victim.cookies.jar if cookie.name == "pneumowatch"][-1]
        assert fresh != value
        assert review_server.visitor(Cookie=f"pneumowatch={value}").get("/account").status_code == 401


def test_a_session_ends_unused_and_at_last(review_server: ReviewServer) -> None:
    browser = review_server.reader()
    assert browser.get("/account").status_code == 200
    age(review_server.database, UserSession.seen_at, timedelta(minutes=review_server.settings.session_idle_minutes + 1))
    assert browser.get("/account").status_code == 401

    browser = review_server.reader()
    age(review_server.database, UserSession.created_at, timedelta(hours=review_server.settings.session_hours + 1))
    assert browser.get("/account").status_code == 401


def test_use_keeps_a_session(review_server: ReviewServer) -> None:
    browser = review_server.reader()
    for _ in range(3):
        age(
            review_server.database,
            UserSession.seen_at,
            timedelta(minutes=review_server.settings.session_idle_minutes - 1),
        )
        assert browser.get("/account").status_code == 200


def lose_account(c: Any) -> None:
    accounts.remove_user(c, "rita")


def lose_password(c: Any) -> None:
    accounts.set_password(c, "rita", "another")


@pytest.mark.parametrize("lose", [lose_account, lose_password])
def test_who_loses_the_account_or_its_password_is_out_at_once(
    review_server: ReviewServer, lose: Callable[[Any], None]
) -> None:
    browser = review_server.reader("rita")
    assert browser.get("/account").status_code == 200
    review_server.database.write(lose)
    assert browser.get("/account").status_code == 401


@pytest.mark.slow
def test_a_thousand_wrong_passwords(review_server: ReviewServer) -> None:
    """Most are refused without a look; the reader gets in all the same: at once in a browser that she has used before,
    and elsewhere after a wait that further guesses do not lengthen."""
    review_server.account("rita")
    known_browser = review_server.visitor()
    sign_in(known_browser)

    def guess(number: int) -> int:
        return sign_in(guesser, password=f"{WRONG} {number}").status_code

    guesser = review_server.visitor()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(guess, range(1000)))
    assert set(answers) == {401, 429}
    assert 5 <= answers.count(401) < 20, "five free, then one for each wait that has passed meanwhile"

    # the wait after the last of them may be over by now
    age(review_server.database, SignInFailure.last_at, -timedelta(seconds=10))
    refused = sign_in(review_server.visitor())
    assert refused.status_code == 429, "the right password too, where nobody knows the browser"
    assert 0 < int(refused.headers["retry-after"]) <= throttle.MAX_WAIT.total_seconds()
    known_browser.cookies.delete("pneumowatch")
    assert sign_in(known_browser).status_code == 303

    age(review_server.database, SignInFailure.last_at, throttle.MAX_WAIT)
    assert sign_in(review_server.visitor()).status_code == 303


def test_a_guesser_with_an_account_of_his_own_stays_counted(review_server: ReviewServer) -> None:
    """Signing in rightly in between does not set his address free."""
    review_server.account("mallory")
    guesser, counted = review_server.visitor(), 0
    for number in range(throttle.address_key("").free_failures + 5):
        counted += sign_in(guesser, f"victim{number}", WRONG).status_code == 401
        if number % 10 == 9:
            sign_in(review_server.visitor(), "mallory")
    assert sign_in(guesser, "another", WRONG).status_code == 429
    assert counted <= throttle.address_key("").free_failures + 1


def test_another_readers_device_is_none(review_server: ReviewServer) -> None:
    review_server.account("rita")
    review_server.account("mallory")
    guesser = review_server.visitor()
    sign_in(guesser, "mallory")
    guesser.cookies.delete("pneumowatch")
    answers = [sign_in(guesser, "rita", WRONG).status_code for _ in range(7)]
    assert answers[-1] == 429
    key = throttle.account_key("rita").key
    count = select(func.count()).where(SignInFailure.key == key)
    assert review_server.database.read(lambda c: c.scalar(count)) == 1


class TestOneTimeLink:
    def review_server(self, database: Database, settings: Settings, link: OneTimeLink) -> ReviewServer:
        return ReviewServer(database, settings, {"one_time_link": link})

    def test_signs_in_once(self, database: Database, settings: Settings) -> None:
        link = OneTimeLink()
        path = link.path()
        with self.review_server(database, settings, link) as review_server:
            browser = review_server.visitor()
            assert browser.get("/sign-in/once?key=guessed").status_code == 403
            assert browser.head(path).status_code == 405, "a look at it does not use it up"
            assert browser.get(path).headers["location"] == "/"
            page = browser.get("/account").text
            assert "local" in page
            assert "admin" in page
            assert review_server.visitor().get(path).status_code == 403
            assert acts(database) == [("local", "sign_in")]

    def test_of_two_at_once_one_signs_in(self, database: Database, settings: Settings) -> None:
        link = OneTimeLink()
        path = link.path()
        with self.review_server(database, settings, link) as review_server, ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: review_server.visitor().get(path).status_code, range(8)))
        assert sorted(answers) == [303] + [403] * 7

    def test_ends_after_minutes(self) -> None:
        now = [0.0]
        link = OneTimeLink(lambda: now[0])
        key = link.path().partition("=")[2]
        now[0] = LIFETIME_MINUTES * 60
        assert not link.redeem(key)


class TestProxy:
    """The tests' own connections come from loopback, which is trusted here or is not."""

    @pytest.fixture
    def behind(self, settings: Settings) -> Settings:
        given = {"trusted_proxies": [ip_network("127.0.0.0/8")], "proxy_admin_group": "chiefs"}
        return settings.model_copy(update=given)

    def test_its_word_is_enough(self, database: Database, behind: Settings) -> None:
        with ReviewServer(database, behind, {"behind_proxy": True}) as review_server:
            rita = review_server.visitor(
                **{"X-Forwarded-User": "Rita@Hospital.example", "X-Forwarded-Groups": "readers"}
            )
            page = rita.get("/account")
            assert "rita@hospital.example" in page.text
            assert "Strict-Transport-Security" in page.headers
            assert rita.post("/models/any/promote", data={}).status_code == 403
            chief = review_server.visitor(**{"X-Forwarded-User": "carl", "X-Forwarded-Groups": "readers, chiefs"})
            assert ">admin<" in chief.get("/account").text

    def test_its_users_forms_must_be_theirs(self, database: Database, behind: Settings) -> None:
        with ReviewServer(database, behind) as review_server:
            review_server.account("rita")
            rita = review_server.visitor(**{"X-Forwarded-User": "rita"})
            form = {"label": "a script"}
            assert rita.post("/account/tokens", data=form).status_code == 403
            token = rita.get("/account").text.split('name="csrf" content="')[1].split('"')[0]
            assert rita.post("/account/tokens", data={**form, "csrf": token}).status_code == 200

    def test_others_are_not_believed(self, review_server: ReviewServer) -> None:
        spoofed = review_server.visitor(**{"X-Forwarded-User": "adam", "X-Forwarded-Groups": "chiefs"})
        assert spoofed.get("/account").status_code == 401

    @pytest.mark.parametrize(
        "headers",
        [
            [("X-Forwarded-User", "rita"), ("X-Forwarded-User", "adam")],
            [("X-Forwarded-User", "")],
            [("X-Forwarded-User", accounts.LOCAL)],
            [("X-Forwarded-User", "x" * 300)],
        ],
    )
    def test_what_can_be_no_user_is_none(
        self, database: Database, behind: Settings, headers: list[tuple[str, str]]
    ) -> None:
        with ReviewServer(database, behind) as review_server:
            assert httpx.get(f"{review_server.url}/account", headers=headers, trust_env=False).status_code == 401

    def test_a_group_may_be_asked_for(self, database: Database, behind: Settings) -> None:
        with ReviewServer(database, behind.model_copy(update={"proxy_reader_group": "readers"})) as review_server:
            known = {"X-Forwarded-User": "rita"}
            assert review_server.visitor(**known).get("/account").status_code == 401
            assert (
                review_server.visitor(**known, **{"X-Forwarded-Groups": "readers"}).get("/account").status_code == 200
            )
            review_server.account("rita", Role.ADMIN)
            assert review_server.visitor(**known).get("/account").status_code == 200, (
                "a local account says more than groups"
            )

    def test_addresses_of_its_clients_are_told_apart(self, database: Database, behind: Settings) -> None:
        with ReviewServer(database, behind) as review_server:
            review_server.account("rita")
            for number in range(throttle.address_key("").free_failures + 1):
                guesser = review_server.visitor(**{"X-Forwarded-For": f"10.1.1.{number}, 203.0.113.9"})
                sign_in(guesser, f"victim{number}", WRONG)
            assert sign_in(guesser, "another", WRONG).status_code == 429
            assert sign_in(review_server.visitor(**{"X-Forwarded-For": "203.0.113.10"})).status_code == 303
