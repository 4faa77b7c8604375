"""Addresses: whom a request comes from, and where one may be sent on to."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from starlette.requests import Request

from pneumowatch.settings import IPNetwork

# A path of ours and nothing else: `//host`, `/\host` and what holds a scheme or control characters lead elsewhere
LOCAL_PATH: Final = re.compile(r"/(?![/\\])[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")


def safe_next(wanted: str | None) -> str:
    """The page to go on to: `wanted` where it is a path of the desk, else its first page."""
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
    """The address that a request comes from: that of the connection or, where that is a trusted proxy's, the last in
    X-Forwarded-For that is none. What stands before it, anybody may have written."""
    peer = request.client.host if request.client else ""
    if not is_trusted_proxy(peer, proxies):
        return peer
    chain = [part.strip() for value in request.headers.getlist("x-forwarded-for") for part in value.split(",")]
    for address in reversed(chain):
        if not is_trusted_proxy(address, proxies):
            return address[:64] or peer
    return peer
