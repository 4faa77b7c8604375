"""Send one HTTP POST, with a timeout for the whole of it; a failure is named by one word."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from pneumowatch.errors import DeliveryFailed

MAX_RESPONSE_BYTES: Final = 2**20  # of an answer are read at most
RETRYABLE_STATUSES: Final = (408, 425, 429)  # besides 5xx: the destination itself is busy, whatever was sent


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
    """Post `body` and return the answer, whose status is 2xx or one of `accepted_statuses`.

    The body of the answer is read only with `read_body`. Redirects are not followed: a message for one host is never
    sent to another.

    Raises DeliveryFailed: `http_STATUS`, `timeout` (`seconds` are exceeded), `no_connection` or `broken_connection`.
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
    # a timeout for each step alone would never end with a receiver that sends single bytes
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
