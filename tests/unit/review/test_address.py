"""Allowed targets of redirects, and the client address of a request."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from review.address import client_address, is_loopback, safe_next

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize("path", ["/", "/scans/7", "/?state=classified&page=2", "/models/a-1.2", "/x?next=https://y/"])
def test_pages_of_the_review_app_are_gone_to(path: str) -> None:
    assert safe_next(path) == path


@pytest.mark.parametrize(
    "path",
    [None, "", "scans", "//evil", "/\\evil", "///evil", "https://evil", "/a\nb", "/a\\b", "/\x00", "javascript:x"],
)
def test_all_else_leads_to_the_first_page(path: str | None) -> None:
    assert safe_next(path) == "/"


@given(st.text())
def test_whatever_comes_it_is_a_path_of_ours(text: str) -> None:
    path = safe_next(text)
    assert path.startswith("/")
    assert path[1:2] not in ("/", "\\")
    assert path.isprintable()


def request(peer: str, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return Request({"type": "http", "client": (peer, 1), "headers": headers})


@pytest.mark.parametrize(
    ("peer", "forwarded", "host"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("203.0.113.9",), "192.0.2.1"),  # anybody can write that
        ("10.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1, 203.0.113.9",), "203.0.113.9"),  # the first one the client made up
        ("10.0.0.1", ("198.51.100.1", "203.0.113.9, 10.2.2.2"), "203.0.113.9"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("fd00::1", ("2001:db8::9",), "2001:db8::9"),
    ],
)
def test_who_sends(peer: str, forwarded: tuple[str, ...], host: str) -> None:
    assert client_address(request(peer, *forwarded), PROXIES) == host


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "review.example", "")))
