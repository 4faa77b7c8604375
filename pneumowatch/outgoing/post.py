"""HTTP out of the house: one POST, bounded in time as a whole, with what went wrong as one word."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from pneumowatch.errors import Undelivered

ANSWER_BYTES: Final = 2**20  # at most so much of an answer is read
BUSY: Final = (408, 425, 429)  # besides 5xx: who answers so may answer otherwise to the next message, too


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


def post(
    url: str, body: bytes, headers: Mapping[str, str], seconds: float, read: bool = False, also: tuple[int, ...] = ()
) -> Answer:
    """The answer, with its body where that is to be `read`, if it came within so many seconds and its status is 2xx or
    one of `also`.

    Redirects are not followed: what was meant for one host goes to no other.

    Raises Undelivered: `http_STATUS`, `timeout`, `no_connection` or `broken_connection`.
    """
    try:
        return asyncio.run(_post(url, body, headers, seconds, read, also))
    except (TimeoutError, httpx.TimeoutException):
        raise Undelivered("timeout") from None
    except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.ProxyError):
        raise Undelivered("no_connection") from None
    except httpx.TransportError:
        raise Undelivered("broken_connection") from None


async def _post(
    url: str, body: bytes, headers: Mapping[str, str], seconds: float, read: bool, also: tuple[int, ...]
) -> Answer:
    # a bound on each step alone would let a receiver hold us for ever that sends a byte now and then
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(timeout=seconds) as client,
        client.stream("POST", url, content=body, headers=dict(headers)) as response,
    ):
        if not response.is_success and response.status_code not in also:
            raise _refused(response)
        return Answer(response.status_code, await _start_of(response) if read else b"")


async def _start_of(response: httpx.Response) -> bytes:
    found = bytearray()
    async for chunk in response.aiter_bytes():
        found += chunk
        if len(found) > ANSWER_BYTES:
            break
    return bytes(found[:ANSWER_BYTES])


def _refused(response: httpx.Response) -> Undelivered:
    status, wait = response.status_code, response.headers.get("retry-after", "")
    away = status >= 500 or status in BUSY
    return Undelivered(f"http_{status}", away=away, wait=float(wait) if wait.isascii() and wait.isdigit() else 0.0)
