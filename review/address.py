"""Addresses: whom a request comes from, and where one may be sent on to."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from starlette.requests import Request

from pneumowatch.settings import Network

# A path of ours and nothing else: `//host`, `/\host` and what holds a scheme or control characters lead elsewhere
PATH: Final = re.compile(r"/(?![/\\])[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")


def safe_next(wanted: str | None) -> str:
    """The page to go on to: `wanted` where it is a path of the desk, else its first page."""
    return wanted if wanted and PATH.fullmatch(wanted) else "/"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def trusted(host: str, proxies: Sequence[Network]) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in proxies)


def sender(request: Request, proxies: Sequence[Network]) -> str:
    """The address that a request comes from: that of the connection or, where that is a trusted proxy's, the last in
    X-Forwarded-For that is none. What stands before it, anybody may have written."""
    peer = request.client.host if request.client else ""
    if not trusted(peer, proxies):
        return peer
    chain = [part.strip() for value in request.headers.getlist("x-forwarded-for") for part in value.split(",")]
    for address in reversed(chain):
        if not trusted(address, proxies):
            return address[:64] or peer
    return peer
