"""Requests to the Hub for bytes: faults are tried again, proxies, redirects and the quota heeded; the HTTP client's only user."""

import asyncio
import contextlib
import logging
import random
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from step37_flickr8k.errors import AccessDenied
from step37_flickr8k.hub.source import Fault, Quota, Source, TransferStatistics
from step37_flickr8k.settings import WarmupSettings

__all__ = ["FAULTS", "GivenUp", "HttpClient", "cause_of", "connected", "whole"]

log = logging.getLogger("step37_flickr8k")

_T = TypeVar("_T")
_HOPS = 5
_LEAST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # s


class GivenUp(Exception):
    """A file that no further try would bring."""


# What a request may fail of and be made again
FAULTS = (Fault, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError)


@contextlib.asynccontextmanager
async def connected(source: Source, settings: WarmupSettings) -> "AsyncIterator[HttpClient]":
    """Give a client to the source; its connections end with it."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=settings.connect_timeout, sock_read=settings.read_timeout
    )
    connector = aiohttp.TCPConnector(limit=settings.concurrency)
    # not trust_env, which looks for ~/.netrc at every request, and would send its passwords to
    # redirects' origins
    cookies = aiohttp.DummyCookieJar()  # none are kept
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, cookie_jar=cookies, auto_decompress=False
    ) as session:
        client = HttpClient(source, session, settings)
        try:
            yield client
        finally:
            source.account.add(client.statistics)


class HttpClient:
    """Requests to one source, for use in one event loop, and the statistics of what came."""

    def __init__(
        self, source: Source, session: aiohttp.ClientSession, settings: WarmupSettings
    ) -> None:
        """Ask the source through the session."""
        self.statistics = TransferStatistics()
        self.connections = settings.concurrency
        self._source = source
        self._origin = URL(source.base, encoded=True).origin()
        self._session = session
        self._attempts = settings.attempts
        self._proxies = _Proxies()
        self._wondered = False  # about a 429 without a pause
        # By the loop's clock: before it nobody asks, since the quota is used up
        self._open_at = 0.0

    @property
    def closed_for(self) -> float:
        """Seconds in which nobody asks, since the quota is used up; none if it is not positive."""
        return self._open_at - asyncio.get_running_loop().time()

    async def patiently(self, name: str, once: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do something with a request in it, again after what may pass; raises `GivenUp` when all tries are used up."""
        attempt = 0
        while True:
            await self.until_open()
            try:
                return await once()
            except FAULTS as error:
                cause = cause_of(error)
                asked = error.pause if isinstance(error, Fault) else None
                # Waiting for quota, for as long as the Hub says, is no failure
                attempt += cause != "429" or asked is None
                if attempt >= self._attempts:
                    raise GivenUp(f"{cause} ({attempt} tries)") from error
                self.statistics.retries[cause] += 1
                log.debug("%s: %s, try %d", name, cause, attempt)
                await self._pause(asked, attempt, everybody=cause == "429")

    async def until_open(self) -> None:
        """Wait for as long as nobody asks, since the quota is used up."""
        while (left := self.closed_for) > 0:  # noqa: ASYNC110 - it may have moved on meanwhile
            await asyncio.sleep(left + random.uniform(0, 0.1))  # noqa: S311 - jitter

    async def _pause(self, asked: float | None, attempt: int, *, everybody: bool) -> None:
        pause = (
            asked
            if asked is not None
            else min(_LONGEST_PAUSE, 0.2 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
        )
        if everybody:
            if asked is None and not self._wondered:
                log.info(
                    "the Hub wants fewer requests (429) and doesn't say how long to wait: each counts as a try"
                )
                self._wondered = True
            self._close_for(pause)
        else:
            await asyncio.sleep(pause)

    def _close_for(self, pause: float) -> None:
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + pause)

    async def get(self, name: str, span: tuple[int, int] | None = None) -> aiohttp.ClientResponse:
        """Ask for a file, or for the bytes ``[start, end)`` of it, and follow redirects; raises what isn't an answer to that."""
        url = URL(self._source.url(name), encoded=True)
        for _ in range(_HOPS):
            headers = {"Accept-Encoding": "identity"}  # the bytes themselves are hashed
            if span is not None:
                headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            # The token must not follow a redirect to another origin
            if url.origin() == self._origin:
                headers |= self._source.headers
            self.statistics.requests += 1
            proxy = self._proxies.of(url)
            response = await self._session.get(
                url, headers=headers, allow_redirects=False, proxy=proxy
            )
            self._heed(response.headers)
            if response.status == (200 if span is None else 206):
                return response
            async with response:
                if not 300 <= response.status < 400 or "Location" not in response.headers:
                    raise self._refusal(response, name)
                if response.content_length is not None and response.content_length < 1 << 16:
                    await response.read()  # else the connection would be closed
                url = _redirected(url, response.headers["Location"])
        raise GivenUp(f"more than {_HOPS} redirects")

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Keep what the Hub tells of its quota; when none is left nobody asks for what would be refused."""
        if "RateLimit" in headers and (quota := Quota.told(headers)) is not None:
            self.statistics.quota = quota
            if quota.left == 0:
                self._close_for(quota.reset)

    def _refusal(self, response: aiohttp.ClientResponse, name: str) -> Exception:
        status = response.status
        if status in {401, 403}:
            return AccessDenied(
                f"the Hub refuses {name} ({status}): check that the token is valid and may read it"
            )
        if status in {408, 429} or status >= 500:
            return Fault(str(status), _asked_pause(response.headers))
        return GivenUp(f"the Hub answered {status} {response.reason}")


class _Proxies:
    """The proxies that the environment names, as Python's own client reads them (``HTTPS_PROXY``, ``NO_PROXY``...)."""

    def __init__(self) -> None:
        self._by_origin: dict[URL, str | None] = {}

    def of(self, url: URL) -> str | None:
        origin = url.origin()
        if origin not in self._by_origin:
            proxies = urllib.request.getproxies()
            host = url.host_port_subcomponent or ""
            proxy = (
                None
                if urllib.request.proxy_bypass(host)
                else proxies.get(url.scheme, proxies.get("all"))
            )
            self._by_origin[origin] = (
                proxy if proxy is None or "://" in proxy else f"http://{proxy}"
            )
        return self._by_origin[origin]


def _redirected(url: URL, location: str) -> URL:
    try:
        there = url.join(URL(location, encoded=True))
        host, _ = there.host, there.port  # looked at only now
    except ValueError as error:
        raise GivenUp(f"redirected to {location[:200]!r}, which is no address ({error})") from error
    if there.scheme not in {"http", "https"} or host is None:
        raise GivenUp(f"redirected to {there.scheme or 'nowhere'}:, which is not followed")
    return there


async def whole(pieces: AsyncIterator[bytes], size: int) -> bytearray:
    """Give the bytes of an answer that is to have so many; raises `Fault` for another number."""
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > size:
            raise Fault(f"more than {size} bytes")
    if len(content) != size:
        raise Fault(f"{len(content)} bytes instead of {size}")
    return content


def cause_of(error: Exception) -> str:
    """Give the name under which a fault is counted."""
    if isinstance(error, Fault):
        return error.cause
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    return "connection"


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server wants to be asked again: ``Retry-After``, or ``t`` of its ``RateLimit``."""
    asked = headers.get("Retry-After", "")
    quota = Quota.told(headers)
    if re.fullmatch(r"\d{1,9}", asked):
        return max(float(asked), _LEAST_PAUSE)
    return max(quota.reset, _LEAST_PAUSE) if quota is not None and quota.left == 0 else None
