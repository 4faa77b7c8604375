"""Signing in and out."""

from desk import PASSWORD, Desk


def test_a_reader_signs_in_and_out(desk: Desk) -> None:
    desk.account("rita")
    visitor = desk.visitor(Accept="text/html")
    assert visitor.get("/account").headers["location"] == "/sign-in?next=%2Faccount"
    answer = visitor.post("/sign-in", data={"name": "Rita", "password": PASSWORD, "next": "/account"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    page = visitor.get("/account")
    assert page.status_code == 200
    assert "rita" in page.text
