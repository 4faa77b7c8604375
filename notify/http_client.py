"""HTTP out of the house: one POST, bounded in time as a whole, with what went wrong as one word."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from pneumowatch.errors import DeliveryFailed

MAX_RESPONSE_BYTES: Final = 2**20  # at most so much of an answer is read
RETRYABLE_STATUSES: Final = (408, 425, 429)  # besides 5xx: who answers so may answer otherwise to the next message, too


@dataclass(frozen=True)
class HttpResponse:
    status: int
    body: bytes


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    seconds: float,
    read_body: bool = False,
    accepted_statuses: tuple[int, ...] = (),
) -> HttpResponse:
    """The answer, with its body where that is to be `read_body`, if it came within so many seconds and its status is 2xx or
    one of `accepted_statuses`.

    Redirects are not followed: what was meant for one host goes to no other.

    Raises DeliveryFailed: `http_STATUS`, `timeout`, `no_connection` or `broken_connection`.
    """
    try:
        return asyncio.run(_post(url, body, headers, seconds, read_body, accepted_statuses))
    except (TimeoutError, httpx.TimeoutException):
        raise DeliveryFailed("timeout") from None
    except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.ProxyError):
        raise DeliveryFailed("no_connection") from None
    except httpx.TransportError:
        raise DeliveryFailed("broken_connection") from None


async def _post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    seconds: float,
    read_body: bool,
    accepted_statuses: tuple[int, ...],
) -> HttpResponse:
    # a bound on each step alone would let a receiver hold us for ever that sends a byte now and then
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(timeout=seconds) as client,
        client.stream("POST", url, content=body, headers=dict(headers)) as response,
    ):
        if not response.is_success and response.status_code not in accepted_statuses:
            raise _failure(response)
        return HttpResponse(response.status_code, await _read_bounded(response) if read_body else b"")


async def _read_bounded(response: httpx.Response) -> bytes:
    found = bytearray()
    async for chunk in response.aiter_bytes():
        found += chunk
        if len(found) > MAX_RESPONSE_BYTES:
            break
    return bytes(found[:MAX_RESPONSE_BYTES])


def _failure(response: httpx.Response) -> DeliveryFailed:
    status, retry_after = response.status_code, response.headers.get("retry-after", "")
    unavailable = status >= 500 or status in RETRYABLE_STATUSES
    return DeliveryFailed(
        f"http_{status}",
        unavailable=unavailable,
        retry_after=float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0,
    )
