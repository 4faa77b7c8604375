"""Addresses: the client of a request, and safe targets for redirects."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from starlette.requests import Request

from pneumowatch.settings import IPNetwork

# Only a path of the review app: `//host`, `/\host`, schemes and control characters would lead to another site
LOCAL_PATH: Final = re.compile(r"/(?![/\\])[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")


def safe_next(wanted: str | None) -> str:
    """Return the redirect target: `wanted` if it is a path of the review app, else its first page."""
    return wanted if wanted and LOCAL_PATH.fullmatch(wanted) else "/"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_trusted_proxy(host: str, proxies: Sequence[IPNetwork]) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in proxies)


def client_address(request: Request, proxies: Sequence[IPNetwork]) -> str:
    """Return the address of a request's client.

    This is the peer of the connection. If the peer is a trusted proxy, it is the last address in X-Forwarded-For that
    is not a trusted proxy: the client itself may have written the entries before it.
    """
    peer = request.client.host if request.client else ""
    if not is_trusted_proxy(peer, proxies):
        return peer
    chain = [part.strip() for value in request.headers.getlist("x-forwarded-for") for part in value.split(",")]
    for address in reversed(chain):
        if not is_trusted_proxy(address, proxies):
            return address[:64] or peer
    return peer
